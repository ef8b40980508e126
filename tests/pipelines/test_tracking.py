"""MLflow that is away: a training goes on, its numbers arrive later, and a finished model is only
registered again.
"""

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import pipelines.steps.context as context_module
from latentvla_core.errors import SetupError
from pipelines.registry.connection import connect, experiment_id, is_away
from pipelines.registry.database import ensure_database, local_database
from pipelines.registry.info import registry_rows
from pipelines.registry.tracking import (
    RUN_FILE,
    UNSENT_FILE,
    keep_page,
    known_run,
    send_unsent,
    tracked,
)
from pipelines.settings import Settings
from pipelines.steps.context import Model
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import Stage

pytestmark = pytest.mark.slow

NOBODY = "http://127.0.0.1:1"


class Deployment:
    """What `tracked` asks of an engine; MLflow is away until `come_back`."""

    def __init__(self, home: Path) -> None:
        self.here = Settings.from_env({"LATENTVLA_HOME": str(home)})
        self.settings = dataclasses.replace(self.here, mlflow_uri=NOBODY)
        self.recipe = SimpleNamespace(name="toy")
        self.said: list[str] = []
        self.folder = home / "toy.partial"
        self.folder.mkdir()

    def say(self, text: str) -> None:
        self.said.append(text)

    def come_back(self) -> None:
        self.settings = self.here

    def losses(self, run_id: str) -> list[tuple[int, float]]:
        history = connect(self.here).get_metric_history(run_id, "loss")
        return [(point.step, point.value) for point in history]


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, since MLflow takes seconds for it."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    ensure_database(f"sqlite:///{path}")
    return path


@pytest.fixture
def away(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    shutil.copy(empty_database, tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return Deployment(tmp_path)


@pytest.mark.slow
def test_a_training_that_starts_without_mlflow_goes_on_and_is_tracked_when_it_comes_back(away: Any):
    with tracked(away, "toy", away.folder) as sink:
        sink.log(0, {"loss": 2.0})
        sink.flush()
        away.come_back()
        sink.log(1, {"loss": 1.0})
    (said,) = away.said
    assert "the training goes on" in said
    assert away.losses((away.folder / RUN_FILE).read_text()) == [(0, 2.0), (1, 1.0)]
    assert not (away.folder / UNSENT_FILE).exists()


def test_what_mlflow_never_took_is_sent_when_the_model_is_registered(away: Any):
    for first in (0, 2):  # killed and resumed
        with tracked(away, "toy", away.folder) as sink:
            sink.log(first, {"loss": 2.0})
            sink.log(first + 1, {"loss": 1.0})
    assert known_run(connect(away.here), away.folder) is None
    client = connect(away.here)
    run_id = client.create_run(client.create_experiment("toy")).info.run_id
    send_unsent(client, run_id, away.folder)
    send_unsent(client, run_id, away.folder)
    assert away.losses(run_id) == [(0, 2.0), (1, 1.0), (2, 2.0), (3, 1.0)]


def test_the_error_of_a_training_is_not_hidden_by_that_of_mlflow(away: Any):
    with pytest.raises(ValueError, match="diverged"), tracked(away, "toy", away.folder):
        raise ValueError("diverged")


def test_a_failed_training_is_a_failed_run_with_its_reason(away: Any):
    away.come_back()
    with pytest.raises(ValueError, match="diverged"), tracked(away, "toy", away.folder):
        raise ValueError("diverged")
    run = connect(away.here).get_run((away.folder / RUN_FILE).read_text())
    assert (run.info.status, run.data.tags["error"]) == ("FAILED", "diverged")


def test_a_deleted_run_is_no_run_and_a_server_that_is_away_is_not_taken_for_one(away: Any):
    client = connect(away.here)
    (away.folder / RUN_FILE).write_text(
        client.create_run(client.create_experiment("toy")).info.run_id
    )
    assert known_run(client, away.folder)
    client.delete_run((away.folder / RUN_FILE).read_text())
    assert known_run(client, away.folder) is None
    with pytest.raises(Exception, match="refused"):
        known_run(connect(away.settings), away.folder)


def test_a_finished_model_is_not_trained_again_when_only_its_registration_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(
        context_module, "recipe_named", lambda name, weights: SimpleNamespace(name=name)
    )
    trained: list[Path] = []

    def train(engine: Engine, folder: Path) -> Model:
        trained.append(folder)
        return Model(parameters=1, metrics={"loss": 1.0})

    stage = Stage(name="toy", run=train, kind="model", table="models", deps=(), group="g", doc="")
    home, said = str(tmp_path), []
    settings = Settings.from_env({"LATENTVLA_HOME": home, "MLFLOW_TRACKING_URI": NOBODY})
    with pytest.raises(
        SetupError, match=r"127.0.0.1:1 failed(.|\n)*toy is trained and complete(.|\n)*run again"
    ):
        Engine(settings, {"toy": stage}, said.append).execute("toy")
    assert any("does not answer" in text for text in said)
    monkeypatch.setattr("pipelines.steps.engine.register_model", lambda *_: "models:/toy/1")
    engine = Engine(Settings.from_env({"LATENTVLA_HOME": home}), {"toy": stage})
    assert not engine.execute("toy").skipped
    assert len(trained) == 1
    assert engine.lake.rows("models")[0]["mlflow_uri"] == "models:/toy/1"


def test_info_says_that_mlflow_is_away(away: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LATENTVLA_HOME", str(away.here.home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NOBODY)
    assert "MLflow does not answer" in registry_rows()[-1][1]
    assert is_away(away.here) == ""


def test_a_local_database_is_told_by_its_uri_alone():
    assert local_database("sqlite:////a/mlflow.db") == Path("/a/mlflow.db")
    assert local_database("http://sqlite.example.org") is None


@pytest.mark.parametrize(
    "uri", ["htp://host:5000", "mlruns", "/folder", "file:///folder", "http://", "host:5000"]
)
def test_a_wrong_tracking_uri_is_refused_before_any_work(uri: str):
    with pytest.raises(SetupError, match="MLFLOW_TRACKING_URI is .*needs a server or a database"):
        Settings.from_env({"MLFLOW_TRACKING_URI": uri})


@pytest.mark.parametrize(
    "uri", ["http://host:5000", "postgresql+psycopg2://u@host/x", "databricks", "sqlite:///a.db"]
)
def test_stores_with_a_registry_are_taken(uri: str):
    assert Settings.from_env({"MLFLOW_TRACKING_URI": uri}).mlflow_uri == uri


@pytest.mark.slow
def test_a_page_lies_with_its_model_and_opens_there(tmp_path: Path):
    settings = Settings.from_env({"LATENTVLA_HOME": str(tmp_path)})
    client = connect(settings)
    run = client.create_run(experiment_id(settings)).info.run_id
    client.create_registered_model("toy")
    client.create_model_version("toy", source=str(tmp_path), run_id=run)
    page = tmp_path / "report.html"
    page.write_text("<p>fit to label</p>")
    link = keep_page(settings, "models:/toy/1", page)
    assert link.startswith("http://localhost:5000/#/experiments/")
    assert link.endswith(f"/runs/{run}/artifacts/pages/report.html")
    assert [f.path for f in client.list_artifacts(run, "pages")] == ["pages/report.html"]
