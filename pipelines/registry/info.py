"""The registry's lines of `latentvla info`."""

from __future__ import annotations

from pipelines.registry.register import connect
from pipelines.settings import Settings


def registry_rows() -> list[tuple[str, str]]:
    """Registered models with their aliases; nothing is created by looking."""
    from pathlib import Path

    settings = Settings.from_env()
    rows = [("recipe", settings.recipe), ("registry", settings.mlflow_uri)]
    local = settings.mlflow_uri.removeprefix("sqlite:///")
    if local != settings.mlflow_uri and not Path(local).is_file():
        return [*rows, ("  models", "none yet")]
    for model in connect(settings).search_registered_models():
        held = ", ".join(f"{alias} = {version}" for alias, version in sorted(model.aliases.items()))
        rows.append((f"  {model.name}", held or "no alias"))
    return rows
