"""docker-compose.yml cannot be started in CI; its structure can be checked."""

import re
from pathlib import Path

import yaml

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
        assert {v.split(":")[0] for v in service.get("volumes", [])} <= set(COMPOSE["volumes"])


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
