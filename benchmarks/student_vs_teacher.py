"""How much faster than its teacher is the student, alone and with the planner that it serves? One
scene at a time, as in a car; medians and 95th percentiles after warm-up, all in one run.

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
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from latentvla_core.distill.config import StudentConfig
from latentvla_core.distill.inputs import StudentInputs
from latentvla_core.distill.network import StudentNetwork
from latentvla_core.planner.fusion import FusionConfig, VlmTokens
from latentvla_core.planner.hosts.ipad_config import IpadConfig
from latentvla_core.planner.model import build_planner
from latentvla_core.vlm.config import VlmConfig
from latentvla_core.vlm.memory import QUESTION_TOKENS
from latentvla_core.vlm.model import Vlm
from latentvla_core.vlm.network import build_random, build_tiny_processor, count_parameters
from latentvla_core.vlm.predict import decode
from latentvla_core.vlm.processor import VlmBatch

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
    parallel = StudentNetwork(replace(student_config, decoding="parallel")).to(device).eval()
    hidden, width = vlm.network.config.text_config.hidden_size, student_config.feature_width
    said = {
        "teacher": (count_parameters(vlm.network), partial(decode, vlm, batch), hidden),
        "student": (parameters(network), half_precision(network, inputs, half), width),
        "student, parallel": (
            parameters(parallel), half_precision(parallel, inputs, half), width,
        ),
    }  # fmt: skip
    runs = {name: (count, answer) for name, (count, answer, _) in said.items()}
    for name, (count, answer, feature_dim) in said.items():
        drive = Drive(options.size, feature_dim, device, answer, half)
        runs[f"{name} + iPad"] = (count + parameters(drive.planner), drive)
    alone = Drive(options.size, 0, device, None, half)
    runs["iPad alone"] = (parameters(alone.planner), alone)
    times = side_by_side({name: run for name, (_, run) in runs.items()}, options.repeats, device)
    report(options.size, device, {name: (runs[name][0], found) for name, found in times.items()})


class Drive:
    """One plan from pictures in memory: the answer, its states pooled as they come, iPad.

    The teacher's picture states go in unpooled: what pooling them to a panorama would cost is not
    counted, and the fusion pools them once more itself.
    """

    def __init__(
        self,
        size: str,
        feature_dim: int,
        device: torch.device,
        answer: Callable[[], Any] | None,
        half: bool,
    ) -> None:
        self.answer, self.half, self.device = answer, half, device
        self.config: IpadConfig = getattr(IpadConfig, size)()
        fusion = getattr(FusionConfig, size)()
        self.planner = build_planner(
            "ipad", self.config, fused=answer is not None, fusion=fusion, feature_dim=feature_dim
        )
        self.planner.to(device).eval()
        views = len(self.config.cameras)
        shape = (1, views, self.config.camera_height_px, self.config.camera_width_px, 3)
        projection = torch.tensor([[0.0, -0.5, 0, 0], [0, 0, -0.5, 0.7], [1.0, 0, 0, 0]])
        self.batch = {
            "images": torch.randint(0, 256, shape, dtype=torch.uint8, device=device),
            "has_image": torch.ones(1, views, dtype=torch.bool, device=device),
            "projection": projection.expand(1, views, 3, 4).to(device),
            "ego": torch.randn(1, 11, device=device),
        }

    @torch.inference_mode()
    def __call__(self) -> Any:
        batch = self.batch
        if self.answer is not None:
            said = self.answer()
            yes = torch.ones(1, dtype=torch.bool, device=self.device)
            visual, action = said[2].float(), said[3].float()
            likely = said[1].float().softmax(-1).flatten(1)
            batch = {**batch, "vlm": VlmTokens(visual, action, yes, yes, likely)}
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            return self.planner(batch)["poses"]


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


class Times(NamedTuple):
    """Milliseconds of each repeat."""

    wall: list[float]
    cpu: list[float]
    """Of this process: what the wall says on an idle core, when another job is beside it."""


def side_by_side(
    runs: Mapping[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, Times]:
    """Every run once per repeat, in turn, so that whatever else the machine does slows all of them;
    after three repeats that do not count.
    """
    found = {name: Times([], []) for name in runs}
    for i in range(repeats + 3):
        for name, run in runs.items():
            synchronize(device)
            began, worked = time.perf_counter(), time.process_time()
            run()
            synchronize(device)
            if i >= 3:
                found[name].cpu.append(1e3 * (time.process_time() - worked))
                found[name].wall.append(1e3 * (time.perf_counter() - began))
    return found


def timed(run: Callable[[], object], repeats: int, device: torch.device) -> list[float]:
    """Milliseconds of each repeat, after three that do not count."""
    return side_by_side({"": run}, repeats, device)[""].wall


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def parameters(network: torch.nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def report(size: str, device: torch.device, rows: dict[str, tuple[int, Times]]) -> None:
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} thread(s)"
    )
    print(f"size {size}, batch 1, {name}, torch {torch.__version__}")
    summary = {}
    base = statistics.median(
        rows["teacher"][1].cpu if device.type == "cpu" else rows["teacher"][1].wall
    )
    for label, (count, times) in rows.items():
        row = {"parameters": count, "median_ms": statistics.median(times.wall)}
        row |= {"p95_ms": percentile(times.wall), "median_cpu_ms": statistics.median(times.cpu)}
        row["speed_up"] = base / row["median_cpu_ms" if device.type == "cpu" else "median_ms"]
        summary[label] = row
        print(
            f"{label:<26}{count / 1e6:>9.2f} M {row['median_ms']:>8.2f} ms {row['p95_ms']:>8.2f} p95"
            f" {row['median_cpu_ms']:>8.2f} CPU-ms {row['speed_up']:>6.1f} x"
        )
    print(json.dumps(summary))


def percentile(times: list[float], part: float = 0.95) -> float:
    """The time that this part of the repeats kept within."""
    return sorted(times)[math.ceil(part * len(times)) - 1]


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
