"""latent actions: the codes of every scene (latentvla.md §2.6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latentvla_core.lake.store import Lake
from latentvla_core.types import FRONT_CAMERA
from pipelines import pictures
from pipelines.assets.latent_action_model import what_it_sees
from pipelines.checks import Verdict
from pipelines.steps import declare
from pipelines.steps.context import Output, StageContext
from pipelines.steps.lineage import place_of

FAR = 1.0
"""Distance that one training transition in a hundred has."""
MANY = 0.2
"""Share of a split beyond FAR from which on the check warns; 0.01 is usual."""


def familiar(lake: Lake) -> Verdict:
    """Are the pictures like those that the latent action model was trained on? Codes of others mean
    little. It warns, and stops nothing.
    """
    done = lake.rows("materialisations", {"asset": "latent_actions"})
    done.sort(key=lambda row: row["finished_us"])
    made_by = sorted({row["partition"]: row["made_by"] for row in done}.values())
    columns = ["split", "training_distance", "model_version"]
    rows = lake.scan("latent_actions", {"valid": True, "made_by": made_by}, columns).collect()
    faults = []
    for (split, version), part in sorted(rows.group_by(["split", "model_version"])):
        far = (part["training_distance"] > FAR).sum() / len(part)
        if far > MANY:
            faults.append(
                f"split {split}: {far:.0%} of {len(part):,} transitions are unlike the pictures that"
                f" latent_action_model {version} was trained on (training_distance above {FAR:g}),"
                " so their codes mean little; train on such pictures (docs/latent-actions.md)"
            )
    return Verdict(len(rows), faults, warns=True)


@declare.shards(
    picture=pictures.code_histogram,
    deps=("frames", "scenes", "latent_action_model"),
    group="latent_actions",
    checks={"pictures_are_familiar": familiar},
    code_version="3",
    files=("front",),
    gates=("latent_quality",),
    kinds=("pytorch", "deltalake"),
    heavy=True,
)
def latent_actions(context: StageContext, partition: str) -> Output:
    """Ego and environment codes of every scene of the shard: 3 transitions of one second, 4 ego
    codes each.

    Labels of other model versions stay beside them.
    """
    from latentvla_core.latent.label import label_scenes
    from latentvla_core.latent.model import load
    from latentvla_core.latent.rows.labels import label_rows, whole_logs

    place = place_of(partition)
    records = sorted(
        context.records(**place), key=lambda r: (r.log_name, r.timestamp_us, r.scene_token)
    )
    version = context.ledger.made_by("latent_action_model", "")
    data = context.ledger.made_by("scenes", partition)
    if not records:
        return Output([], groups=(version,))
    rows: list[dict[str, Any]] = []
    model, times = context.model("latent_action_model", load), frame_times(context, place)
    cache = what_it_sees(context, model.config)
    for part in context.track(f"latent_actions {partition}", whole_logs(records)):
        cache.forget()  # no picture is in two logs
        labels = label_scenes(
            part, model, batch_size=context.recipe.label_batch, device=context.device, cache=cache
        )
        rows += label_rows(
            part, labels, times, model.config, {"model_version": version, "data_version": data}
        )
    labelled = sum(row["valid"] for row in rows)
    return Output(
        rows, groups=(version,), metadata={"labelled": labelled, "transitions": len(rows)}
    )


def frame_times(context: StageContext, place: Mapping[str, Any]) -> dict[tuple[str, str], int]:
    """(log, front picture) → timestamp_us of its frame."""
    columns = ["log_name", "timestamp_us", "camera_names", "camera_paths"]
    rows = context.lake.rows("frames", place, columns)
    return {
        (row["log_name"], path): row["timestamp_us"]
        for row in rows
        for name, path in zip(row["camera_names"], row["camera_paths"], strict=True)
        if name == FRONT_CAMERA
    }
