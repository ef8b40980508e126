"""The 40 sequential steps of the tracker and the bicycle, twice: per proposal for numba, over all
proposals in NumPy.

Both are the closed forms of pdms.md §5.2 to §5.4; `tracker.py` explains and calls them.
"""

from __future__ import annotations

import math

import numpy as np

from latentvla_core.geometry import principal, wrap
from latentvla_core.pdms.backend import kernel
from latentvla_core.types import Array, Vehicle

STEPS = 40
DT = 0.1
EULER_DT = 100_000 * 1e-6  # 0.09999999999999999: the devkit converts microseconds (§17, quirk 2)
HORIZON = 10
WHEEL_BASE = Vehicle.WHEEL_BASE_M
STOP_SPEED, STOP_GAIN = 0.2, 0.5
SPEED_GAIN = 10.0 / 11.0  # B Q / (B² Q + R) with B = 1 s, Q = 10, R = 1
HEADING_WEIGHT = 10.0
ACCEL_LAG, STEER_LAG = EULER_DT / (EULER_DT + 0.2), EULER_DT / (EULER_DT + 0.05)
MAX_STEER = math.pi / 3
SMOOTH, FIRST = 1e-2 / (DT * DT), 1e-10


@kernel
def _wrap(angle):
    return math.atan2(math.sin(angle), math.cos(angle))


@kernel
def _curvature(yaw, velocity, out, scratch):
    """Tridiagonal solve of §5.2 for one proposal: yaw (41,), velocity (40,) → out (40,)."""
    for k in range(STEPS):
        step = velocity[k] * DT
        scratch[k] = step * step + 2.0 * SMOOTH
        if k == 0:
            scratch[k] += FIRST - SMOOTH
        if k == STEPS - 1:
            scratch[k] -= SMOOTH
        out[k] = step * _wrap(yaw[k + 1] - yaw[k])
        if k > 0:
            factor = SMOOTH / scratch[k - 1]
            scratch[k] -= factor * SMOOTH
            out[k] += factor * out[k - 1]
    out[STEPS - 1] /= scratch[STEPS - 1]
    for k in range(STEPS - 2, -1, -1):
        out[k] = (out[k] + SMOOTH * out[k + 1]) / scratch[k]


@kernel
def _commands(pose, speed_goal, curvature, first, last, x, y, yaw, speed, steer):
    """Acceleration and steering-rate commands of one step (§5.3)."""
    if speed_goal <= STOP_SPEED and speed <= STOP_SPEED:
        return -STOP_GAIN * (speed - speed_goal), 0.0
    accel = -SPEED_GAIN * (speed - speed_goal)
    sin, cos = math.sin(pose[2]), math.cos(pose[2])
    lateral = -(x - pose[0]) * sin + (y - pose[1]) * cos
    heading = _wrap(yaw - pose[2])
    c = b = g = 0.0
    sum_w = sum_wc = sum_wg = sum_wb = 0.0
    for k in range(HORIZON):
        w = (speed + k * DT * accel) * DT
        sum_w += w
        sum_wc += w * c
        sum_wg += w * g
        sum_wb += w * b
        turn = w / WHEEL_BASE
        c += turn
        b += turn * (k * DT)
        g -= w * curvature[min(first + k, last)]
    lateral += heading * sum_w + steer * sum_wc + sum_wg
    heading = _wrap(heading + c * steer + g)
    rate = -(sum_wb * lateral + HEADING_WEIGHT * b * heading) / (
        sum_wb * sum_wb + HEADING_WEIGHT * b * b + 1.0
    )
    return accel, rate


@kernel
def _bicycle(old, accel, rate, new):
    """One Euler step of the kinematic bicycle with lags (§5.4): state old (11,) → new (11,)."""
    yaw, speed, steer = old[2], old[3], old[7]
    new[5] = old[5] + ACCEL_LAG * (accel - old[5])
    ideal = EULER_DT * rate + steer
    moved = steer + STEER_LAG * (ideal - steer)
    new[8] = (moved - steer) / EULER_DT
    new[0] = old[0] + speed * math.cos(yaw) * EULER_DT
    new[1] = old[1] + speed * math.sin(yaw) * EULER_DT
    turned = yaw + speed * math.tan(steer) / WHEEL_BASE * EULER_DT
    new[2] = (turned + math.pi) % (2.0 * math.pi) - math.pi
    new[3] = speed + new[5] * EULER_DT
    new[7] = min(max(steer + new[8] * EULER_DT, -MAX_STEER), MAX_STEER)
    new[9] = new[3] * math.tan(new[7]) / WHEEL_BASE
    new[10] = (new[9] - old[9]) / EULER_DT
    new[4] = 0.0
    new[6] = 0.0


