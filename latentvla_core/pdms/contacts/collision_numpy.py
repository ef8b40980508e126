"""NumPy twins of `collision_kernels.py`: the same answers over whole (B, T, A) grids, without
compilation.
"""

from __future__ import annotations

import numpy as np

from latentvla_core.pdms.contacts.collision_kernels import (
    AHEAD,
    BEHIND,
    EGO_REACH,
    OFFSETS,
    STEP_S,
    STOPPED,
    TTC_STOPPED,
)
from latentvla_core.pdms.state import HALF_LENGTH_M, HALF_WIDTH_M, Motion
from latentvla_core.types import Array

GRID = 1_000_000  # pairs per chunk, to bound memory
NEAR_SLACK = 1e-6  # m², so that rounding of the circles never decides


def touching(
    center: Array, direction: Array, boxes: Array, half_length: float, half_width: float
) -> Array:
    """(...,) do ego boxes with centre (..., 2) and direction (..., 2) touch boxes (..., 6)?"""
    gap = boxes[..., :2] - center
    a, b = boxes[..., 2:4], boxes[..., 4:6]
    left = np.stack([-direction[..., 1], direction[..., 0]], axis=-1)
    flat_a, flat_b = (a == 0).all(axis=-1, keepdims=True), (b == 0).all(axis=-1, keepdims=True)
    turned_a, turned_b = (
        np.stack([-a[..., 1], a[..., 0]], -1),
        np.stack([-b[..., 1], b[..., 0]], -1),
    )
    axes = (
        direction,
        left,
        np.where(flat_a, turned_b, a),
        np.where(flat_b & ~flat_a, turned_a, b),
    )
    out = np.ones(gap.shape[:-1], bool)
    for axis in axes:
        own = abs((a * axis).sum(-1)) + abs((b * axis).sum(-1))
        ego = half_length * abs((direction * axis).sum(-1)) + half_width * abs(
            (left * axis).sum(-1)
        )
        out &= abs((gap * axis).sum(-1)) <= own + ego
    return out


def touching_pairs(
    center: Array, direction: Array, boxes: Array, reach: Array, present: Array
) -> Array:
    """(...,) `touching`, and False where not present; worked out only for pairs whose circles meet.

    Args:
        center: (..., 2), direction: (..., 2), boxes: (..., 6), reach: (...,), present: (...,) bool;
        all broadcast.
    """
    shape = np.broadcast_shapes(center.shape[:-1], boxes.shape[:-1])
    gap = boxes[..., :2] - center
    near = np.nonzero(present & ((gap * gap).sum(-1) <= (reach + EGO_REACH) ** 2 + NEAR_SLACK))
    ego_center, ego_direction = (
        np.broadcast_to(part, (*shape, 2))[near] for part in (center, direction)
    )
    out = np.zeros(shape, bool)
    out[near] = touching(
        ego_center,
        ego_direction,
        np.broadcast_to(boxes, (*shape, 6))[near],
        HALF_LENGTH_M,
        HALF_WIDTH_M,
    )
    return out


def bearings(motion: Array, boxes: Array) -> Array:
    """(...,) angle from the ego's heading to the box centre, seen from the rear axle; NaN at
    distance zero.
    """
    gap = boxes[..., :2] - motion[..., : Motion.CENTER_X]
    with np.errstate(invalid="ignore"):
        along = (gap * motion[..., Motion.COS : Motion.SPEED]).sum(-1) / np.sqrt(
            (gap * gap).sum(-1)
        )
    return np.arccos(np.clip(along, -1.0, 1.0))


def _reachable(motion: Array, boxes: Array, reach: Array, valid: Array, seconds: float) -> Array:
    """(a,) objects whose surroundings over all steps meet those of any ego box, moved on for up to
    `seconds`.
    """
    center, far = motion[..., 2:4], motion[..., 4:6] * (motion[..., 6:] * seconds)
    points = np.concatenate([center, center + far], axis=1).reshape(-1, 2)
    present = valid[..., None]
    low = np.where(present, boxes[..., :2] - reach[..., None], np.inf).min(axis=0)
    high = np.where(present, boxes[..., :2] + reach[..., None], -np.inf).max(axis=0)
    near = (low <= points.max(axis=0) + EGO_REACH) & (high >= points.min(axis=0) - EGO_REACH)
    return np.flatnonzero(near.all(axis=1))


