"""`make ui`: which pages are served where, and what is said when a port is taken."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from latentvla_core.errors import SetupError
from pipelines.settings import Settings
from pipelines.ui import Ports, check_free, commands_of


def settings_of(home: Path) -> Settings:
    return Settings.from_env({"LATENTVLA_HOME": str(home)})


def test_another_port_moves_all_three_pages_by_as_much():
    assert Ports.from_dagster(3000) == (3000, 5000, 8000)
    assert Ports.from_dagster(3100) == (3100, 5100, 8100)


@pytest.mark.parametrize("port", [0, -5, 65_000])
def test_a_port_that_cannot_be_is_refused(port: int):
    with pytest.raises(SetupError, match=f"--port {port}"):
        Ports.from_dagster(port)


def test_a_taken_port_is_refused_by_its_number_and_a_free_one_is_not():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SetupError, match=rf"port {port} \(mlflow\) is taken.*--port"):
            check_free(Ports(dagster=0, mlflow=port, browser=0))
    check_free(Ports(dagster=0, mlflow=port, browser=0))


def test_the_browser_is_served_once_there_is_one(tmp_path: Path):
    settings = settings_of(tmp_path)
    assert [line.split()[0] for line in commands_of(settings, Ports())] == ["Dagster", "MLflow"]
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").touch()
    served = commands_of(settings, Ports())["Browser  http://localhost:8000"]
    assert served == [
        "http.server", "8000", "--bind", "127.0.0.1", "--directory", str(tmp_path / "site"),
    ]  # fmt: skip
