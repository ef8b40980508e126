"""A process that does units for `processes.side_by_side` until its line closes."""

from __future__ import annotations

import os
import pickle
import sys
import threading
import time
from multiprocessing.connection import Connection
from typing import Any


def main() -> None:
    """`python -m pipelines.engines.worker FD`: take units from the line, answer each."""
    _end_with(os.getppid())
    line = Connection(int(sys.argv[1]))
    while True:
        try:
            unit = line.recv()
        except EOFError:
            return
        line.send(_answer(unit, lambda text: line.send(("say", text))))


def _answer(unit: Any, say: Any) -> tuple[str, Any]:
    from pipelines.engines.unit import do

    try:
        return "done", do(unit, say)
    except Exception as error:
        return "fault", portable(error)


def portable(error: Exception) -> Exception:
    """The error itself where it can travel, else one that says the same."""
    from latentvla_core.errors import LatentVLAError

    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return LatentVLAError(f"{type(error).__name__}: {error}")
    return error


def _end_with(parent: int) -> None:
    """A killed run must not go on writing through its workers."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
