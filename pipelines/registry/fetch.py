"""Bringing the weights of a registered model to this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

from latentvla_core.errors import SetupError
from latentvla_core.lake.locks import held
from pipelines.registry.connection import answering, connect
from pipelines.settings import Settings

_REMEDY = "its weights come from there; start MLflow and run again"


def fetch_model(settings: Settings, uri: str, target: Path) -> None:
    """Bring the weights of a registered model to this machine."""
    from mlflow.artifacts import download_artifacts

    with held(target):
        if target.is_dir():
            return  # another process brought it meanwhile
        partial = target.with_name(target.name + ".fetching")
        shutil.rmtree(partial, ignore_errors=True)
        with answering(settings, f"{uri} is not on this machine, so {_REMEDY}"):
            connect(settings)
            local = Path(download_artifacts(artifact_uri=uri, dst_path=str(partial)))
        found = next(local.glob(f"artifacts/{target.name}"), None)
        if found is None:
            raise SetupError(
                f"{uri} holds no folder {target.name}; materialise the model's asset again"
            )
        found.rename(target)
        shutil.rmtree(partial, ignore_errors=True)