@kernel
def drive_numba(reference, along, matrix, start):
    """(B, 41, 11) states from reference poses (B, 41, 3), their projected displacements (B, 40),
    first states (B, 11).

    matrix (40, 40) turns displacements into the speed profile; the product is made here, row by
    row, because BLAS rounds differently for batches of different size and a score must not depend
    on its batch.
    """
    count = reference.shape[0]
    velocity = np.empty(STEPS)
    out = np.empty((count, STEPS + 1, 11))
    curvature, scratch = np.empty(STEPS), np.empty(STEPS)
    for i in range(count):
        for k in range(STEPS):
            velocity[k] = 0.0
            for j in range(STEPS):
                velocity[k] += matrix[k, j] * along[i, j]
        _curvature(reference[i, :, 2], velocity, curvature, scratch)
        out[i, 0] = start[i]
        for t in range(STEPS):
            old = out[i, t]
            last = min(t + HORIZON, STEPS - 1)
            accel, rate = _commands(
                reference[i, t],
                velocity[last],
                curvature,
                t,
                last,
                old[0],
                old[1],
                old[2],
                old[3],
                old[7],
            )
            _bicycle(old, accel, rate, out[i, t + 1])
    return out


def _commands_numpy(
    pose: Array, goal: Array, curvature: Array, state: Array
) -> tuple[Array, Array]:
    """Commands (B,), (B,) for poses (B, 3), speed goals (B,), curvatures over the horizon (B, 10),
    states (B, 11).
    """
    speed, steer = state[:, 3], state[:, 7]
    stopping = (goal <= STOP_SPEED) & (speed <= STOP_SPEED)
    accel = np.where(stopping, -STOP_GAIN, -SPEED_GAIN) * (speed - goal)
    w = (speed[:, None] + np.arange(HORIZON) * DT * accel[:, None]) * DT
    turn = w / WHEEL_BASE
    zero = np.zeros((len(w), 1))
    c = np.concatenate([zero, np.cumsum(turn, axis=1)], axis=1)
    b = np.concatenate([zero, np.cumsum(turn * (np.arange(HORIZON) * DT), axis=1)], axis=1)
    g = np.concatenate([zero, -np.cumsum(w * curvature, axis=1)], axis=1)
    sin, cos = np.sin(pose[:, 2]), np.cos(pose[:, 2])
    lateral = -(state[:, 0] - pose[:, 0]) * sin + (state[:, 1] - pose[:, 1]) * cos
    heading = wrap(state[:, 2] - pose[:, 2])
    lateral += heading * w.sum(1) + steer * (w * c[:, :-1]).sum(1) + (w * g[:, :-1]).sum(1)
    heading = wrap(heading + c[:, -1] * steer + g[:, -1])
    gain, turned = (w * b[:, :-1]).sum(1), b[:, -1]
    rate = -(gain * lateral + HEADING_WEIGHT * turned * heading) / (
        gain**2 + HEADING_WEIGHT * turned**2 + 1.0
    )
    return accel, np.where(stopping, 0.0, rate)


def _bicycle_numpy(old: Array, accel: Array, rate: Array) -> Array:
    """(B, 11) next states."""
    new = np.zeros_like(old)
    yaw, speed, steer = old[:, 2], old[:, 3], old[:, 7]
    new[:, 5] = old[:, 5] + ACCEL_LAG * (accel - old[:, 5])
    moved = steer + STEER_LAG * (EULER_DT * rate + steer - steer)
    new[:, 8] = (moved - steer) / EULER_DT
    new[:, 0] = old[:, 0] + speed * np.cos(yaw) * EULER_DT
    new[:, 1] = old[:, 1] + speed * np.sin(yaw) * EULER_DT
    new[:, 2] = principal(yaw + speed * np.tan(steer) / WHEEL_BASE * EULER_DT)
    new[:, 3] = speed + new[:, 5] * EULER_DT
    new[:, 7] = np.clip(steer + new[:, 8] * EULER_DT, -MAX_STEER, MAX_STEER)
    new[:, 9] = new[:, 3] * np.tan(new[:, 7]) / WHEEL_BASE
    new[:, 10] = (new[:, 9] - old[:, 9]) / EULER_DT
    return new


def drive_numpy(reference: Array, velocity: Array, curvature: Array, start: Array) -> Array:
    """The NumPy twin of `drive_numba`, with curvature profiles (B, 40) given."""
    out = np.empty((len(reference), STEPS + 1, 11))
    out[:, 0] = start
    for t in range(STEPS):
        last = min(t + HORIZON, STEPS - 1)
        ahead = np.minimum(np.arange(t, t + HORIZON), last)
        accel, rate = _commands_numpy(
            reference[:, t], velocity[:, last], curvature[:, ahead], out[:, t]
        )
        out[:, t + 1] = _bicycle_numpy(out[:, t], accel, rate)
    return out
