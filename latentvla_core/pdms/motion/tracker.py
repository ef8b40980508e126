"""From a plan to driven states: reference states, speed and curvature profiles, LQR tracker,
kinematic bicycle.

Source: pdms.md §4 and §5 (devkit `pdm_planner/simulation/*`), its quirks included. Any leading
batch dimensions `...`.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from latentvla_core.geometry import principal, rotate, wrap
from latentvla_core.pdms import backend
from latentvla_core.pdms.motion.tracker_kernels import drive_numba, drive_numpy
from latentvla_core.pdms.state import DT_S, NUM_STEPS, State
from latentvla_core.types import Array, Pose

JERK_PENALTY = 1e-4
CURVATURE_RATE_PENALTY = 1e-2
INITIAL_CURVATURE_PENALTY = 1e-10
PLAN_INTERVAL_S = 0.5


# ---------------------------------------------------------------- plan → reference states (§4)


def truncated_us(seconds: Array) -> Array:
    """Seconds → whole microseconds, truncated as the devkit does: many times fall 1 us early."""
    return np.trunc(seconds * 1e6).astype(np.int64)


def sample_times_us(timestamp_us: int) -> Array:
    """(41,) int64 query times of the simulation, from t = 0 to 4 s."""
    return truncated_us(np.arange(NUM_STEPS + 1) * DT_S + timestamp_us * 1e-6)


def plan_times_us(timestamp_us: int, num_poses: int, interval_s: float = PLAN_INTERVAL_S) -> Array:
    """(N + 1,) int64 knot times of a plan: the ego's own time, then one per pose."""
    steps = np.arange(num_poses) * interval_s + interval_s + timestamp_us * 1e-6
    return np.concatenate([[timestamp_us], truncated_us(steps)]).astype(np.int64)


def interpolate(times_us: Array, knots: Array, query_us: Array) -> Array:
    """(..., Q, 3) poses at query_us (Q,), linear between knots (..., N, 3) at times_us (N,);
    clipped to their range.

    Headings are unwrapped over the knots first and brought back to [-pi, pi) after. A knot time
    belongs to the interval before it.
    """
    query = np.clip(query_us, times_us[0], times_us[-1])
    high = np.clip(np.searchsorted(times_us, query, side="left"), 1, len(times_us) - 1)
    low = high - 1
    values = np.concatenate(
        [knots[..., :2], np.unwrap(knots[..., Pose.YAW], axis=-1)[..., None]], axis=-1
    )
    start, span = times_us[low], (times_us[high] - times_us[low]).astype(np.float64)
    slope = (values[..., high, :] - values[..., low, :]) / span[:, None]
    out = slope * (query - start)[:, None] + values[..., low, :]
    out[..., Pose.YAW] = principal(out[..., Pose.YAW])
    return out


def reference_states(
    poses: Array, ego_state: Array, timestamp_us: int, interval_s: float = PLAN_INTERVAL_S
) -> Array:
    """(..., 41, 3) reference poses of plans (..., N, 3) given in the frame of the rear axle,
    without t = 0.

    Args:
        ego_state: (11,) ego at t = 0; the result is in its frame of coordinates.
        timestamp_us: time of the ego state; absolute, because the devkit's rounding depends on it.
    """
    plan = np.asarray(poses, np.float64)
    xy = rotate(plan[..., :2], ego_state[State.YAW]) + ego_state[:2]
    yaw = wrap(plan[..., Pose.YAW] + ego_state[State.YAW])
    start = np.broadcast_to(ego_state[:3], plan.shape[:-2] + (1, 3))
    knots = np.concatenate([start, np.concatenate([xy, yaw[..., None]], axis=-1)], axis=-2)
    times = plan_times_us(timestamp_us, plan.shape[-2], interval_s)
    return interpolate(times, knots, sample_times_us(timestamp_us))


def reference_from_tenths(poses: Array, timestamp_us: int) -> Array:
    """(..., 41, 3) reference poses of a trajectory (..., N, 3) that has one pose every exact 0.1 s,
    t = 0 included.
    """
    times = timestamp_us + np.arange(poses.shape[-2], dtype=np.int64) * 100_000
    return interpolate(times, np.asarray(poses, np.float64), sample_times_us(timestamp_us))


