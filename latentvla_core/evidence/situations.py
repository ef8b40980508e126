"""What a scene asks of the driver, from the logged future and the annotations.

Truth is used to sort test scenes, never to plan. `EYES` are situations that ego status cannot
foresee: their mean over situations, each weighing the same, is the score "where eyes are needed".
"""

from __future__ import annotations

import numpy as np

from latentvla_core.pdms.world import World
from latentvla_core.types import PLAN_STEPS, Array, Command, ObjectClass, SceneRecord

SITUATIONS = ("start", "stop", "entering", "bend", "turn", "follow", "cruise")
EYES = ("start", "stop", "entering", "bend")
SUB_SCORES = (
    "no_at_fault_collisions",
    "drivable_area_compliance",
    "ego_progress",
    "time_to_collision_within_bound",
    "comfort",
)
"""What scorers learn and tables hold: PDMS by its formula."""
STEPS_PER_POSE = 5
AT_REST_MPS, MOVES_M = 0.8, 3.0
STOP_FROM_MPS, STOP_TO_M = 3.0, 0.75
BEND_RAD, TURN_RAD = 0.15, 0.5
ASIDE_M, ON_PATH_M, AHEAD_M = 2.2, 1.5, 2.0
"""Beside the path now; on it later; counted from the rear axle."""
YIELD_M = 14.0
"""How far beyond the end of the path its lane still counts."""


def situation_of(record: SceneRecord, world: World) -> str:
    """The most demanding situation of a scene, of `SITUATIONS`."""
    path = np.asarray(record.future_poses[:PLAN_STEPS], np.float64)
    speed = float(np.hypot(*record.ego_velocity_mps))
    driven = float(np.hypot(*path[-1, :2]))
    yaw = float(np.abs(path[-1, 2]))
    if speed < AT_REST_MPS:
        return "start" if driven > MOVES_M else "cruise"
    if someone_enters(path, world):
        return "entering"
    if speed > STOP_FROM_MPS and float(np.hypot(*(path[-1, :2] - path[-2, :2]))) < STOP_TO_M:
        return "stop"
    if yaw > TURN_RAD:
        return "turn"
    if yaw > BEND_RAD and record.command == Command.FORWARD:
        return "bend"
    return "follow" if has_lead(record) else "cruise"


def someone_enters(path: Array, world: World) -> bool:
    """Whether a road user beside the ego's path now is on it within 4 s, before the ego has passed:
    somebody crosses, or cuts in.
    """
    if not world.valid or not len(world.object_classes):
        return False
    origin, yaw = world.ego_state[:2], float(world.ego_state[2])
    steps = np.arange(0, PLAN_STEPS + 1) * STEPS_PER_POSE
    turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
    centers = (world.object_corners[steps].mean(2) - origin) @ turn  # (9, A, 2) in the ego frame
    corridor = _corridor(np.concatenate([np.zeros((1, 3)), path]))
    moving = np.nonzero(world.object_classes <= ObjectClass.BICYCLE)[0]
    return any(_enters(corridor, centers[:, column]) for column in moving)


def _corridor(path: Array) -> Array:
    """(9, 3) poses 0.5 s apart → (n, 2) positions every 0.1 s, and further on as the last pose
    points: a driver who yields stops before the place where paths meet.
    """
    coarse = np.arange(len(path)) * STEPS_PER_POSE
    fine = np.arange(coarse[-1] + 1)
    driven = np.stack([np.interp(fine, coarse, path[:, axis]) for axis in range(2)], -1)
    ahead = np.arange(0.5, YIELD_M, 0.5)[:, None]
    heading = np.array([np.cos(path[-1, 2]), np.sin(path[-1, 2])])
    return np.concatenate([driven, path[-1, :2] + ahead * heading])


def _enters(driven: Array, centers: Array) -> bool:
    """(n, 2) positions of the corridor and (9, 2) positions of one road user (NaN where absent)."""
    if np.isnan(centers[0]).any() or centers[0, 0] < AHEAD_M:
        return False
    gaps = np.hypot(*np.moveaxis(centers[:, None] - driven[None], -1, 0))  # (9 user, n ego)
    later = [gaps[t, t * STEPS_PER_POSE :].min() for t in range(1, len(centers))]
    known = [gap for gap in later if not np.isnan(gap)]
    return bool(gaps[0].min() > ASIDE_M and known and min(known) < ON_PATH_M)


def has_lead(record: SceneRecord) -> bool:
    """A vehicle within 25 m ahead in the ego's lane."""
    boxes = record.object_boxes.reshape(-1, 7)
    near = (boxes[:, 0] > AHEAD_M) & (boxes[:, 0] < 25.0) & (np.abs(boxes[:, 1]) < 1.6)
    return bool((near & (record.object_classes == ObjectClass.VEHICLE)).any())
