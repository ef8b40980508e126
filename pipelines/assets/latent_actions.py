"""latent actions: the model that discovers them (latentvla.md §2), and the codes of every scene."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentvla_core.errors import SetupError
from latentvla_core.types import SceneRecord
from pipelines.engine import CHECKPOINTS, Engine, Model, Output, chunks
from pipelines.lineage import Stage
from pipelines.settings import TRAIN, VAL

if TYPE_CHECKING:
    from latentvla_core.latent.label import Labels


def training_records(engine: Engine) -> list[SceneRecord]:
    """Scenes of the train split. Raises SetupError when there are none, which no training can mend."""
    records = engine.records(TRAIN)
    if not records:
        raise SetupError(
            f"split {TRAIN} has no scenes in {engine.settings.lake}; materialise logs, frames and scenes, and look at"
            " the counts and at table quarantine"
        )
    return records


def latent_action_model(engine: Engine, folder: Path) -> Model:
    """Two stages of inverse and forward dynamics around a VQ bottleneck: environment codes first, then 16 ego action codes.

    The quality report in the metadata is measured on the val split, which no training sees; `quality` names every missed threshold.
    """
    from latentvla_core.latent.model import save
    from latentvla_core.latent.probes import QualityGate, evaluate
    from latentvla_core.latent.train import train_latent_action_model

    records = training_records(engine)
    with engine.progress("latent_action_model") as sink:
        model = train_latent_action_model(
            records, engine.recipe.latent, sink=sink, checkpoint_dir=folder / CHECKPOINTS, device=engine.device
        )
    save(model, folder)
    report = evaluate(engine.records(VAL) or records, model, probe_records=records, device=engine.device)
    faults = QualityGate.tiny().faults(report)
    note = {"quality": "; ".join(faults) or "every threshold reached"}
    return Model(sum(p.numel() for p in model.parameters()), report, metadata=note)


def latent_actions(engine: Engine, partition: str) -> Output:
    """The 12 ego action codes of every scene of the shard: 3 transitions of one second, 4 codes each."""
    from latentvla_core.latent.label import label_scenes
    from latentvla_core.latent.model import load

    split, _, shard = partition.rpartition("-")
    records = engine.records(split, int(shard))
    version = engine.ledger.made_by("latent_action_model", "")
    if not records:
        return Output([])
    model = engine.model("latent_action_model", load)
    rows: list[dict[str, Any]] = []
    for part in engine.track(f"latent_actions {partition}", chunks(records)):
        labels = label_scenes(part, model, batch_size=engine.recipe.label_batch, device=engine.device)
        rows += label_rows(part, labels, version)
    return Output(rows, metadata={"labelled": sum(row["valid"] for row in rows), "scenes": len(rows)})


def label_rows(records: Sequence[SceneRecord], labels: Labels, version: str) -> list[dict[str, Any]]:
    """Rows of `latent_actions`; a scene that could not be labelled keeps its row, with the reason."""
    return [
        {
            "scene_token": record.scene_token,
            "log_name": record.log_name,
            "timestamp_us": record.timestamp_us,
            "ego_codes": labels.codes[i] if labels.valid[i] else [],
            "valid": bool(labels.valid[i]),
            "reason": labels.reason[i],
            "model_version": version,
        }
        for i, record in enumerate(records)
    ]


STAGES = (
    Stage(name="latent_action_model", run=latent_action_model, kind="model", table="models", deps=("scenes",),
          group="latent_actions", doc=latent_action_model.__doc__ or "", recipe=("latent",), reads=(TRAIN, VAL),
          kinds=("pytorch", "mlflow"), heavy=True),
    Stage(name="latent_actions", run=latent_actions, kind="shards", table="latent_actions",
          deps=("scenes", "latent_action_model"), group="latent_actions", doc=latent_actions.__doc__ or "",
          kinds=("pytorch", "deltalake"), heavy=True),
)  # fmt: skip
