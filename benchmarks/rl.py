"""What learning from the score adds to imitation: `python -m benchmarks.rl --out DIR`.

A small embedded world is written below DIR (or found there). Per seed a planner imitates the
training logs, then three trainings start from that one planner: `more` (imitation goes on for as
many steps: the control), `anchored` and `grouped` (rl/config.py). All are scored on held-out logs;
differences are paired by scene, intervals draw whole logs. PDMS is what was trained on; EPDMS,
extended comfort and the detectors stand beside it.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentvla_core.data.filters import SceneFilter, iter_scenes
from latentvla_core.data.map_files.maps import MapStore
from latentvla_core.data.records import scene_record
from latentvla_core.pdms.world import build
from latentvla_core.planner.config import PlannerTrainConfig
from latentvla_core.planner.model import build_planner
from latentvla_core.planner.plan import make_batches
from latentvla_core.planner.train import train_planner
from latentvla_core.rl.config import RlConfig
from latentvla_core.rl.train import train_rl
from latentvla_core.rl.watch import Watch
from latentvla_core.statistics import paired_difference
from latentvla_core.training.config import with_training
from latentvla_core.world.write import WorldConfig, write_world

WORLD = WorldConfig(seed=21, logs_train=56, logs_val=4, logs_test=32, picture_wh=(224, 126))
IMITATION = with_training(PlannerTrainConfig(fine_tune_steps=300), steps=400)


@dataclass
class Part:
    """Scenes of some logs that can be scored."""

    records: list[Any]
    worlds: list[Any]

    @property
    def logs(self) -> np.ndarray:
        return np.array([record.log_name for record in self.records])


def read(root: Path, split: str) -> Part:
    """Every window of a split's logs with a valid world."""
    store, part = MapStore(root / "maps"), Part([], [])
    for path in sorted((root / "navsim_logs" / split).glob("*.pkl")):
        for scene in iter_scenes([path], SceneFilter(frame_interval=1), faults=[]):
            world = build(scene, store.get(scene.current.map_location))
            if world.valid:
                part.records.append(scene_record(scene, str(root / "sensor_blobs" / split)))
                part.worlds.append(world)
    return part


def imitated(taught: Part, host: str, seed: int) -> Any:
    """A planner that has imitated the training logs, its scorer's own phase included."""
    planner = build_planner(host, seed=seed)
    train_planner(
        planner, taught.records, with_training(IMITATION, seed=seed), worlds=taught.worlds
    )
    return planner


def trained(start: Any, arm: str, taught: Part, seed: int, steps: int) -> tuple[Any, Any]:
    """A copy of `start` after one of the three trainings, and how it went."""
    planner = copy.deepcopy(start)
    if arm == "more":
        config = replace(with_training(IMITATION, seed=seed + 100), fine_tune_steps=steps)
        train_planner(planner, taught.records, config, worlds=taught.worlds, fine_tune=True)
        return planner, None
    config = replace(getattr(RlConfig, arm)(), seed=seed, steps=steps)
    return planner, train_rl(planner, taught.records, taught.worlds, config)


def watch_of(host: str, held_out: Part, seed: int = 0) -> Watch:
    """Held-out scenes, all of them."""
    batches = make_batches(build_planner(host, seed=seed), held_out.records, None)
    return Watch.of(held_out.records, held_out.worlds, batches, most=len(held_out.records))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--host", default="ipad")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=RlConfig.mini().steps)
    parser.add_argument("--arms", nargs="+", default=["more", "anchored", "grouped"])
    options = parser.parse_args()
    root = write_world(options.out / "world", WORLD).root
    taught, held_out = read(root, "trainval"), read(root, "test")
    print(
        f"{options.host}: {len(taught.records)} training scenes of {len(set(taught.logs))} logs, "
        f"{len(held_out.records)} held-out scenes of {len(set(held_out.logs))} logs"
    )
    watch = watch_of(options.host, held_out)
    logs = np.array([held_out.records[i].log_name for i in watch.scenes])
    for seed in range(options.seeds):
        start = imitated(taught, options.host, seed)
        before = watch.scores(watch.plans(start))
        told(f"seed {seed} imitation", watch.look(start))
        for arm in options.arms:
            began = time.process_time()
            planner, result = trained(start, arm, taught, seed, options.steps)
            spent = time.process_time() - began
            after = watch.scores(watch.plans(planner))
            told(f"seed {seed} {arm}", watch.look(planner))
            gains = ", ".join(f"{n} {gain(after[n], before[n], logs)}" for n in ("score", "epdms"))
            share = "" if result is None else f", reward {result.reward_share:.0%} of the time"
            print(f"  over imitation, points: {gains}; {spent:.0f} CPU-s{share}", flush=True)
            for sentence in result.warnings if result else ():
                print(f"  warning: {sentence}")


def told(name: str, figures: dict[str, float]) -> None:
    print(name + ": " + ", ".join(f"{k} {100 * v:.1f}" for k, v in figures.items()), flush=True)


def gain(after: torch.Tensor, before: torch.Tensor, logs: np.ndarray) -> Any:
    """Mean difference in points with its interval over logs; scenes without a score are left out."""
    keep = (after.isfinite() & before.isfinite()).numpy()
    return paired_difference(100 * after.numpy()[keep], 100 * before.numpy()[keep], logs[keep])


if __name__ == "__main__":
    main()
