"""The registry's lines of `latentvla info`."""

from __future__ import annotations

from latentvla_core.lake.places import without_password
from pipelines.registry.connection import connect, is_away
from pipelines.registry.database import local_database
from pipelines.settings import Settings


def stray_rows(settings: Settings) -> list[tuple[str, str]]:
    """Splits that have rows in the lake and no source any more."""
    from latentvla_core.lake.splits import strays
    from latentvla_core.lake.store import Lake

    return [
        (
            "stray split",
            f"{split}: {sum(rows.values())} rows in {len(rows)} tables and no source; still in every"
            f" answer until latentvla lake drop-split {split} --yes",
        )
        for split, rows in strays(Lake(settings.lake), settings.splits).items()
    ]


def registry_rows() -> list[tuple[str, str]]:
    """Registered models with their aliases; nothing is created by looking."""
    settings = Settings.from_env()
    rows = [
        ("recipe", settings.recipe),
        *stray_rows(settings),
        ("registry", without_password(settings.mlflow_uri)),
    ]
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
