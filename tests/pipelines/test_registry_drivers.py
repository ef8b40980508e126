"""NAME@ALIAS at the wheel: what `latentvla drive` finds in the registry."""

from __future__ import annotations

from importlib import import_module
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException

from latentvla_core.errors import SetupError
from latentvla_core.planner.hosts.ipad_config import IpadConfig
from latentvla_core.planner.model import build_planner
from pipelines.registry import drivers


class Client:
    """A registry with one planner, one student, and the alias champion."""

    def search_registered_models(self):
        return [SimpleNamespace(name="ipad_student"), SimpleNamespace(name="student")]

    def get_registered_model(self, name: str):
        return SimpleNamespace(aliases={"champion": "3"})

    def get_model_version_by_alias(self, name: str, alias: str):
        if alias != "champion":
            raise MlflowException("no such alias")
        return SimpleNamespace(version="3")


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(drivers, "connect", lambda settings: Client())
    monkeypatch.setattr(drivers, "is_away", lambda settings: "")
    monkeypatch.setattr(drivers, "local_database", lambda uri: None)
    asked = []

    def load(uri: str):
        asked.append(uri)
        kind = "planner" if "ipad" in uri else "student"
        model = SimpleNamespace(
            kind=kind,
            model=build_planner("ipad", IpadConfig.debug()),
            features=("student", "weights"),
        )
        return SimpleNamespace(unwrap_python_model=lambda: model)

    monkeypatch.setattr(import_module("mlflow.pyfunc"), "load_model", load)
    return asked


def test_no_alias_means_the_champion_and_its_student_comes_along(registry):
    driver = drivers.driver_of("ipad_student")
    assert driver is not None and driver.name == "ipad_student@champion"
    assert driver.features == "weights" and len(driver.cameras) == 3
    assert registry == ["models:/ipad_student/3"]


def test_a_name_that_is_not_registered_is_left_to_others():
    assert drivers.driver_of("no_such_model") is None


def test_an_alias_that_nobody_holds_names_those_that_are_held():
    with pytest.raises(SetupError, match="champion"):
        drivers.driver_of("ipad_student@challenger")


def test_what_is_no_planner_does_not_drive():
    with pytest.raises(SetupError, match="only planners drive"):
        drivers.driver_of("student@champion")


def test_a_registry_that_is_away_is_said(monkeypatch):
    monkeypatch.setattr(drivers, "is_away", lambda settings: "connection refused")
    with pytest.raises(SetupError, match="connection refused"):
        drivers.driver_of("ipad_student")
