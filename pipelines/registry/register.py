"""Putting a trained model into MLflow: signature, input example, safetensors weights, lineage tags,
alias.

Models are registered as code plus weights (`model_code.py` and the model's own folder), never as a
pickle.
"""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentvla_core.errors import SetupError
from latentvla_core.lake.places import without_password
from latentvla_core.types import SceneRecord
from latentvla_core.viz.report.card import model_card, spaced
from pipelines.registry.artifacts import keep_training, parameters_of
from pipelines.registry.cards import CARD, card_of
from pipelines.registry.connection import answering, connect, experiment_id, is_away
from pipelines.registry.latency import MACHINE, figures_of, latency_of
from pipelines.registry.tracking import known_run, send_unsent
from pipelines.settings import TRAIN, VAL, Settings
from pipelines.steps.lineage import Stage, git_commit

if TYPE_CHECKING:
    from pipelines.steps.context import StageContext

CODE = Path(__file__).with_name("model_code.py")
REQUIREMENTS = (
    "torch",
    "transformers",
    "safetensors",
    "numpy",
    "pillow",
    "shapely",
    "pyproj",
    "scipy",
)
PLANS = "plan"
PARTS = "parts.json"  # beside a model's weights: the registered models that it needs
OUTPUT_SHAPES = {PLANS: (-1, 8, 3), "codes": (-1, 12)}


def register_model(
    context: StageContext,
    stage: Stage,
    folder: Path,
    summary: Mapping[str, Any],
    inputs: Mapping[str, int],
) -> str:
    """Register a finished model folder once; returns `models:/<name>/<version>`. Doing it again
    finds the same version.

    Raises SetupError when MLflow stays away; the model is complete by then and only its
    registration is left to do.
    """
    away = is_away(context.settings)
    if away:
        context.say(
            f"MLflow at {without_password(context.settings.mlflow_uri)} does not answer ({away}); trying for some minutes"
        )
    remedy = (
        f"{stage.name} is trained and complete in {folder}: start MLflow or set MLFLOW_TRACKING_URI, and run again"
        " (or materialise the asset), which registers the model and does not train it again"
    )
    with answering(context.settings, remedy):
        client = connect(context.settings)
        known = _known_version(client, stage.name, folder.name)
        if known is None:
            known = _log(context, stage, folder, summary, inputs)
        client.set_registered_model_alias(stage.name, "challenger", known)
    return f"models:/{stage.name}/{known}"


def _known_version(client: Any, name: str, made_by: str) -> str | None:
    found = client.search_model_versions(f"name = '{name}'")
    return next((v.version for v in found if v.tags.get("made_by") == made_by), None)


def _log(
    context: StageContext,
    stage: Stage,
    folder: Path,
    summary: Mapping[str, Any],
    inputs: Mapping[str, int],
) -> str:
    import mlflow
    import pandas as pd

    kind, client = kind_of(stage), mlflow.MlflowClient()
    records = example_records(context)
    example = pd.DataFrame({"scene": [scene_json(records[0])]})
    latency = latency_of(folder, summary["parts"], records)
    tags = lineage_tags(context, stage, folder.name, inputs)
    # MLflow talks on stderr about every step of a registration; what matters is raised as an error.
    with (
        _run(context.settings, stage.name, tags, known_run(client, folder)) as run,
        redirect_stderr(io.StringIO()),
        warnings.catch_warnings(action="ignore"),
    ):
        send_unsent(client, run.info.run_id, folder)
        mlflow.log_metrics({**summary["metrics"], **figures_of(latency)})
        mlflow.log_params(
            {"recipe": context.recipe.name, "parameters": summary["parameters"], "kind": kind}
            | parameters_of(context.recipe, stage.recipe)
        )
        mlflow.set_tag(MACHINE, latency.machine)
        _log_inputs(context, stage, inputs)
        keep_training(folder, mlflow.log_artifact)
        row = {
            "version": folder.name,
            "recipe": context.recipe.name,
            "commit": git_commit(),
            "parameters": summary["parameters"],
            "metrics": summary["metrics"],
            "inputs": inputs,
        }
        artifacts = {"model": str(folder), **parts_of(client, summary["parts"], folder)}
        card = model_card(card_of(context, stage, folder, row, latency))
        mlflow.log_text(card, CARD)
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(CODE),
            artifacts=artifacts,
            signature=signature(kind),
            input_example=example,
            pip_requirements=requirements(),
            registered_model_name=stage.name,
            metadata={"name": stage.name, "kind": kind},
        )
    registered = str(info.registered_model_version)
    client.update_model_version(stage.name, registered, description=spaced(card))
    for key, value in tags.items():
        client.set_model_version_tag(stage.name, registered, key, value)
    return registered


