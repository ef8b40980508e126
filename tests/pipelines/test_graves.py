"""A run of a killed process does not look alive for ever."""

import os
import socket
import subprocess
import sys

import dagster as dg

from pipelines.steps.graves import TAG, bury, process_tag


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


def test_the_tag_names_this_process():
    assert process_tag()[TAG].endswith(f":{os.getpid()}")
