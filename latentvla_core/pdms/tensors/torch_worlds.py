"""Worlds as tensors on a device: what `torch_score` needs of many scenes, padded or flat, made once
and used every step.

Legend: S scenes, A objects of a scene, N time steps of 0.1 s, P polygons, C centre-line points, R
red lights, H past states. Ranges are x_min, y_min, x_max, y_max; an absent object, polygon or edge
is padded so that nothing can meet it. Big columns are flat over scenes (objects, slabs), small ones
padded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass

import numpy as np
import torch
from torch import Tensor

from latentvla_core.geometry import arc_length
from latentvla_core.pdms.contacts.collision_kernels import EGO_REACH, STOPPED
from latentvla_core.pdms.measure import obstacles_v1, obstacles_v2, red_lights, road_polygons
from latentvla_core.pdms.motion import comfort, tracker
from latentvla_core.pdms.roads import road
from latentvla_core.pdms.roads.progress_kernels import BLOCK
from latentvla_core.pdms.roads.road_kernels import SLACK_M
from latentvla_core.pdms.state import State
from latentvla_core.pdms.tensors.torch_geometry import line_progress, motion_of
from latentvla_core.pdms.world import World
from latentvla_core.types import PLAN_STEPS, Array, Vehicle

STEPS_SEEN = 51  # time steps of an object, v2.2's 41 padded: one shape for both metrics
SLAB_M, EDGES_PER_SLAB, MAX_SLABS = 2.0, 2, 512  # a slab is as thin as the edges are many
# edges of a slab that stand in its row; most slabs have two, the rest of the others stands in
# `edges`
FEW_EDGES = 4
NOWHERE = (np.inf, np.inf, -np.inf, -np.inf)
Put = Callable[[Array], Tensor]


@dataclass(frozen=True, slots=True)
class Objects:
    """Boxes of everybody else; the objects of all scenes stand behind one another (O)."""

    ranges: Tensor
    """(S, A, 4) over the whole time, grown by the ego's own reach."""
    first: Tensor
    """(S,) int64 place of a scene's first object in the flat columns."""
    center: Tensor
    """(2, O, N) x and y, infinite where absent."""
    sides: Tensor
    """(O, N, 4) the two half-side vectors."""
    reach: Tensor
    """(O,) most of any distance centre to corner, plus the ego's."""
    is_agent: Tensor
    """(O,) bool."""
    moving: Tensor
    """(O,) bool: an agent that does not stand."""


@dataclass(frozen=True, slots=True)
class Roads:
    """Polygons, cut into horizontal slabs so that a point meets only the edges beside it; the slabs
    of all scenes in a row (Z).
    """

    ranges: Tensor
    """(S, P, 4)"""
    polygons: Tensor
    """(8, S · P) range, slabs per metre of height, last slab counted from the first, first slab,
    kind of `road.RoadIndex.kinds`.
    """
    spans: Tensor
    """(2, Z) extent in x of a slab's edges."""
    few: Tensor
    """(4 · FEW_EDGES, Z) x1 of its first edges, then their y1, x2 and y2, infinite where it has
    fewer.
    """
    rest: Tensor
    """(Z + 1,) int64 place in `edges` of what did not fit."""
    edges: Tensor
    """(4, E)"""


@dataclass(frozen=True, slots=True)
class Line:
    """Centre lines, padded with their last point, and boxes around every BLOCK of their segments."""

    pieces: Tensor
    """(S, 6, C) x, y, dx, dy of each segment, its squared length (1 for padding) and the arc length
    before it.
    """
    blocks: Tensor
    """(S, C / BLOCK, 4) ranges, grown by the distance that lane keeping allows."""
    segments: Tensor
    """(S, C / BLOCK, BLOCK, 4) x, y, dx, dy."""


@dataclass(frozen=True, slots=True)
class Lights:
    """Connectors that show red at some step."""

    ranges: Tensor
    """(S, R, 4) grown by the ego's reach."""
    active: Tensor
    """(S, R, 41) bool."""
    edges: Tensor
    """(S, R, M, 4) the ring, padded with infinite edges."""


