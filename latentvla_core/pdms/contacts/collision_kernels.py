"""Compiled kernels of `collisions.py`: per proposal, per object that can be met at all, the first
contact.

Boxes are a centre and two half-side vectors. Touching counts (`<=`), as in the devkit's polygon
test.
"""

from __future__ import annotations

import math

import numpy as np

from latentvla_core.pdms.backend import kernel
from latentvla_core.pdms.state import HALF_LENGTH_M, HALF_WIDTH_M

STOPPED = 0.05  # m/s, ego and objects in NC (§8.1)
TTC_STOPPED = 0.005  # m/s, ego in TTC (§8.7)
AHEAD, BEHIND = math.radians(30.0), math.radians(150.0)
EGO_REACH = math.hypot(HALF_LENGTH_M, HALF_WIDTH_M)
STEP_S = 0.1
OFFSETS = (0, 3, 6, 9)


@kernel
def boxes_touch(x, y, cos, sin, half_length, half_width, box):
    """Separating-axis test of the ego box (centre, direction, half sizes) with another box (6,)."""
    dx, dy = box[0] - x, box[1] - y
    ax, ay, bx, by = box[2], box[3], box[4], box[5]
    if abs(dx * cos + dy * sin) > half_length + abs(ax * cos + ay * sin) + abs(bx * cos + by * sin):
        return False
    if abs(dy * cos - dx * sin) > half_width + abs(ay * cos - ax * sin) + abs(by * cos - bx * sin):
        return False
    if ax * ax + ay * ay == 0.0:  # a box without length or width still has a direction
        ax, ay = -by, bx
    elif bx * bx + by * by == 0.0:
        bx, by = -ay, ax
    for ux, uy in ((ax, ay), (bx, by)):
        own = abs(box[2] * ux + box[3] * uy) + abs(box[4] * ux + box[5] * uy)
        ego = half_length * abs(cos * ux + sin * uy) + half_width * abs(cos * uy - sin * ux)
        if abs(dx * ux + dy * uy) > own + ego:
            return False
    return True


@kernel
def bearing(motion, box):
    """Angle between the ego's heading and the direction rear axle → box centre; NaN at distance
    zero.
    """
    dx, dy = box[0] - motion[0], box[1] - motion[1]
    length = math.sqrt(dx * dx + dy * dy)
    if length == 0.0:
        return math.nan
    return math.acos(min(max((dx * motion[4] + dy * motion[5]) / length, -1.0), 1.0))


@kernel
def _at_fault(motion, risky, box, is_agent, speed):
    """Is this contact the ego's fault? (§8.1, in the devkit's order)"""
    if motion[6] <= STOPPED:
        return False
    if not is_agent or speed <= STOPPED:
        return True
    if bearing(motion, box) > BEHIND:
        return False
    x = motion[2] + HALF_LENGTH_M * motion[4]
    y = motion[3] + HALF_LENGTH_M * motion[5]
    if boxes_touch(
        x, y, motion[4], motion[5], 0.0, HALF_WIDTH_M, box
    ):  # the front bumper, a box without length
        return True
    return risky


@kernel
def _object_ranges(boxes, reach, valid):
    """(A, 4) x_min, y_min, x_max, y_max over all rows in which the object is present."""
    out = np.empty((boxes.shape[1], 4))
    out[:, :2], out[:, 2:] = np.inf, -np.inf
    for n in range(boxes.shape[0]):
        for a in range(boxes.shape[1]):
            if valid[n, a]:
                out[a, 0] = min(out[a, 0], boxes[n, a, 0] - reach[n, a])
                out[a, 1] = min(out[a, 1], boxes[n, a, 1] - reach[n, a])
                out[a, 2] = max(out[a, 2], boxes[n, a, 0] + reach[n, a])
                out[a, 3] = max(out[a, 3], boxes[n, a, 1] + reach[n, a])
    return out


