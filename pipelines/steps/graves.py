"""Runs whose process is gone. A killed demo cannot tell Dagster that it ended; the next one does."""

from __future__ import annotations

import os
import socket

import dagster as dg

TAG = "latentvla/process"
_OPEN = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED]


def process_tag() -> dict[str, str]:
    """Tag that says which process of which machine executes a run."""
    return {TAG: f"{socket.gethostname()}:{os.getpid()}"}


def bury(instance: dg.DagsterInstance) -> list[str]:
    """Report runs of this machine's dead processes as failed; returns their ids. Runs of other
    machines are left alone.
    """
    open_runs = instance.get_runs(filters=dg.RunsFilter(statuses=_OPEN))
    dead = [run for run in open_runs if _is_dead(run.tags.get(TAG, ""))]
    for run in dead:
        instance.report_run_failed(
            run, "its process was killed; finished work is kept and the next run goes on from it"
        )
    return [run.run_id for run in dead]


def _is_dead(process: str) -> bool:
    host, _, pid = process.rpartition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # alive, and somebody else's
        return False
    return False
