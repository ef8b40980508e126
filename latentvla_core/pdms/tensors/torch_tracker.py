"""The tracker of `tracker.py` in torch: plans (B, 8, 3) → driven states (B, 41, 11), float64.

What depends on earlier steps is little: speed and acceleration (one recurrence), then position and
steering (another). All else is done for the 40 steps at once, the sums over the controller's
horizon as polynomials of speed and acceleration. Time comes first in the recurrences, so that a
step is one contiguous row.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latentvla_core.pdms.motion import tracker_kernels as k
from latentvla_core.pdms.motion.tracker import velocity_matrix
from latentvla_core.pdms.state import State
from latentvla_core.pdms.tensors.torch_geometry import constant
from latentvla_core.types import Array

J = np.arange(k.HORIZON)
SUM_J, SUM_J2 = float(J.sum()), float((J * J).sum())
EARLIER, EARLIER2 = (
    np.cumsum(J) - J,
    np.cumsum(J * J) - J * J,
)  # sums of j, j² below each step of the horizon
GAIN = (float(EARLIER.sum()), float((EARLIER2 + J * EARLIER).sum()), float((J * EARLIER2).sum()))


def wrap(angle: Tensor) -> Tensor:
    """(-pi, pi]"""
    return torch.atan2(torch.sin(angle), torch.cos(angle))


def principal(angle: Tensor) -> Tensor:
    """[-pi, pi)"""
    return torch.remainder(angle + torch.pi, 2 * torch.pi) - torch.pi


def unwrap(angle: Tensor) -> Tensor:
    """(B, n) without jumps of more than half a turn, as numpy.unwrap."""
    step = torch.diff(angle, dim=1)
    small = principal(step)
    small = torch.where((small == -torch.pi) & (step > 0), torch.pi, small)
    fix = torch.where(step.abs() < torch.pi, 0.0, small - step).cumsum(1)
    return angle + torch.nn.functional.pad(fix, (1, 0))


def reference_states(
    poses: Tensor, ego: Tensor, high: Tensor, offset: Tensor, span: Tensor
) -> Tensor:
    """(B, 41, 3) reference poses of plans (B, 8, 3) seen from egos (B, 11).

    high, offset, span: (B, 41) knot after each query time, time since the knot before, length of
    the interval (us).
    """
    cos, sin = torch.cos(ego[:, 2:3]), torch.sin(ego[:, 2:3])
    x = cos * poses[..., 0] - sin * poses[..., 1] + ego[:, 0:1]
    y = sin * poses[..., 0] + cos * poses[..., 1] + ego[:, 1:2]
    moved = torch.stack([x, y, wrap(poses[..., 2] + ego[:, 2:3])], dim=-1)
    knots = torch.cat([ego[:, None, :3], moved], dim=1)
    knots = torch.cat([knots[..., :2], unwrap(knots[..., 2])[..., None]], dim=-1)
    after = torch.take_along_dim(knots, high[..., None], dim=1)
    before = torch.take_along_dim(knots, high[..., None] - 1, dim=1)
    out = (after - before) / span[..., None] * offset[..., None] + before
    return torch.cat([out[..., :2], principal(out[..., 2:])], dim=-1)


def simulate(reference: Tensor, start: Tensor) -> Tensor:
    """(B, 41, 11) driven states that track reference poses (B, 41, 3) from states (B, 11). Source:
    pdms.md §5.
    """
    goal_x, goal_y, yaw = reference.permute(2, 1, 0).contiguous().unbind(0)  # (41, B) each
    cos, sin = torch.cos(yaw[:-1]), torch.sin(yaw[:-1])
    along = cos * goal_x.diff(dim=0) + sin * goal_y.diff(dim=0)
    velocity = constant(velocity_matrix, reference.device) @ along
    curvature = _curvature(yaw, velocity)
    speed, accel, command, stopping = _drive_along(velocity, start)
    weights = _lateral_weights(speed[:-1], command, curvature, stopping)
    goal = (goal_x[:-1], goal_y[:-1], yaw[:-1], cos, sin)
    x, y, heading, steer, rate = _steer(goal, weights, speed, start)
    turning = torch.cat(
        [start[:, State.YAW_RATE][None], speed[1:] * torch.tan(steer[1:]) / k.WHEEL_BASE]
    )
    turned = torch.cat([start[:, State.YAW_ACCEL][None], turning.diff(dim=0) / k.EULER_DT])
    sideways = [
        torch.cat([start[:, i][None], torch.zeros_like(command)]) for i in (State.VY, State.AY)
    ]
    columns = [x, y, heading, speed, sideways[0], accel, sideways[1], steer, rate, turning, turned]
    return torch.stack(columns).permute(2, 1, 0).contiguous()


def _curvature(heading: Tensor, velocity: Tensor) -> Tensor:
    """(40, B) curvature profile: the tridiagonal system of §5.2. heading (41, B), velocity (40, B)."""
    step = velocity * k.DT
    right = list((step * wrap(heading.diff(dim=0))).unbind(0))
    diagonal = list((step * step + 2.0 * k.SMOOTH).unbind(0))
    diagonal[0] = diagonal[0] + (k.FIRST - k.SMOOTH)
    diagonal[-1] = diagonal[-1] - k.SMOOTH
    for i in range(1, k.STEPS):
        factor = k.SMOOTH / diagonal[i - 1]
        diagonal[i] = diagonal[i] - factor * k.SMOOTH
        right[i] = torch.addcmul(right[i], factor, right[i - 1])
    right[-1] = right[-1] / diagonal[-1]
    for i in range(k.STEPS - 2, -1, -1):
        right[i] = torch.add(right[i], right[i + 1], alpha=k.SMOOTH) / diagonal[i]
    return torch.stack(right)


def _drive_along(velocity: Tensor, start: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Speeds and accelerations (41, B), commanded accelerations and whether it is stopping (40, B);
    velocity (40, B).
    """
    speeds, accels, commands, stops = [start[:, State.VX]], [start[:, State.AX]], [], []
    for t in range(k.STEPS):
        goal, speed, accel = velocity[min(t + k.HORIZON, k.STEPS - 1)], speeds[-1], accels[-1]
        stopping = torch.maximum(goal, speed) <= k.STOP_SPEED
        over = speed - goal
        command = torch.where(
            stopping, -k.STOP_GAIN * over, -k.SPEED_GAIN * over
        )  # numbers alone would be float32
        accels.append(torch.add(accel, command - accel, alpha=k.ACCEL_LAG))
        speeds.append(torch.add(speed, accels[-1], alpha=k.EULER_DT))
        commands.append(command)
        stops.append(stopping)
    return torch.stack(speeds), torch.stack(accels), torch.stack(commands), torch.stack(stops)


