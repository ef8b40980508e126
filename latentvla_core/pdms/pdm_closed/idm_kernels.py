"""Compiled twin of `idm._advance`: the steps of one path's proposals, one after another."""

from __future__ import annotations

import math

import numpy as np

from latentvla_core.pdms.backend import kernel
from latentvla_core.pdms.contacts.quads import pair_distance, ring_distance
from latentvla_core.types import Vehicle

AHEAD_M = Vehicle.REAR_AXLE_TO_CENTER_M
HALF_LENGTH_M, HALF_WIDTH_M = Vehicle.LENGTH_M / 2, Vehicle.WIDTH_M / 2
PROGRESS, SPEED, REAR = 0, 1, 2
MIN_PROGRESS_M = 1e-5
DT_S, MIN_GAP_M, HEADWAY_S, MAX_ACCELERATION_MPS2, MAX_DECELERATION_MPS2, EXPONENT = (
    0.1,
    1.0,
    1.5,
    1.5,
    3.0,
    10,
)


@kernel
def advance_numba(path, along, first, last, objects, corners, motion, lights, targets, out):
    """Fill steps first … last of `out`; returns 0, or the step at which two leads were equally far.

    Args:
        path: (C, 3) vertices with unwrapped headings; along: (C,) their arc length.
        objects: numbers (n,) of those in the corridor, their progress (n,), and offsets (N + 1,):
        map m has those at
            offsets[m] : offsets[m + 1].
        corners: (N, A, 4, 2); motion: (A, 2) heading and speed.
        lights: progress (R,), ring vertices (V, 2), offsets (R + 1,) of the red lights in the
        corridor.
        targets: (P,) target speeds.
        out: progress (P, K + 1), speed (P, K + 1), lead (P, K + 1, 3), poses (P, K + 1, 3), filled
        in place.
    """
    who, who_along, offsets = objects
    progress, speed, lead, poses = out
    for k in range(first, last + 1):
        if k % 2:
            lead[:, k] = lead[:, k - 1]
        else:
            m = k // 2
            now = who[offsets[m] : offsets[m + 1]]
            now_along = who_along[offsets[m] : offsets[m + 1]]
            if not _leads(
                now, now_along, corners[m], motion, lights, progress, poses, lead, k, along[-1]
            ):
                return k
        for p in range(targets.shape[0]):
            x, v = progress[p, k - 1], speed[p, k - 1]
            progress[p, k] = x + DT_S * v
            speed[p, k] = v + DT_S * _acceleration(x, v, lead[p, k], targets[p])
            _pose_at(path, along, progress[p, k], poses[p, k])
    return 0


@kernel
def _leads(who, who_along, corners, motion, lights, progress, poses, lead, k, length):
    """Write lead[:, k]; false if the nearest lead is not the only one at its distance."""
    shared = np.zeros(3)
    box = np.empty((4, 2))
    for p in range(progress.shape[0]):
        own, yaw = progress[p, k - 1], poses[p, k - 1, 2]
        _ego_box(poses[p, k - 1, 0], poses[p, k - 1, 1], yaw, box)
        found, best, ties = _nearest_object(who, who_along, corners, own, box, poses[p, k - 1])
        light, light_ties = _nearest_light(lights, own, box, poses[p, k - 1])
        if min(best, light) == np.inf:
            shared[PROGRESS], shared[REAR] = length, HALF_LENGTH_M
        elif light == best or (best < light and ties) or (light < best and light_ties):
            return False
        else:
            shared[PROGRESS] = own + min(best, light)
            if best < light:
                turned = motion[found, 0] - yaw
                shared[SPEED] = motion[found, 1] * math.cos(
                    math.atan2(math.sin(turned), math.cos(turned))
                )
        lead[p, k] = shared
    return True


@kernel
def _nearest_object(who, who_along, corners, own, box, pose):
    """Number, distance of the nearest object ahead of progress `own`, and whether another one is as
    near.
    """
    found, best, ties = -1, np.inf, False
    quad = np.empty((4, 2))
    for i in range(who.shape[0]):
        if who_along[i] > own:
            for c in range(4):
                quad[c, 0], quad[c, 1] = (
                    corners[who[i], c, 0] - pose[0],
                    corners[who[i], c, 1] - pose[1],
                )
            distance = pair_distance(box, quad)
            if distance < best:
                found, best, ties = who[i], distance, False
            elif distance == best:
                ties = True
    return found, best, ties


@kernel
def _nearest_light(lights, own, box, pose):
    """Distance of the nearest red light ahead of progress `own`, and whether another one is as
    near.
    """
    along, vertices, offsets = lights
    best, ties = np.inf, False
    for r in range(along.shape[0]):
        if along[r] > own:
            ring = vertices[offsets[r] : offsets[r + 1]] - pose[:2]
            distance = ring_distance(box, ring)
            if distance < best:
                best, ties = distance, False
            elif distance == best:
                ties = True
    return best, ties


@kernel
def _ego_box(x, y, yaw, box):
    """Corners of the ego box minus (x, y), its rear axle; rounded in global coordinates as the
    devkit's are.
    """
    cos, sin = math.cos(yaw), math.sin(yaw)
    center_x, center_y = x + AHEAD_M * cos, y + AHEAD_M * sin
    for c in range(4):
        ahead = HALF_LENGTH_M if c in (0, 3) else -HALF_LENGTH_M
        left = HALF_WIDTH_M if c < 2 else -HALF_WIDTH_M
        box[c, 0] = (cos * ahead - sin * left + center_x) - x
        box[c, 1] = (sin * ahead + cos * left + center_y) - y


@kernel
def _acceleration(x, v, lead, target):
    closing = v * (v - lead[SPEED])
    comfort = 2 * math.sqrt(MAX_ACCELERATION_MPS2 * MAX_DECELERATION_MPS2)
    wanted = MIN_GAP_M + HEADWAY_S * v + closing / comfort
    gap = max(lead[PROGRESS] - x - lead[REAR], MIN_GAP_M)
    wish = MAX_ACCELERATION_MPS2 * (1 - (v / target) ** EXPONENT - (wanted / gap) ** 2)
    return min(max(wish, -MAX_DECELERATION_MPS2), MAX_ACCELERATION_MPS2)


@kernel
def _pose_at(path, along, progress, out):
    """`Path.at` of one arc length."""
    query = min(max(progress, MIN_PROGRESS_M), along[-1])
    high = min(max(np.searchsorted(along, query), 1), along.shape[0] - 1)
    low = high - 1
    span = along[high] - along[low]
    for c in range(3):
        slope = (path[high, c] - path[low, c]) / span if span > 0 else np.nan
        out[c] = slope * (query - along[low]) + path[low, c]
        if math.isnan(out[c]):
            out[c] = 0.0
    out[2] = math.atan2(math.sin(out[2]), math.cos(out[2]))
