"""docker-compose.yml cannot be started in CI; its structure can be checked."""

import re
from pathlib import Path

import yaml

from pipelines.services.secrets import GENERATED, write_env

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(TEXT)


def test_every_image_has_a_tag():
    for name, service in COMPOSE["services"].items():
        tag = service["image"].rpartition(":")[2]
        assert tag[0].isdigit(), f"{name} uses {service['image']}: pin a version"


def test_dependencies_and_volumes_exist():
    for service in COMPOSE["services"].values():
        assert set(service.get("depends_on", {})) <= set(COMPOSE["services"])
        named = {v.split(":")[0] for v in service.get("volumes", []) if v[0] not in "./$"}
        assert named <= set(COMPOSE["volumes"])


def test_every_variable_is_in_the_example_file():
    used = set(re.findall(r"\$\{(\w+)", TEXT))
    documented = {
        line.split("=")[0]
        for line in (ROOT / ".env.example").read_text().splitlines()
        if "=" in line
    }
    assert used <= documented


def test_the_database_is_waited_for():
    assert "healthcheck" in COMPOSE["services"]["postgres"]
    assert COMPOSE["services"]["code"]["depends_on"]["postgres"]["condition"] == "service_healthy"


def test_mounted_configuration_exists():
    assert (ROOT / "deploy" / "workspace.yaml").is_file()
    assert "deploy/dagster.yaml" in (ROOT / "Dockerfile").read_text()
    assert (ROOT / "deploy" / "postgres.sql").is_file()


def test_what_others_wait_for_says_when_it_is_ready():
    services = COMPOSE["services"]
    for name, service in services.items():
        for other, rule in service.get("depends_on", {}).items():
            if rule["condition"] == "service_healthy":
                assert "healthcheck" in services[other], f"{name} waits for {other}"
    assert services["mlflow"]["depends_on"]["prepare"]["condition"].endswith("successfully")


def test_ports_are_this_machines_own_unless_asked():
    ports = [p for service in COMPOSE["services"].values() for p in service.get("ports", [])]
    assert ports and all(port.startswith("${LATENTVLA_BIND:-127.0.0.1}:") for port in ports)


def test_nothing_of_ours_runs_as_root():
    ours = [s for s in COMPOSE["services"].values() if s["image"].startswith("latentvla:")]
    assert ours and all(service["user"] == "1000:1000" for service in ours)


def test_every_variable_of_the_settings_reaches_the_containers():
    import pipelines.nights.messages as messages
    import pipelines.settings as settings

    told = set(re.findall(r"LATENTVLA_[A-Z_0-9]+", f"{settings.__doc__} {messages.__doc__}"))
    told -= {"LATENTVLA_TITLE"}  # what a command is given
    assert told <= set(COMPOSE["services"]["code"]["environment"])


def test_secrets_are_made_once_and_for_their_owner_alone(tmp_path):
    (tmp_path / ".env.example").write_text((ROOT / ".env.example").read_text())
    assert write_env(tmp_path)
    made = (tmp_path / ".env").read_text()
    values = dict(
        line.split("=", 1) for line in made.splitlines() if "=" in line and line[0] != "#"
    )
    assert len({values[name] for name in GENERATED}) == len(GENERATED)
    assert all(len(values[name]) == 40 for name in GENERATED)
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    assert not write_env(tmp_path) and (tmp_path / ".env").read_text() == made