def _moments() -> Array:
    """(5 · 40, 40) weights of the curvature profile in the sums over the horizon of each step.

    With w_j = dt (v + j dt a): Σ w_j κ_j needs the first two rows of each step, Σ_k w_k Σ_{j<k} w_j
    κ_j the other three.
    """
    later, later_j = (
        len(J) - 1 - J,
        SUM_J - np.cumsum(J),
    )  # how many steps follow j, and the sum of their numbers
    weights = np.stack([np.ones(len(J)), J, later, later_j + J * later, J * later_j])
    out = np.zeros((5, k.STEPS, k.STEPS))
    for t in range(k.STEPS):
        last = min(t + k.HORIZON, k.STEPS - 1)
        for j in J:
            out[:, t, min(t + j, last)] += weights[:, j]
    return out.reshape(-1, k.STEPS)


def _lateral_weights(
    speed: Tensor, command: Tensor, curvature: Tensor, stopping: Tensor
) -> tuple[Tensor, ...]:
    """What the steering law of each step makes of its errors, (40, B) each; all inputs (40, B).
    §5.3.

    Travel, its part due to steering and to curvature, heading change by steering and by curvature,
    then the two gains.
    """
    v, a = speed, command * k.DT
    moments = constant(_moments, v.device) @ curvature
    bend, bend_j, one, two, three = moments.reshape(5, k.STEPS, -1).unbind(0)
    vv, va, aa = v * v, v * a, a * a
    travel = k.DT * (k.HORIZON * v + SUM_J * a)
    squares = k.DT**2 * (k.HORIZON * vv + 2 * SUM_J * va + SUM_J2 * aa)
    by_steer = (travel * travel - squares) / (2 * k.WHEEL_BASE)
    by_curve = -(k.DT**2) * (vv * one + va * two + aa * three)
    turn, curve = travel / k.WHEEL_BASE, -k.DT * (v * bend + a * bend_j)
    turned = k.DT**2 / k.WHEEL_BASE * (SUM_J * v + SUM_J2 * a)
    moved = k.DT**3 / k.WHEEL_BASE * (GAIN[0] * vv + GAIN[1] * va + GAIN[2] * aa)
    scale = -1.0 / (moved * moved + k.HEADING_WEIGHT * turned * turned + 1.0)
    scale = torch.where(stopping, 0.0, scale)
    return travel, by_steer, by_curve, turn, curve, moved * scale, k.HEADING_WEIGHT * turned * scale


def _steer(
    goal: tuple[Tensor, ...], weights: tuple[Tensor, ...], speed: Tensor, start: Tensor
) -> tuple[Tensor, ...]:
    """x, y, heading, steering angle, steering rate, (41, B) each: 40 steps of controller and
    bicycle (§5.3, §5.4).
    """
    rows = [[start[:, i] for i in (State.X, State.Y, State.YAW, State.STEER, State.STEER_RATE)]]
    ahead = speed * k.EULER_DT
    for t in range(k.STEPS):
        x, y, yaw, steer, _ = rows[-1]
        goal_x, goal_y, goal_yaw, cos, sin = (column[t] for column in goal)
        travel, by_steer, by_curve, turn, curve, lateral_gain, heading_gain = (
            column[t] for column in weights
        )
        heading = wrap(yaw - goal_yaw)
        lateral = (
            (y - goal_y) * cos - (x - goal_x) * sin + heading * travel + steer * by_steer + by_curve
        )
        heading = wrap(heading + turn * steer + curve)
        rate = k.STEER_LAG * (lateral_gain * lateral + heading_gain * heading)
        rows.append(
            [
                torch.addcmul(x, ahead[t], torch.cos(yaw)),
                torch.addcmul(y, ahead[t], torch.sin(yaw)),
                principal(yaw + ahead[t] * torch.tan(steer) / k.WHEEL_BASE),
                torch.add(steer, rate, alpha=k.EULER_DT).clamp(-k.MAX_STEER, k.MAX_STEER),
                rate,
            ]
        )
    return tuple(torch.stack(column) for column in zip(*rows, strict=True))
