"""What only a GPU can show, in one run: training the 3.75 B Qwen2.5-VL, student against teacher,
labelling, the torch score.

    python -m benchmarks.gpu --out DIR                     # paper sizes, needs CUDA
    python -m benchmarks.gpu --out DIR --only scorer       # some of: scorer labelling latency
    training training_lora
    python -m benchmarks.gpu --out DIR --tiny              # tiny sizes on any device: a rehearsal,
    its numbers mean nothing

Weights are random and pictures are noise: time does not depend on what was learned. Parts stand
alone: one that does not fit or fails is recorded with its reason, and the others run. Results are
written after each part, as gpu.json and gpu.md.

FLOPs of a training step are those of the model (6 a weight and token, 2 where frozen, attention's
products of the language model; no recomputation counted), so MFU compares between machines; peaks
are the makers' dense bf16 figures.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional

from benchmarks import score, student_vs_teacher
from latentvla_core.distill.config import StudentConfig
from latentvla_core.distill.network import StudentNetwork
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.features import FeatureConfig
from latentvla_core.latent.model import LatentActionModel
from latentvla_core.training.config import with_training
from latentvla_core.vlm.config import VlmConfig
from latentvla_core.vlm.memory import memory_plan
from latentvla_core.vlm.network import answer_logits, count_parameters
from latentvla_core.vlm.processor import VlmBatch
from latentvla_core.vlm.tokens import NUM_ACTION_TOKENS

PEAK_TFLOPS = {
    "H200": 989,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "4090": 165,
    "B200": 2250,
}
HEADROOM = 0.92  # of the free memory may be planned for
Row = dict[str, object]


class Skipped(Exception):
    """A part cannot run here; the message says why."""


def main() -> int:
    """Runs the parts; the exit code is the number that failed. One that is skipped has not failed."""
    options = arguments()
    device = torch.device(options.device)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, object] = {"conditions": conditions(device, options), "parts": {}}
    for name in options.only or PARTS:
        print(f"\n== {name}", flush=True)
        found["parts"][name] = run(name, device, options)  # type: ignore[index]
        (out / "gpu.json").write_text(json.dumps(found, indent=2))
        (out / "gpu.md").write_text(markdown(found))
    print(f"\n{(out / 'gpu.md').read_text()}\nwritten to {out / 'gpu.json'} and gpu.md")
    return sum(row["what"] == "failed" for rows in found["parts"].values() for row in rows)  # type: ignore[attr-defined]


def run(name: str, device: torch.device, options: argparse.Namespace) -> list[Row]:
    """The rows of one part, or one row that says why there are none."""
    try:
        if device.type != "cuda" and not options.tiny:
            raise Skipped(
                "no CUDA device: the sizes of the paper would take hours; --tiny rehearses on a CPU"
            )
        return PARTS[name](device, options)
    except Skipped as why:
        print(f"skipped: {why}")
        return [{"what": "skipped", "why": str(why)}]
    except Exception as error:  # one part's failure must not lose the others, whatever it is
        print(f"failed: {type(error).__name__}: {error}", file=sys.stderr)
        return [{"what": "failed", "why": f"{type(error).__name__}: {error}"}]
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)


# ---------------------------------------------------------------- training


def training(device: torch.device, options: argparse.Namespace, *, lora_rank: int = 0) -> list[Row]:
    """Seconds of an optimiser step and MFU, in the largest batch that fits: the language model
    whole, or LoRA.
    """
    config = replace(VlmConfig.debug() if options.tiny else VlmConfig.paper(), lora_rank=lora_rank)
    kind = f"LoRA rank {config.lora_rank}" if config.lora_rank else "language model whole"
    batch = _batch_that_fits(config, device)
    if batch == 0:
        needs = memory_plan(with_training(config, batch_size=1)).training_bytes / 1e9
        raise Skipped(
            f"{kind}: a batch of one needs {needs:.0f} GB, {free_bytes(device) / 1e9:.0f} GB are free"
        )
    vlm, one = student_vs_teacher.teacher(
        config, device, half=bool(config.lora_rank) and device.type == "cuda"
    )
    network = _trainable(vlm.network, config, vlm.processor.action_ids)
    while batch:
        try:
            return [
                _timed_steps(
                    network,
                    vlm,
                    _filled(one, batch, vlm.processor.action_ids),
                    config,
                    kind,
                    options,
                )
            ]
        except torch.cuda.OutOfMemoryError:
            print(f"{kind}: a batch of {batch} does not fit; half of it next", flush=True)
            network.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()
            batch //= 2
    raise Skipped(f"{kind}: not even one sample fits into {free_bytes(device) / 1e9:.0f} GB")


def _trainable(
    network: torch.nn.Module, config: VlmConfig, action_ids: tuple[int, ...]
) -> torch.nn.Module:
    """The network as `train_vlm` trains it: vision frozen, checkpoints kept, LoRA around the
    language matrices.
    """
    from latentvla_core.vlm.network import add_lora

    network.train()
    if config.freeze_vision:
        network.model.visual.requires_grad_(False)  # type: ignore[union-attr]
    if config.gradient_checkpointing:
        network.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )  # type: ignore[operator]
    return add_lora(network, config, action_ids) if config.lora_rank else network  # type: ignore[arg-type]


def _timed_steps(
    network: torch.nn.Module,
    vlm: object,
    batch: VlmBatch,
    config: VlmConfig,
    kind: str,
    options: argparse.Namespace,
) -> Row:
    """One row: median seconds of an optimiser step on random answers."""
    device = batch.input_ids.device
    weights = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-5, fused=device.type == "cuda")

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            logits = answer_logits(vlm.network, batch)  # type: ignore[attr-defined]
        functional.cross_entropy(logits.flatten(0, 1).float(), batch.labels.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    times = student_vs_teacher.timed(step, options.repeats, device)
    seconds = statistics.median(times) / 1e3
    flops = step_flops(vlm.network, config, batch)  # type: ignore[attr-defined]
    peak = options.peak_tflops or peak_of(device)
    return {
        "what": f"training step, bf16, {kind}",
        "parameters": count_parameters(vlm.network),  # type: ignore[attr-defined]
        "trained": sum(p.numel() for p in weights),
        "batch": len(batch.input_ids),
        "tokens_per_sample": batch.input_ids.shape[1],
        "seconds": seconds,
        "samples_per_s": len(batch.input_ids) / seconds,
        "tflops": flops / seconds / 1e12,
        "mfu": flops / seconds / (peak * 1e12) if peak else None,
        "peak_gb": peak_gb(device),
    }


def step_flops(network: torch.nn.Module, config: VlmConfig, batch: VlmBatch) -> float:
    """FLOPs of one step of the model (see the file's head); vision attention, a few per cent, is
    left out.
    """
    vision = count_parameters(network.model.visual)  # type: ignore[union-attr,arg-type]
    table = network.lm_head.weight.numel()  # type: ignore[union-attr]
    language = count_parameters(network) - vision - table
    samples, length = batch.input_ids.shape
    text, answers = config.text, batch.labels.shape[1]
    products = (
        2 * text.layers * length * text.hidden_size
    )  # causal: half of 4 · length · width a token
    forward = samples * (2 * language * length + products * length + 2 * table * answers)
    backward = (
        forward if config.lora_rank else 2 * forward
    )  # LoRA: gradients of inputs, hardly any of weights
    return (
        forward
        + backward
        + 2 * vision * len(batch.pixel_values) * (1 if config.freeze_vision else 3)
    )


def _batch_that_fits(config: VlmConfig, device: torch.device) -> int:
    """The largest power of two whose planned training memory is free; the plan is an estimate."""
    if device.type != "cuda":
        return 2
    sizes = [2**k for k in range(6, -1, -1)]
    plans = {
        size: memory_plan(with_training(config, batch_size=size)).training_bytes for size in (1, 2)
    }
    each = plans[2] - plans[1]
    return next((s for s in sizes if plans[1] + (s - 1) * each < HEADROOM * free_bytes(device)), 0)


def _filled(one: VlmBatch, count: int, action_ids: tuple[int, ...]) -> VlmBatch:
    """`count` copies of one question, with random answers behind it."""
    chosen = torch.randint(0, len(action_ids), (count, NUM_ACTION_TOKENS + 1))
    answers = torch.tensor(action_ids)[chosen].to(one.input_ids.device)

    def rows(x: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        return torch.cat([x.repeat(count, 1), last.to(x.dtype)], dim=1)

    return VlmBatch(
        rows(one.input_ids, answers),
        rows(one.attention_mask, torch.ones_like(answers)),
        rows(one.mm_token_type_ids, torch.zeros_like(answers)),
        one.pixel_values.repeat(count, 1),
        one.image_grid_thw.repeat(count, 1),
        answers,
    )


# ---------------------------------------------------------------- latency, labelling, scorer


def latency(device: torch.device, options: argparse.Namespace) -> list[Row]:
    """Milliseconds of one scene: teacher, student, student that answers in parallel; peak memory
    counts all before it.
    """
    size, half = "debug" if options.tiny else "paper", device.type == "cuda"
    vlm, batch = student_vs_teacher.teacher(getattr(VlmConfig, size)(), device, half)
    passes: list[tuple[str, int, Callable[[], object]]] = [
        ("teacher", count_parameters(vlm.network), partial(student_vs_teacher.decode, vlm, batch))
    ]
    config = getattr(StudentConfig, size)()
    inputs = student_vs_teacher.student_inputs(config, device)
    for label, own in (
        ("student", config),
        ("student, parallel", replace(config, decoding="parallel")),
    ):
        network = StudentNetwork(own).to(device).eval()
        once = student_vs_teacher.half_precision(network, inputs, half)
        passes.append((label, count_parameters(network), once))
    rows: list[Row] = []
    for label, parameters, once in passes:
        times = student_vs_teacher.timed(once, options.repeats, device)
        median, p95 = statistics.median(times), sorted(times)[math.ceil(0.95 * len(times)) - 1]
        base = float(str(rows[0]["median_ms"])) if rows else median
        row = {
            "what": f"one scene, {label}",
            "parameters": parameters,
            "median_ms": median,
            "p95_ms": p95,
        }
        rows.append(row | {"speed_up": base / median, "peak_gb": peak_gb(device)})
    return rows


def labelling(device: torch.device, options: argparse.Namespace) -> list[Row]:
    """Transitions per second that get codes, pictures in memory; float32 is what `label_scenes`
    does.

    bf16 concerns the inverse model alone: DINOv2 gives the same numbers everywhere, so it is never
    under autocast.
    """
    small = FeatureConfig(kind="dinov2", image_size_wh=(56, 28), patch_px=14, dim=64)
    config = (
        LatentActionConfig.debug(features=small) if options.tiny else LatentActionConfig.paper()
    )
    with tempfile.TemporaryDirectory() as folder:
        config = replace(
            config, features=replace(config.features, backbone=_random_dino(config, Path(folder)))
        )
        model = LatentActionModel(config).to(device).eval()
        width, height = config.features.image_size_wh
        rows: list[Row] = []
        for batch in (1, 64) if options.tiny else (1, 64, 256):
            pictures = torch.randint(
                0, 256, (batch, 2, height, width, 3), dtype=torch.uint8, device=device
            )
            for precision in ("fp32", "bf16") if device.type == "cuda" else ("fp32",):
                with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                    times = student_vs_teacher.timed(
                        partial(model.codes, pictures), options.repeats, device
                    )
                each = statistics.median(times) / batch
                row = {
                    "what": f"labelling, {precision}",
                    "batch": batch,
                    "transitions_per_s": 1e3 / each,
                }
                rows.append(row | {"pictures_per_s": 2e3 / each, "peak_gb": peak_gb(device)})
    return rows


def _random_dino(config: LatentActionConfig, folder: Path) -> str:
    """A DINOv2 with registers of the configuration's width, random weights, saved as the line
    expects it.
    """
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    width = config.features.dim
    shape = Dinov2WithRegistersConfig(
        hidden_size=width,
        num_hidden_layers=12,
        num_attention_heads=width // 64,
        patch_size=config.features.patch_px,
    )
    Dinov2WithRegistersModel(shape).save_pretrained(folder)
    return str(folder)


def scorer(device: torch.device, options: argparse.Namespace) -> list[Row]:
    """Plans per minute of the torch score, both metrics, on golden scenes, a tree, or a small
    embedded world.
    """
    tree = argparse.Namespace(root=options.root, split=options.split)
    with tempfile.TemporaryDirectory() as scratch:
        scenes, maps = score._scenes(*score._tree(tree, Path(scratch)), 2 if options.tiny else 16)
        _, worlds = score._prepare(scenes, maps, 1)
    rows: list[Row] = []
    for metric in ("pdms", "epdms"):
        counts = (4, 16) if options.tiny else score.TORCH_COUNTS
        for count, row in score.torch_path(
            metric, worlds, str(device), min(options.repeats, 5), counts
        ).items():
            what: Row = {"what": f"{metric}, torch", "proposals": count, "scenes": len(worlds)}
            rows.append(what | row | {"peak_gb": peak_gb(device)})
    return rows


PARTS: dict[str, Callable[[torch.device, argparse.Namespace], list[Row]]] = {
    "scorer": scorer,
    "labelling": labelling,
    "latency": latency,
    "training": training,
    "training_lora": partial(training, lora_rank=32),
}


# ---------------------------------------------------------------- conditions and report


def free_bytes(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def peak_gb(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


def peak_of(device: torch.device) -> float | None:
    """Dense bf16 TFLOP/s by the maker, None where the device is not known: give --peak-tflops."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    words = name.replace("-", " ").split()
    return next(
        (peak for key, peak in PEAK_TFLOPS.items() if any(w.startswith(key) for w in words)), None
    )


def conditions(device: torch.device, options: argparse.Namespace) -> dict[str, object]:
    root = Path(__file__).resolve().parent.parent
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU ({platform.machine()})"
    )
    return {
        "device": name,
        "total_gb": torch.cuda.get_device_properties(device).total_memory / 1e9
        if device.type == "cuda"
        else None,
        "commit": _git(root, "rev-parse", "--short", "HEAD")
        + ("+" if _git(root, "status", "--porcelain") else ""),
        "command": "python -m benchmarks.gpu " + " ".join(sys.argv[1:]),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "sizes": "tiny: a rehearsal, not a measurement" if options.tiny else "paper",
    }


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *words], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or ("unknown" if words[0] == "rev-parse" else "")


