"""Faults of what the line stands on. Each ends in a right lake at once, or in one clear error after
which the next run makes it right.
"""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.soak import line
from benchmarks.soak.children import Child, outcome
from benchmarks.soak.kills import Soak
from benchmarks.soak.store import MODES, ObjectStore
from latentvla_core.errors import LatentVLAError

CLEAR = (LatentVLAError.__name__, "SetupError", "DataError")
TWICE = ("scene_worlds", "trajectories", "pdm_scores", "releases", line.PLANNER)
"""What two people do at once."""


@dataclass(slots=True)
class Found:
    """How the faults of one kind went."""

    times: int = 0
    unhurt: int = 0
    """Ended well as if nothing had been."""
    refused: Counter[str] = field(default_factory=Counter)
    """Type of the one error → how often."""


Report = dict[str, Found]


def hurt(soak: Soak, report: Report, kind: str, ended: tuple[Any, ...]) -> None:
    """Count how a child ended, then look whether the next run makes the lake right."""
    found = report.setdefault(kind, Found())
    found.times += 1
    if ended[0] == "done":
        found.unhurt += 1
    else:
        name = ended[1].partition(":")[0] if ended[0] == "fault" else "died"
        found.refused[name] += 1
        soak.say(f"{kind}: {ended[1][:160] if ended[0] == 'fault' else 'died'}")
        if ended[0] != "fault":
            soak.wrong.append(f"{kind}: the process died without a word")
    known = len(soak.wrong)
    soak.check(kind)
    for told in soak.wrong[known:]:
        soak.say(f"WRONG {told}")


def two_at_once(soak: Soak, report: Report, times: int) -> None:
    """Two people do the same partitions at the same moment."""
    for turn in range(times):
        job = TWICE[turn % len(TWICE)]
        soak.prepare(job)
        both = [Child.start(soak.work(job), soak.log) for _ in range(2)]
        ends = [child.result() for child in both]
        faults = [end for end in ends if end[0] != "done"]
        hurt(soak, report, "two people on one partition", (faults or ends)[0])


def two_daemons(soak: Soak, report: Report, times: int) -> None:
    """Two whole lines begin at once on a lake where everything is to be done again."""
    for turn in range(times):
        recipe = Path(soak.settings.recipe)
        line.write_recipe(recipe, steps=20, hidden=16, batch_size=8, seed=turn % 2 + 1)
        both = [Child.start(soak.work("recovery"), soak.log) for _ in range(2)]
        ends = [child.result() for child in both]
        line.write_recipe(recipe, steps=20, hidden=16, batch_size=8)
        faults = [end for end in ends if end[0] != "done"]
        hurt(soak, report, "two daemons", (faults or ends)[0])


def clock_jumps(soak: Soak, report: Report, times: int) -> None:
    """The clock is a day ahead, a day behind, or jumps within a run."""
    for turn in range(times):
        by_s = (86_400, -86_400, 3600, -3600)[turn % 4] * (1 if turn % 2 else 1.5)

        def work(by_s: float = by_s) -> None:
            true, began = time.time_ns, time.monotonic()
            time.time_ns = lambda: (
                true() + int((by_s if time.monotonic() - began > 0.2 else 0) * 1e9)
            )
            line.do(soak.settings, "pdm_scores")
            line.do(soak.settings, "pdm_summary")

        hurt(soak, report, "clock jumps", outcome(work, soak.log))


def corrupt_commits(soak: Soak, report: Report, times: int) -> None:
    """The last commit of a table is cut in the middle, as a disk that lost power leaves it. A
    person does what the error says: deletes the broken file.
    """
    tables = sorted({stage.table for stage in line.LITTLE.values()} - {"releases"})
    for turn in range(times):
        table = tables[turn % len(tables)]
        commit = sorted(Path(soak.settings.lake, table, "_delta_log").glob("*.json"))[-1]
        whole = commit.read_bytes()
        commit.write_bytes(whole[: soak.dice.randrange(1, len(whole))])
        ended = outcome(lambda: line.settle_and_read(soak.settings), soak.log)
        if ended[0] == "fault":
            if commit.name not in ended[1]:
                soak.wrong.append(f"corrupt commit of {table}: {ended[1][:300]}")
            commit.unlink()
        hurt(soak, report, "corrupt last commit", ended)


def full_disks(soak: Soak, report: Report, times: int) -> bool:
    """Space runs out at random moments of a line whose lake lies on a small file system; False
    where none can be mounted.
    """
    place = soak.log.parent / "small"
    with small_disk(place, 24 << 20) as mounted:
        if not mounted:
            return False
        small = replace(soak, settings=replace(soak.settings, lake=str(place / "lake")))
        small.begin()
        for _ in range(times):
            free = soak.dice.randrange(0, 96 << 10)
            ballast = place / "ballast"
            with ballast.open("wb") as file:
                file.write(bytes(max(0, free_bytes(place) - free)))
            job = soak.dice.choice([n for n in line.LITTLE if n != line.PLANNER])
            ended = Child.start(small.work(job), small.log).result()
            ballast.unlink()
            hurt(small, report, "disk full", ended)
    return True


def free_bytes(place: Path) -> int:
    import shutil

    return shutil.disk_usage(place).free


@contextmanager
def small_disk(place: Path, size_bytes: int) -> Iterator[bool]:
    """A file system of its own in memory; False where this user may not mount one."""
    place.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(place)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(place)], check=False)


def store_faults(soak: Soak, report: Report, store: ObjectStore, times: int) -> None:
    """The object store is silent, or gone and back, at random moments of every stage."""
    names = list(line.LITTLE)
    for turn in range(times):
        mode, job = MODES[turn % 2], names[turn % len(names)]
        soak.prepare(job)
        child = Child.start(soak.work(job), soak.log)
        child.wait_until_ready()
        time.sleep(soak.dice.uniform(0, soak.seconds[job]))
        store.hurt(mode, soak.dice.uniform(0.5, 4.0))
        hurt(soak, report, f"store {mode}", child.result())


KINDS: Mapping[str, Callable[[Soak, Report, int], Any]] = {
    "two people": two_at_once,
    "two daemons": two_daemons,
    "clock": clock_jumps,
    "corrupt": corrupt_commits,
    "disk": full_disks,
}
