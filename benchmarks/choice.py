"""What the scorer's own phase is worth: `python -m benchmarks.choice --home DIR [--steps 0 1500]`.

DIR is the working folder of a finished `latentvla demo`. Its iPad is loaded, its scorer is trained
on the frozen proposals of split train for each given length, and the choice is scored on val and
test. Differences are paired by scene, intervals draw whole logs.
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentvla_core.data.records import record_from_row
from latentvla_core.lake.store import Lake
from latentvla_core.pdms.world import World
from latentvla_core.planner import model
from latentvla_core.planner.choosing import Judge, freeze, train_choice
from latentvla_core.planner.config import ChoosingConfig
from latentvla_core.planner.hosts.proposal_targets import Simulator
from latentvla_core.planner.plan import make_batches
from latentvla_core.statistics import grouped_mean, paired_difference


def scenes(lake: Lake, splits: list[str]) -> tuple[list, list]:
    """Records and worlds (None where there is none) of splits."""
    records = [record_from_row(row) for row in lake.rows("scenes", {"split": splits})]
    rows = lake.rows("scene_worlds", {"split": splits, "valid": True})
    worlds = {row["scene_token"]: World.from_row(row) for row in rows}
    return records, [worlds.get(record.scene_token) for record in records]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=[34, 152, 507, 1500])
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    lake = Lake(str(arguments.home / "lake"))
    folders = sorted(
        (arguments.home / "models" / "ipad").iterdir(), key=lambda f: f.stat().st_mtime
    )
    planner: Any = model.load(folders[-1])
    taught, seen = scenes(lake, ["train"]), scenes(lake, ["val", "test"])
    batches = [make_batches(planner, records, None) for records, _ in (taught, seen)]
    frozen = freeze(planner, batches[1], np.arange(len(seen[0])), Simulator(seen[1]))
    keep = frozen.valid.all(1).numpy()
    logs = np.array([record.log_name for record in seen[0]])[keep]
    total = 100 * frozen.scores[..., -1].numpy()

    def score(choice: str) -> np.ndarray:
        planner.config = replace(planner.config, choice=choice)
        with torch.no_grad():
            best = planner.choice(Judge(planner)(frozen.inputs)).argmax(1).numpy()
        return total[np.arange(len(total)), best][keep]

    start, before = copy.deepcopy(planner.scorer), score("total")
    print("without the phase, by the total:", grouped_mean(before, logs))
    print("best proposal, the answer known:", grouped_mean(total.max(1)[keep], logs))
    for steps in arguments.steps:
        for seed in range(arguments.seeds):
            planner.scorer = copy.deepcopy(start)
            config = ChoosingConfig(epochs=1e-9, min_steps=steps)
            began = time.process_time()
            train_choice(
                planner,
                batches[0],
                np.arange(len(taught[0])),
                Simulator(taught[1]),
                config,
                seed=seed,
            )
            spent = time.process_time() - began
            gain = paired_difference(score("composed"), before, logs)
            print(f"{steps} steps, seed {seed}, {spent:.1f} CPU-s: difference {gain}", flush=True)


if __name__ == "__main__":
    main()