# ---------------------------------------------------------------- profiles (§5.1, §5.2)


@cache
def velocity_fit() -> Array:
    """(40, 40) matrix from projected displacements to [v_0, a_0 … a_38] (ridge fit, §5.1)."""
    steps = NUM_STEPS
    model = np.tril(np.full((steps, steps), DT_S * DT_S))
    model[:, 0] = DT_S
    # The devkit's "jerk" matrix lost the +1 of all rows but the last (§17, quirk 1), so it
    # penalises accelerations.
    penalty = np.zeros((steps - 2, steps))
    penalty[np.arange(steps - 2), np.arange(1, steps - 1)] = -1.0
    penalty[-1, -1] = 1.0
    return np.linalg.solve(model.T @ model + JERK_PENALTY * penalty.T @ penalty, model.T)


@cache
def velocity_matrix() -> Array:
    """(40, 40) matrix from projected displacements to the speed profile v_0 … v_39."""
    integrate = np.tril(np.full((NUM_STEPS, NUM_STEPS), DT_S), -1)  # v_k = v_0 + dt Σ_{j<k} a_j
    integrate = np.concatenate([np.ones((NUM_STEPS, 1)), integrate[:, : NUM_STEPS - 1]], axis=1)
    matrix = np.ascontiguousarray(integrate @ velocity_fit())
    matrix.setflags(write=False)
    return matrix


def velocity_profile(reference: Array) -> Array:
    """(..., 40) speeds along reference poses (..., 41, 3); v_0 is estimated from them, not the
    ego's.
    """
    return (_displacements(reference)[..., None, :] * velocity_matrix()).sum(
        -1
    )  # not BLAS: see drive_numba


def _displacements(reference: Array) -> Array:
    """(..., 40) steps between reference poses (..., 41, 3), projected on the heading of their first
    pose, metres.
    """
    steps = np.diff(reference[..., :2], axis=-2)
    yaw = reference[..., :-1, Pose.YAW]
    return np.cos(yaw) * steps[..., 0] + np.sin(yaw) * steps[..., 1]


def curvature_profile(reference: Array, velocity_mps: Array) -> Array:
    """(..., 40) curvatures 1/m that turn the headings of reference (..., 41, 3) at velocity (...,
    40).

    Regularised least squares, a tridiagonal system solved by elimination over its 40 rows (§5.2).
    """
    turns = wrap(np.diff(reference[..., Pose.YAW], axis=-1))
    step = velocity_mps * DT_S
    smooth = CURVATURE_RATE_PENALTY / (DT_S * DT_S)
    diagonal = step * step + 2.0 * smooth
    diagonal[..., 0] += INITIAL_CURVATURE_PENALTY - smooth
    diagonal[..., -1] -= smooth
    right = step * turns
    for k in range(1, NUM_STEPS):  # off-diagonals are all -smooth
        factor = smooth / diagonal[..., k - 1]
        diagonal[..., k] -= factor * smooth
        right[..., k] += factor * right[..., k - 1]
    right[..., -1] /= diagonal[..., -1]
    for k in range(NUM_STEPS - 2, -1, -1):
        right[..., k] = (right[..., k] + smooth * right[..., k + 1]) / diagonal[..., k]
    return right


# ---------------------------------------------------------------- simulation (§5.3, §5.4)


def simulate(reference: Array, ego_state: Array) -> Array:
    """(..., 41, 11) driven states (`State`) that track reference poses (..., 41, 3) from ego_state
    (11,) or (..., 11).

    State 0 is the ego state itself. Coordinates of both inputs must share an origin.
    """
    lead = reference.shape[:-2]
    flat = np.ascontiguousarray(np.asarray(reference, np.float64).reshape(-1, NUM_STEPS + 1, 3))
    start = np.ascontiguousarray(
        np.broadcast_to(ego_state, (*lead, 11)).reshape(-1, 11), np.float64
    )
    if backend.active() == "numba":
        out = drive_numba(flat, _displacements(flat), velocity_matrix(), start)
    else:
        velocity = velocity_profile(flat)
        out = drive_numpy(flat, velocity, curvature_profile(flat, velocity), start)
    return out.reshape(*lead, NUM_STEPS + 1, 11)
