"""One machine without containers: its passwords and variables, by the commands that the page prints."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
HOSTS = {"postgres": "127.0.0.1", "objects": "127.0.0.1", "mlflow": "127.0.0.1"}


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A checkout's files for it, after the first two commands; the variables that a shell has then."""
    root = tmp_path_factory.mktemp("checkout")
    for name in ("deploy", "pipelines/services"):
        shutil.copytree(ROOT / name, root / name)
    shutil.copy(ROOT / ".env.example", root)
    command = [sys.executable, "-S", "pipelines/services/secrets.py"]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    said = subprocess.run(
        ["sh", "-c", ". deploy/machine.sh && env -0"], cwd=root, check=True, capture_output=True,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    lines = said.stdout.decode().split("\0")
    return root, dict(line.split("=", 1) for line in lines if "=" in line)


def test_passwords_are_written_by_the_command_itself(machine):
    made = (machine[0] / ".env").read_text()
    assert re.search(r"^POSTGRES_PASSWORD=[0-9a-f]{40}$", made, re.MULTILINE)


@pytest.mark.parametrize("service", ["mlflow", "code"])
def test_a_shell_has_the_variables_that_the_containers_have(machine, service):
    root, found = machine
    places = {"/opt/latentvla/dagster_home": f"{root}/.latentvla/dagster"}
    places |= {"/var/lib/latentvla": f"{root}/.latentvla"}
    for name, written in COMPOSE["services"][service]["environment"].items():
        wanted = re.sub(
            r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda m: found.get(m[1]) or m[2] or "", written
        )
        for host, here in HOSTS.items():
            wanted = re.sub(rf"(?<=[@/]){host}:", f"{here}:", wanted)
        assert found.get(name) == places.get(wanted, wanted), name


def test_dagster_finds_its_configuration_and_the_code(machine):
    root, found = machine
    home = Path(found["DAGSTER_HOME"])
    config = yaml.safe_load((home / "dagster.yaml").read_text())
    assert config["compute_logs"]["config"]["base_dir"] == f"{root}/.latentvla/compute_logs"
    written = yaml.safe_load((ROOT / "deploy" / "dagster.yaml").read_text())
    assert {**config, "compute_logs": 0} == {**written, "compute_logs": 0}
    (server,) = yaml.safe_load((home / "workspace.yaml").read_text())["load_from"]
    assert server["grpc_server"] == {
        "host": "127.0.0.1", "port": 4000, "location_name": "latentvla",
    }  # fmt: skip
    assert found["PATH"].startswith(f"{root}/.venv/bin:")


def test_the_page_starts_the_services_of_the_file():
    page = (ROOT / "docs" / "operations.md").read_text()
    printed = page[page.index("### One machine without containers") :]
    for service in ("mlflow", "code", "webserver", "daemon"):
        words = COMPOSE["services"][service]["command"].split()[:2]
        assert " ".join(words) in printed or words[0] in printed, service
    assert "--artifacts-destination s3://latentvla/mlflow" in printed
