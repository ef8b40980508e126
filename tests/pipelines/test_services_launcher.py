"""Runs are processes of their own: a dead one is noticed, a running one can be stopped by anybody."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import launched_job
import pytest
import yaml
from dagster._core.launcher.base import LaunchRunContext, WorkerStatus

from pipelines.services.launcher import ProcessLauncher
from pipelines.steps.graves import TAG

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = {"module": "pipelines.services.launcher", "class": "ProcessLauncher"}


@pytest.fixture
def instance(tmp_path, monkeypatch):
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    paths = (str(ROOT), str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    config = {"telemetry": {"enabled": False}, "run_launcher": LAUNCHER}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(config))
    with dg.DagsterInstance.get() as made:
        yield made


def launch(instance: dg.DagsterInstance, begun: Path) -> str:
    """A run that has begun its work."""
    job = dg.reconstructable(launched_job.waiting)
    run = instance.create_run_for_job(
        launched_job.waiting,
        run_config={"ops": {"wait": {"config": {"begun": str(begun)}}}},
        job_code_origin=job.get_python_origin(),
        status=dg.DagsterRunStatus.STARTING,
    )
    instance.run_launcher.launch_run(LaunchRunContext(run, None))
    until(begun.exists)
    return run.run_id


def until(holds: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def test_a_run_is_a_process_of_its_own_whose_death_is_noticed(instance, tmp_path):
    run = instance.get_run_by_id(launch(instance, tmp_path / "begun"))
    launcher = instance.run_launcher
    assert isinstance(launcher, ProcessLauncher) and launcher.supports_check_run_worker_health
    pid = int(run.tags[TAG].split(":")[1])
    assert pid != os.getpid()
    assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    os.kill(pid, signal.SIGKILL)
    until(lambda: launcher.check_run_worker_health(run).status == WorkerStatus.FAILED)
    assert "a new run goes on from it" in launcher.check_run_worker_health(run).msg


def test_a_run_is_stopped_by_whoever_reaches_the_storage(instance, tmp_path):
    run_id = launch(instance, tmp_path / "begun")
    web_server = ProcessLauncher.from_config_value(None, {})  # it launched nothing
    web_server.register_instance(instance)
    assert web_server.terminate(run_id)
    until(lambda: instance.get_run_by_id(run_id).is_finished)
    assert instance.get_run_by_id(run_id).status == dg.DagsterRunStatus.CANCELED
    assert not web_server.terminate(run_id), "it has ended"


@pytest.mark.parametrize("file", ["deploy/dagster.yaml", "dagster_home/dagster.yaml"])
def test_deployments_launch_runs_that_way_and_look_after_them(file):
    config = yaml.safe_load((ROOT / file).read_text())
    assert config["run_launcher"] == LAUNCHER
    assert config["run_monitoring"]["enabled"]


def test_the_container_that_launches_runs_has_the_gpu_and_a_name_that_stays():
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    gpu = yaml.safe_load((ROOT / "docker-compose.gpu.yml").read_text())["services"]
    assert list(gpu) == ["daemon"]
    assert compose["daemon"]["hostname"] == "daemon" and compose["daemon"]["init"]
