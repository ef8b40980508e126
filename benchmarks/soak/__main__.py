"""`python -m benchmarks.soak FOLDER`: kills and faults at random moments of a little line.

Prints a table of counts and every wrong lake; the exit code is the number of those. `--kills 200
--faults 12` is what docs/results/operation.md shows; `--seed` gives other moments.
"""

from __future__ import annotations

import argparse
import importlib
import os
import random
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from benchmarks.soak import faults, line
from benchmarks.soak.children import value
from benchmarks.soak.database import database, database_faults, with_records_in
from benchmarks.soak.kills import JOBS, Soak
from benchmarks.soak.store import BUCKET, make_bucket, store

NAMES = (*faults.KINDS, "database", "store")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="an empty folder; some 100 MB")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--faults", type=int, default=12, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="kinds of faults")
    options = parser.parse_args(argv)
    soaks, report = soak(options.folder, options.kills, options.faults, options.seed, options.only)
    wrong = [told for one in soaks for told in one.wrong]
    print(table(soaks[0], report))
    print("\n".join(wrong) or "every lake was right after the next run")
    return min(len(wrong), 100)


def soak(
    folder: Path, kills: int, times: int, seed: int, only: Sequence[str]
) -> tuple[list[Soak], faults.Report]:
    """Kills and faults on a disk, then those of an object store."""
    began, report = time.monotonic(), faults.Report()
    store_folder = write_logs(folder / "logs")
    prepare_process(folder, store_folder)
    dice = random.Random(seed)

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {text}", flush=True)

    local = Soak(line.deployment(folder / "disk", store_folder), folder / "log", dice, say)
    local.begin()
    say("a calm run: " + ", ".join(f"{k} {v:.1f} s" for k, v in local.seconds.items()))
    if kills:
        local.run(kills)
    for name, kind in faults.KINDS.items():
        if times and name in only and kind(local, report, times) is False:
            say(f"{name}: skipped, this user may not mount a file system")
    if times and "database" in only:
        restarted(folder, local, report, times)
    if not times or "store" not in only:
        return [local], report
    with store() as objects:
        lake = f"s3://{BUCKET}/lake"
        remote = Soak(line.deployment(folder / "s3", store_folder, lake), folder / "log", dice, say)
        value(make_bucket, remote.log)
        remote.begin()
        say("a calm run on the object store")
        faults.store_faults(remote, report, objects, 2 * times)
    return [local, remote], report


def restarted(folder: Path, local: Soak, report: faults.Report, times: int) -> None:
    """PostgreSQL under runs of Dagster's, on a home of its own."""
    with database(folder.resolve() / "postgres") as base:
        if base is None:
            return local.say("database: skipped, PostgreSQL is not installed")
        own = replace(
            local, settings=line.deployment(folder / "records", folder / "logs"), wrong=local.wrong
        )
        own = with_records_in(own, base)
        own.begin()
        database_faults(own, report, base, times)


def write_logs(folder: Path) -> Path:
    """Two training logs and two held-out ones, without pictures."""
    from latentvla_core.world.write import WorldConfig, write_world

    config = WorldConfig(
        logs_train=2, logs_val=0, logs_test=2, seconds_per_log=8.0, cameras=(), workers=1
    )
    write_world(folder, config)
    return folder


def prepare_process(folder: Path, logs: Path) -> None:
    """Everything that children would import or compile again, done before they are forked: what a
    line imports is asked of a child that does one.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import torch

    from latentvla_core.pdms import backend
    from pipelines.registry import connection
    from pipelines.steps import lineage, warm

    torch.set_num_threads(1)
    connection.quiet_mlflow()
    lineage.git_commit()
    if backend.active() == "numba":
        warm.compile_kernels()
    first = line.deployment(folder / "first", logs)

    def modules() -> list[str]:
        line.settle(first)
        line.do(first, line.COMPACT)
        return [name for name in sys.modules if name != "__main__"]

    for name in value(modules, folder / "log"):
        with suppress(Exception):  # made at run time, or importable only once
            importlib.import_module(name)


def table(local: Soak, report: faults.Report) -> str:
    """Counts as a Markdown table."""
    lines = ["| what | times | ended well at once | one error, then right |", "|---|---|---|---|"]
    kills = ", ".join(f"{job} {local.killed[job]}" for job in JOBS)
    lines.append(f"| killed ({kills}) | {local.killed.total()} | – | – |")
    for kind, found in report.items():
        told = ", ".join(f"{n} × {name}" for name, n in found.refused.items()) or "–"
        lines.append(f"| {kind} | {found.times} | {found.unhurt} | {told} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
