"""Runs whose process is gone. A killed demo cannot tell Dagster that it ended; the next one does."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import dagster as dg

TAG = "latentvla/process"
_OPEN = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]


def process_tag() -> dict[str, str]:
    """Tag that says which process of which machine executes a run: host, pid, start of the process
    in ticks since the machine's, so that a pid that is used again is no life.
    """
    return {TAG: f"{socket.gethostname()}:{os.getpid()}:{_state(os.getpid())[1]}"}


def bury(instance: dg.DagsterInstance) -> list[str]:
    """Report runs of this machine's dead processes as failed; returns their ids. Runs of other
    machines are left alone.
    """
    open_runs = instance.get_runs(filters=dg.RunsFilter(statuses=_OPEN))
    dead = [run for run in open_runs if is_dead(run.tags.get(TAG, ""))]
    for run in dead:
        instance.report_run_failed(
            run, "its process was killed; finished work is kept and the next run goes on from it"
        )
    return [run.run_id for run in dead]


def is_dead(process: str) -> bool:
    """Whether the process of a tag, of this machine, has ended; not so of what cannot be known."""
    host, _, rest = process.partition(":")
    pid, _, started = rest.partition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    state, now = _state(int(pid))
    return state in ("", "Z") or bool(started and now and started != now)


def _state(pid: int) -> tuple[str, str]:
    """(state, start in ticks) of a process: ("", "") of none. Elsewhere than on Linux no start."""
    proc = Path("/proc")
    if (proc / "self" / "stat").is_file():
        try:
            fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            return "", ""
        return fields[0], fields[19]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return "", ""
    except PermissionError:  # alive, and somebody else's
        pass
    return "?", ""
