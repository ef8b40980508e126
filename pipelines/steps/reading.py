"""What several assets read alike: scenes to train on, labels, features, worlds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
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


def training_records(context: StageContext, role: Role) -> Sequence[SceneRecord]:
    """Scenes of the train split whose logs play a role (recipe section `roles`), in key order, read
    shard by shard into a file: those of navtrain would be 5 GB of memory. Raises SetupError when
    there are none, which no training can mend.
    """
    low, high = getattr(context.recipe.roles, role)
    tokens: list[str] = []
    logs: set[str] = set()

    def stream() -> Iterator[SceneRecord]:
        for place in _places(context, {TRAIN}):
            for record in context.records(**place):
                logs.add(record.log_name)
                if low <= share_of(base_log(record.log_name)) < high:
                    tokens.append(record.scene_token)
                    yield record

    records = Spool(stream(), context.settings.home / SCRATCH).reordered(np.argsort(tokens))
    if not logs:
        raise SetupError(
            f"split {TRAIN} has no scenes in {context.settings.lake}; materialise logs, frames and scenes, and look at"
            " the counts and at table quarantine"
        )
    if not len(records):
        raise SetupError(
            f"roles.{role} is {low} to {high}: not one of {len(logs)} logs of split {TRAIN} hashes into it; "
            "use more logs or a larger share"
        )
    return records


def _places(context: StageContext, splits: Set[str]) -> Iterator[dict[str, Any]]:
    """Conditions on split and shard, one shard after the other."""
    places = map(place_of, context.settings.partitions)
    return (place for place in places if place["split"] in splits)


SCRATCH = "scratch"  # in the working folder: files of trainings, nameless and gone with them
UNTRAINED = ("constant_velocity", "human")
"""Plans that need no training."""
NO_LABEL = np.full(12, -1, np.int8)


def labels_of(context: StageContext, records: Sequence[SceneRecord]) -> np.ndarray:
    """(N, 12) int8 ego codes of the scenes; -1 where there is no label."""
    codes = sentences_of(context, sorted({record.split for record in records}))
    return np.array(
        [codes.get(record.scene_token, NO_LABEL) for record in records], np.int8
    ).reshape(-1, 12)


def features_of(context: StageContext, records: Sequence[SceneRecord], table: str) -> Any:
    """VlmFeatures of these scenes, in their order, from `vlm_features` or `student_features`; None
    if there are none. They are read shard by shard into files.
    """
    from latentvla_core.vlm.features import streamed

    tokens = [record.scene_token for record in records]
    places = _places(context, {record.split for record in records})
    rows = (row for place in places for row in context.lake.rows(table, place))
    return streamed(rows, tokens, context.settings.home / SCRATCH)


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
        for place in _places(context, splits):
            for row in context.lake.rows("scene_worlds", {**place, "valid": True}):
                if row["scene_token"] in wanted:
                    tokens.append(row["scene_token"])
                    yield world_from_row(row)

    spool = Spool(stream(), context.settings.home / SCRATCH)
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
