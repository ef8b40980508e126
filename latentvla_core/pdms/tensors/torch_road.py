"""Where the ego is on the road, in torch: area flags, DDC, TLC, LK. See `road.py`.

Legend: B plans, T = 41 states, P polygons, R red lights; n pairs, m (pair, step), k (pair, step,
point) that are possible.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latentvla_core.pdms.contacts.collision_kernels import EGO_REACH
from latentvla_core.pdms.roads import road
from latentvla_core.pdms.state import HALF_LENGTH_M, HALF_WIDTH_M
from latentvla_core.pdms.tensors.torch_geometry import (
    constant,
    even_odd,
    pairs_in_range,
    picked,
    points_of,
    within,
)
from latentvla_core.pdms.tensors.torch_worlds import Lights, Line, Roads
from latentvla_core.types import Array

ASKED = (  # by kind of polygon: do the four corners, the centre, the rear axle matter?
    (True, True, True, True, False, False),
    (True, True, True, True, False, False),
    (True, True, True, True, True, False),
    (True, True, True, True, True, True),
)
PIECE = 1 << 18  # box-and-ring pairs at once in the red-light test


def _asked() -> Array:
    return np.array(ASKED).T


def _growth() -> Array:
    return EGO_REACH * np.array([[-1.0], [-1.0], [1.0], [1.0]])


def area_flags(motion: Tensor, scene: Tensor, roads: Roads) -> Tensor:
    """(5, B, T) bool flags in the order of `road.Areas`, of motion (B, T, 7) in scenes (B,)."""
    plans, steps = motion.shape[:2]
    points = points_of(motion)
    x, y = points[:4].unflatten(1, (plans, steps)), points[6:10].unflatten(1, (plans, steps))
    low, high = (torch.stack([f(x, (0, 2)), f(y, (0, 2))], dim=1) for f in (torch.amin, torch.amax))
    plan, which = pairs_in_range(low, high, roads.ranges[scene])
    polygon = scene[plan] * roads.ranges.shape[1] + which
    grown = picked(roads.polygons[:4], polygon) + constant(_growth, motion.device)
    center = points[[4, 10]].unflatten(1, (plans, steps)).index_select(1, plan)  # (2, n, T)
    near = within(center[0], center[1], grown[..., None]).flatten().nonzero()[:, 0]
    pair = near // steps
    at = plan.take(pair) * steps + near % steps
    own = picked(roads.polygons, polygon.take(pair))
    return _flags(_held(picked(points, at), own, roads), own[7], at, plans, steps)


def _held(points: Tensor, own: Tensor, roads: Roads) -> Tensor:
    """(6, m) bool: points (12, m) strictly inside polygons (8, m); False where it does not matter."""
    x, y = points[:6], points[6:]
    per_m, last, first, kind = own[4:]
    inside = within(x, y, own[:4]) & constant(_asked, x.device)[:, kind.long()]
    slab = torch.minimum(((y - own[1]) * per_m).floor(), last) + first
    found = inside.flatten().nonzero()[:, 0]
    x, y, slab = x.take(found), y.take(found), slab.take(found).long()
    start, end = picked(roads.spans, slab)
    kept = ((x >= start) & (x <= end)).nonzero()[:, 0]
    found, x, y, slab = (column.take(kept) for column in (found, x, y, slab))
    crossed, on_edge = even_odd(x, y, picked(roads.few, slab).unflatten(0, (4, -1)).unbind(0))
    more, more_on = _rest(x, y, slab, roads)
    held = torch.zeros(inside.numel(), dtype=torch.bool, device=x.device)
    held.index_copy_(0, found, ((crossed + more) % 2 == 1) & ~(on_edge | more_on))
    return held.reshape(inside.shape)


def _rest(x: Tensor, y: Tensor, slab: Tensor, roads: Roads) -> tuple[Tensor, Tensor]:
    """Crossings (k,) and (k,) bool on an edge, for those edges of slabs (k,) that did not fit into
    `Roads.few`.
    """
    start = roads.rest.take(slab)
    times = roads.rest.take(slab + 1) - start
    owner = torch.repeat_interleave(times)
    place = torch.arange(len(owner), device=x.device) - (times.cumsum(0) - times - start).take(
        owner
    )
    crossed, on_edge = even_odd(
        x.take(owner), y.take(owner), picked(roads.edges, place)[:, None].unbind(0)
    )
    found = torch.zeros(2, len(x), dtype=torch.long, device=x.device)
    found.index_add_(1, owner, torch.stack([crossed, on_edge.long()]))
    return found[0], found[1] > 0


def _flags(held: Tensor, kind: Tensor, at: Tensor, plans: int, steps: int) -> Tensor:
    """(5, B, T) flags from what each polygon holds, (6, m) bool, its kind (m,) and the flat step
    (m,).
    """
    cross, route = kind == 3, kind == 2
    lane, area = (kind == 1) | route, (kind == 0) | cross
    corners, center, rear = held[:4], held[4], held[5]
    any_corner, all_corners = corners.any(0), corners.all(0)
    columns = [
        any_corner & lane,
        all_corners & lane,
        center & route,
        center & cross,
        rear & cross,
        *(corners & area),
    ]
    sums = torch.zeros(len(columns), plans * steps, dtype=torch.int32, device=at.device)
    sums.index_add_(1, at, torch.stack(columns).int())
    covered = (sums[5:] > 0).all(0)
    flags = [(sums[0] > 1) & (sums[1] == 0), ~covered, sums[2] == 0, sums[3] > 0, sums[4] > 0]
    return torch.stack(flags).reshape(5, plans, steps)


def driving_direction(motion: Tensor, oncoming: Tensor) -> Tensor:
    """DDC (B,) from the metres driven within a second at steps where oncoming (B, T)."""
    step = torch.linalg.vector_norm(motion[:, 1:, 2:4] - motion[:, :-1, 2:4], dim=-1)
    total = torch.cumsum(torch.nn.functional.pad(step, (1, 0)) * oncoming, dim=1)
    window = total.clone()
    window[:, road.ONCOMING_WINDOW :] -= total[:, : -road.ONCOMING_WINDOW]
    most = window.amax(dim=1)
    half = torch.where(most < road.ONCOMING_ZERO_M, 0.5, 0.0).to(motion)
    return torch.where(most < road.ONCOMING_HALF_M, 1.0, half)


def lane_keeping(motion: Tensor, crossing: Tensor, scene: Tensor, line: Line) -> Tensor:
    """LK (B,) of motion (B, T, 7); crossing (B, T): centre in an intersection, a step that is
    skipped.
    """
    center = motion[..., 2:4]
    plan, block = pairs_in_range(center.amin(1), center.amax(1), line.blocks[scene])
    ranges = line.blocks[scene[plan], block]
    own = center[plan]
    pair, step = within(own[..., 0], own[..., 1], ranges.t()[..., None]).nonzero(as_tuple=True)
    segments = line.segments[scene[plan[pair]], block[pair]]  # (m, BLOCK, 4)
    gap, way = own[pair, step][:, None] - segments[..., :2], segments[..., 2:]
    share = ((gap * way).sum(-1) / (way * way).sum(-1)).clamp(0.0, 1.0).nan_to_num(0.0)
    near = (
        torch.sqrt(((gap - share[..., None] * way) ** 2).sum(-1)).amin(-1) <= road.LANE_DISTANCE_M
    )
    count = torch.zeros(crossing.numel(), dtype=torch.int32, device=near.device)
    count.index_add_(0, plan[pair] * crossing.shape[1] + step, near.int())
    off, counts = (count == 0).reshape(crossing.shape), ~crossing
    total = (off & counts).long().cumsum(1)
    before = (
        torch.where(~off & counts, total, 0).cummax(1).values
    )  # the count at the last step near the line
    return torch.where((total - before >= road.LANE_STEPS).any(1), 0.0, 1.0).to(motion)


def traffic_lights(motion: Tensor, scene: Tensor, lights: Lights) -> Tensor:
    """TLC (B,): 0 where the ego box touches a connector while it is red."""
    out = torch.ones(len(motion), dtype=motion.dtype, device=motion.device)
    if lights.ranges.shape[1] == 0:
        return out
    center = motion[..., 2:4]
    plan, which = pairs_in_range(center.amin(1), center.amax(1), lights.ranges[scene])
    ranges, active = lights.ranges[scene[plan], which], lights.active[scene[plan], which]
    own = center[plan]
    near = within(own[..., 0], own[..., 1], ranges.t()[..., None]) & active
    pair, step = near.nonzero(as_tuple=True)
    size = max(PIECE // max(lights.edges.shape[2], 1), 1)
    for some, when in zip(pair.split(size), step.split(size), strict=True):
        who = plan[some]
        hit = _meets_ring(motion[who, when], lights.edges[scene[who], which[some]])
        out = out.scatter_reduce(0, who, torch.where(hit, 0.0, 1.0).to(out), "amin")
    return out


def _meets_ring(own: Tensor, edges: Tensor) -> Tensor:
    """(n,) bool: does the ego box of motion (n, 7) share a point with the area of a ring, edges (n,
    M, 4)?
    """
    crossed, on_edge = even_odd(own[:, 2], own[:, 3], edges.permute(2, 1, 0).unbind(0))
    edges = torch.where(
        edges.isfinite(), edges, 1e9
    )  # padding, from here on far away instead of nowhere
    cos, sin = own[:, None, 4], own[:, None, 5]
    along, aside = [], []
    for x, y in ((edges[..., 0], edges[..., 1]), (edges[..., 2], edges[..., 3])):
        dx, dy = x - own[:, None, 2], y - own[:, None, 3]
        along.append(dx * cos + dy * sin)
        aside.append(dy * cos - dx * sin)
    (x1, x2), (y1, y2) = along, aside
    meets = (torch.minimum(x1, x2) <= HALF_LENGTH_M) & (torch.maximum(x1, x2) >= -HALF_LENGTH_M)
    meets &= (torch.minimum(y1, y2) <= HALF_WIDTH_M) & (torch.maximum(y1, y2) >= -HALF_WIDTH_M)
    across = (x1 * y2 - y1 * x2).abs() <= HALF_LENGTH_M * (y2 - y1).abs() + HALF_WIDTH_M * (
        x2 - x1
    ).abs()
    return (meets & across).any(1) | on_edge | (crossed % 2 == 1)
