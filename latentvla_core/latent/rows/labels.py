"""Labels as rows of `latent_actions`, and whole logs of scenes to label at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.label import Labels, needed_pictures
from latentvla_core.types import SceneRecord

CHUNK = 512  # scenes between two signs of life
EGO_COLUMNS = ("ego_codes", "ego_distances", "ego_confidence")
MOTION_COLUMNS = ("speed_mps", "delta_speed_mps", "forward_m", "delta_heading_rad")


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
                    "training_distance": labels.training_distance[i, step],
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
