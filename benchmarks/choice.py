"""What the scorer's own phase is worth.

    python -m benchmarks.choice --home DIR [--steps 34 1500]   # the iPad of a finished demo
    python -m benchmarks.choice --study DIR                    # an iPad of its own, 112 test logs

With `--home`, DIR is the working folder of a finished `latentvla demo`: its iPad is loaded, and the
choice is scored on val and test. With `--study`, DIR holds logs of the study's world (they are
written if they are not there): an iPad of `mini` size is trained on the training logs and the
choice is scored on the test logs of the same towns. In both the scorer is trained on the frozen
proposals of the training scenes for each given length. Differences are paired by scene, intervals
draw whole logs.
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
from latentvla_core.evidence.prepare import Log, read_logs
from latentvla_core.evidence.worlds import LogsConfig
from latentvla_core.lake.store import Lake
from latentvla_core.pdms.world import World
from latentvla_core.planner import model
from latentvla_core.planner.choosing import Judge, freeze, train_choice
from latentvla_core.planner.config import ChoosingConfig, PlannerTrainConfig
from latentvla_core.planner.hosts.ipad_config import IpadConfig
from latentvla_core.planner.hosts.proposal_targets import Simulator
from latentvla_core.planner.plan import make_batches
from latentvla_core.planner.train import train_planner
from latentvla_core.statistics import grouped_mean, paired_difference
from latentvla_core.training.config import with_training
from latentvla_core.world.write import write_world


def scenes(lake: Lake, splits: list[str]) -> tuple[list, list]:
    """Records and worlds (None where there is none) of splits."""
    records = [record_from_row(row) for row in lake.rows("scenes", {"split": splits})]
    rows = lake.rows("scene_worlds", {"split": splits, "valid": True})
    worlds = {row["scene_token"]: World.from_row(row) for row in rows}
    return records, [worlds.get(record.scene_token) for record in records]


Part = tuple[list[Any], list[Any]]
"""Records, and their worlds in the same order."""


def of_demo(home: Path) -> tuple[Any, Part, Part]:
    """The demo's iPad, what it was trained on, and what it is judged on."""
    lake = Lake(str(home / "lake"))
    folders = sorted((home / "models" / "ipad").iterdir(), key=lambda f: f.stat().st_mtime)
    return model.load(folders[-1]), scenes(lake, ["train"]), scenes(lake, ["val", "test"])


def study_logs(root: Path, labelled: int, test: int, workers: int = 1) -> list[Log]:
    """Training and test logs in the towns and with the camera of the study; written once."""
    settings = LogsConfig(workers=workers).world(logs_train=labelled, logs_val=0, logs_test=test)
    world = write_world(root, settings)
    parts = (("train", "trainval", "labelled"), ("test", "test", "test"))
    return [
        Log(world.root, split, name, role)
        for part, split, role in parts
        for name in sorted(world.logs[part])
    ]


def of_study(logs: list[Log], steps: int, seed: int) -> tuple[Any, Part, Part]:
    """An iPad that looks ahead, as the study does, trained on the labelled ones of the logs; and the
    test logs.
    """
    found = read_logs(logs)
    roles = found.scenes.roles
    parts = [
        ([found.records[i] for i in rows], [found.worlds[i] for i in rows])
        for rows in (np.flatnonzero(roles == role) for role in ("labelled", "test"))
    ]
    config = replace(PlannerTrainConfig.mini(), choosing=ChoosingConfig.none())
    size = replace(IpadConfig.mini(), cameras=("CAM_F0",))
    planner = model.build_planner("ipad", size, seed=seed)
    train_planner(
        planner,
        parts[0][0],
        with_training(config, steps=steps, seed=seed),
        worlds=parts[0][1],
    )
    return planner, parts[0], parts[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--home", type=Path, help="working folder of a finished demo")
    where.add_argument("--study", type=Path, help="folder of the study's logs")
    parser.add_argument("--labelled", type=int, default=20, help="logs that the study's iPad sees")
    parser.add_argument("--test", type=int, default=112, help="logs that it is judged on")
    parser.add_argument("--workers", type=int, default=1, help="processes that write the logs")
    parser.add_argument("--train-steps", type=int, default=200, help="of the study's iPad")
    parser.add_argument("--train-seed", type=int, default=0, help="of the study's iPad")
    parser.add_argument("--steps", type=int, nargs="+", default=[34, 152, 507, 1500])
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    if options.home:
        found = of_demo(options.home)
    else:
        logs = study_logs(options.study, options.labelled, options.test, options.workers)
        found = of_study(logs, options.train_steps, options.train_seed)
    compare(*found, options.steps, options.seeds)


def compare(planner: Any, taught: Part, seen: Part, lengths: list[int], seeds: int) -> None:
    """Prints the choice without the phase, the best there is, and the gain of each length."""
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
    print(
        f"{len(taught[0])} training scenes, {len(keep)} judged, {len(set(logs))} logs", flush=True
    )
    print("without the phase, by the total:", grouped_mean(before, logs))
    print("best proposal, the answer known:", grouped_mean(total.max(1)[keep], logs))
    for steps in lengths:
        for seed in range(seeds):
            planner.scorer = copy.deepcopy(start)
            config = with_training(ChoosingConfig(min_steps=steps), epochs=1e-9)
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
