"""What others do in view of the front camera, from a scene's boxes: the truth that environment
codes are held against, and are regularised by where there are boxes.

Only motion over ground counts. Speed relative to the ego would be half ego motion, and a parked car
would then tell of the ego. Occlusion is not known, so agents behind others count as seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from latentvla_core.types import FRONT_CAMERA, Array, Box, ObjectClass, SceneRecord

AGENT_AXES = ("lead_speed", "crossing", "moving", "swept")
"""Forward speed over ground of the nearest agent in view, m/s; lateral speed (left positive) of the
nearest moving one, m/s; number of moving agents; ln(1 + share of the picture, in per mille, that
moving agents sweep in a second).
"""
SCALES = (3.5, 2.5, 1.4, 1.4)
"""About one deviation of each in town, to weigh them alike."""
MIRRORED = (1.0, -1.0, 1.0, 1.0)
"""What becomes of them when left and right are exchanged."""
RANGE_M = 50.0
NEAREST_M = 2.0  # in front of the rear axle: nothing nearer is in the picture
MOVING_MPS = 0.5
# tangent of half the horizontal angle of view of NAVSIM's front camera; for cameras not calibrated
HALF_VIEW = 0.62
AGENTS = (ObjectClass.VEHICLE, ObjectClass.PEDESTRIAN, ObjectClass.BICYCLE)


def agent_motion(records: Sequence[SceneRecord], scenes: Array) -> Array:
    """(n, A) float64, columns `AGENT_AXES`, at the first frame of transitions that start in record
    `scenes` (n,).

    NaN where scenes is -1, where the scene has no annotations, and where there is no such agent.
    """
    out = np.full((len(scenes), len(AGENT_AXES)), np.nan)
    for row, scene in enumerate(scenes):
        if scene >= 0 and records[scene].has_objects:
            out[row] = in_view(records[scene])
    return out


def in_view(record: SceneRecord) -> Array:
    """(A,) of one annotated scene."""
    boxes, velocity = record.object_boxes, record.object_velocities_mps
    ahead_m, left_m = boxes[:, Box.X], boxes[:, Box.Y]
    seen = np.isin(record.object_classes, AGENTS) & (ahead_m > NEAREST_M) & (ahead_m < RANGE_M)
    seen &= np.abs(left_m) < _half_view(record) * ahead_m
    seen &= np.isfinite(velocity).all(axis=1)
    moving = seen & (np.linalg.norm(velocity, axis=1) > MOVING_MPS)
    nearest, nearest_moving = _nearest(ahead_m, left_m, seen), _nearest(ahead_m, left_m, moving)
    return np.array(
        [
            velocity[nearest, 0] if nearest is not None else np.nan,
            velocity[nearest_moving, 1] if nearest_moving is not None else np.nan,
            moving.sum(),
            _swept(boxes[moving], velocity[moving], _half_view(record)),
        ]
    )


def _swept(boxes: Array, velocity: Array, half_view: float) -> float:
    """ln(1 + per mille of the picture's area that others sweep in a second by moving over ground)."""
    depth_m = boxes[:, Box.X]
    across_m = np.maximum(
        boxes[:, Box.WIDTH], np.abs(np.sin(boxes[:, Box.YAW])) * boxes[:, Box.LENGTH]
    )
    # seen from the front: sideways motion moves the outline, motion along the view makes it grow or
    # shrink
    sideways = np.abs(velocity[:, 1]) * boxes[:, Box.HEIGHT] / depth_m**2
    growing = 2 * np.abs(velocity[:, 0]) * across_m * boxes[:, Box.HEIGHT] / depth_m**3
    picture = (2 * half_view) ** 2 * 9 / 16  # area at depth 1 of a 16:9 picture
    return math.log1p(1000 * float((sideways + growing).sum()) / picture)


def _nearest(ahead_m: Array, left_m: Array, which: Array) -> int | None:
    if not which.any():
        return None
    return int(np.where(which, np.hypot(ahead_m, left_m), np.inf).argmin())


def _half_view(record: SceneRecord) -> float:
    """Tangent of half the horizontal angle of view of the front camera."""
    if FRONT_CAMERA not in record.camera_names:
        return HALF_VIEW
    intrinsics = record.camera_intrinsics_px[record.camera_names.index(FRONT_CAMERA)]
    value = float(intrinsics[0, 2] / intrinsics[0, 0])
    return value if math.isfinite(value) and value > 0 else HALF_VIEW
