"""How long does a training step of the language model take, how long did its pictures, and how far
is the time plan from it?

    python -m benchmarks.vlm_steps --out DIR       # writes two logs there; about a minute of one core

One shape is trained first: operations by `vlm/duration.py` over its measured step give the rate that
this machine reaches. Plans of the other shapes, at that rate, are held against their own steps.
Pictures are decoded on their way, four batches ahead, so a step says what it waited for them.
Weights are random: time does not depend on what is learned.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from latentvla_core.evidence.prepare import Log, read_logs
from latentvla_core.training.config import with_training
from latentvla_core.training.sinks import ListSink
from latentvla_core.vlm.config import TextTower, VisionTower, VlmConfig
from latentvla_core.vlm.duration import time_plan
from latentvla_core.vlm.samples import VlmSample, build_samples
from latentvla_core.vlm.train import train_vlm
from latentvla_core.world.write import WorldConfig, write_world

AHEAD = 4
WARM_UP = 2
WORDS = 117
"""Words and numbers of a question under the tiny tokenizer, about."""


class Steps(NamedTuple):
    """Medians over steps, seconds."""

    step_s: float
    load_s: float
    """That a step waited for its pictures."""


def shapes() -> dict[str, VlmConfig]:
    """The first is what the rate is taken from."""
    text = TextTower(
        hidden_size=256, layers=6, heads=4, kv_heads=2, ffn_size=1024, mrope_section=(8, 12, 12)
    )
    wide = replace(text, hidden_size=512, heads=8, ffn_size=2048)
    deep = replace(text, layers=14)
    vision = VisionTower(hidden_size=128, layers=4, heads=4, ffn_size=256)
    first = with_training(VlmConfig.mini(), batch_size=8, log_every=1)
    first = replace(first, text=text, vision=vision, image_size_wh=(224, 112))
    return {
        "width 256, 6 layers": first,
        "width 512, 6 layers": replace(first, text=wide),
        "width 256, 14 layers": replace(first, text=deep),
        "larger pictures": replace(first, image_size_wh=(336, 168)),
        "vision frozen": replace(first, freeze_vision=True),
        "Qwen3-VL": replace(first, family="qwen3_vl", image_size_wh=(256, 128)),
    }


def samples_of(out: Path, config: VlmConfig) -> list[VlmSample]:
    """Windows of two logs with their pictures; the codes are drawn."""
    world = write_world(
        out, WorldConfig(seed=11, logs_train=2, logs_val=0, logs_test=0, cameras=config.cameras)
    )
    found = read_logs(
        [Log(world.root, "trainval", name, "labelled") for name in world.logs["train"]]
    )
    codes = np.random.default_rng(0).integers(0, 16, (len(found.records), 12)).astype(np.int8)
    return build_samples(found.records, codes, config)


def measured(samples: list[VlmSample], config: VlmConfig, steps: int) -> Steps:
    """Medians of a short training after its first steps, forward and backward."""
    sink = ListSink()
    short = with_training(config, steps=steps + WARM_UP, epochs=0.0)
    short = replace(short, batches_ahead=AHEAD)
    train_vlm(samples, short, sink=sink)
    rows = [found for _, found in sink.rows if "step_s" in found][WARM_UP:]
    return Steps(*(float(np.median([row[name] for row in rows])) for name in Steps._fields))


def main() -> None:
    parser = argparse.ArgumentParser(description="Steps of the VLM against the time plan.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the two logs")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each shape")
    options = parser.parse_args()
    report(options.out, options.steps)


def report(out: Path, steps: int) -> dict[str, tuple[float, Steps]]:
    """Shape → planned seconds, and its steps; prints a table."""
    found, rate = {}, 0.0
    print(f"{'shape':<24}{'plan s':>8}{'step s':>8}{'plan/step':>11}{'load s':>9}", flush=True)
    for name, config in shapes().items():
        samples = samples_of(out, config)
        spent = measured(samples, config, steps)
        work = time_plan(config, len(samples), 1.0, question_tokens=WORDS).step_flops
        rate = rate or work / spent.step_s
        plan_s = time_plan(config, len(samples), rate, question_tokens=WORDS).step_s
        found[name] = (plan_s, spent)
        ratio = plan_s / spent.step_s
        print(f"{name:<24}{plan_s:>8.2f}{spent.step_s:>8.2f}{ratio:>11.2f}{spent.load_s:>9.3f}",
              flush=True)  # fmt: skip
    print(f"rate of the first shape: {rate / 1e9:.1f} GFLOP/s")
    return found


if __name__ == "__main__":
    main()
