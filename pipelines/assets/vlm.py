"""vlm: questions with answers, the model that learns them (latentvla.md §3), and what it predicts
for every scene.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.types import SceneRecord
from pipelines.assets.latent_action_model import training_records
from pipelines.assets.latent_actions import sentences_of
from pipelines.engine import CHECKPOINTS, Engine, Model, Output, chunks
from pipelines.lineage import Stage, place_of
from pipelines.settings import TRAIN, VAL

NO_LABEL = np.full(12, -1, np.int8)


def vlm_samples(engine: Engine, partition: str) -> Output:
    """One question per scene (pictures, ego state, command) with the 12 latent action tokens as its
    answer; no other text.
    """
    records = engine.records(**place_of(partition))
    rows = [
        {
            "scene_token": sample.scene_token,
            "log_name": sample.log_name,
            "template_version": engine.recipe.vlm.template_version,
            "prompt": sample.text,
            "camera_names": sample.cameras,
            "camera_paths": sample.image_paths,
            "answer_codes": [] if sample.codes is None else sample.codes,
            "valid": sample.valid and sample.codes is not None,
            "reason": sample.reason
            or ("" if sample.codes is not None else "the scene has no latent action label"),
        }
        for sample in samples_of(engine, records)
    ]
    return Output(
        rows, metadata={"with_answer": sum(row["valid"] for row in rows), "scenes": len(rows)}
    )


def samples_of(engine: Engine, records: list[SceneRecord]) -> list[Any]:
    """Samples of these scenes, labelled where `latent_actions` has a label."""
    from latentvla_core.vlm.samples import build_samples

    return build_samples(records, labels_of(engine, records), engine.recipe.vlm)


def labels_of(engine: Engine, records: list[SceneRecord]) -> np.ndarray:
    """(N, 12) int8 ego codes of the scenes; -1 where there is no label."""
    codes = sentences_of(engine, sorted({record.split for record in records}))
    return np.array(
        [codes.get(record.scene_token, NO_LABEL) for record in records], np.int8
    ).reshape(-1, 12)


def vlm(engine: Engine, folder: Path) -> Model:
    """Qwen2.5-VL with 16 added tokens, trained by negative log likelihood of the 12 latent actions."""
    from latentvla_core.vlm.evaluation import evaluate
    from latentvla_core.vlm.train import train_vlm

    records = training_records(engine)
    with engine.training("vlm", folder) as sink:
        model = train_vlm(
            samples_of(engine, records),
            engine.recipe.vlm,
            sink=sink,
            checkpoint_dir=folder / CHECKPOINTS,
            device=engine.device,
        )
    model.save(folder)
    held_out = engine.records(VAL) or records
    return Model(
        sum(p.numel() for p in model.network.parameters()),
        evaluate(model, samples_of(engine, held_out)),
    )


def vlm_features(engine: Engine, partition: str) -> Output:
    """Codes, logits and states of the frozen VLM, read from tokens it generated itself: a label
    never enters.
    """
    from latentvla_core.vlm.features import concat
    from latentvla_core.vlm.vlm import load

    records = engine.records(**place_of(partition))
    if not records:
        return Output([])
    model = engine.model("vlm", lambda folder: load(folder, engine.device))
    batch = engine.recipe.feature_batch
    parts = engine.track(f"vlm_features {partition}", chunks(samples_of(engine, records)))
    return feature_output(
        engine, records, concat([model.predict(part, batch) for part in parts]), "vlm"
    )


def feature_output(engine: Engine, records: list[SceneRecord], features: Any, model: str) -> Output:
    """Rows of a features table."""
    version = engine.ledger.made_by(model, "")
    logs = {record.scene_token: record.log_name for record in records}
    rows = [
        {**row, "log_name": logs[row["scene_token"]], "model_version": version}
        for row in features.rows()
    ]
    rows = [
        {**row, "visual": np.ravel(row["visual"]), "action": np.ravel(row["action"])}
        for row in rows
    ]
    return Output(rows, metadata={"usable": int(features.valid.sum()), "scenes": len(rows)})


def features_of(engine: Engine, records: list[SceneRecord], table: str) -> Any:
    """VlmFeatures of these scenes, in their order, from `vlm_features` or `student_features`; None
    if there are none.
    """
    from latentvla_core.vlm.features import from_rows

    splits = sorted({record.split for record in records})
    rows = engine.lake.rows(table, {"split": splits})
    return from_rows(rows).aligned([record.scene_token for record in records]) if rows else None


STAGES = (
    Stage(
        name="vlm_samples",
        run=vlm_samples,
        kind="shards",
        table="vlm_samples",
        deps=("scenes", "latent_actions"),
        group="vlm",
        doc=vlm_samples.__doc__ or "",
        recipe=("vlm",),
        kinds=("deltalake",),
    ),
    Stage(
        name="vlm",
        run=vlm,
        kind="model",
        table="models",
        deps=("scenes", "latent_actions", "vlm_samples"),
        group="vlm",
        doc=vlm.__doc__ or "",
        recipe=("vlm",),
        reads=(TRAIN, VAL),
        kinds=("pytorch", "huggingface", "mlflow"),
        heavy=True,
    ),
    Stage(
        name="vlm_features",
        run=vlm_features,
        kind="shards",
        table="vlm_features",
        deps=("scenes", "vlm"),
        group="vlm",
        doc=vlm_features.__doc__ or "",
        kinds=("pytorch", "deltalake"),
        heavy=True,
    ),
)