@dataclass(frozen=True, slots=True)
class Past:
    """History states that v2.2 puts before a plan, right-aligned; and its filters for every length
    found.
    """

    length: Tensor
    """(S,) int64"""
    series: Tensor
    """(S, 4, H) longitudinal (of the centre) and lateral acceleration, its magnitude, heading."""
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Tables:
    """Everything of S scenes for one metric, on one device."""

    usable: Tensor
    """(S,) bool."""
    ego: Tensor
    """(S, 11)"""
    times: tuple[Tensor, Tensor, Tensor]
    """(S, 41) each: knot after a query time, microseconds since the knot before, length of the
    interval.
    """
    time_us: Tensor
    """(S,) int64"""
    began_m: Tensor
    """(S,) arc length of the centre line where the ego, and so every plan, starts."""
    objects: Objects
    roads: Roads
    line: Line
    lights: Lights
    past: Past


def tensors_of(part: object) -> list[Tensor]:
    """All tensors in a tree of dataclasses and tuples."""
    if isinstance(part, Tensor):
        return [part]
    inner = part
    if is_dataclass(part) and not isinstance(part, type):
        inner = [getattr(part, f.name) for f in fields(part)]
    return [t for x in inner for t in tensors_of(x)] if isinstance(inner, list | tuple) else []


def tables_of(worlds: Sequence[World], metric: str, device: torch.device) -> Tables:
    """The scenes' columns for a metric ("pdms" or "epdms")."""

    def put(array: Array) -> Tensor:
        return torch.tensor(array, device=device)

    late = metric == "epdms"
    ego, line = put(np.stack([np.nan_to_num(w.ego_state) for w in worlds])), _line(worlds, put)
    return Tables(
        usable=put(np.array([w.valid and (late or w.has_v1) for w in worlds])),
        ego=ego,
        times=_times(worlds, put),
        time_us=put(np.array([w.timestamp_us for w in worlds], np.int64)),
        began_m=line_progress(motion_of(ego[:, None])[:, 0, 2:4], line.pieces),
        objects=_objects(worlds, late, put),
        roads=_roads(worlds, put),
        line=line,
        lights=_lights(worlds, late, put),
        past=_past(worlds, late, put),
    )


def _times(worlds: Sequence[World], put: Put) -> tuple[Tensor, Tensor, Tensor]:
    rows = []
    for world in worlds:
        knots = tracker.plan_times_us(world.timestamp_us, PLAN_STEPS)
        query = np.clip(tracker.sample_times_us(world.timestamp_us), knots[0], knots[-1])
        high = np.clip(np.searchsorted(knots, query, side="left"), 1, PLAN_STEPS)
        rows.append((high, query - knots[high - 1], knots[high] - knots[high - 1]))
    high, offset, span = (np.stack(x) for x in zip(*rows, strict=True))
    return put(high), put(offset.astype(float)), put(span.astype(float))


def _objects(worlds: Sequence[World], late: bool, put: Put) -> Objects:
    found = [(obstacles_v2 if late else obstacles_v1)(world)[0] for world in worlds]
    counts = np.array([t.valid.shape[1] for t in found])
    ranges = np.tile(NOWHERE, (len(worlds), max(counts.max(initial=0), 1), 1))
    shape = (int(counts.sum()), STEPS_SEEN)
    center, sides, reach = np.full((*shape, 2), np.inf), np.zeros((*shape, 4)), np.zeros(shape[0])
    first = np.concatenate([[0], np.cumsum(counts)])
    for s, t in enumerate(found):
        own, seen = slice(first[s], first[s + 1]), t.valid.T[..., None]
        boxes, steps = np.nan_to_num(t.boxes.transpose(1, 0, 2)), slice(0, len(t.valid))
        center[own, steps], sides[own, steps] = (
            np.where(seen, boxes[..., :2], np.inf),
            boxes[..., 2:],
        )
        reach[own] = np.where(t.valid, t.reach, 0.0).max(0, initial=0.0) + EGO_REACH
        grown = reach[own, None, None]
        ranges[s, : counts[s], :2] = np.where(seen, boxes[..., :2] - grown, np.inf).min(
            1, initial=np.inf
        )
        ranges[s, : counts[s], 2:] = np.where(seen, boxes[..., :2] + grown, -np.inf).max(
            1, initial=-np.inf
        )
    agent = np.concatenate([t.is_agent for t in found])
    moving = agent & np.concatenate([t.speed_mps > STOPPED for t in found])
    return Objects(
        *map(
            put,
            (ranges, first[:-1], np.moveaxis(center, -1, 0).copy(), sides, reach, agent, moving),
        )
    )


