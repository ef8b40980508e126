"""The geometry of the score in torch: the ego's motion, boxes that touch, points in polygons, the nearest point of a line.

Broad phases leave few of many pairs; `nonzero` gathers them, so that the exact tests run on what is left and nothing is padded
to the worst case. Each gathering reads one size back from the device: a dozen times per chunk of thousands of plans.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from latentvla_core.pdms.state import HALF_LENGTH_M, HALF_WIDTH_M
from latentvla_core.types import Array, Vehicle


@cache
def constant(make: Callable[..., Array], device: torch.device, *args: Any) -> Tensor:
    """`make(*args)` on a device, copied there once: a copy in every step would make the host wait for the device."""
    return torch.tensor(make(*args).copy(), device=device)


def motion_of(states: Tensor) -> Tensor:
    """(B, T, 7) `state.Motion` columns of states (B, T, 11)."""
    direction = torch.stack([torch.cos(states[..., 2]), torch.sin(states[..., 2])], dim=-1)
    center = states[..., :2] + Vehicle.REAR_AXLE_TO_CENTER_M * direction
    speed = torch.hypot(states[..., 3], states[..., 4])[..., None]
    return torch.cat([states[..., :2], center, direction, speed], dim=-1)


def points_of(motion: Tensor) -> Tensor:
    """(B, T, 6, 2) front-left, rear-left, rear-right, front-right corner, centre, rear axle."""
    center, ahead = motion[..., 2:4], HALF_LENGTH_M * motion[..., 4:6]
    left = HALF_WIDTH_M * torch.stack([-motion[..., 5], motion[..., 4]], dim=-1)
    corners = [center + ahead + left, center - ahead + left, center - ahead - left, center + ahead - left]
    return torch.stack([*corners, center, motion[..., :2]], dim=-2)


def pairs_in_range(low: Tensor, high: Tensor, ranges: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column (n,), (n,) where boxes low … high (B, 2) meet ranges (B, A, 4), touching included."""
    apart = (low[:, None, 0] > ranges[..., 2]) | (high[:, None, 0] < ranges[..., 0])
    apart |= (low[:, None, 1] > ranges[..., 3]) | (high[:, None, 1] < ranges[..., 1])
    return (~apart).nonzero(as_tuple=True)


def within(x: Tensor, y: Tensor, ranges: Tensor) -> Tensor:
    """(...,) bool: points strictly inside ranges (..., 4)."""
    left, low, right, high = ranges.unbind(-1)
    return (x > left) & (x < right) & (y > low) & (y < high)


def touching(x: Tensor, y: Tensor, direction: Tensor, sides: Tensor, half_length: float) -> Tensor:
    """(n,) do ego boxes with direction (n, 2) touch boxes with half-side vectors (n, 4) whose centres are (x, y) away?

    Separating axes; touching counts.
    """
    (cos, sin), (ax, ay, bx, by) = direction.unbind(-1), sides.unbind(-1)
    flat_a = (ax == 0) & (ay == 0)  # a box without length or width still has a direction
    flat_b = (bx == 0) & (by == 0) & ~flat_a
    axes = (
        (cos, sin),
        (-sin, cos),
        (torch.where(flat_a, -by, ax), torch.where(flat_a, bx, ay)),
        (torch.where(flat_b, -ay, bx), torch.where(flat_b, ax, by)),
    )
    out = torch.ones_like(flat_a)
    for ux, uy in axes:
        own = (ax * ux + ay * uy).abs() + (bx * ux + by * uy).abs()
        ego = half_length * (cos * ux + sin * uy).abs() + HALF_WIDTH_M * (cos * uy - sin * ux).abs()
        out &= (x * ux + y * uy).abs() <= own + ego
    return out


def even_odd(x: Tensor, y: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Crossings (...,) of a ray to the right with edges (..., M, 4), and (...,) bool whether the point is on one."""
    x, y = x[..., None], y[..., None]
    x1, y1, x2, y2 = edges.unbind(-1)
    above = y2 > y
    straddles = (y1 > y) != above
    side = (x2 - x1) * (y - y1) - (x - x1) * (y2 - y1)
    crossed = straddles & ((side > 0) == above)
    first, second = y1 == y, y2 == y
    level = first & second & (x >= torch.minimum(x1, x2)) & (x <= torch.maximum(x1, x2))
    corner = (first & (x1 == x)) | (second & (x2 == x))
    on_edge = ((straddles & (side == 0)) | level | corner).any(-1)
    return crossed.sum(-1), on_edge


def line_progress(points: Tensor, line: Tensor, arc: Tensor) -> Tensor:
    """(B,) arc length of the nearest point of lines (B, C, 2), arc lengths (B, C), to points (B, 2); the first on ties."""
    start, step = line[:, :-1], torch.diff(line, dim=1)
    length = (step * step).sum(-1)
    gap = points[:, None] - start
    share = ((gap * step).sum(-1) / length).clamp(0.0, 1.0).nan_to_num(0.0)
    squared = ((gap - share[..., None] * step) ** 2).sum(-1)
    best = squared.argmin(dim=-1, keepdim=True)
    return (arc.gather(1, best) + share.gather(1, best) * torch.sqrt(length.gather(1, best)))[:, 0]