def _chunks(count: int, width: int) -> list[slice]:
    size = max(1, GRID // max(width, 1))
    return [slice(i, i + size) for i in range(0, count, size)]


def first_contacts_numpy(
    motion: Array,
    risky: Array,
    boxes: Array,
    reach: Array,
    valid: Array,
    is_agent: Array,
    speed: Array,
    step_row: Array,
) -> tuple[Array, Array]:
    """Twin of `first_contacts_numba`."""
    count, length = len(motion), motion.shape[1]
    steps, fault = (
        np.full((count, boxes.shape[1]), -1, np.int64),
        np.zeros((count, boxes.shape[1]), bool),
    )
    rows = step_row[:length]
    near = _reachable(motion, boxes, reach, valid, 0.0)
    boxes, reach, valid = boxes[:, near], reach[:, near], valid[:, near]
    for part in _chunks(count if len(near) else 0, length * len(near)):
        ego = motion[part, :, None]
        touch = touching_pairs(
            ego[..., 2:4], ego[..., 4:6], boxes[rows], reach[rows], valid[rows]
        )  # (b, T, A)
        i, a = np.nonzero(touch.any(axis=1))
        t, who = touch.argmax(axis=1)[i, a], near[a]
        steps[part][i, who] = t
        guilty = _at_fault(
            motion[part][i, t], risky[part][i, t], boxes[rows[t], a], is_agent[who], speed[who]
        )
        fault[part][i, who] = guilty
    return steps, fault


def _at_fault(motion: Array, risky: Array, boxes: Array, is_agent: Array, speed: Array) -> Array:
    """(n,) is the contact the ego's fault? Conditions in the devkit's order (§8.1)."""
    bumper = motion[:, 2:4] + HALF_LENGTH_M * motion[:, 4:6]
    front = touching(bumper, motion[:, 4:6], boxes, 0.0, HALF_WIDTH_M)
    order = [
        motion[:, Motion.SPEED] <= STOPPED,
        ~is_agent | (speed <= STOPPED),
        bearings(motion, boxes) > BEHIND,
        front,
    ]
    return np.select(order, [False, True, False, True], default=risky)


def first_hits_numpy(
    motion: Array,
    risky: Array,
    boxes: Array,
    reach: Array,
    valid: Array,
    step_row: Array,
    last: int,
) -> tuple[Array, Array]:
    """Twin of `first_hits_numba`."""
    count = len(motion)
    steps, violated = (
        np.full((count, boxes.shape[1]), -1, np.int64),
        np.zeros((count, boxes.shape[1]), bool),
    )
    near = _reachable(motion[:, : last + 1], boxes, reach, valid, STEP_S * max(OFFSETS))
    boxes, reach, valid = boxes[:, near], reach[:, near], valid[:, near]
    rows = step_row[np.arange(last + 1)[:, None] + np.array(OFFSETS)]  # (t, f)
    ahead_s = STEP_S * np.array(OFFSETS)
    for part in _chunks(count if len(near) else 0, rows.size * len(near)):
        ego = motion[part, : last + 1, None, None]  # (b, t, 1, 1, 7)
        moved = ego[..., 2:4] + ego[..., 4:6] * (ego[..., 6:7] * ahead_s[:, None, None])
        moving = valid[rows] & (ego[..., 6] >= TTC_STOPPED)
        hit = touching_pairs(moved, ego[..., 4:6], boxes[rows], reach[rows], moving)
        hit = hit.reshape(len(hit), -1, len(near))  # (b, t·f, A)
        i, a = np.nonzero(hit.any(axis=1))
        t, f = np.divmod(hit.argmax(axis=1)[i, a], len(OFFSETS))
        angle = bearings(motion[part][i, t], boxes[rows[t, f], a])
        steps[part][i, near[a]] = t
        violated[part][i, near[a]] = (angle < AHEAD) | (risky[part][i, t] & ~(angle > BEHIND))
    return steps, violated
