"""latent actions: the codes of every scene (latentvla.md §2.6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from latentvla_core.types import FRONT_CAMERA, SceneRecord
from pipelines import pictures
from pipelines.assets.latent_action_model import what_it_sees
from pipelines.steps import declare
from pipelines.steps.context import CHUNK, Output, StageContext
from pipelines.steps.lineage import place_of

if TYPE_CHECKING:
    from latentvla_core.latent.config import LatentActionConfig
    from latentvla_core.latent.label import Labels

EGO_COLUMNS = ("ego_codes", "ego_distances", "ego_confidence")
MOTION_COLUMNS = ("speed_mps", "delta_speed_mps", "forward_m", "delta_heading_rad")


@declare.shards(
    picture=pictures.code_histogram,
    deps=("frames", "scenes", "latent_action_model"),
    group="latent_actions",
    code_version="2",
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


def whole_logs(records: Sequence[SceneRecord]) -> list[list[SceneRecord]]:
    """Parts of at least CHUNK scenes that never cut a log: pictures are shared inside a log only,
    so each is read once.

    Records must be in order of their logs.
    """
    parts: list[list[SceneRecord]] = []
    for _, log in groupby(records, key=lambda record: record.log_name):
        if parts and len(parts[-1]) < CHUNK:
            parts[-1] += log
        else:
            parts.append(list(log))
    return parts


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


def label_rows(
    records: Sequence[SceneRecord],
    labels: Labels,
    times: Mapping[tuple[str, str], int],
    config: LatentActionConfig,
    versions: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Rows of `latent_actions`; a transition that could not be labelled keeps its row, with the
    reason.
    """
    from latentvla_core.latent.label import needed_pictures

    rows = []
    for i, record in enumerate(records):
        for step in range(config.num_transitions):
            valid = bool(labels.valid[i, step])
            (first, second), _ = needed_pictures(record, step, config.gap_frames)
            nominal_us = record.timestamp_us + round(step * config.gap_s * 1e6)
            start_us = times.get((record.log_name, first), nominal_us)
            end_us = times.get((record.log_name, second), start_us + round(config.gap_s * 1e6))
            rows.append(
                {
                    "scene_token": record.scene_token,
                    "log_name": record.log_name,
                    "timestamp_us": start_us,
                    "step": step,
                    "gap_s": (end_us - start_us) / 1e6,
                    **{
                        name: getattr(labels, name)[i, step] if valid else []
                        for name in EGO_COLUMNS
                    },
                    "environment_codes": labels.environment_codes[i, step]
                    if labels.has_environment[i, step]
                    else [],
                    **dict(zip(MOTION_COLUMNS, labels.motion[i, step], strict=True)),
                    "valid": valid,
                    "reason": labels.reason[i][step],
                    **versions,
                }
            )
    return rows
