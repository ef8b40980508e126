"""Closed-loop RL on the planners of `benchmarks.rl`: `python -m benchmarks.rl_driving --out DIR`.

DIR is the folder that `python -m benchmarks.rl --out DIR` filled. From each planner of --start a
training goes on in which it drives scenes of a few seconds itself, several times each; the scenes
are of towns that neither its logs nor the judged scenes come from. Kept as DIR/planners/ARM-SEED:
`python -m benchmarks.rl_drives --out DIR` drives them beside the others on held-out scenes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.rl import WORLD
from latentvla_core.closed_loop.scenes.prepared import open_prepared
from latentvla_core.closed_loop.scenes.sets import SceneSet, freeze
from latentvla_core.closed_loop.scenes.situations import USUAL
from latentvla_core.driving_rl.train import DrivingConfig, Prepared, learn_by_driving
from latentvla_core.planner.model import load, save
from latentvla_core.training.config import with_training

TOWNS = 1
"""Seed of the scene set; the judged one has seed 0, and other towns."""


def scenes_of(out: Path, per_situation: int, seconds: float) -> list[Prepared]:
    """Scenes to learn in, frozen once, prepared with T = `seconds`."""
    path = out / f"learning-scenes-{per_situation}.json"
    if not path.exists():
        freeze(USUAL, per_situation, TOWNS, workers=1).save(path)
    return [open_prepared(v.spec, seconds)[:2] for v in SceneSet.load(path).scenes]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", default="imitation", help="arm of benchmarks.rl")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=DrivingConfig().training.steps)
    parser.add_argument("--scenes", type=int, default=2, help="of each of nine situations")
    parser.add_argument("--rollouts", type=int, default=DrivingConfig().rollouts)
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args(arguments)
    scenes = scenes_of(options.out, options.scenes, options.seconds)
    config = replace(DrivingConfig(), rollouts=options.rollouts, picture_wh=WORLD.picture_wh)
    for seed in range(options.seeds):
        planner = load(options.out / "planners" / f"{options.start}-{seed}")
        began = time.process_time()
        own = with_training(config, seed=seed, steps=options.steps)
        result = learn_by_driving(planner, scenes, own)
        save(planner, options.out / "planners" / f"{options.start}_driving-{seed}")
        print(
            f"seed {seed}: return of {len(scenes)} scenes {result.before:.2f} → {result.after:.2f},"
            f" {time.process_time() - began:.0f} CPU-s",
            flush=True,
        )


if __name__ == "__main__":
    main()
