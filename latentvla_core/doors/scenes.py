"""What a served model is asked about: a moment with its pictures, or a row of table `scenes`, each as
one JSON text. Neither needs to know anything of the future.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.doors.moments import moment_of
from latentvla_core.doors.seat import record_from
from latentvla_core.errors import DataError
from latentvla_core.types import FRONT_CAMERA, SceneRecord

UNKNOWN_NOW: dict[str, Any] = {
    "log_name": "", "split": "served", "map_location": "", "timestamp_us": 0,
    "ego_pose": np.zeros(3), "future_poses": np.zeros((0, 3)), "lidar_path": "",
    "object_boxes": np.zeros((0, 7)), "object_classes": np.zeros(0, np.int8),
    "object_velocities_mps": np.zeros((0, 2)), "roadblock_ids": (), "has_objects": False,
}  # fmt: skip
"""Columns of `scenes` that no planner reads, or only of what is to come: a row may lack them."""


def scenes_of(texts: Sequence[str], folder: Path) -> list[SceneRecord]:
    """(N,) JSON texts → records; pictures of moments are written below `folder`.

    Raises DataError that names every text that cannot be used, and why.
    """
    records, faults = [], []
    for number, text in enumerate(texts):
        try:
            records.append(scene_of(text, folder, f"scene-{number}-"))
        except DataError as error:
            faults.append(f"scene {number}: {error}")
    if faults:
        raise DataError("\n".join(faults))
    return records


def scene_of(text: str, folder: Path, prefix: str) -> SceneRecord:
    """One text; what holds a scene_token is a row of the table."""
    try:
        message = json.loads(text)
    except (TypeError, ValueError) as error:
        raise DataError(f"it is no JSON ({error})") from error
    if isinstance(message, dict) and "scene_token" in message:
        return row_record(message)
    return record_from(moment_of(message), folder, prefix)


def row_record(row: dict[str, Any]) -> SceneRecord:
    """A row of table `scenes` that went through JSON; arrays in their declared type and shape."""
    from latentvla_core.data.records import record_from_row
    from latentvla_core.schema import restore
    from latentvla_core.tables import TABLES

    try:
        full = UNKNOWN_NOW | restore(TABLES["scenes"], row)
        if "front_paths" not in full:
            full["front_paths"] = _front_alone(full)
        return record_from_row(full)
    except KeyError as error:
        raise DataError(
            f"the row lacks {error.args[0]}; give it, or a moment (docs/doors.md)"
        ) from None
    except (TypeError, ValueError) as error:
        raise DataError(f"the row does not fit table scenes ({error})") from error


def _front_alone(row: dict[str, Any]) -> tuple[str, ...]:
    """Paths of the front camera over the window: the current one, all others unknown."""
    cameras = dict(zip(row["camera_names"], row["camera_paths"], strict=True))
    past = [""] * (len(row["history_poses"]) - 1)
    return (*past, cameras.get(FRONT_CAMERA, ""), *[""] * len(row["future_poses"]))
