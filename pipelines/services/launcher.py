"""Runs in processes of their own, beside the daemon that launches them and outside the code server:
a code server that is deployed anew ends no run.

The run's process says who it is in a tag of the run. The daemon's monitoring asks `is it alive` and
reports a run whose process is gone as failed, within its poll interval, so that nothing waits for a
dead one. A run is stopped through Dagster's storage: its process looks for that itself, so the web
server need not reach it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from signal import SIGINT
from typing import Any, Self

import dagster as dg
from dagster._core.instance import InstanceRef
from dagster._core.launcher.base import (
    CheckRunHealthResult,
    LaunchRunContext,
    RunLauncher,
    WorkerStatus,
)
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import (
    ConfigurableClass,
    ConfigurableClassData,
    deserialize_value,
    serialize_value,
)

from pipelines.steps.graves import TAG, is_dead, process_tag

LOOK_S = 2.0  # between two looks for a request to stop
MODULE = "pipelines.services.launcher"


class ProcessLauncher(RunLauncher, ConfigurableClass):
    """`run_launcher: {module: pipelines.services.launcher, class: ProcessLauncher}`."""

    def __init__(self, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        super().__init__()

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        return {}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> Self:
        return cls(inst_data=inst_data)

    def launch_run(self, context: LaunchRunContext) -> None:
        run, origin = context.dagster_run, context.job_code_origin
        assert origin is not None, "a run that a workspace made has an origin"
        arguments = ExecuteRunArgs(
            job_origin=origin,
            run_id=run.run_id,
            instance_ref=self._instance.get_ref(),
            set_exit_code_on_failure=True,
        )
        self._reap()
        self._running[run.run_id] = subprocess.Popen(
            [sys.executable, "-m", MODULE, run.run_id, serialize_value(arguments)],
            start_new_session=True,
        )

    def terminate(self, run_id: str) -> bool:
        """Ask it to stop; its process does so within seconds. False where it has ended."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        self._reap()
        tag = run.tags.get(TAG, "")
        if is_dead(tag):
            told = f"its process {tag} is gone; finished work is kept and a new run goes on from it"
            return CheckRunHealthResult(WorkerStatus.FAILED, told)
        return CheckRunHealthResult(WorkerStatus.RUNNING)

    def _reap(self) -> None:
        self._running = {i: p for i, p in self._running.items() if p.poll() is None}


def main(run_id: str, arguments: str) -> None:
    """The run's process: tells who it is, looks for a request to stop, and executes the run."""
    from dagster._cli.api import execute_run_command

    place = deserialize_value(arguments, ExecuteRunArgs).instance_ref
    assert place is not None, "the launcher gives one"
    with dg.DagsterInstance.from_ref(place) as instance:
        instance.add_run_tags(run_id, process_tag())
    known = (place, run_id, os.getppid())
    threading.Thread(target=_stop_when_asked, args=known, daemon=True).start()
    execute_run_command([arguments], standalone_mode=False)


def _stop_when_asked(place: InstanceRef, run_id: str, parent: int) -> None:
    """Interrupt this process once: when its run is to be cancelled, or its launcher is gone."""
    with dg.DagsterInstance.from_ref(place) as instance:
        while True:
            time.sleep(LOOK_S)
            run = instance.get_run_by_id(run_id)
            asked = run is not None and run.status == dg.DagsterRunStatus.CANCELING
            if asked or os.getppid() != parent:
                os.kill(os.getpid(), SIGINT)
                return


if __name__ == "__main__":
    main(*sys.argv[1:])
