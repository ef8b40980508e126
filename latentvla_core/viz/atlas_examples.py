"""Clear cases of a code, with the two pictures that the model saw."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from latentvla_core.errors import DataError
from latentvla_core.latent.atlas import Transitions, examples
from latentvla_core.latent.rows.contexts import Labelled
from latentvla_core.types import Array
from latentvla_core.viz.atlas_page import Example

THUMBNAIL_WH = (176, 99)
EXAMPLES = 3


def examples_of(
    labels: Labelled,
    scenes: Mapping[str, dict[str, Any]],
    data: Transitions,
    code: int,
    gap_frames: int,
) -> list[Example]:
    """Clear cases with their pictures; fewer where pictures cannot be read."""
    c = labels.columns
    rows = examples(data, code, c["log_name"], c["ego_confidence"], count=EXAMPLES)
    described = [
        (row, scenes[c["scene_token"][row]]) for row in rows if c["scene_token"][row] in scenes
    ]
    shown = [_example(c, row, scene, gap_frames) for row, scene in described]
    return [example for example in shown if example is not None]


def _example(
    columns: Mapping[str, Array], row: int, scene: Mapping[str, Any], gap_frames: int
) -> Example | None:
    """The two pictures that the model saw: `gap_frames` apart, however long that took."""
    first = len(scene["history_poses"]) - 1 + int(columns["step"][row]) * gap_frames
    try:
        pictures = [
            thumbnail(scene["sensor_root"], scene["front_paths"][i])
            for i in (first, first + gap_frames)
        ]
    except (DataError, OSError, IndexError):
        return None
    numbers = [
        float(columns[name][row]) for name in ("speed_mps", "delta_speed_mps", "delta_heading_rad")
    ]
    return Example(pictures[0], pictures[1], str(columns["log_name"][row]), *numbers)


def thumbnail(root: str, path: str) -> bytes:
    """A small JPEG of a picture."""
    from PIL import Image

    from latentvla_core.data.cameras import load_image

    buffer = io.BytesIO()
    Image.fromarray(load_image(root, path, THUMBNAIL_WH)).save(buffer, "jpeg", quality=72)
    return buffer.getvalue()
