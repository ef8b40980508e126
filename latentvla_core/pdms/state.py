"""The arrays that scoring passes around: ego states, obstacles over time, road polygons, red
lights.

Legend: B proposals of one scene, T time steps of 0.1 s, A objects, P polygons, R red-light
connectors, V vertices. All positions share one local origin (`World.origin_m`), so that float64
keeps nanometres.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from latentvla_core.pdms import backend
from latentvla_core.types import Array, Vehicle

DT_S = 0.1
NUM_STEPS = 40  # simulated steps; a trajectory has NUM_STEPS + 1 states (pdms.md §1)
HALF_LENGTH_M = Vehicle.LENGTH_M / 2
HALF_WIDTH_M = Vehicle.WIDTH_M / 2
_IS_AGENT = np.array([True, True, True, False, False, False, False, True])  # by ObjectClass


class State(IntEnum):
    """Columns of a state array (..., 11): rear axle, velocities and accelerations in the ego frame
    (pdms.md §3).
    """

    X = 0
    Y = 1
    YAW = 2
    VX = 3
    VY = 4
    AX = 5
    AY = 6
    STEER = 7
    STEER_RATE = 8
    YAW_RATE = 9
    YAW_ACCEL = 10


class Layer(IntEnum):
    """Kinds of polygon in the drivable map (pdms.md §7.1): values of `World.polygon_layers`."""

    ROADBLOCK = 0
    LANE = 1
    LANE_CONNECTOR = 2
    INTERSECTION = 3
    CARPARK = 4


DRIVABLE = (Layer.ROADBLOCK, Layer.INTERSECTION, Layer.CARPARK)
"""What DAC counts as road (§7.2)."""


def box_frames(corners: Array) -> tuple[Array, Array]:
    """(N, A, 6) centre and half-side vectors, (N, A) at least the half-diagonal, of boxes (N, A, 4,
    2).
    """
    first, second, third, fourth = (corners[:, :, k] for k in range(4))
    boxes = np.empty((*corners.shape[:2], 6))
    boxes[..., 0:2] = (first + second + third + fourth) / 4
    boxes[..., 2:4] = (first - second) / 2
    boxes[..., 4:6] = (second - third) / 2
    sides = np.sqrt(boxes[..., 2::2] ** 2 + boxes[..., 3::2] ** 2)
    return boxes, sides[..., 0] + sides[..., 1]


@backend.kernel
def box_frames_numba(corners):
    """The compiled twin of `box_frames`."""
    boxes, reach = np.empty((corners.shape[0], corners.shape[1], 6)), np.empty(corners.shape[:2])
    for n in range(corners.shape[0]):
        for a in range(corners.shape[1]):
            for k in range(2):
                one, two, three = corners[n, a, 0, k], corners[n, a, 1, k], corners[n, a, 2, k]
                boxes[n, a, k] = (one + two + three + corners[n, a, 3, k]) / 4
                boxes[n, a, 2 + k] = (one - two) / 2
                boxes[n, a, 4 + k] = (two - three) / 2
            reach[n, a] = math.sqrt(boxes[n, a, 2] ** 2 + boxes[n, a, 3] ** 2)
            reach[n, a] += math.sqrt(boxes[n, a, 4] ** 2 + boxes[n, a, 5] ** 2)
    return boxes, reach


@dataclass(frozen=True, slots=True)
class Obstacles:
    """Boxes of other road users over time. Row `step_row[t]` of `boxes` and `valid` holds at step
    t.
    """

    boxes: Array
    """(N, A, 6) box centre and the two half-side vectors; anything where not valid."""
    reach: Array
    """(N, A) at least the distance from centre to corner."""
    valid: Array
    """(N, A) bool: present in that row."""
    is_agent: Array
    """(A,) bool: vehicle, pedestrian, bicycle (static objects halve NC, agents zero it)."""
    speed_mps: Array
    """(A,) speed at first appearance, used at all steps (pdms.md §6.1)."""
    step_row: Array
    """(T,) int64 row of each step: arange for logged traffic, t // 2 for the reference planner's
    forecast.
    """

    @staticmethod
    def of(
        corners: Array,
        valid: Array,
        classes: Array,
        speed_mps: Array,
        step_row: Array | None = None,
    ) -> Obstacles:
        """Obstacles from `World` columns: corners (N, A, 4, 2), valid (N, A), classes (A,), speed
        (A,).
        """
        rows = np.arange(len(corners)) if step_row is None else step_row
        boxes, reach = (box_frames_numba if backend.active() == "numba" else box_frames)(
            np.ascontiguousarray(corners)
        )
        return Obstacles(
            boxes,
            reach,
            np.ascontiguousarray(valid, np.bool_),
            _IS_AGENT[classes],
            np.ascontiguousarray(speed_mps, np.float64),
            np.ascontiguousarray(rows, np.int64),
        )


@dataclass(frozen=True, slots=True)
class RoadPolygons:
    """Polygons of the drivable map as flat rings; polygon p owns rings polygon_ring_offsets[p] : [p
    + 1].
    """

    layers: Array
    """(P,) int8 `Layer`."""
    on_route: Array
    """(P,) bool: a lane or connector of the corrected route."""
    ring_vertices: Array
    """(V, 2) vertices, closed or not."""
    ring_offsets: Array
    """(rings + 1,) first vertex of each ring."""
    polygon_ring_offsets: Array
    """(P + 1,) first ring of each polygon; shell and holes alike (even-odd rule)."""


@dataclass(frozen=True, slots=True)
class RedLights:
    """Lane connectors that show red at some step."""

    vertices: Array
    """(V, 2) exterior vertices."""
    offsets: Array
    """(R + 1,) first vertex of each connector."""
    active: Array
    """(T, R) bool: red at that step."""


def ego_speed(states: Array) -> Array:
    """(...,) speed of states (..., 11), m/s."""
    return np.hypot(states[..., State.VX], states[..., State.VY])


class Motion(IntEnum):
    """Columns of `ego_motion`: what the geometric kernels need of a state."""

    REAR_X = 0
    REAR_Y = 1
    CENTER_X = 2
    CENTER_Y = 3
    COS = 4
    SIN = 5
    SPEED = 6


def ego_motion(states: Array) -> Array:
    """(..., 7) contiguous float64 `Motion` columns of states (..., 11)."""
    out = np.empty((*states.shape[:-1], 7))
    out[..., Motion.REAR_X : Motion.CENTER_X] = states[..., :2]
    out[..., Motion.COS] = np.cos(states[..., State.YAW])
    out[..., Motion.SIN] = np.sin(states[..., State.YAW])
    ahead = out[..., Motion.COS : Motion.SPEED]
    out[..., Motion.CENTER_X : Motion.COS] = states[..., :2] + Vehicle.REAR_AXLE_TO_CENTER_M * ahead
    out[..., Motion.SPEED] = ego_speed(states)
    return out


def motion_points(motion: Array) -> Array:
    """(..., 5, 2) front-left, rear-left, rear-right, front-right corner and centre of the box, of
    motion (..., 7).
    """
    center, direction = (
        motion[..., Motion.CENTER_X : Motion.COS],
        motion[..., Motion.COS : Motion.SPEED],
    )
    ahead = HALF_LENGTH_M * direction
    left = HALF_WIDTH_M * np.stack([-direction[..., 1], direction[..., 0]], axis=-1)
    parts = [
        center + ahead + left,
        center - ahead + left,
        center - ahead - left,
        center + ahead - left,
        center,
    ]
    return np.stack(parts, axis=-2)


def ego_points(states: Array) -> Array:
    """(..., 5, 2) the same of states (..., 11)."""
    return motion_points(ego_motion(states))


@dataclass(frozen=True, slots=True)
class Event:
    """What a collision metric found, one entry per proposal."""

    value: Array
    """(B,) the sub-score."""
    step: Array
    """(B,) int64 step of the first violation, -1 = none."""
    object_index: Array
    """(B,) int64 object of that violation, -1 = none."""
