"""A password in an address is in no answer, no error, no argument of a process and no tag."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from latentvla_core import cli
from latentvla_core.errors import SetupError
from pipelines.registry import info
from pipelines.registry.connection import answering, said
from pipelines.registry.register import lineage_tags
from pipelines.settings import Settings
from pipelines.stages import STAGES
from pipelines.ui import Ports, commands_of

SECRET = "pa5sw0rd"
URI = f"postgresql://latentvla:{SECRET}@127.0.0.1:1/mlflow"


@pytest.fixture
def settings(tmp_path) -> Settings:
    return Settings.from_env({"LATENTVLA_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": URI})


def test_neither_settings_nor_arguments_of_a_process_show_it(settings: Settings):
    assert settings.mlflow_uri == URI
    assert SECRET not in repr(settings)
    assert SECRET not in str(commands_of(settings, Ports()))


def test_info_does_not_show_it(settings: Settings, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(info.Settings, "from_env", lambda: settings)
    monkeypatch.setattr(info, "is_away", lambda settings: "it is away")
    told = dict(info.registry_rows())
    assert told["registry"] == "postgresql://latentvla:***@127.0.0.1:1/mlflow"
    assert SECRET not in str(told)


def test_an_error_does_not_show_it(settings: Settings, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SetupError) as caught, answering(settings, "start it"):
        raise OSError(f"could not connect to {URI}")
    assert SECRET not in str(caught.value)
    assert SECRET not in said(ValueError(f"no store at {URI}"))
    with pytest.raises(SystemExit):
        cli._fail(f"something of a library: {URI}")
    assert SECRET not in capsys.readouterr().err
    with pytest.raises(SetupError) as caught:
        Settings.from_env({"MLFLOW_TRACKING_URI": f"oracle://u:{SECRET}@h/d"})
    assert SECRET not in str(caught.value)


def test_tags_of_a_model_do_not_show_it(settings: Settings):
    odd = SimpleNamespace(lake=f"s3://key:{SECRET}@bucket/lake")
    context: Any = SimpleNamespace(
        stages=STAGES, settings=odd, recipe=SimpleNamespace(name="debug")
    )
    tags = lineage_tags(context, STAGES["vlm"], "m", {"scenes": 3})
    assert tags["lake"] == "s3://key:***@bucket/lake"