def _roads(worlds: Sequence[World], put: Put) -> Roads:
    indices = [road.index_roads(road_polygons(world)) for world in worlds]
    most = max(1, *(len(index.ranges) for index in indices))
    polygons, parts, done = np.zeros((len(worlds), most, 8)), [], 0
    polygons[..., :4] = NOWHERE
    for s, index in enumerate(indices):
        n, offsets, spans, edges, lengths = len(index.ranges), *_slabs(index)
        height, count = index.ranges[:, 3] - index.ranges[:, 1], np.diff(offsets)
        per_m = np.divide(count, height, out=np.zeros(n), where=height > 0)
        polygons[s, :n, :4] = index.ranges
        polygons[s, :n, 4:] = np.stack(
            [per_m, count - 1, offsets[:-1] + done, index.kinds], axis=-1
        )
        done += offsets[-1]
        parts.append((spans, edges, lengths))
    spans, edges, lengths = (np.concatenate(x) for x in zip(*parts, strict=True))
    place = np.arange(len(edges)) - np.repeat(
        np.cumsum(lengths) - lengths, lengths
    )  # of an edge in its slab
    slab, here = np.repeat(np.arange(len(lengths)), lengths), place < FEW_EDGES
    few = np.full((4, FEW_EDGES, len(lengths)), np.inf)
    few[:, place[here], slab[here]] = edges[here].T
    rest = np.concatenate([[0], np.cumsum(np.maximum(lengths - FEW_EDGES, 0))])
    columns = (
        polygons[..., :4],
        polygons.reshape(-1, 8).T,
        spans.T,
        few.reshape(-1, len(lengths)),
        rest,
        edges[~here].T,
    )
    return Roads(*(put(np.ascontiguousarray(column)) for column in columns))


def _slabs(index: road.RoadIndex) -> tuple[Array, Array, Array, Array]:
    """First slab of each polygon (P + 1,), extents in x (slabs, 2), edges sorted by slab (n, 4),
    edges per slab (slabs,).
    """
    ranges, edges = index.ranges, index.edges
    height = np.maximum(ranges[:, 3] - ranges[:, 1], 0.0)
    per_polygon = np.diff(index.edge_offsets)
    count = np.maximum(height / SLAB_M, per_polygon / EDGES_PER_SLAB).astype(np.int64) + 1
    count = np.minimum(np.where(height > 0, count, 1), MAX_SLABS)
    offsets = np.concatenate([[0], np.cumsum(count)])
    owner = np.repeat(np.arange(len(count)), per_polygon)
    per_m = np.divide(count, height, out=np.zeros(len(count)), where=height > 0)[owner]
    low, high = (
        np.clip(((y - ranges[owner, 1]) * per_m).astype(np.int64), 0, count[owner] - 1)
        + offsets[owner]
        for y in (edges[:, [1, 3]].min(1), edges[:, [1, 3]].max(1))
    )
    times = high - low + 1
    edge = np.repeat(np.arange(len(times)), times)
    slab = np.repeat(low, times) + np.arange(len(edge)) - np.repeat(np.cumsum(times) - times, times)
    order = np.argsort(slab, kind="stable")
    edge, slab = edge[order], slab[order]
    spans = np.tile([np.inf, -np.inf], (offsets[-1], 1))
    own = _spans(
        edges[edge],
        slab,
        ranges[owner[edge], 1],
        (height / count)[owner[edge]],
        offsets[owner[edge]],
    )
    spans[np.unique(slab)] = own
    return offsets, spans, edges[edge], np.bincount(slab, minlength=offsets[-1])


def _spans(edges: Array, slab: Array, bottom: Array, height: Array, first: Array) -> Array:
    """(n', 2) extent in x of the parts of edges (n, 4) inside their slabs (n,), for every slab that
    has some.
    """
    x1, y1, x2, y2 = edges.T
    run = np.divide(x2 - x1, y2 - y1, out=np.zeros(len(x1)), where=y1 != y2)
    low = bottom + (slab - first) * height - SLACK_M
    ends = np.clip(
        np.stack([low, low + height + 2 * SLACK_M]), np.minimum(y1, y2), np.maximum(y1, y2)
    )
    inside = np.where(run != 0.0, x1 + run * (ends - y1), np.stack([x1, x2]))
    starts = np.flatnonzero(np.diff(slab, prepend=-1))
    low_x, high_x = (
        np.minimum.reduceat(inside.min(0), starts),
        np.maximum.reduceat(inside.max(0), starts),
    )
    return np.stack([low_x - SLACK_M, high_x + SLACK_M], axis=-1)


