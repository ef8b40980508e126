"""Work in a process that can be killed: forked, so that it starts in milliseconds.

The parent imports and compiles, but opens no table: threads of the storage library do not survive
a fork.
"""

from __future__ import annotations

import os
import pickle
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from select import select
from typing import Any

Say = Callable[[str], None]
LONGEST_S = 600.0


@dataclass(slots=True)
class Child:
    """A running piece of work."""

    pid: int
    line: int
    """Its end of a pipe: a byte when it says something, then its result."""
    ended: bool = False

    @staticmethod
    def start(work: Callable[[Callable[[], None]], Any], log: Path) -> Child:
        """`work(ready)` in a process of its own; it calls `ready` when the interesting part begins."""
        mine, theirs = os.pipe()
        pid = os.fork()
        if pid:
            os.close(theirs)
            return Child(pid, mine)
        os.close(mine)
        code = 1
        try:
            _be_quiet(log)
            result = work(lambda: os.write(theirs, b"!") and None)
            code = _tell(theirs, ("done", result))
        except BaseException as error:
            told = f"{type(error).__name__}: {error}"
            code = _tell(theirs, ("fault", told, traceback.format_exc()))
        finally:
            os._exit(code)

    def wait_until_ready(self) -> bool:
        """Whether the interesting part began before the child ended."""
        ready, _, _ = select([self.line], [], [], LONGEST_S)
        return bool(ready) and os.read(self.line, 1) == b"!"

    def kill(self) -> bool:
        """SIGKILL; whether it was still at work."""
        os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        os.close(self.line)
        self.ended = True
        return os.WIFSIGNALED(status)

    def result(self) -> tuple[Any, ...]:
        """("done", value), ("fault", message, trace), or ("died",)."""
        content, end = b"", time.monotonic() + LONGEST_S
        while part := self._part(end - time.monotonic()):
            content += part
        os.waitpid(self.pid, 0)
        os.close(self.line)
        self.ended = True
        content = content.lstrip(b"!")
        return pickle.loads(content) if content else ("died",)

    def _part(self, seconds: float) -> bytes:
        """The next piece of what it says; a child that says nothing for so long is killed."""
        ready, _, _ = select([self.line], [], [], max(0.0, seconds))
        if not ready:
            os.kill(self.pid, signal.SIGKILL)
        return os.read(self.line, 1 << 16) if ready else b""


def _tell(line: int, content: tuple[Any, ...]) -> int:
    view = memoryview(pickle.dumps(content))
    while view:
        view = view[os.write(line, view) :]
    return 0 if content[0] == "done" else 1


def _be_quiet(log: Path) -> None:
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(target, stream)


def outcome(work: Callable[[], Any], log: Path) -> tuple[Any, ...]:
    """Work done in a child that nobody disturbs."""
    return Child.start(lambda ready: work(), log).result()


def value(work: Callable[[], Any], log: Path) -> Any:
    """Its value; raises RuntimeError with the child's trace where it failed."""
    kind, *rest = outcome(work, log)
    if kind != "done":
        raise RuntimeError("\n".join(map(str, rest)) or "the child died")
    return rest[0]
