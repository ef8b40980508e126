"""The registry's lines of `latentvla info`."""

from __future__ import annotations

from pipelines.registry.connection import connect, is_away
from pipelines.registry.database import local_database
from pipelines.settings import Settings


def registry_rows() -> list[tuple[str, str]]:
    """Registered models with their aliases; nothing is created by looking."""
    settings = Settings.from_env()
    rows = [("recipe", settings.recipe), ("registry", settings.mlflow_uri)]
    local = local_database(settings.mlflow_uri)
    if local is not None and not local.is_file():
        return [*rows, ("  models", "none yet")]
    if away := is_away(settings):
        return [
            *rows,
            (
                "  models",
                f"error: MLflow does not answer ({away}); start it or set MLFLOW_TRACKING_URI",
            ),
        ]
    for model in connect(settings).search_registered_models():
        held = ", ".join(f"{alias} = {version}" for alias, version in sorted(model.aliases.items()))
        rows.append((f"  {model.name}", held or "no alias"))
    return rows
