"""Numbers of a training to MLflow while it trains, in the run under which the model is registered at the end.

A call to MLflow's embedded database takes tens of milliseconds, so numbers are collected and sent together. Tracking
never stops a training: a tracking server that is away is said once, and what was not sent is kept and sent later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.engine import Engine
    from pipelines.settings import Settings

SECONDS_PER_CALL = 10.0
METRICS_PER_CALL = 1000  # MLflow's limit
RUN_FILE = "mlflow_run.txt"  # inside a model's folder
Send = Callable[[list[Any]], None]


class RunSink:
    """Collects numbers and sends them every ten seconds; `send` takes a list of mlflow Metric entities."""

    def __init__(self, send: Send, say: Callable[[str], None], seconds_per_call: float = SECONDS_PER_CALL) -> None:
        self.send, self.say, self.seconds_per_call = send, say, seconds_per_call
        self.waiting: list[tuple[str, float, int, int]] = []
        self.sent_s = time.monotonic()
        self.told = False

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        now_ms = int(time.time() * 1000)
        self.waiting += [(name, float(value), now_ms, step) for name, value in metrics.items()]
        if time.monotonic() - self.sent_s >= self.seconds_per_call:
            self.flush()

    def flush(self) -> None:
        """Send what waits."""
        from mlflow.entities import Metric

        self.sent_s = time.monotonic()
        try:
            while self.waiting:
                self.send([Metric(*row) for row in self.waiting[:METRICS_PER_CALL]])
                del self.waiting[:METRICS_PER_CALL]
        except (
            Exception
        ) as error:  # whatever a store or a network raises: hours of training are worth more than a curve
            if not self.told:
                self.told = True
                self.say(f"MLflow takes no numbers now ({error}); the training goes on, they are kept and sent later")


@contextmanager
def tracked(engine: Engine, name: str, folder: Path) -> Iterator[RunSink]:
    """A sink to the MLflow run of this training: a new run, or that of the killed training that is resumed."""
    from pipelines.registry.register import connect

    client = connect(engine.settings)
    run_id = _run_of(engine, client, name, folder)
    sink = RunSink(lambda metrics: client.log_batch(run_id, metrics=metrics), engine.say)
    try:
        yield sink
    except Exception as error:
        sink.flush()
        client.set_tag(run_id, "error", str(error)[:4000])
        client.set_terminated(run_id, "FAILED")
        raise
    sink.flush()


def _run_of(engine: Engine, client: Any, name: str, folder: Path) -> str:
    """The run id noted in the folder if MLflow still knows it; else a new run's, noted there."""
    from mlflow.exceptions import MlflowException

    note = folder / RUN_FILE
    if note.is_file():
        try:
            return str(client.get_run(note.read_text()).info.run_id)
        except MlflowException:
            pass  # the tracking database was moved away since
    from pipelines.registry.register import experiment_id

    tags = {"asset": name, "recipe": engine.recipe.name, "made_by": folder.name.removesuffix(".partial")}
    run = client.create_run(experiment_id(engine.settings), run_name=name, tags=tags)
    note.write_text(run.info.run_id)
    return str(run.info.run_id)


def known_run(folder: Path) -> str | None:
    """The run that tracked the training of this model, for its registration; None when there is none (any more)."""
    import mlflow
    from mlflow.exceptions import MlflowException

    note = folder / RUN_FILE
    if not note.is_file():
        return None
    try:
        return str(mlflow.get_run(note.read_text()).info.run_id)
    except MlflowException:
        return None


def note_quality(settings: Settings, uri: str, report: Mapping[str, float], verdict: str) -> None:
    """Figures as metrics of the run behind `models:/<name>/<version>`, and tag `quality` on run and version."""
    from mlflow.entities import Metric, RunTag

    from pipelines.registry.register import connect

    client = connect(settings)
    name, version = uri.removeprefix("models:/").split("/")
    run_id = client.get_model_version(name, version).run_id
    now_ms = int(time.time() * 1000)
    metrics = [Metric(f"quality/{key}", float(value), now_ms, 0) for key, value in report.items()]
    client.log_batch(run_id, metrics=metrics, tags=[RunTag("quality", verdict)])
    client.set_model_version_tag(name, version, "quality", verdict)
