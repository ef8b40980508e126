"""What learning from the score adds to imitation: `python -m benchmarks.rl --out DIR`.

A small embedded world is written below DIR (or found there). Per seed a planner imitates the
training logs, then other trainings start from that one planner. For a host of one plan these are
`cloned` (imitation goes on: the control, of equal compute), `one_plan` and `shaped`; for a host
that chooses among proposals `more` (the control), `anchored` and `grouped` (rl/config.py). All are scored on
held-out logs; differences are paired by scene, intervals draw whole logs. PDMS is what was trained
on; EPDMS, extended comfort and the detectors stand beside it. Models are kept in DIR/planners, so
that `latentvla drive --planner DIR/planners/one_plan-0 ...` can drive them.
"""

from __future__ import annotations

import argparse
import copy
import csv
import time
from collections.abc import Sequence
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
from latentvla_core.planner.model import build_planner, save
from latentvla_core.planner.plan import make_batches
from latentvla_core.planner.train import train_planner
from latentvla_core.rl.config import NoiseConfig, RlConfig
from latentvla_core.rl.policy import draw
from latentvla_core.rl.train import train_rl
from latentvla_core.rl.watch import Watch
from latentvla_core.statistics import paired_difference
from latentvla_core.training.config import with_training
from latentvla_core.world.write import WorldConfig, write_world

WORLD = WorldConfig(seed=21, logs_train=56, logs_val=4, logs_test=32, picture_wh=(224, 126))
ARMS = {"transfuser": ("cloned", "one_plan", "shaped"), "ipad": ("more", "anchored", "grouped")}
TARGET = 3.0
"""Points of its reward that learning from the score should add."""
CEILING = NoiseConfig(kind="added", along=0.3, across=0.1)
IMITATION = with_training(PlannerTrainConfig(fine_tune_steps=300), steps=400)


@dataclass
class Part:
    """Scenes of some logs that can be scored."""

    records: list[Any]
    worlds: list[Any]

    @property
    def logs(self) -> np.ndarray:
        return np.array([record.log_name for record in self.records])


def read(root: Path, split: str, logs: int | None = None) -> Part:
    """Every window of a split's first `logs` (None: of all) with a valid world."""
    store, part = MapStore(root / "maps"), Part([], [])
    for path in sorted((root / "navsim_logs" / split).glob("*.pkl"))[:logs]:
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
    config = with_training(getattr(RlConfig, arm)(), seed=seed, steps=steps)
    return planner, train_rl(planner, taught.records, taught.worlds, config)


def ceiling(watch: Watch, planner: Any, samples: int = 32) -> dict[str, float]:
    """What could be gained: the mean and the best of plans drawn around the planner's own, and the
    share of scenes in which all are worth the same.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = draw(watch.plans(planner)[:, None], samples, CEILING)[:, 0]
    scores = watch.pdms.score(drawn)["score"]
    best = scores.nan_to_num(-1.0).amax(1)
    spread = scores.std(1)
    return {
        "drawn": float(scores.nanmean()),
        f"best_of_{samples}": float(best[best >= 0].mean()),
        "spread": float(spread.nanmean()),
        "dead": float((spread < 1e-6).float().mean()),
    }


def watch_of(host: str, held_out: Part, seed: int = 0) -> Watch:
    """Held-out scenes, all of them."""
    batches = make_batches(build_planner(host, seed=seed), held_out.records, None)
    return Watch.of(held_out.records, held_out.worlds, batches, most=len(held_out.records))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--host", default="transfuser", choices=sorted(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=RlConfig.one_plan().training.steps)
    parser.add_argument("--arms", nargs="+")
    options = parser.parse_args(arguments)
    root = write_world(options.out / "world", WORLD).root
    taught, held_out = read(root, "trainval"), read(root, "test")
    print(
        f"{options.host}: {len(taught.records)} training scenes of {len(set(taught.logs))} logs, "
        f"{len(held_out.records)} held-out scenes of {len(set(held_out.logs))} logs",
        flush=True,
    )
    watch = watch_of(options.host, held_out)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        rows += compared(options, taught, held_out, watch, seed)
        write_rows(options.out / "rl.csv", rows)
    summary(rows)


def compared(
    options: Any, taught: Part, held_out: Part, watch: Watch, seed: int
) -> list[dict[str, Any]]:
    """All trainings of one seed → a row per arm with its gains over imitation."""
    logs = np.array([held_out.records[i].log_name for i in watch.scenes])
    start = imitated(taught, options.host, seed)
    save(start, options.out / "planners" / f"imitation-{seed}")
    before = watch.scores(watch.plans(start))
    told(f"seed {seed} imitation", watch.look(start) | ceiling(watch, start))
    rows = []
    for arm in options.arms or ARMS[options.host]:
        began = time.process_time()
        planner, result = trained(start, arm, taught, seed, options.steps)
        spent = time.process_time() - began
        save(planner, options.out / "planners" / f"{arm}-{seed}")
        after, figures = watch.scores(watch.plans(planner)), watch.look(planner)
        told(f"seed {seed} {arm}", figures)
        gains = {name: gain(after[name], before[name], logs) for name in ("score", "epdms")}
        share = "" if result is None else f", reward {result.reward_share:.0%} of the time"
        named = ", ".join(f"{name} {value}" for name, value in gains.items())
        print(f"  over imitation, points: {named}; {spent:.0f} CPU-s{share}", flush=True)
        for sentence in result.warnings if result else ():
            print(f"  warning: {sentence}")
        row = {"seed": seed, "arm": arm, "cpu_s": round(spent, 1)}
        for name, value in gains.items():
            row |= {
                f"{name}_gain": value.mean,
                f"{name}_low": value.low,
                f"{name}_high": value.high,
            }
        rows.append({**row, **figures})
    return rows


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """One line per seed and arm; a figure that an arm lacks is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(rows)


def summary(rows: list[dict[str, Any]]) -> None:
    """In how many seeds an arm gained three points with its interval above zero."""
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row for row in rows if row["arm"] == arm]
        held = sum(row["score_gain"] >= TARGET and row["score_low"] > 0 for row in own)
        mean = sum(row["score_gain"] for row in own) / len(own)
        print(
            f"{arm}: {mean:+.1f} points on average; +{TARGET:g} held in {held} of {len(own)} seeds"
        )


def told(name: str, figures: dict[str, float]) -> None:
    print(name + ": " + ", ".join(f"{k} {100 * v:.1f}" for k, v in figures.items()), flush=True)


def gain(after: torch.Tensor, before: torch.Tensor, logs: np.ndarray) -> Any:
    """Mean difference in points with its interval over logs; scenes without a score are left out."""
    keep = (after.isfinite() & before.isfinite()).numpy()
    return paired_difference(100 * after.numpy()[keep], 100 * before.numpy()[keep], logs[keep])


if __name__ == "__main__":
    main()
