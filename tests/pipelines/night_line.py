"""Nights of a little line: real ingest, worlds, scores, gate and registry around one blind planner.

`python night_line.py REQUEST` does one run in a process of its own, so that it can be killed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from benchmarks.soak.line import LITTLE, write_recipe
from latentvla_core.lake.store import Lake
from pipelines.definitions import build
from pipelines.settings import Settings
from pipelines.steps import graves


def instance_of(env: dict[str, str]) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(env["DAGSTER_HOME"])


def execute(instance: dg.DagsterInstance, request: dict[str, Any]) -> bool:
    """One run as a run worker would do it; whether it succeeded."""
    definitions = build(Settings.from_env(), LITTLE, pooled=False)
    chosen = request["assets"]
    result = definitions.resolve_job_def(request["job"]).execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(name) for name in chosen] if chosen else None,
        tags={**request["tags"], **graves.process_tag()},
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        raise_on_error=False,
    )
    for event in result.all_events:
        if event.is_step_failure:
            print(event.step_key, event.step_failure_data.error)
    return result.success


class Nights:
    """A deployment whose sensors and schedule are asked by hand, at the times that a test gives."""

    def __init__(self, folder: Path, store: Path, env: dict[str, str]) -> None:
        self.folder, self.store, self.env = folder, store, env
        self.tree = folder / "tree"
        self.now = datetime(2026, 3, 1, 20, 0, tzinfo=UTC)
        self.cursors: dict[str, str | None] = {}

    @property
    def repository(self) -> dg.RepositoryDefinition:
        """As a code location that was just loaded."""
        return build(Settings.from_env(), LITTLE).get_repository_def()

    @property
    def lake(self) -> Lake:
        return Lake(Settings.from_env().lake)

    def upload(self, part: str, first: int, last: int) -> None:
        """Logs number first … last - 1 of trainval or test arrive."""
        target = self.tree / "navsim_logs" / part
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted((self.store / "navsim_logs" / part).glob("*.pkl"))[first:last]:
            shutil.copy(path, target / path.name)

    def recipe(self, **fields: Any) -> None:
        """Somebody changes how the planner is trained."""
        write_recipe(Path(self.env["LATENTVLA_RECIPE"]), **fields)

    def sensor(self, name: str) -> list[dict[str, Any]]:
        """One tick; the runs that it asks for."""
        found = self.repository.get_sensor_def(name)
        with (
            instance_of(self.env) as instance,
            dg.build_sensor_context(instance=instance, cursor=self.cursors.get(name)) as context,
        ):
            result = found.evaluate_tick(context)
        self.cursors[name] = result.cursor or self.cursors.get(name)
        return [_request("ingest_and_label", r) for r in result.run_requests or []]

    def night(self) -> tuple[list[dict[str, Any]], str]:
        """02:00: the runs that the schedule asks for, or why it skips."""
        self.now += timedelta(days=1)
        schedule = self.repository.get_schedule_def("nightly_retraining")
        with (
            instance_of(self.env) as instance,
            dg.build_schedule_context(
                instance=instance, scheduled_execution_time=self.now
            ) as context,
        ):
            tick = schedule.evaluate_tick(context)
        found = [_request("whole_line", r) for r in tick.run_requests or []]
        return found, tick.skip_message or ""

    def run(self, request: dict[str, Any]) -> bool:
        with instance_of(self.env) as instance:
            return execute(instance, request)

    def killed(self, request: dict[str, Any], sign: str) -> None:
        """The run's process is killed hard once something below the home matches the pattern."""
        home, log = Path(self.env["LATENTVLA_HOME"]), self.folder / "killed.log"
        command = [sys.executable, __file__, json.dumps(request)]
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with log.open("w") as told:
            process = subprocess.Popen(
                command, env={**os.environ, "PYTHONPATH": paths}, stdout=told, stderr=told
            )
        while process.poll() is None and not any(home.glob(sign)):
            time.sleep(0.02)
        assert process.poll() is None, log.read_text()[-3000:]
        process.kill()
        process.wait()

    def failures(self) -> None:
        """Asks the hook of failed runs about those that it has not heard of."""
        hook = self.repository.get_sensor_def("tell_failures")
        with instance_of(self.env) as instance:
            for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE])):
                if run.run_id in self.cursors:
                    continue
                self.cursors[run.run_id] = "told"
                events = instance.all_logs(run.run_id, dg.DagsterEventType.RUN_FAILURE)
                context = dg.build_run_status_sensor_context(
                    "tell_failures", events[-1].dagster_event, instance, run
                )
                hook(context.for_run_failure())

    def told(self) -> list[dict[str, str]]:
        path = Path(self.env["LATENTVLA_TELL_FILE"])
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _request(job: str, request: dg.RunRequest) -> dict[str, Any]:
    assets = [key.to_user_string() for key in request.asset_selection or []]
    return {"job": job, "assets": assets, "tags": dict(request.tags)}


if __name__ == "__main__":
    with instance_of(dict(os.environ)) as used:
        sys.exit(0 if execute(used, json.loads(sys.argv[1])) else 1)
