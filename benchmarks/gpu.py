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
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu_device import Row, Skipped
from benchmarks.gpu_inference import labelling, latency, scorer
from benchmarks.gpu_training import training

PARTS: dict[str, Callable[[torch.device, argparse.Namespace], list[Row]]] = {
    "scorer": scorer,
    "labelling": labelling,
    "latency": latency,
    "training": training,
    "training_lora": partial(training, lora_rank=32),
}


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
