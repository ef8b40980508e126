"""Shared by all tests: quiet, offline, one thread, and never in the user's own folders."""

import os
import sys
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("OMP_NUM_THREADS", "1")
for variable in ("LATENTVLA_LAKE", "LATENTVLA_SOURCES", "LATENTVLA_RECIPE", "LATENTVLA_SHARDS", "OPENSCENE_DATA_ROOT",
                 "NUPLAN_MAPS_ROOT", "MLFLOW_TRACKING_URI"):  # fmt: skip
    os.environ.pop(variable, None)


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A test that forgets to say where it works still works in a folder of its own (and not in its
    tmp_path).
    """
    folder: Path = tmp_path_factory.mktemp("surroundings")
    monkeypatch.setenv("LATENTVLA_HOME", str(folder / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    monkeypatch.setenv(
        "MLFLOW_TRACKING_URI", ""
    )  # mlflow.set_tracking_uri sets it for the rest of the process:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # now it is forgotten after each test


@pytest.fixture(autouse=True)
def _no_instance_of_another_test() -> None:
    """Dagster keeps the storage of an instance that was entered last; once that instance is gone,
    whoever loads definitions fails.
    """
    if base := sys.modules.get("dagster._core.storage.defs_state.base"):
        base._current_storage.set(None)
