"""MLflow's database appears whole or not at all, whoever is killed and however many ask for it at
once.
"""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.registry.database import ensure_database

pytestmark = pytest.mark.slow

CREATE = "import sys; from pipelines.registry.database import ensure_database; ensure_database(sys.argv[1])"


def create(uri: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CREATE, uri], capture_output=True, text=True, check=False
    )


def usable(path: Path) -> bool:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{path}")
    experiment = client.create_experiment("one", artifact_location=str(path.parent / "runs"))
    return client.get_experiment(experiment).name == "one"


def test_a_process_killed_while_creating_it_leaves_nothing_in_the_way(tmp_path: Path):
    path = tmp_path / "new folder" / "mlflow.db"
    process = subprocess.Popen(
        [sys.executable, "-c", CREATE, f"sqlite:///{path}"], stderr=subprocess.DEVNULL
    )
    partial = path.with_name("mlflow.db.partial")
    while process.poll() is None and not (partial.exists() and partial.stat().st_size > 0):
        time.sleep(0.01)
    assert process.poll() is None, "it ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not path.exists()
    ensure_database(f"sqlite:///{path}")
    assert usable(path)


def test_two_processes_that_create_it_at_once_get_one(tmp_path: Path):
    path = tmp_path / "mlflow.db"
    with ThreadPoolExecutor(2) as pool:
        done = list(pool.map(create, [f"sqlite:///{path}"] * 2))
    assert [d.returncode for d in done] == [0, 0], done
    assert usable(path)
    assert not path.with_name("mlflow.db.partial").exists()


def test_other_stores_are_left_alone(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ensure_database("http://127.0.0.1:1")
    assert list(tmp_path.iterdir()) == []
