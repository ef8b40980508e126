"""The way to MLflow: its client, how long it is waited for, and what is said when it does not
answer.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from latentvla_core.errors import SetupError
from latentvla_core.lake.places import without_password
from pipelines.registry.database import ensure_database, local_database
from pipelines.settings import Settings

EXPERIMENT = "latentvla"
IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "5"}


def connect(settings: Settings) -> Any:
    """MLflow client of this deployment. A local database is created on first use."""
    quiet_mlflow()
    import mlflow

    ensure_database(settings.mlflow_uri)
    mlflow.set_tracking_uri(settings.mlflow_uri)
    return mlflow.MlflowClient()


@lru_cache(maxsize=1)
def quiet_mlflow() -> None:
    """MLflow and alembic log a hundred lines of migrations at first use; warnings stay."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking", "mlflow.pyfunc"):
        logging.getLogger(name).setLevel(logging.WARNING)


def experiment_id(settings: Settings) -> str:
    """The experiment of all our runs, created on first use. Artifacts lie in our folder where the
    database does.
    """
    import mlflow

    experiment = mlflow.get_experiment_by_name(EXPERIMENT)
    where = str(settings.home / "mlruns") if local_database(settings.mlflow_uri) else None
    return (
        experiment.experiment_id
        if experiment
        else mlflow.create_experiment(EXPERIMENT, artifact_location=where)
    )


@contextmanager
def impatient() -> Iterator[None]:
    """MLflow tries a server that is away for four minutes; in here for five seconds, for calls that
    others wait for.
    """
    before = {name: os.environ.get(name) for name in IMPATIENT}
    os.environ.update(IMPATIENT)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def answering(settings: Settings, remedy: str) -> Iterator[None]:
    """What MLflow, its database or the network raise, as one SetupError that names the store and
    the remedy.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        raise SetupError(
            f"MLflow at {without_password(settings.mlflow_uri)} failed: {said(error)}; {remedy}"
        ) from error


def is_away(settings: Settings) -> str:
    """Why MLflow does not answer now, within five seconds; empty if it does."""
    try:
        with impatient():
            connect(settings).search_experiments(max_results=1)
    except Exception as error:  # whatever a store or a network raises
        return said(error)
    return ""


def registered(settings: Settings) -> set[tuple[str, str]] | None:
    """(model, `made_by`) of every registered version; None while MLflow does not answer, which says
    nothing of what it holds.
    """
    local = local_database(settings.mlflow_uri)
    if local is not None and not local.is_file():
        return set()
    if is_away(settings):
        return None
    found = connect(settings).search_model_versions()
    return {(version.name, version.tags.get("made_by", "")) for version in found}


def said(error: Exception) -> str:
    """The first line of an error, of one that a connection caused its cause, in a length that can
    be read.
    """
    line = (str(error).splitlines() or [type(error).__name__])[0]
    cause = re.search(r"Caused by \w+\(.*?: (.*?)['\"]?\)", line)
    return without_password(cause[1] if cause else line)[:300]
