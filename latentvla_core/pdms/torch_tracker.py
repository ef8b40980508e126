"""The tracker of `tracker.py` in torch: plans (B, 8, 3) → driven states (B, 41, 11), float64."""

from __future__ import annotations

import torch
from torch import Tensor

from latentvla_core.pdms import tracker_kernels as k
from latentvla_core.pdms.tracker import velocity_matrix


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


def reference_states(poses: Tensor, ego: Tensor, high: Tensor, offset: Tensor, span: Tensor) -> Tensor:
    """(B, 41, 3) reference poses of plans (B, 8, 3) seen from egos (B, 11).

    high, offset, span: (B, 41) knot after each query time, time since the knot before, length of the interval (us).
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


def _curvature(heading: Tensor, velocity: Tensor) -> Tensor:
    """(B, 40) curvature profile: the tridiagonal system of pdms.md §5.2."""
    step = velocity * k.DT
    right = list((step * wrap(torch.diff(heading, dim=1))).unbind(1))
    diagonal = list((step * step + 2.0 * k.SMOOTH).unbind(1))
    diagonal[0] = diagonal[0] + k.FIRST - k.SMOOTH
    diagonal[-1] = diagonal[-1] - k.SMOOTH
    for i in range(1, k.STEPS):
        factor = k.SMOOTH / diagonal[i - 1]
        diagonal[i] = diagonal[i] - factor * k.SMOOTH
        right[i] = right[i] + factor * right[i - 1]
    right[-1] = right[-1] / diagonal[-1]
    for i in range(k.STEPS - 2, -1, -1):
        right[i] = (right[i] + k.SMOOTH * right[i + 1]) / diagonal[i]
    return torch.stack(right, dim=1)


def _commands(pose: Tensor, goal: Tensor, curvature: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """Acceleration and steering rate (B,): poses (B, 3), speed goals (B,), curvatures (B, 10), states (B, 11)."""
    speed, steer = state[:, 3], state[:, 7]
    stopping = (goal <= k.STOP_SPEED) & (speed <= k.STOP_SPEED)
    accel = torch.where(stopping, -k.STOP_GAIN * (speed - goal), -k.SPEED_GAIN * (speed - goal))
    later = torch.arange(k.HORIZON, device=state.device) * k.DT
    w = (speed[:, None] + later * accel[:, None]) * k.DT
    turn = w / k.WHEEL_BASE
    sums = [torch.nn.functional.pad(x.cumsum(1), (1, 0)) for x in (turn, turn * later, -w * curvature)]
    c, b, g = (x[:, :-1] for x in sums)
    c_end, b_end, g_end = (x[:, -1] for x in sums)
    sin, cos = torch.sin(pose[:, 2]), torch.cos(pose[:, 2])
    lateral = -(state[:, 0] - pose[:, 0]) * sin + (state[:, 1] - pose[:, 1]) * cos
    heading = wrap(state[:, 2] - pose[:, 2])
    lateral = lateral + heading * w.sum(1) + steer * (w * c).sum(1) + (w * g).sum(1)
    heading, gain = wrap(heading + c_end * steer + g_end), (w * b).sum(1)
    rate = -(gain * lateral + k.HEADING_WEIGHT * b_end * heading) / (gain**2 + k.HEADING_WEIGHT * b_end**2 + 1.0)
    return accel, torch.where(stopping, 0.0, rate)


def _bicycle(old: Tensor, accel: Tensor, rate: Tensor) -> Tensor:
    """(B, 11) next states."""
    yaw, speed, steer = old[:, 2], old[:, 3], old[:, 7]
    accel = old[:, 5] + k.ACCEL_LAG * (accel - old[:, 5])
    rate = (steer + k.STEER_LAG * (k.EULER_DT * rate + steer - steer) - steer) / k.EULER_DT
    x = old[:, 0] + speed * torch.cos(yaw) * k.EULER_DT
    y = old[:, 1] + speed * torch.sin(yaw) * k.EULER_DT
    heading = principal(yaw + speed * torch.tan(steer) / k.WHEEL_BASE * k.EULER_DT)
    speed, zero = speed + accel * k.EULER_DT, torch.zeros_like(speed)
    steer = (steer + rate * k.EULER_DT).clamp(-k.MAX_STEER, k.MAX_STEER)
    turning = speed * torch.tan(steer) / k.WHEEL_BASE
    change = (turning - old[:, 9]) / k.EULER_DT
    return torch.stack([x, y, heading, speed, zero, accel, zero, steer, rate, turning, change], dim=1)


def simulate(reference: Tensor, start: Tensor) -> Tensor:
    """(B, 41, 11) driven states that track reference poses (B, 41, 3) from states (B, 11)."""
    step, yaw = torch.diff(reference[..., :2], dim=1), reference[:, :-1, 2]
    along = torch.cos(yaw) * step[..., 0] + torch.sin(yaw) * step[..., 1]
    velocity = along @ torch.tensor(velocity_matrix().T, device=reference.device)
    curvature = _curvature(reference[..., 2], velocity)
    states = [start]
    for t in range(k.STEPS):
        last = min(t + k.HORIZON, k.STEPS - 1)
        ahead = [min(i, last) for i in range(t, t + k.HORIZON)]
        accel, rate = _commands(reference[:, t], velocity[:, last], curvature[:, ahead], states[-1])
        states.append(_bicycle(states[-1], accel, rate))
    return torch.stack(states, dim=1)