def markdown(found: dict[str, object]) -> str:
    """One table per part, the conditions above them."""
    about: dict[str, object] = found["conditions"]  # type: ignore[assignment]
    lines = [
        "# GPU benchmarks",
        "",
        ", ".join(f"{k} {v}" for k, v in about.items() if v is not None),
    ]
    for name, rows in found["parts"].items():  # type: ignore[attr-defined]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += [
            "",
            f"## {name}",
            "",
            "| " + " | ".join(columns) + " |",
            "|" + "---|" * len(columns),
        ]
        lines += [
            "| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows
        ]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if value is None:
        return "–"
    return (
        f"{value:,.4g}"
        if isinstance(value, float) and value < 1e4
        else f"{value:,.0f}"
        if isinstance(value, int | float)
        else str(value).replace("|", "/")
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        default=str(Path(tempfile.gettempdir()) / "latentvla_gpu"),
        help="folder for gpu.json and gpu.md",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), help="parts; default all")
    parser.add_argument(
        "--tiny", action="store_true", help="tiny sizes: shows that everything runs"
    )
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument(
        "--peak-tflops",
        type=float,
        default=0.0,
        help="dense bf16 peak for MFU where it is not known",
    )
    parser.add_argument(
        "--root", help="NAVSIM tree for the scorer; default golden scenes or an embedded world"
    )
    parser.add_argument("--split", default="test")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
