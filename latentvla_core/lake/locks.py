"""One process at a time at a place: a lock beside it that says who works there.

The lock is the operating system's, so it is gone with the process that held it, however that ended.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from latentvla_core.errors import SetupError

POLL_S = 0.2


def tell(text: str) -> None:
    """To the terminal, beside what the command prints."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def held(place: Path, say: Callable[[str], None] = tell, *, wait: bool = True) -> Iterator[None]:
    """Holds the lock of a file or folder, which need not exist. While another process has it, says
    who, once, and waits; with `wait` false raises SetupError that says so.

    A lock that this process has already is taken again without waiting.
    """
    from filelock import FileLock, Timeout

    place.parent.mkdir(parents=True, exist_ok=True)
    file = lock_file(place)
    lock = FileLock(file, is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise SetupError(f"{_told(place)}; wait for it, or end it") from None
        say(f"{_told(place)}; waiting for it")
        lock.acquire(poll_interval=POLL_S)
    try:
        _note_of(file).write_text(json.dumps(_this_process()))
        yield
    finally:
        lock.release()


def lock_file(place: Path) -> Path:
    """Hidden beside the place, and never removed: who waits has it open."""
    return place.with_name(f".{place.name}.lock")


def who_works(place: Path) -> str:
    """`process 12 on oak (latentvla demo), since 14:03:09`, of the process that held the lock last."""
    try:
        note = json.loads(_note_of(lock_file(place)).read_text())
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(note["since"])))
        return f"process {note['pid']} on {note['host']} ({note['command']}), since {since},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _told(place: Path) -> str:
    return f"{who_works(place)} works at {place}"


def _note_of(file: Path) -> Path:
    return file.with_suffix(".json")


def _this_process() -> dict[str, object]:
    """The command's words alone: options may hold what is secret."""
    words = [Path(sys.argv[0]).name, *(a for a in sys.argv[1:3] if a.replace("_", "").isalnum())]
    command = " ".join(words).replace("__main__.py", "latentvla")
    return {
        "pid": os.getpid(), "host": socket.gethostname(), "command": command, "since": time.time(),
    }  # fmt: skip
