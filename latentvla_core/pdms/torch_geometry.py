"""The geometry of the score in torch: boxes that touch, points in polygons, the nearest point of a line."""

from __future__ import annotations

import torch
from torch import Tensor

from latentvla_core.pdms.collision_kernels import AHEAD, BEHIND, OFFSETS, STEP_S, STOPPED, TTC_STOPPED
from latentvla_core.pdms.state import HALF_LENGTH_M, HALF_WIDTH_M
from latentvla_core.types import Vehicle

FEW_EDGES = 6  # most slabs of most polygons have no more


def motion_of(states: Tensor) -> Tensor:
    """(B, T, 7) `state.Motion` columns of states (B, T, 11)."""
    direction = torch.stack([torch.cos(states[..., 2]), torch.sin(states[..., 2])], dim=-1)
    center = states[..., :2] + Vehicle.REAR_AXLE_TO_CENTER_M * direction
    speed = torch.hypot(states[..., 3], states[..., 4])[..., None]
    return torch.cat([states[..., :2], center, direction, speed], dim=-1)


def touching(center: Tensor, direction: Tensor, boxes: Tensor, half_length: float) -> Tensor:
    """(...,) do ego boxes with centre and direction (..., 2) touch boxes (..., 6)? Separating axes, touching counts."""
    x, y = boxes[..., 0] - center[..., 0], boxes[..., 1] - center[..., 1]
    cos, sin = direction[..., 0], direction[..., 1]
    ax, ay, bx, by = boxes[..., 2], boxes[..., 3], boxes[..., 4], boxes[..., 5]
    flat_a = (ax == 0) & (ay == 0)
    flat_b = (bx == 0) & (by == 0) & ~flat_a
    axes = (
        (cos, sin),
        (-sin, cos),
        (torch.where(flat_a, -by, ax), torch.where(flat_a, bx, ay)),
        (torch.where(flat_b, -ay, bx), torch.where(flat_b, ax, by)),
    )
    out = torch.ones(x.shape, dtype=torch.bool, device=x.device)
    for ux, uy in axes:
        own = (ax * ux + ay * uy).abs() + (bx * ux + by * uy).abs()
        ego = half_length * (cos * ux + sin * uy).abs() + HALF_WIDTH_M * (cos * uy - sin * ux).abs()
        out = out & ((x * ux + y * uy).abs() <= own + ego)
    return out


def bearings(motion: Tensor, boxes: Tensor) -> Tensor:
    """(...,) angle from the heading to the box centre, seen from the rear axle; NaN at distance zero."""
    x, y = boxes[..., 0] - motion[..., 0], boxes[..., 1] - motion[..., 1]
    along = (x * motion[..., 4] + y * motion[..., 5]) / torch.sqrt(x * x + y * y)
    return torch.arccos(along.clamp(-1.0, 1.0))


def first_contacts(motion: Tensor, risky: Tensor, boxes: Tensor, present: Tensor, moving: Tensor) -> Tensor:
    """(B, A) bool: is the first contact with the object the ego's fault? boxes (B, T', A, 6), T' >= 41.

    moving: (B, A) bool: an agent that does not stand.
    """
    steps = motion.shape[1]
    ego = motion[:, :, None]
    hit = present[:, :steps] & touching(ego[..., 2:4], ego[..., 4:6], boxes[:, :steps], HALF_LENGTH_M)
    first = hit.int().argmax(dim=1)  # (B, A)
    row = motion.gather(1, first[..., None].expand(-1, -1, 7))
    box = torch.take_along_dim(boxes[:, :steps], first[:, None, :, None], dim=1)[:, 0]
    bumper = row[..., 2:4] + HALF_LENGTH_M * row[..., 4:6]
    front = touching(bumper, row[..., 4:6], box, 0.0)
    side = torch.take_along_dim(risky, first, dim=1)
    fault = ~moving | (~(bearings(row, box) > BEHIND) & (front | side))
    return hit.any(dim=1) & fault & (row[..., 6] > STOPPED)


def first_hits(motion: Tensor, risky: Tensor, boxes: Tensor, present: Tensor, *, last: int) -> Tensor:
    """(B, A) bool: is the first projected hit of the object a TTC violation?"""
    offsets = torch.tensor(OFFSETS, device=motion.device)
    rows = torch.arange(last + 1, device=motion.device)[:, None] + offsets  # (t, f)
    ego = motion[:, : last + 1, None, None]
    far = (ego[..., 6] * (STEP_S * offsets)[:, None])[..., None]
    hit = touching(ego[..., 2:4] + ego[..., 4:6] * far, ego[..., 4:6], boxes[:, rows], HALF_LENGTH_M)
    hit = (hit & present[:, rows] & (ego[..., 6] >= TTC_STOPPED)).flatten(1, 2)  # (B, t·f, A)
    first = hit.int().argmax(dim=1)
    t, frame = first // len(OFFSETS), rows.flatten()[first]
    row = motion.gather(1, t[..., None].expand(-1, -1, 7))
    box = torch.take_along_dim(boxes, frame[:, None, :, None], dim=1)[:, 0]
    angle = bearings(row, box)
    return hit.any(dim=1) & ((angle < AHEAD) | (torch.take_along_dim(risky, t, dim=1) & ~(angle > BEHIND)))


