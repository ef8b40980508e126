"""A run of a killed process does not look alive for ever."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from pipelines.steps.graves import TAG, bury, is_dead, process_tag


@dg.op
def nothing() -> None: ...


@dg.job
def idle() -> None:
    nothing()


def started(instance: dg.DagsterInstance, process: str) -> str:
    run = instance.create_run_for_job(idle, tags={TAG: process}, status=dg.DagsterRunStatus.STARTED)
    return run.run_id


def status(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


def test_only_runs_of_dead_processes_of_this_machine_are_reported_as_failed():
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    ended.wait()
    host = socket.gethostname()
    with dg.DagsterInstance.ephemeral() as instance:
        dead = started(instance, f"{host}:{ended.pid}")
        alive = [
            started(instance, p)
            for p in (process_tag()[TAG], f"elsewhere:{ended.pid}", "", f"{host}:1")
        ]
        assert bury(instance) == [dead]
        assert status(instance, dead) == dg.DagsterRunStatus.FAILURE
        assert {status(instance, run) for run in alive} == {dg.DagsterRunStatus.STARTED}
        assert bury(instance) == []


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc")


@needs_proc
def test_the_tag_names_this_process():
    host, pid, started = process_tag()[TAG].rsplit(":", 2)
    assert (host, int(pid)) == (socket.gethostname(), os.getpid())
    assert int(started) > 0


@needs_proc
def test_a_zombie_and_a_pid_that_was_given_away_again_are_dead():
    ended = subprocess.Popen([sys.executable, "-c", "pass"])
    host = socket.gethostname()
    while (state := Path(f"/proc/{ended.pid}/stat").read_text().split()[2]) != "Z":
        assert state
    assert is_dead(f"{host}:{ended.pid}")
    ended.wait()
    mine = process_tag()[TAG]
    assert not is_dead(mine)
    assert is_dead(mine.rpartition(":")[0] + ":1"), "another process has the pid now"
