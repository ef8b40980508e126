"""vlm: questions with answers, the model that learns them (latentvla.md §3), and what it predicts
for every scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.types import SceneRecord
from pipelines.settings import TRAIN, VAL
from pipelines.steps import declare
from pipelines.steps.context import CHECKPOINTS, Model, Output, StageContext, chunks
from pipelines.steps.lineage import place_of
from pipelines.steps.reading import labels_of, training_records


@declare.shards(
    deps=("scenes", "latent_actions"),
    group="vlm",
    recipe=("vlm",),
    kinds=("deltalake",),
)
def vlm_samples(context: StageContext, partition: str) -> Output:
    """One question per scene (pictures, ego state, command) with the 12 latent action tokens as its
    answer; no other text.
    """
    records = context.records(**place_of(partition))
    rows = [
        {
            "scene_token": sample.scene_token,
            "log_name": sample.log_name,
            "template_version": context.recipe.vlm.template_version,
            "prompt": sample.text,
            "camera_names": sample.cameras,
            "camera_paths": sample.image_paths,
            "answer_codes": [] if sample.codes is None else sample.codes,
            "valid": sample.valid and sample.codes is not None,
            "reason": sample.reason
            or ("" if sample.codes is not None else "the scene has no latent action label"),
        }
        for sample in samples_of(context, records)
    ]
    return Output(
        rows, metadata={"with_answer": sum(row["valid"] for row in rows), "scenes": len(rows)}
    )


def samples_of(context: StageContext, records: Sequence[SceneRecord]) -> list[Any]:
    """Samples of these scenes, labelled where `latent_actions` has a label."""
    from latentvla_core.vlm.samples import build_samples

    return build_samples(records, labels_of(context, records), context.recipe.vlm)


@declare.model(
    deps=("scenes", "latent_actions", "vlm_samples"),
    group="vlm",
    recipe=("vlm", "roles"),
    reads=(TRAIN,),
    files=("cameras",),
    kinds=("pytorch", "huggingface", "mlflow"),
    heavy=True,
)
def vlm(context: StageContext, folder: Path) -> Model:
    """Qwen2.5-VL with 16 added tokens, trained by negative log likelihood of the 12 latent actions."""
    from latentvla_core.vlm.evaluation import evaluate
    from latentvla_core.vlm.train import train_vlm

    records = training_records(context, "unlabelled")
    with context.training("vlm", folder) as sink:
        model = train_vlm(
            samples_of(context, records),
            context.recipe.vlm,
            sink=sink,
            checkpoint_dir=folder / CHECKPOINTS,
            device=context.device,
        )
    model.save(folder)
    held_out = context.records(VAL) or records
    return Model(
        sum(p.numel() for p in model.network.parameters()),
        evaluate(model, samples_of(context, held_out)),
    )


@declare.shards(
    deps=("scenes", "vlm"),
    files=("cameras",),
    group="vlm",
    kinds=("pytorch", "deltalake"),
    heavy=True,
)
def vlm_features(context: StageContext, partition: str) -> Output:
    """Codes, logits and states of the frozen VLM, read from tokens it generated itself: a label
    never enters.
    """
    from latentvla_core.vlm.features import concat
    from latentvla_core.vlm.model import load
    from latentvla_core.vlm.samples import build_samples

    records = context.records(**place_of(partition))
    if not records:
        return Output([])
    model = context.model("vlm", lambda folder: load(folder, context.device))
    batch = context.recipe.feature_batch
    questions = build_samples(records, None, context.recipe.vlm)  # no label is at hand
    parts = context.track(f"vlm_features {partition}", chunks(questions))
    return feature_output(
        context, records, concat([model.predict(part, batch) for part in parts]), "vlm"
    )


def feature_output(
    context: StageContext, records: Sequence[SceneRecord], features: Any, model: str
) -> Output:
    """Rows of a features table."""
    version = context.ledger.made_by(model, "")
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