def _points(motion: Tensor) -> Tensor:
    """(B, T, 6, 2) four corners, centre, rear axle."""
    center, ahead = motion[..., 2:4], HALF_LENGTH_M * motion[..., 4:6]
    left = HALF_WIDTH_M * torch.stack([-motion[..., 5], motion[..., 4]], dim=-1)
    corners = [center + ahead + left, center - ahead + left, center - ahead - left, center + ahead - left]
    return torch.stack([*corners, center, motion[..., :2]], dim=-2)


def area_flags(motion: Tensor, scene: Tensor, roads: tuple[Tensor, ...]) -> Tensor:
    """(B, T, 5) bool flags in the order of `road.Areas`; roads as `TorchScorer` prepares them."""
    ranges, kinds, first, count, edges, length = roads
    points = _points(motion)
    low, high = points.flatten(1, 2).amin(1), points.flatten(1, 2).amax(1)  # (B, 2)
    box = ranges[scene]
    near = (low[:, None] < box[..., 2:]).all(-1) & (high[:, None] > box[..., :2]).all(-1)  # (B, P)
    most = int(near.sum(1).max()) if near.numel() else 0
    which = near.int().topk(most, dim=1).indices if most else near.new_zeros((len(near), 0), dtype=torch.long)
    kind = torch.where(near.gather(1, which), kinds[scene].gather(1, which), -1)  # (B, c), -1 = padding
    held = []
    for c in range(most):  # one candidate polygon of every plan at a time, to bound memory
        p = which[:, c]
        held.append(_inside(points, box[torch.arange(len(p)), p], first[scene, p], count[scene, p], edges, length))
    inside = (
        torch.stack(held, dim=1) if held else points.new_zeros((len(points), 0, *points.shape[1:3]), dtype=torch.bool)
    )
    corners = inside[..., :4]  # (B, c, T, 4)
    lane = ((kind == 1) | (kind == 2))[..., None]
    drivable, cross = ((kind == 0) | (kind == 3))[..., None, None], (kind == 3)[..., None]
    whole = (corners.all(-1) & lane).any(1)
    flags = (
        ((corners.any(-1) & lane).sum(1) > 1) & ~whole,
        ~(corners & drivable).any(1).all(-1),
        ~(inside[..., 4] & (kind == 2)[..., None]).any(1),
        (inside[..., 4] & cross).any(1),
        (inside[..., 5] & cross).any(1),
    )
    return torch.stack(flags, dim=-1)


def _inside(points: Tensor, box: Tensor, first: Tensor, count: Tensor, edges: Tensor, length: Tensor) -> Tensor:
    """(B, T, 6) bool: points (B, T, 6, 2) strictly inside one polygon per plan: box (B, 4), slabs first … first + count."""
    x, y = points[..., 0], points[..., 1]
    left, low, right, high = (box[:, i, None, None] for i in range(4))
    within = (x > left) & (x < right) & (y > low) & (y < high)
    per_m = torch.nan_to_num(count[:, None, None] / (high - low), 0.0, 0.0, 0.0)
    slab = ((y - low) * per_m).nan_to_num(0.0).clamp(min=0).long()
    slab = first[:, None, None] + torch.minimum(slab, count[:, None, None] - 1)
    out = torch.zeros_like(within)
    long = length[slab] > FEW_EDGES
    for some, width in ((within & ~long, FEW_EDGES), (within & long, edges.shape[1])):
        at = some.nonzero(as_tuple=True)  # most points of most candidates are outside the bounding box
        if len(at[0]):
            out[at] = _even_odd(x[at], y[at], edges[slab[at], :width])
    return out


def _even_odd(x: Tensor, y: Tensor, edges: Tensor) -> Tensor:
    """(N,) bool: points strictly inside by the even-odd rule, edges (N, M, 4); a point on an edge is outside."""
    x, y = x[:, None], y[:, None]
    x1, y1, x2, y2 = edges.unbind(-1)
    straddles = (y1 > y) != (y2 > y)
    side = (x2 - x1) * (y - y1) - (x - x1) * (y2 - y1)
    beside = (x >= torch.minimum(x1, x2)) & (x <= torch.maximum(x1, x2))
    level = (y1 == y) & (y2 == y) & beside
    corner = ((y1 == y) & (x1 == x)) | ((y2 == y) & (x2 == x))
    on_edge = ((straddles & (side == 0)) | level | corner).any(1)
    crossed = straddles & ((side > 0) == (y2 > y1))
    return (crossed.sum(1) % 2 == 1) & ~on_edge


def line_progress(points: Tensor, line: Tensor, arc: Tensor) -> Tensor:
    """(B, n) arc length of the nearest point of lines (B, C, 2), arc lengths (B, C), to points (B, n, 2)."""
    step = torch.diff(line, dim=1)[:, None]
    length = (step * step).sum(-1)
    gap = points[:, :, None] - line[:, None, :-1]
    share = ((gap * step).sum(-1) / length).clamp(0.0, 1.0).nan_to_num(0.0)
    squared = ((gap - share[..., None] * step) ** 2).sum(-1)
    best = squared.argmin(dim=-1, keepdim=True)
    here = arc[:, None, :-1].expand(-1, points.shape[1], -1).gather(2, best)
    piece = torch.sqrt(length).expand(-1, points.shape[1], -1).gather(2, best)
    return (here + share.gather(2, best) * piece)[..., 0]