@kernel
def _ego_range(motion, last, seconds):
    """x_min, y_min, x_max, y_max of the ego box over steps 0 … last, moved on for up to `seconds`."""
    x_min = y_min = np.inf
    x_max = y_max = -np.inf
    for t in range(last + 1):
        x, y, far = motion[t, 2], motion[t, 3], motion[t, 6] * seconds
        x_end, y_end = x + motion[t, 4] * far, y + motion[t, 5] * far
        x_min, x_max = min(x_min, x, x_end), max(x_max, x, x_end)
        y_min, y_max = min(y_min, y, y_end), max(y_max, y, y_end)
    return x_min - EGO_REACH, y_min - EGO_REACH, x_max + EGO_REACH, y_max + EGO_REACH


@kernel
def _apart(ego, other):
    return ego[0] > other[2] or ego[2] < other[0] or ego[1] > other[3] or ego[3] < other[1]


@kernel
def _first_contact(motion, boxes, reach, valid, step_row, a):
    """First step at which the ego box touches object a, -1 = never."""
    for t in range(motion.shape[0]):
        n = step_row[t]
        if valid[n, a]:
            box = boxes[n, a]
            dx, dy, far = box[0] - motion[t, 2], box[1] - motion[t, 3], reach[n, a] + EGO_REACH
            if dx * dx + dy * dy <= far * far and boxes_touch(
                motion[t, 2],
                motion[t, 3],
                motion[t, 4],
                motion[t, 5],
                HALF_LENGTH_M,
                HALF_WIDTH_M,
                box,
            ):
                return t
    return -1


@kernel
def first_contacts_numba(motion, risky, boxes, reach, valid, is_agent, speed, step_row):
    """(B, A) int64 first contact step (-1 = none), (B, A) bool at fault. motion (B, T, 7), boxes
    (N, A, 6).
    """
    count, objects = motion.shape[0], boxes.shape[1]
    steps = np.full((count, objects), -1, np.int64)
    fault = np.zeros((count, objects), np.bool_)
    ranges = _object_ranges(boxes, reach, valid)
    for i in range(count):
        ego = _ego_range(motion[i], motion.shape[1] - 1, 0.0)
        for a in range(objects):
            if _apart(ego, ranges[a]):
                continue
            t = _first_contact(motion[i], boxes, reach, valid, step_row, a)
            if t >= 0:
                steps[i, a] = t
                fault[i, a] = _at_fault(
                    motion[i, t], risky[i, t], boxes[step_row[t], a], is_agent[a], speed[a]
                )
    return steps, fault


@kernel
def _first_hit(motion, boxes, reach, valid, step_row, last, a):
    """First (step, offset) at which the ego box, moved on, touches object a; (-1, 0) = never."""
    for t in range(last + 1):
        if motion[t, 6] < TTC_STOPPED:
            continue
        for f in OFFSETS:
            n = step_row[t + f]
            if not valid[n, a]:
                continue
            far = motion[t, 6] * (STEP_S * f)
            x, y = motion[t, 2] + motion[t, 4] * far, motion[t, 3] + motion[t, 5] * far
            box = boxes[n, a]
            dx, dy, near = box[0] - x, box[1] - y, reach[n, a] + EGO_REACH
            if dx * dx + dy * dy <= near * near and boxes_touch(
                x, y, motion[t, 4], motion[t, 5], HALF_LENGTH_M, HALF_WIDTH_M, box
            ):
                return t, f
    return -1, 0


@kernel
def first_hits_numba(motion, risky, boxes, reach, valid, step_row, last):
    """(B, A) int64 step of the first projected hit (-1 = none), (B, A) bool whether it is a
    violation.
    """
    count, objects = motion.shape[0], boxes.shape[1]
    steps = np.full((count, objects), -1, np.int64)
    violated = np.zeros((count, objects), np.bool_)
    ranges = _object_ranges(boxes, reach, valid)
    for i in range(count):
        ego = _ego_range(motion[i], last, STEP_S * 9)
        for a in range(objects):
            if _apart(ego, ranges[a]):
                continue
            t, f = _first_hit(motion[i], boxes, reach, valid, step_row, last, a)
            if t >= 0:
                steps[i, a] = t
                angle = bearing(motion[i, t], boxes[step_row[t + f], a])
                violated[i, a] = angle < AHEAD or (risky[i, t] and not angle > BEHIND)
    return steps, violated
