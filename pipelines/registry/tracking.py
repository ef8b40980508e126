"""Numbers of a training to MLflow while it trains, in the run under which the model is registered
at the end.

A call to MLflow's embedded database takes tens of milliseconds, so numbers are collected and sent
together. Tracking never stops a training: a tracking server that is away, from the start or later,
is said once and waited for for five seconds now and then; what was not sent is kept and sent later,
at the latest when the model is registered.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipelines.registry.connection import answering, connect, experiment_id, impatient, said

if TYPE_CHECKING:
    from latentvla_core.recipes import Recipe
    from pipelines.settings import Settings

SECONDS_PER_CALL = 10.0
MOST_SECONDS_PER_CALL = 300.0  # while it is away
METRICS_PER_CALL = 1000  # MLflow's limit
RUN_FILE = "mlflow_run.txt"  # inside a model's folder
UNSENT_FILE = "mlflow_unsent.jsonl"  # beside it, until the model is registered
Send = Callable[[list[Any]], None]
PAGES = "pages"  # folder of a run's artifacts
LOCAL_UI = "http://localhost:5000"  # where `make ui` serves a local database


class Training(Protocol):
    """What is asked of whoever trains."""

    say: Callable[[str], None]

    @property
    def settings(self) -> Settings: ...

    @property
    def recipe(self) -> Recipe: ...


class RunSink:
    """Collects numbers and sends them every ten seconds; `send` takes a list of mlflow Metric
    entities.
    """

    def __init__(
        self, send: Send, say: Callable[[str], None], seconds_per_call: float = SECONDS_PER_CALL
    ) -> None:
        self.send, self.say, self.seconds_per_call = send, say, seconds_per_call
        self.waiting: list[tuple[str, float, int, int]] = []
        """Name, value, time in ms, step."""
        self.tried_s = time.monotonic()
        self.wait_s = seconds_per_call
        self.told = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        now_ms = int(time.time() * 1000)
        self.waiting += [(name, float(value), now_ms, step) for name, value in metrics.items()]
        if time.monotonic() - self.tried_s >= self.wait_s:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        answered = self.attempt(self._send_waiting)
        self.tried_s = time.monotonic()
        self.wait_s = (
            self.seconds_per_call if answered else min(2 * self.wait_s, MOST_SECONDS_PER_CALL)
        )

    def attempt(self, call: Callable[[], Any]) -> bool:
        """Whether a call went well; the first that does not is said."""
        try:
            call()
        # whatever a store or a network raises: hours of training are worth more than a curve
        except Exception as error:
            if not self.told:
                self.told = True
                self.say(
                    f"MLflow takes no numbers now ({said(error)}); the training goes on, they are kept and sent later"
                )
            return False
        return True

    def _send_waiting(self) -> None:
        from mlflow.entities import Metric

        while self.waiting:
            self.send([Metric(*row) for row in self.waiting[:METRICS_PER_CALL]])
            del self.waiting[:METRICS_PER_CALL]


class TrainingRun:
    """The MLflow run of one training: opened when MLflow first answers, that of the killed training
    if one is resumed.
    """

    def __init__(self, training: Training, name: str, folder: Path) -> None:
        self.training, self.name, self.folder = training, name, folder
        self.client: Any = None
        self.run_id = ""

    def open(self) -> None:
        """Raises what MLflow raises, within seconds."""
        if self.run_id:
            return
        with impatient():
            self.client = connect(self.training.settings)
            self.run_id = known_run(self.client, self.folder) or self._new()

    def send(self, metrics: list[Any]) -> None:
        self.open()
        with impatient():
            self.client.log_batch(self.run_id, metrics=metrics)

    def fail(self, error: Exception) -> None:
        """Mark the run as failed, with the reason."""
        self.open()
        with impatient():
            self.client.set_tag(self.run_id, "error", str(error)[:4000])
            self.client.set_terminated(self.run_id, "FAILED")

    def _new(self) -> str:
        made_by = self.folder.name.removesuffix(".partial")
        tags = {"asset": self.name, "recipe": self.training.recipe.name, "made_by": made_by}
        run = self.client.create_run(
            experiment_id(self.training.settings), run_name=self.name, tags=tags
        )
        (self.folder / RUN_FILE).write_text(run.info.run_id)
        return str(run.info.run_id)


@contextmanager
def tracked(training: Training, name: str, folder: Path) -> Iterator[RunSink]:
    """A sink to the MLflow run of this training. What MLflow never took lies in the folder for
    `send_unsent`.
    """
    run = TrainingRun(training, name, folder)
    sink = RunSink(run.send, training.say)
    sink.attempt(run.open)
    try:
        yield sink
    except Exception as error:
        failure = error
        sink.attempt(lambda: run.fail(failure))
        raise
    finally:
        sink.flush()
        if sink.waiting:
            with (folder / UNSENT_FILE).open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in sink.waiting)


def send_unsent(client: Any, run_id: str, folder: Path) -> None:
    """Send what `tracked` could not, to the run under which the model is registered."""
    from mlflow.entities import Metric

    path = folder / UNSENT_FILE
    if not path.is_file():
        return
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for first in range(0, len(rows), METRICS_PER_CALL):
        client.log_batch(
            run_id, metrics=[Metric(*row) for row in rows[first : first + METRICS_PER_CALL]]
        )
    path.unlink()


def known_run(client: Any, folder: Path) -> str | None:
    """The run noted in a model's folder; None when there is none (any more: the database was moved
    away, the run deleted).
    """
    from mlflow.exceptions import MlflowException

    note = folder / RUN_FILE
    if not note.is_file():
        return None
    try:
        run = client.get_run(note.read_text())
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return str(run.info.run_id) if run.info.lifecycle_stage == "active" else None


def note_quality(settings: Settings, uri: str, report: Mapping[str, float], verdict: str) -> None:
    """Figures as metrics of the run behind `models:/<name>/<version>`, and tag `quality` on run and
    version.
    """
    from mlflow.entities import Metric, RunTag

    name, version = uri.removeprefix("models:/").split("/")
    now_ms = int(time.time() * 1000)
    metrics = [Metric(f"quality/{key}", float(value), now_ms, 0) for key, value in report.items()]
    with answering(settings, "start MLflow or set MLFLOW_TRACKING_URI, and run again"):
        client = connect(settings)
        run_id = client.get_model_version(name, version).run_id
        client.log_batch(run_id, metrics=metrics, tags=[RunTag("quality", verdict)])
        client.set_model_version_tag(name, version, "quality", verdict)


def keep_page(settings: Settings, uri: str, page: Path) -> str:
    """Lay a page with the model of `models:/<name>/<version>`; returns where MLflow shows it."""
    name, version = uri.removeprefix("models:/").split("/")
    with answering(settings, "start MLflow or set MLFLOW_TRACKING_URI, and run again"):
        client = connect(settings)
        run_id = client.get_model_version(name, version).run_id
        client.log_artifact(run_id, str(page), PAGES)
        experiment = client.get_run(run_id).info.experiment_id
    server = settings.mlflow_uri if settings.mlflow_uri.startswith("http") else LOCAL_UI
    place = f"#/experiments/{experiment}/runs/{run_id}/artifacts/{PAGES}/{page.name}"
    return f"{server.rstrip('/')}/{place}"
