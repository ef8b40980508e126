"""How much faster than its teacher is the student? One scene at a time, as in a car; medians after
warm-up.

    python -m benchmarks.student_vs_teacher                  # paper size on a GPU, mini size on a
    CPU python -m benchmarks.student_vs_teacher --size mini --device cpu --repeats 50

Weights are random: time does not depend on what was learned. Nothing is read from disk; pictures
are noise. A pass is everything between pictures in memory and twelve tokens with their states
(vision, question, twelve decoding steps); decoding JPEGs and fetching results cost both the same
and are left out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from latentvla_core.distill.config import StudentConfig
from latentvla_core.distill.inputs import StudentInputs
from latentvla_core.distill.student import StudentNetwork
from latentvla_core.vlm.config import VlmConfig
from latentvla_core.vlm.memory import QUESTION_TOKENS
from latentvla_core.vlm.model import build_random, build_tiny_processor, count_parameters
from latentvla_core.vlm.predict import decode
from latentvla_core.vlm.processor import VlmBatch
from latentvla_core.vlm.vlm import Vlm

QUESTION = (
    "Speed 8.00 m/s, acceleration (0.10, 0.80) m/s², yaw rate 0.100 rad/s.\n"
    "Past 1.5 s positions: (-12.00, 0.90, -0.15), (-8.00, 0.40, -0.10), (-4.00, 0.10, -0.05). Command: left.\n"
    "Predict the next 12 latent actions."
)


def main() -> None:
    options = arguments()
    device = torch.device(options.device)
    half = device.type == "cuda"
    torch.manual_seed(0)
    vlm_config = getattr(VlmConfig, options.size)()
    student_config = getattr(StudentConfig, options.size)()
    vlm, batch = teacher(vlm_config, device, half)
    network = StudentNetwork(student_config).to(device).eval()
    inputs = student_inputs(student_config, device)
    rows = {
        "teacher": (
            count_parameters(vlm.network),
            timed(partial(decode, vlm, batch), options.repeats, device),
        ),
        "student": (
            parameters(network),
            timed(half_precision(network, inputs, half), options.repeats, device),
        ),
    }
    parallel = StudentNetwork(replace(student_config, decoding="parallel")).to(device).eval()
    rows["student, parallel"] = (
        parameters(parallel),
        timed(half_precision(parallel, inputs, half), options.repeats, device),
    )
    report(options.size, device, rows)


def teacher(config: VlmConfig, device: torch.device, half: bool) -> tuple[Vlm, VlmBatch]:
    """A language model with random weights of the configuration's shape, and one question with
    three pictures.
    """
    network = build_random(config, device).to(torch.bfloat16 if half else torch.float32).eval()
    processor = build_tiny_processor(config)
    views = len(config.cameras)
    pictures = (
        np.random.default_rng(0)
        .integers(0, 256, (views, *config.image_size_wh[::-1], 3))
        .astype(np.uint8)
    )
    pixels, grid = processor.pixels(pictures)
    words = processor.tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    if config.backend == "pretrained":
        words = (words * QUESTION_TOKENS)[:QUESTION_TOKENS]
    shape = network.config
    image_id = shape.image_token_id
    picture = [
        shape.vision_start_token_id,
        *[image_id] * config.tokens_per_view,
        shape.vision_end_token_id,
    ]
    ids = torch.tensor([picture * views + words])
    kinds = (ids == image_id).int()
    batch = VlmBatch(
        ids, torch.ones_like(ids), kinds, pixels, grid, torch.zeros(1, 0, dtype=torch.long)
    )
    vlm = Vlm(config, network, processor, np.full((12, 16), 1 / 16))
    return vlm, VlmBatch(*(t.to(device) for t in batch))


def student_inputs(config: StudentConfig, device: torch.device) -> StudentInputs:
    """One scene."""
    views, (width, height) = len(config.cameras), config.image_size_wh
    made = StudentInputs(
        pictures=torch.randint(0, 256, (views, height, width, 3), dtype=torch.uint8),
        view_mask=torch.ones(1, views, dtype=torch.bool),
        state=torch.randn(1, 4),
        history=torch.randn(1, 3, 4),
        history_mask=torch.ones(1, 3, dtype=torch.bool),
        command=torch.ones(1, dtype=torch.long),
    )
    return StudentInputs(*(t.to(device) for t in made))


def half_precision(
    network: StudentNetwork, inputs: StudentInputs, half: bool
) -> Callable[[], object]:
    """One student pass, under bf16 autocast on a GPU."""

    def run() -> object:
        with torch.autocast(inputs.state.device.type, torch.bfloat16, enabled=half):
            return network.generate(inputs)

    return run


def timed(run: Callable[[], object], repeats: int, device: torch.device) -> list[float]:
    """Milliseconds of each repeat, after three that do not count."""
    found = []
    for i in range(repeats + 3):
        synchronize(device)
        began = time.perf_counter()
        run()
        synchronize(device)
        if i >= 3:
            found.append(1e3 * (time.perf_counter() - began))
    return found


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def report(size: str, device: torch.device, rows: dict[str, tuple[int, list[float]]]) -> None:
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} thread(s)"
    )
    print(f"size {size}, batch 1, {name}, torch {torch.__version__}")
    base = statistics.median(rows["teacher"][1])
    summary = {}
    for label, (count, times) in rows.items():
        median, p95 = statistics.median(times), sorted(times)[int(0.95 * (len(times) - 1))]
        summary[label] = {
            "parameters": count,
            "median_ms": median,
            "p95_ms": p95,
            "speed_up": base / median,
        }
        print(
            f"{label:<18}{count / 1e6:>10.2f} M {median:>9.2f} ms {p95:>9.2f} ms p95 {base / median:>7.1f} x"
        )
    print(json.dumps(summary))


def arguments() -> argparse.Namespace:
    gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--size",
        default="paper" if gpu else "mini",
        choices=["debug", "mini", "single_gpu", "paper"],
    )
    parser.add_argument("--device", default="cuda" if gpu else "cpu")
    parser.add_argument("--repeats", type=int, default=30)
    return parser.parse_args()


if __name__ == "__main__":
    main()
