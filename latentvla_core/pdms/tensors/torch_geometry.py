"""The geometry of the score in torch: the ego's motion, boxes that touch, points in polygons, the
nearest point of a line.

Broad phases leave few of many pairs; `nonzero` gathers them, so that the exact tests run on what is
left and nothing is padded to the worst case. Each gathering reads one size back from the device: a
dozen times per chunk of thousands of plans.
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
    """`make(*args)` on a device, copied there once: a copy in every step would make the host wait
    for the device.
    """
    return torch.tensor(make(*args).copy(), device=device)


def motion_of(states: Tensor) -> Tensor:
    """(B, T, 7) `state.Motion` columns of states (B, T, 11)."""
    direction = torch.stack([torch.cos(states[..., 2]), torch.sin(states[..., 2])], dim=-1)
    center = states[..., :2] + Vehicle.REAR_AXLE_TO_CENTER_M * direction
    speed = torch.hypot(states[..., 3], states[..., 4])[..., None]
    return torch.cat([states[..., :2], center, direction, speed], dim=-1)


def points_of(motion: Tensor) -> Tensor:
    """(12, B · T) x, then y, of front-left, rear-left, rear-right, front-right corner, centre, rear
    axle.
    """
    rear_x, rear_y, x, y, cos, sin, _ = motion.flatten(0, 1).t().contiguous()
    ahead, aside = (
        (HALF_LENGTH_M * cos, HALF_LENGTH_M * sin),
        (-HALF_WIDTH_M * sin, HALF_WIDTH_M * cos),
    )
    out = []
    for middle, along, left, rear in (
        (x, ahead[0], aside[0], rear_x),
        (y, ahead[1], aside[1], rear_y),
    ):
        front, back = middle + along, middle - along
        out += [front + left, back + left, back - left, front - left, middle, rear]
    return torch.stack(out)


def picked(columns: Tensor, index: Tensor) -> Tensor:
    """(c, n) columns (c, N) at places (n,); faster than gathering rows, and every column stays
    contiguous.
    """
    return columns.gather(1, index.expand(len(columns), -1))


def pairs_in_range(low: Tensor, high: Tensor, ranges: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column (n,), (n,) where boxes low … high (B, 2) meet ranges (B, A, 4), touching
    included.
    """
    apart = (low[:, None, 0] > ranges[..., 2]) | (high[:, None, 0] < ranges[..., 0])
    apart |= (low[:, None, 1] > ranges[..., 3]) | (high[:, None, 1] < ranges[..., 1])
    row, column = (~apart).nonzero(as_tuple=True)
    return row, column


def within(x: Tensor, y: Tensor, ranges: Tensor) -> Tensor:
    """(...,) bool: points strictly inside ranges (4, ...)."""
    left, low, right, high = ranges
    return (x > left) & (x < right) & (y > low) & (y < high)


def touching(x: Tensor, y: Tensor, direction: Tensor, sides: Tensor, half_length: float) -> Tensor:
    """(n,) do ego boxes with direction (n, 2) touch boxes with half-side vectors (n, 4) whose
    centres are (x, y) away?

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


def even_odd(x: Tensor, y: Tensor, edges: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Crossings (n,) of a ray to the right with edges x1, y1, x2, y2 (M, n), and (n,) bool whether
    the point is on one.

    Edges come first and points last, so that every operation runs over long contiguous rows.
    """
    x1, y1, x2, y2 = edges
    right, up, above = x - x1, y - y1, y2 > y
    side = (x2 - x1) * up - right * (y2 - y1)
    crossed = ((up < 0) != above) & ((side > 0) == above)
    on_edge = (side == 0) & (right * (x - x2) <= 0) & (up * (y - y2) <= 0)
    return crossed.sum(0), on_edge.any(0)


def line_progress(points: Tensor, pieces: Tensor) -> Tensor:
    """(B,) arc length of the nearest point of lines, pieces (B, 6, C) as in `Line`, to points (B,
    2); the first on ties.
    """
    x, y, dx, dy, squared, arc = pieces.unbind(1)
    right, up = points[:, :1] - x, points[:, 1:] - y
    share = ((right * dx + up * dy) / squared).clamp(0.0, 1.0)
    away = (right - share * dx).square() + (up - share * dy).square()
    best = away.argmin(dim=1, keepdim=True)
    length = torch.sqrt(dx.gather(1, best).square() + dy.gather(1, best).square())
    return (arc.gather(1, best) + share.gather(1, best) * length)[:, 0]
