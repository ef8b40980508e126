"""Units side by side in processes of this machine. A process that dies costs the unit it had.

Workers are started as programs, not forked: polars and deltalake hang in a forked child.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any

from latentvla_core.errors import LatentVLAError
from pipelines.engines.unit import Unit
from pipelines.steps.context import Outcome

TRIES = 3  # a unit that kills three workers in a row kills any


class WorkerDiedError(LatentVLAError):
    """A unit's process ended without an answer, again and again."""


@dataclass(slots=True, eq=False)
class Worker:
    """One process and the unit it has."""

    process: subprocess.Popen[bytes]
    line: Connection
    unit: Unit | None = None

    @staticmethod
    def start(threads: int) -> Worker:
        ours, theirs = Pipe()
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        env = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads)}
        number = theirs.fileno()
        command = [sys.executable, "-m", "pipelines.engines.worker", str(number)]
        process = subprocess.Popen(command, env=env, pass_fds=(number,), stdin=subprocess.DEVNULL)
        theirs.close()
        return Worker(process, ours)

    def give(self, unit: Unit) -> None:
        self.unit = unit
        with suppress(OSError):  # it died while idle: `answers` tells
            self.line.send(unit)

    def stop(self) -> None:
        self.line.close()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(slots=True)
class Side:
    """The state of `side_by_side`."""

    waiting: list[Unit]
    say: Callable[[str], None]
    threads: int
    workers: list[Worker] = field(default_factory=list)
    tries: dict[str, int] = field(default_factory=dict)
    done: dict[str, Outcome] = field(default_factory=dict)
    faults: dict[str, BaseException] = field(default_factory=dict)

    def hand_out(self, worker: Worker) -> None:
        worker.unit = None
        if self.waiting:
            worker.give(self.waiting.pop(0))

    def hear(self, worker: Worker) -> None:
        """One message of a worker: something to say, an outcome, a fault, or its end."""
        try:
            kind, content = worker.line.recv()
        except (EOFError, OSError):
            return self.bury(worker)
        if kind == "say":
            return self.say(content)
        assert worker.unit is not None
        (self.done if kind == "done" else self.faults)[worker.unit.partition] = content
        self.hand_out(worker)

    def bury(self, worker: Worker) -> None:
        """Its unit is done again by another process."""
        code, unit = worker.process.wait(), worker.unit
        self.workers.remove(worker)
        worker.stop()
        if unit is None:
            return
        self.tries[unit.partition] = self.tries.get(unit.partition, 0) + 1
        told = f"{unit.stage} {unit.partition}: its process ended with {code}"
        if self.tries[unit.partition] >= TRIES:
            self.faults[unit.partition] = WorkerDiedError(
                f"{told}, {TRIES} times; look for a lack of memory, or set LATENTVLA_WORKERS=1"
            )
        else:
            self.say(f"{told}; another one does it again")
            self.waiting.insert(0, unit)
        if self.waiting:
            self.add()

    def add(self) -> None:
        self.workers.append(Worker.start(self.threads))
        self.hand_out(self.workers[-1])


def side_by_side(
    units: Sequence[Unit], workers: int, say: Callable[[str], None] = print
) -> Mapping[str, Outcome]:
    """Outcome by partition. Where units fail the others are still done; then the first fault is
    raised, with the others as its notes.
    """
    threads = max(1, (os.cpu_count() or 1) // workers)
    side = Side(list(units), say, threads)
    try:
        for _ in range(min(workers, len(units))):
            side.add()
        while busy := [w for w in side.workers if w.unit is not None]:
            lines: dict[Any, Worker] = {worker.line: worker for worker in busy}
            for line in wait(list(lines)):
                side.hear(lines[line])
    finally:
        for worker in side.workers:
            if worker.unit is not None:  # an interrupt: nobody waits for what it does
                worker.process.terminate()
            worker.stop()
    raise_faults(side.faults)
    return side.done


def raise_faults(faults: Mapping[str, BaseException]) -> None:
    """The first fault in order of partition, the others as notes."""
    if not faults:
        return
    names = sorted(faults)
    for name in names[1:]:
        faults[names[0]].add_note(f"and {name}: {faults[name]}")
    raise faults[names[0]]
