"""How scoring scales with processes: `latentvla score` of one job with one and with several, one
after the other.

    python -m benchmarks.score --workers 2 [--root TREE --split S] [--plans 64]

Wall time says what one gets, on a machine that does nothing else. The sum of CPU seconds says what
the processes cost in any weather: more CPU in several than in one is what starting and handing over
takes, and bounds what wall time can gain.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from latentvla_core.data.filters import SceneFilter, iter_scenes
from latentvla_core.data.layout import DataRoot

BUSY = 0.25  # processes running beside ours, per core, from which wall times mean little


@dataclass(frozen=True)
class Run:
    """One run of the command, all of its processes."""

    workers: int
    wall_s: float
    cpu_s: float
    others: float
    """Processes that others ran meanwhile, on average of the last minute."""


def scaling(root: Path, split: str, workers: int, plans: int, scratch: Path) -> list[Run]:
    """Score `plans` plans in every scene of a split with 1, 2, 4, … `workers` processes; prints and
    returns the runs.
    """
    file = scratch / "T.parquet"
    scenes = write_plans(root, split, plans, file)
    counts = sorted({1, workers} | {2**k for k in range(1, workers.bit_length()) if 2**k < workers})
    _run(root, split, file, 1, scratch)  # warms the disk and numba's cache
    runs = [_run(root, split, file, count, scratch) for count in counts]
    tables = {(scratch / f"{count}.parquet").read_bytes() for count in counts}
    print(
        f"latentvla score: {scenes} scenes × {plans} plans of {split!r}, {os.cpu_count()} cores; the same bytes: {len(tables) == 1}"
    )
    for run in runs:
        wall, cpu = runs[0].wall_s / run.wall_s, run.cpu_s / runs[0].cpu_s
        print(
            f"{run.workers:>3} processes  wall {run.wall_s:7.1f} s, {wall:5.2f} times as fast"
            f"   CPU {run.cpu_s:7.1f} s, {cpu:5.2f} times as much   load of others {run.others:4.1f}"
        )
    if max(run.others for run in runs) > BUSY * (os.cpu_count() or 1):
        print("the machine was busy with other work: compare the CPU seconds, not the wall time")
    return runs


def write_plans(root: Path, split: str, count: int, file: Path) -> int:
    """Straight plans of many speeds for every scene of a split; returns how many scenes there are."""
    logs = DataRoot.find(root).logs(split)
    tokens = [scene.token for scene in iter_scenes(logs, SceneFilter(frame_interval=1))]
    metres = np.linspace(0.0, 15.0, count)[:, None] * (np.arange(1, 9) * 0.5)
    poses = np.stack([metres, 0 * metres, 0 * metres], axis=-1)
    columns = {
        "scene_token": np.repeat(tokens, count).tolist(),
        "trajectory_id": [f"plan {k}" for k in range(count)] * len(tokens),
        "poses": poses.tolist() * len(tokens),
    }
    pq.write_table(pa.table(columns), file)
    return len(tokens)


def _run(root: Path, split: str, file: Path, workers: int, scratch: Path) -> Run:
    command = [
        sys.executable,
        "-m",
        "latentvla_core",
        "score",
        "--root",
        str(root),
        "--split",
        split,
    ]
    command += [
        "--trajectories",
        str(file),
        "--out",
        str(scratch / f"{workers}.parquet"),
        "--workers",
        str(workers),
    ]
    before, start = _children_s(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, cpu = time.perf_counter() - start, _children_s() - before
    return Run(workers, wall, cpu, max(0.0, os.getloadavg()[0] - cpu / wall * min(1.0, wall / 60)))


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
