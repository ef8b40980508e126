"""Shards side by side: the same stages by one process and by several, through engine `processes`.

    python -m benchmarks.shards FOLDER [--logs 64] [--seconds 40] [--workers 2] [--repeats 2]

Writes logs and pictures of the embedded world below FOLDER (kept, so that a second call is quick)
and brings a little line up to date: labels by a model of `long`'s shape that learned nothing, worlds,
scores of two plans. Then each stage is done again, whole, by one worker and by `--workers`, in turn.
The start of processes and every commit are in the figures. Scores need worlds: keep the order.

Wall time is what one gets on a machine that does nothing else. CPU seconds hold in any weather:
where `n` processes use `c` times the CPU of one, they are at most `n / c` times as fast.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from benchmarks.soak.line import shortened
from latentvla_core.types import FRONT_CAMERA
from pipelines.engines.shards import execute_shards
from pipelines.settings import Settings
from pipelines.stages import STAGES as WHOLE
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import Stage

MEASURED = {"latent_actions": "train", "scene_worlds": "more", "pdm_scores": "more"}
"""Stage → the split whose shards are measured."""
RULE = {"num_history_frames": 4, "num_future_frames": 10, "frame_interval": 1, "has_route": True}
NAMES = (
    *("logs", "frames", "scenes", "latent_action_model", "latent_actions"),
    *("scene_worlds", "baseline_trajectories", "pdm_scores"),
)
STAGES: dict[str, Stage] = {name: shortened(WHOLE[name], NAMES) for name in NAMES}
STAGES["pdm_scores"] = replace(STAGES["pdm_scores"], picture=None)
AT = f"{__name__}:STAGES" if __name__ != "__main__" else "benchmarks.shards:STAGES"


@dataclass(frozen=True)
class Run:
    """One stage, all its shards, done once."""

    workers: int
    wall_s: float
    cpu_s: float
    load: float
    """Processes that wanted a core when it ended, ours included, averaged over a minute."""


def deployment(folder: Path, logs: int, seconds: float, shards: int) -> Settings:
    """Settings of a home in the folder: split `train` with pictures, to be labelled, and `more`, of
    twice as many logs without, to be scored. Logs are written if they are not there.
    """
    seen = written(folder / f"seen_{logs}_{seconds:g}", logs, seconds, (FRONT_CAMERA,))
    blind = written(folder / f"blind_{2 * logs}_{seconds:g}", 2 * logs, seconds, ())
    splits = {
        name: {
            "logs": str(tree / "navsim_logs" / part), "maps": str(tree / "maps"),
            "sensors": str(tree / "sensor_blobs" / part), "filter": RULE,
        }
        for name, tree, part in (
            ("train", seen, "trainval"), ("test", seen, "test"), ("more", blind, "trainval")
        )
    }  # fmt: skip
    (folder / "sources.yaml").write_text(yaml.safe_dump({"splits": splits}))
    wide = {"width": 192, "heads": 6, "encoder_layers": 4}  # `single_gpu` has 384 and 6
    latent = {"size": "long", "dynamics": wide, "quality_every": 0}
    latent |= {"training": {"steps": 2, "batch_size": 4}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"base": "debug", "latent": latent}))
    return Settings.from_env({
        "LATENTVLA_HOME": str(folder / "home"), "LATENTVLA_DEVICE": "cpu",
        "LATENTVLA_SOURCES": str(folder / "sources.yaml"), "LATENTVLA_SHARDS": str(shards),
        "LATENTVLA_WORKERS": "1", "LATENTVLA_RECIPE": str(folder / "recipe.yaml"),
    })  # fmt: skip


def written(tree: Path, logs: int, seconds: float, cameras: tuple[str, ...]) -> Path:
    """The tree, once it is whole."""
    from latentvla_core.world.write import WorldConfig, write_world

    done = tree.with_suffix(".done")
    if not done.exists():
        config = WorldConfig(
            seed=0 if cameras else 1,
            logs_train=logs,
            logs_val=0,
            logs_test=1,
            seconds_per_log=seconds,
            cameras=cameras,
        )
        write_world(tree, config)
        done.touch()
    return tree


def settle(settings: Settings) -> None:
    """Everything that the measured stages read, and they themselves on the small test split: files
    and kernels are warm.
    """
    engine = Engine(settings, STAGES, lambda text: None)
    engine.write_sources()
    for name, stage in STAGES.items():
        for partition in settings.partitions if stage.partitioned else ("",):
            if name not in MEASURED or partition.startswith("test"):
                engine.execute(name, partition)


def do(settings: Settings, stage: str, workers: int) -> Run:
    """All shards of the stage's split again, by so many processes."""
    engine = Engine(replace(settings, workers=workers), STAGES, lambda text: None)
    parts = [part for part in settings.partitions if part.startswith(MEASURED[stage])]
    cpu, began = used_s(), time.monotonic()
    execute_shards(engine, STAGES[stage], parts, force=True, stages=AT)
    wall, cpu = time.monotonic() - began, used_s() - cpu
    return Run(workers, wall, cpu, os.getloadavg()[0])


def used_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


def compared(runs: Sequence[Run]) -> Mapping[str, float]:
    """Medians by number of workers, and their ratios: one worker over many."""
    many = max(run.workers for run in runs)
    wall, cpu = (
        {n: statistics.median(getattr(r, what) for r in runs if r.workers == n) for n in (1, many)}
        for what in ("wall_s", "cpu_s")
    )
    return {
        "workers": many, "wall_1_s": wall[1], "wall_s": wall[many], "times_as_fast": wall[1] / wall[many],
        "cpu_1_s": cpu[1], "cpu_s": cpu[many], "cpu_times": cpu[many] / cpu[1],
        "at_most": many * cpu[1] / cpu[many], "load": max(run.load for run in runs),
    }  # fmt: skip


@contextmanager
def one_thread():
    """As a worker among several has it, so that one process does not use the cores of two."""
    import torch

    os.environ["OMP_NUM_THREADS"] = "1"
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--logs", type=int, default=64)
    arguments.add_argument("--seconds", type=float, default=40.0, help="of each log")
    arguments.add_argument("--shards", type=int, default=16)
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--repeats", type=int, default=2)
    arguments.add_argument("--stages", nargs="+", choices=list(MEASURED), default=list(MEASURED))
    given = arguments.parse_args()
    with one_thread():
        settings = deployment(given.folder, given.logs, given.seconds, given.shards)
        settle(settings)
        print("ready", flush=True)
        for stage in given.stages:
            counts = (1, given.workers) * given.repeats
            runs = [do(settings, stage, workers) for workers in counts]
            found = {name: round(value, 2) for name, value in compared(runs).items()}
            print(stage, json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