def _line(worlds: Sequence[World], put: Put) -> Line:
    most = max(2, *(len(world.centerline) for world in worlds))
    most = -(-(most - 1) // BLOCK) * BLOCK + 1
    lines = np.stack([_padded(world.centerline[:, :2], most) for world in worlds])
    corner = np.stack([lines[:, :-1], lines[:, 1:]]).reshape(2, len(worlds), -1, BLOCK, 2)
    grow = road.LANE_DISTANCE_M + SLACK_M
    blocks = np.concatenate([corner.min((0, 3)) - grow, corner.max((0, 3)) + grow], axis=-1)
    segments = np.concatenate([corner[0], corner[1] - corner[0]], axis=-1)
    arc = np.stack([arc_length(line) for line in lines])
    way = np.diff(lines, axis=1)
    squared = (way * way).sum(-1)
    squared[squared == 0.0] = 1.0  # a segment without length: its share is 0 either way
    columns = [*np.moveaxis(lines[:, :-1], -1, 0), *np.moveaxis(way, -1, 0), squared, arc[:, :-1]]
    return Line(put(np.stack(columns, axis=1)), put(blocks), put(segments))


def _padded(line: Array, count: int) -> Array:
    """(count, 2) a line (n, 2) that stays at its end; one far away where there is none."""
    if len(line) == 0:
        return np.full((count, 2), 1e9)
    return np.pad(line, [(0, count - len(line)), (0, 0)], mode="edge")


def _lights(worlds: Sequence[World], late: bool, put: Put) -> Lights:
    rings = [red_lights(world) for world in worlds] if late else []
    most = max((len(r.offsets) - 1 for r in rings), default=0)
    longest = max((int(np.diff(r.offsets).max(initial=0)) for r in rings), default=0)
    ranges = np.tile(NOWHERE, (len(worlds), most, 1))
    active, edges = (
        np.zeros((len(worlds), most, 41), bool),
        np.full((len(worlds), most, longest, 4), np.inf),
    )
    for s, lights in enumerate(rings):
        for r, (a, b) in enumerate(zip(lights.offsets[:-1], lights.offsets[1:], strict=True)):
            ring = np.asarray(lights.vertices[a:b], float)
            edges[s, r, : b - a] = np.concatenate([ring, np.roll(ring, -1, axis=0)], axis=1)
            active[s, r] = lights.active[:41, r]
            if active[s, r].any():
                ranges[s, r] = *(ring.min(0) - EGO_REACH), *(ring.max(0) + EGO_REACH)
    return Lights(put(ranges), put(active), put(edges))


def _past(worlds: Sequence[World], late: bool, put: Put) -> Past:
    states = [world.history_states if late else world.history_states[:0] for world in worlds]
    most = max(map(len, states), default=0)
    series = np.zeros((len(worlds), 4, most))
    for s, past in enumerate(states):
        if len(past):
            along = past[:, State.AX] + Vehicle.REAR_AXLE_TO_CENTER_M * (
                past[:, State.YAW_RATE] ** 2 + past[:, State.YAW_ACCEL]
            )
            magnitude = np.hypot(past[:, State.AX], past[:, State.AY])
            own = np.stack([along, past[:, State.AY], magnitude, past[:, State.YAW]])
            series[s] = np.pad(own, [(0, 0), (most - len(past), 0)], mode="edge")
    lengths = np.array([len(past) for past in states], np.int64)
    return Past(put(lengths), put(series), tuple(sorted(set(lengths.tolist()))))


def filter_of(length: int, most: int, steps: int, shape: tuple[int, int, int]) -> Array:
    """(most + steps, most + steps) `comfort.filter_matrix` of `length` + steps samples that stand
    at the end.
    """
    n, total = length + steps, most + steps
    out = np.zeros((total, total))
    out[total - n :, total - n :] = comfort.filter_matrix(n, *shape)
    return out
