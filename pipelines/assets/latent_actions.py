"""latent actions: the model that discovers them (latentvla.md §2), and the codes of every scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentvla_core.data.records import FRONT_CAMERA
from latentvla_core.errors import SetupError
from latentvla_core.tables.sentences import sentences
from latentvla_core.types import SceneRecord
from pipelines.engine import CHECKPOINTS, CHUNK, Engine, Model, Output
from pipelines.lineage import Stage
from pipelines.settings import TRAIN, VAL

if TYPE_CHECKING:
    import pyarrow as pa

    from latentvla_core.latent.config import LatentActionConfig
    from latentvla_core.latent.label import Labels

EGO_COLUMNS = ("ego_codes", "ego_distances", "ego_confidence")
MOTION_COLUMNS = ("speed_mps", "delta_speed_mps", "forward_m", "delta_heading_rad")


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
    """Ego and environment codes of every scene of the shard: 3 transitions of one second, 4 ego codes each.

    Labels of other model versions stay beside them.
    """
    from latentvla_core.latent.label import label_scenes
    from latentvla_core.latent.model import load

    split, _, shard = partition.rpartition("-")
    records = sorted(engine.records(split, int(shard)), key=lambda r: (r.log_name, r.timestamp_us, r.scene_token))
    version = engine.ledger.made_by("latent_action_model", "")
    data = engine.ledger.made_by("scenes", partition)
    if not records:
        return Output([], groups=(version,))
    rows: list[dict[str, Any]] = []
    model, times = engine.model("latent_action_model", load), frame_times(engine, split, int(shard))
    for part in engine.track(f"latent_actions {partition}", whole_logs(records)):
        labels = label_scenes(part, model, batch_size=engine.recipe.label_batch, device=engine.device)
        rows += label_rows(part, labels, times, model.config, {"model_version": version, "data_version": data})
    labelled = sum(row["valid"] for row in rows)
    return Output(rows, groups=(version,), metadata={"labelled": labelled, "transitions": len(rows)})


def whole_logs(records: Sequence[SceneRecord]) -> list[list[SceneRecord]]:
    """Parts of at least CHUNK scenes that never cut a log: pictures are shared inside a log only, so each is read once.

    Records must be in order of their logs.
    """
    parts: list[list[SceneRecord]] = []
    for _, log in groupby(records, key=lambda record: record.log_name):
        if parts and len(parts[-1]) < CHUNK:
            parts[-1] += log
        else:
            parts.append(list(log))
    return parts


def frame_times(engine: Engine, split: str, shard: int) -> dict[tuple[str, str], int]:
    """(log, front picture) → timestamp_us of its frame."""
    columns = ["log_name", "timestamp_us", "camera_names", "camera_paths"]
    rows = engine.lake.rows("frames", {"split": split, "shard": shard}, columns)
    return {
        (row["log_name"], path): row["timestamp_us"]
        for row in rows
        for name, path in zip(row["camera_names"], row["camera_paths"], strict=True)
        if name == FRONT_CAMERA
    }


def label_rows(
    records: Sequence[SceneRecord],
    labels: Labels,
    times: Mapping[tuple[str, str], int],
    config: LatentActionConfig,
    versions: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Rows of `latent_actions`; a transition that could not be labelled keeps its row, with the reason."""
    from latentvla_core.latent.label import needed_pictures

    rows = []
    for i, record in enumerate(records):
        for step in range(config.num_transitions):
            valid = bool(labels.valid[i, step])
            (first, second), _ = needed_pictures(record, step, config.gap_frames)
            nominal_us = record.timestamp_us + round(step * config.gap_s * 1e6)
            start_us = times.get((record.log_name, first), nominal_us)
            end_us = times.get((record.log_name, second), start_us + round(config.gap_s * 1e6))
            rows.append({
                "scene_token": record.scene_token, "log_name": record.log_name, "timestamp_us": start_us, "step": step,
                "gap_s": (end_us - start_us) / 1e6,
                **{name: getattr(labels, name)[i, step] if valid else [] for name in EGO_COLUMNS},
                "environment_codes": labels.environment_codes[i, step] if labels.has_environment[i, step] else [],
                **dict(zip(MOTION_COLUMNS, labels.motion[i, step], strict=True)),
                "valid": valid, "reason": labels.reason[i][step], **versions,
            })  # fmt: skip
    return rows


def current_labels(engine: Engine, splits: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Rows of `latent_actions` that the latest finished labelling of these splits wrote, other model versions left out."""
    parts = [part for part in engine.settings.partitions if part.rpartition("-")[0] in splits]
    made_by = sorted({engine.ledger.made_by("latent_actions", part) for part in parts})
    return engine.lake.read("latent_actions", {"split": list(splits), "made_by": made_by}, columns)


def sentences_of(engine: Engine, splits: Sequence[str]) -> dict[str, np.ndarray]:
    """Scene → its (12,) int8 ego codes, time-major; scenes without a complete label are left out."""
    labels = current_labels(engine, splits, ["scene_token", "step", "valid", "ego_codes"])
    return sentences(labels, engine.recipe.latent.num_transitions)


STAGES = (
    Stage(name="latent_action_model", run=latent_action_model, kind="model", table="models", deps=("scenes",),
          group="latent_actions", doc=latent_action_model.__doc__ or "", recipe=("latent",), reads=(TRAIN, VAL),
          kinds=("pytorch", "mlflow"), heavy=True),
    Stage(name="latent_actions", run=latent_actions, kind="shards", table="latent_actions",
          deps=("frames", "scenes", "latent_action_model"), group="latent_actions",
          doc=latent_actions.__doc__ or "", code_version="2",
          kinds=("pytorch", "deltalake"), heavy=True),
)  # fmt: skip
