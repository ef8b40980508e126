"""Registered planners at the wheel: NAME@ALIAS for `latentvla drive`, resolved through MLflow."""

from __future__ import annotations

from typing import Any

from latentvla_core.closed_loop.drivers.planners import PlannerDriver, cameras_of
from latentvla_core.errors import SetupError
from pipelines.registry.connection import connect, is_away
from pipelines.registry.database import local_database
from pipelines.settings import Settings

DEFAULT_ALIAS = "champion"


def driver_of(name: str) -> PlannerDriver | None:
    """The driver of a registered planner, with its student or VLM; None where no model has the
    name. No alias: the champion.
    """
    settings = Settings.from_env()
    local = local_database(settings.mlflow_uri)
    if local is not None and not local.is_file():
        return None
    if away := is_away(settings):
        raise SetupError(f"MLflow does not answer ({away}); start it or set MLFLOW_TRACKING_URI")
    model, _, alias = name.partition("@")
    client = connect(settings)
    if model not in {m.name for m in client.search_registered_models()}:
        return None
    return _load(client, model, alias or DEFAULT_ALIAS)


def _load(client: Any, model: str, alias: str) -> PlannerDriver:
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import load_model

    try:
        version = client.get_model_version_by_alias(model, alias)
    except MlflowException as error:
        held = sorted(client.get_registered_model(model).aliases)
        raise SetupError(
            f"{model} has no alias {alias!r}; it has {', '.join(held) or 'none'}"
        ) from error
    uri = f"models:/{model}/{version.version}"
    served: Any = load_model(uri).unwrap_python_model()
    if served.kind != "planner":
        raise SetupError(f"{model} is a {served.kind}; only planners drive")
    features = served.features[1] if served.features else None
    return PlannerDriver(f"{model}@{alias}", served.model, features, cameras_of(served.model))
