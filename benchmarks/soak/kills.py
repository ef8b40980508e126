"""SIGKILL at random moments of every stage, of compaction, of vacuum and of recovery itself."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.soak import line
from benchmarks.soak.children import Child, outcome, value
from pipelines.settings import Settings

RECOVERY = "recovery"
JOBS = (*line.LITTLE, line.COMPACT, line.VACUUM, RECOVERY)
CHECK_EVERY = 5  # kills between two looks at all tables


@dataclass(slots=True)
class Soak:
    """A deployment that is hurt, and the facts of one that was not."""

    settings: Settings
    log: Path
    dice: random.Random
    say: Callable[[str], None] = print
    calm: dict[str, str] = field(default_factory=dict)
    killed: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    decisions: int = 0

    def begin(self) -> None:
        """The calm run, and how long each job takes undisturbed."""
        value(lambda: line.settle(self.settings), self.log)
        self.calm = value(lambda: line.facts(self.settings), self.log)
        for job in JOBS:
            self.prepare(job)
            child = Child.start(self.work(job), self.log)
            if child.wait_until_ready():
                began = time.monotonic()
                kind, *rest = child.result()
                self.seconds[job] = time.monotonic() - began
                if kind != "done":
                    raise RuntimeError(f"{job} fails undisturbed: {rest}")
        self.check("undisturbed")

    def prepare(self, job: str) -> None:
        if job in (line.PLANNER, RECOVERY):
            line.forget_weights(self.settings)

    def work(self, job: str) -> Callable[[Callable[[], None]], Any]:
        """What a child does: recover, say so, then the job. Recovery is a job of its own."""

        def do(ready: Callable[[], None]) -> None:
            if job == RECOVERY:
                ready()
                line.settle(self.settings)
                return
            if job != line.PLANNER:
                line.settle(self.settings)
            ready()
            line.do(self.settings, job)

        return do

    def kill_one(self, job: str) -> bool:
        """Whether the child was still at work when it was killed."""
        self.prepare(job)
        child = Child.start(self.work(job), self.log)
        if not child.wait_until_ready():
            self.wrong.append(f"{job}: recovery before it failed: {child.result()[1:2]}")
            return False
        time.sleep(self.dice.uniform(0, self.seconds[job]))
        if not child.kill():
            return False
        self.killed[job] += 1
        return True

    def check(self, told: str) -> None:
        """The next run must succeed and leave the tables of a calm one."""
        kind, *rest = outcome(lambda: line.settle(self.settings), self.log)
        if kind != "done":
            self.wrong.append(f"{told}: the next run failed: {rest[:1]}")
            return
        found = value(lambda: line.faults(self.settings, self.calm, self.decisions), self.log)
        self.wrong += [f"{told}: {fault}" for fault in found]
        self.decisions = value(lambda: line.decided(self.settings), self.log)

    def run(self, kills: int) -> None:
        """So many kills, the jobs in turn; tables are looked at after every few of them."""
        tries = 0
        while self.killed.total() < kills and tries < 5 * kills:
            job = JOBS[tries % len(JOBS)]
            tries += 1
            if self.kill_one(job) and self.killed.total() % CHECK_EVERY == 0:
                self.check(f"kill {self.killed.total()} ({job})")
                self.say(f"{self.killed.total()} kills, {len(self.wrong)} wrong")
        self.check("the last kill")
