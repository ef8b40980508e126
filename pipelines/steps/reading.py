"""What several assets read alike: scenes to train on, labels, features, worlds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from latentvla_core.errors import SetupError
from latentvla_core.tables.sentences import sentences
from latentvla_core.training.spool import Picked, Spool
from latentvla_core.types import SceneRecord
from pipelines.settings import TRAIN
from pipelines.steps.context import StageContext, base_log
from pipelines.steps.lineage import place_of, share_of

if TYPE_CHECKING:
    import pyarrow as pa

Role = Literal["unlabelled", "labelled"]


def training_records(context: StageContext, role: Role) -> list[SceneRecord]:
    """Scenes of the train split whose logs play a role (recipe section `roles`). Raises SetupError
    when there are none, which no training can mend.
    """
    found = context.records(TRAIN)
    if not found:
        raise SetupError(
            f"split {TRAIN} has no scenes in {context.settings.lake}; materialise logs, frames and scenes, and look at"
            " the counts and at table quarantine"
        )
    low, high = getattr(context.recipe.roles, role)
    records = [r for r in found if low <= share_of(base_log(r.log_name)) < high]
    if not records:
        logs = len({r.log_name for r in found})
        raise SetupError(
            f"roles.{role} is {low} to {high}: not one of {logs} logs of split {TRAIN} hashes into it; "
            "use more logs or a larger share"
        )
    return records


UNTRAINED = ("constant_velocity", "human")
"""Plans that need no training."""
NO_LABEL = np.full(12, -1, np.int8)


def labels_of(context: StageContext, records: list[SceneRecord]) -> np.ndarray:
    """(N, 12) int8 ego codes of the scenes; -1 where there is no label."""
    codes = sentences_of(context, sorted({record.split for record in records}))
    return np.array(
        [codes.get(record.scene_token, NO_LABEL) for record in records], np.int8
    ).reshape(-1, 12)


def features_of(context: StageContext, records: list[SceneRecord], table: str) -> Any:
    """VlmFeatures of these scenes, in their order, from `vlm_features` or `student_features`; None
    if there are none.
    """
    from latentvla_core.vlm.features import from_rows

    splits = sorted({record.split for record in records})
    rows = context.lake.rows(table, {"split": splits})
    return from_rows(rows).aligned([record.scene_token for record in records]) if rows else None


def world_from_row(row: dict[str, Any]) -> Any:
    """A row of `scene_worlds` as the scorer's World."""
    from latentvla_core.pdms.world import World

    return World.from_row(row)


def worlds_of(context: StageContext, records: Sequence[SceneRecord]) -> Sequence[Any]:
    """The World of each scene in order, None where the scene has none or cannot be scored. They
    are read shard by shard into a file: those of navtrain would be 25 GB of memory.
    """
    splits = {record.split for record in records}
    wanted = {record.scene_token for record in records}
    tokens: list[str] = []

    def stream() -> Iterator[Any]:
        for partition in context.settings.partitions:
            place = place_of(partition)
            if place["split"] not in splits:
                continue
            for row in context.lake.rows("scene_worlds", {**place, "valid": True}):
                if row["scene_token"] in wanted:
                    tokens.append(row["scene_token"])
                    yield world_from_row(row)

    spool = Spool(stream(), context.settings.home / "scratch")
    numbers = {token: number for number, token in enumerate(tokens)}
    return Picked(spool, [numbers.get(record.scene_token, -1) for record in records])


def current_labels(
    context: StageContext, splits: Sequence[str], columns: Sequence[str]
) -> pa.Table:
    """Rows of `latent_actions` that the latest finished labelling of these splits wrote, other
    model versions left out.
    """
    parts = [part for part in context.settings.partitions if place_of(part)["split"] in splits]
    made_by = sorted({context.ledger.made_by("latent_actions", part) for part in parts})
    return context.lake.read("latent_actions", {"split": list(splits), "made_by": made_by}, columns)


def sentences_of(context: StageContext, splits: Sequence[str]) -> dict[str, np.ndarray]:
    """Scene → its (12,) int8 ego codes, time-major; scenes without a complete label are left out."""
    labels = current_labels(context, splits, ["scene_token", "step", "valid", "ego_codes"])
    return sentences(labels, context.recipe.latent.num_transitions)


def shown_at(context: StageContext, model: str, page: Path) -> str | Path:
    """Where a page about a model opens: beside the model in MLflow; the file itself while the model
    is not registered.
    """
    from pipelines.registry.tracking import keep_page

    where = {"name": model, "version": context.ledger.made_by(model, "")}
    found = context.lake.rows("models", where, ["mlflow_uri"])
    return keep_page(context.settings, found[0]["mlflow_uri"], page) if found else page
