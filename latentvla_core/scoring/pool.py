"""Work shared out among processes that start cheaply: forked from a warm one where that is safe.

What a new process costs is its imports, its compiled kernels (read from numba's cache) and its
maps, a few CPU-seconds together. A forked process inherits all three, and what the jobs share.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from rich.console import Console
from rich.progress import track

from latentvla_core.errors import LatentVLAError, SetupError

START = "LATENTVLA_START"
"""Environment variable: fork, forkserver or spawn, instead of what `start_method` would choose."""
THREADED = ("torch", "deltalake", "polars", "duckdb", "mlflow", "grpc")
"""Libraries whose threads do not survive a fork. NumPy's and Arrow's mend themselves."""
Progress = Callable[[int, int], None]
"""Called with (jobs done, jobs)."""


def shared_out(
    work: Callable[..., Any],
    jobs: list[tuple[Any, ...]],
    workers: int,
    progress: Progress | None = None,
    *,
    warm: Callable[[], object] | None = None,
) -> Iterator[Any]:
    """`work(*job)` of every job in order, on that many processes, with a bar on the terminal if
    nobody else shows one.

    Args:
        work: what all jobs share belongs in here (functools.partial): each process gets it once.
        warm: a little of the work, done before processes are forked, so that they find kernels and
        maps loaded.
    Raises:
        LatentVLAError: a process was killed. Errors of `work` come as they are.
    """
    parts = _results(work, jobs, workers, warm)  # processes first: the bar is a thread
    if progress is None and sys.stderr.isatty():
        parts = track(
            parts, "scoring logs", len(jobs), console=Console(stderr=True), transient=True
        )
    for done, part in enumerate(parts, 1):
        yield part
        if progress:
            progress(done, len(jobs))


def start_method() -> str:
    """fork on Linux as long as this process has one Python thread and no library that forbids it;
    else a server to fork.

    Raises:
        SetupError: $LATENTVLA_START names a way that this platform does not have.
    """
    known = multiprocessing.get_all_start_methods()
    if chosen := os.environ.get(START):
        if chosen not in known:
            raise SetupError(f"{START} is {chosen!r}; must be one of {', '.join(known)}, or unset")
        return chosen
    alone = threading.active_count() == 1 and not any(name in sys.modules for name in THREADED)
    if sys.platform == "linux" and alone:
        return "fork"
    return "forkserver" if "forkserver" in known else "spawn"


def _results(
    work: Callable[..., Any],
    jobs: list[tuple[Any, ...]],
    workers: int,
    warm: Callable[[], object] | None,
) -> Iterable[Any]:
    """Results in the order of the jobs; all processes are started before this returns."""
    if workers <= 1 or len(jobs) <= 1:
        return (work(*job) for job in jobs)
    method = start_method()
    context: Any = multiprocessing.get_context(method)
    if method == "fork" and warm:
        warm()
    if method == "forkserver":
        context.set_forkserver_preload(["__main__", "latentvla_core.scoring"])
    pool = ProcessPoolExecutor(
        min(workers, len(jobs)), context, initializer=_learn, initargs=(work,)
    )
    return _collected(pool, [pool.submit(_do, *job) for job in jobs], workers)


def _collected(
    pool: ProcessPoolExecutor, waiting: list[Future[Any]], workers: int
) -> Iterator[Any]:
    with pool:
        try:
            waiting.reverse()
            while waiting:
                yield waiting.pop().result()
        except BrokenProcessPool as error:
            text = f"one of {workers} worker processes was killed, probably for want of memory; use fewer --workers"
            raise LatentVLAError(text) from error
        finally:
            for job in waiting:
                job.cancel()


_learnt: list[Callable[..., Any]] = []  # in a worker process: what it does with each job


def _learn(work: Callable[..., Any]) -> None:
    _learnt[:] = [work]


def _do(*job: Any) -> Any:
    return _learnt[0](*job)