def parts_of(client: Any, parts: Mapping[str, str], folder: Path) -> dict[str, str]:
    """What serving needs beside the model, as artifacts of its version. A registered model is named
    (`PARTS`) and not copied, so that a VLM lies in the store once; one that is not, is copied.
    """
    named, copied = {}, {}
    for part, place in parts.items():
        made_by, name = Path(place).name, Path(place).parent.name
        version = _known_version(client, name, made_by)
        if version is None:
            copied[part] = place
        else:
            named[part] = {"uri": f"models:/{name}/{version}", "folder": made_by}
    if not named:
        return copied
    (folder / PARTS).write_text(json.dumps(named))
    return {**copied, "parts": str(folder / PARTS)}


@contextmanager
def _run(
    settings: Settings, name: str, tags: Mapping[str, str], known: str | None = None
) -> Iterator[Any]:
    """A new run, or the one that tracked the training."""
    import mlflow

    number = experiment_id(settings)
    with mlflow.start_run(known, experiment_id=number, run_name=name, tags=dict(tags)) as run:
        yield run


def _log_inputs(context: StageContext, stage: Stage, inputs: Mapping[str, int]) -> None:
    """Dataset lineage: the Delta tables, at the versions the training read."""
    import mlflow
    from mlflow.data.delta_dataset_source import DeltaDatasetSource
    from mlflow.data.meta_dataset import MetaDataset

    for dep, delta_version in inputs.items():
        table = context.stages[dep].table
        source = DeltaDatasetSource(path=context.lake.uri(table), delta_table_version=delta_version)
        mlflow.log_input(
            MetaDataset(source, name=table, digest=f"v{delta_version}"), context="training"
        )


def lineage_tags(
    context: StageContext, stage: Stage, made_by: str, inputs: Mapping[str, int]
) -> dict[str, str]:
    """What made this model, as tags on the run and on the registered version."""
    versions = {f"delta.{context.stages[dep].table}": str(v) for dep, v in inputs.items()}
    return {
        "made_by": made_by,
        "recipe": context.recipe.name,
        "commit": git_commit(),
        "asset": stage.name,
        "code_version": stage.code_version,
        "lake": without_password(context.settings.lake),
        **versions,
    }


def kind_of(stage: Stage) -> str:
    """What the registered model answers with: latent action codes, or a plan."""
    return PLANS if stage.family == "planner" else "codes"


def signature(kind: str) -> Any:
    """A scene as JSON in, an array out."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema, TensorSpec

    dtype = np.float32 if kind == PLANS else np.int8
    return ModelSignature(
        inputs=Schema([ColSpec("string", "scene")]),
        outputs=Schema([TensorSpec(np.dtype(dtype), OUTPUT_SHAPES[kind])]),
    )


def requirements() -> list[str]:
    """Exact versions of what serving imports. Our own package is installed beside it, at the commit
    in the tags.
    """
    return [f"{name}=={version(name).split('+')[0]}" for name in REQUIREMENTS]


def example_records(context: StageContext) -> list[SceneRecord]:
    """Scenes of the val split, else of the train split."""
    records = context.records(VAL) or context.records(TRAIN)
    if not records:
        raise SetupError("no scene to make an input example from; materialise scenes first")
    return records


def scene_json(record: SceneRecord) -> str:
    """The serving format: a row of table `scenes` as JSON, arrays in their shape."""
    import numpy as np

    from latentvla_core.data.records import row_from_record

    row = {
        k: v.tolist() if isinstance(v, np.ndarray | np.generic) else v
        for k, v in row_from_record(record).items()
    }
    return json.dumps(row)
