"""distill: the student that replaces the VLM (latentvla.md §5), with the same interface."""

from __future__ import annotations

from pathlib import Path

from latentvla_core.errors import SetupError
from pipelines.assets.latent_action_model import training_records
from pipelines.assets.vlm import feature_output, features_of, labels_of
from pipelines.engine import CHECKPOINTS, Engine, Model, Output, chunks
from pipelines.lineage import Stage, place_of
from pipelines.settings import TRAIN, VAL


def student(engine: Engine, folder: Path) -> Model:
    """Decision transformer distilled from the VLM: KL over the 16 action logits, plus labels and
    features.
    """
    from latentvla_core.distill.evaluation import evaluate
    from latentvla_core.distill.train import train_student

    records = training_records(engine)
    teacher = features_of(engine, records, "vlm_features")
    if teacher is None:
        raise SetupError(
            f"table vlm_features has no rows for split {TRAIN}; materialise vlm_features first"
        )
    with engine.training("student", folder) as sink:
        model = train_student(
            records, labels_of(engine, records), teacher, engine.recipe.student,
            sink=sink, checkpoint_dir=folder / CHECKPOINTS, device=engine.device,
        )  # fmt: skip
    model.save(folder)
    held_out = engine.records(VAL) or records
    metrics = evaluate(
        model, held_out, labels_of(engine, held_out), features_of(engine, held_out, "vlm_features")
    )
    return Model(model.num_parameters(), metrics)


def student_features(engine: Engine, partition: str) -> Output:
    """What the student predicts: the same columns as `vlm_features`, at a fraction of the cost."""
    from latentvla_core.distill.predict import load_student
    from latentvla_core.vlm.features import concat

    records = engine.records(**place_of(partition))
    if not records:
        return Output([])
    model = engine.model("student", lambda folder: load_student(folder, engine.device))
    batch = engine.recipe.feature_batch
    parts = engine.track(f"student_features {partition}", chunks(records))
    return feature_output(
        engine, records, concat([model.predict(part, batch) for part in parts]), "student"
    )


STAGES = (
    Stage(
        name="student",
        run=student,
        kind="model",
        table="models",
        deps=("scenes", "latent_actions", "vlm_features"),
        group="distill",
        doc=student.__doc__ or "",
        recipe=("student",),
        reads=(TRAIN, VAL),
        kinds=("pytorch", "mlflow"),
        heavy=True,
    ),
    Stage(
        name="student_features",
        run=student_features,
        kind="shards",
        table="student_features",
        deps=("scenes", "student"),
        group="distill",
        doc=student_features.__doc__ or "",
        kinds=("pytorch", "deltalake"),
        heavy=True,
    ),
)
