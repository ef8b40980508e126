"""distill: the student that replaces the VLM (latentvla.md §5), with the same interface."""

from __future__ import annotations

from pathlib import Path

from latentvla_core.errors import SetupError
from pipelines.assets.vlm import feature_output
from pipelines.settings import TRAIN, VAL
from pipelines.steps import declare
from pipelines.steps.context import CHECKPOINTS, Model, Output, StageContext, chunks
from pipelines.steps.lineage import place_of
from pipelines.steps.reading import features_of, labels_of, training_records


@declare.model(
    deps=("scenes", "latent_actions", "vlm_features"),
    group="distill",
    recipe=("student", "roles"),
    reads=(TRAIN,),
    files=("cameras",),
    kinds=("pytorch", "mlflow"),
    heavy=True,
)
def student(context: StageContext, folder: Path) -> Model:
    """Decision transformer distilled from the VLM: KL over the 16 action logits, plus labels and
    features.
    """
    from latentvla_core.distill.evaluation import evaluate
    from latentvla_core.distill.train import train_student

    records = training_records(context, "unlabelled")
    teacher = features_of(context, records, "vlm_features")
    if teacher is None:
        raise SetupError(
            f"table vlm_features has no rows for split {TRAIN}; materialise vlm_features first"
        )
    with context.training("student", folder) as sink:
        model = train_student(
            records, labels_of(context, records), teacher, context.recipe.student,
            sink=sink, checkpoint_dir=folder / CHECKPOINTS, device=context.device,
        )  # fmt: skip
    model.save(folder)
    held_out = context.records(VAL) or records
    metrics = evaluate(
        model,
        held_out,
        labels_of(context, held_out),
        features_of(context, held_out, "vlm_features"),
    )
    return Model(model.num_parameters(), metrics)


@declare.shards(
    deps=("scenes", "student"),
    files=("cameras",),
    group="distill",
    kinds=("pytorch", "deltalake"),
    heavy=True,
)
def student_features(context: StageContext, partition: str) -> Output:
    """What the student predicts: the same columns as `vlm_features`, at a fraction of the cost."""
    from latentvla_core.distill.model import load_student
    from latentvla_core.vlm.features import concat

    records = context.records(**place_of(partition))
    if not records:
        return Output([])
    model = context.model("student", lambda folder: load_student(folder, context.device))
    batch = context.recipe.feature_batch
    parts = context.track(f"student_features {partition}", chunks(records))
    return feature_output(
        context, records, concat([model.predict(part, batch) for part in parts]), "student"
    )
