"""Where the ego is on the road: drivable area, driving direction, red lights, lane keeping (DAC,
DDC, TLC, LK).

Source: pdms.md §7.2, §8.3, §8.4, §8.5, §8.9. One scene, B proposals, T = 41 states.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentvla_core.pdms import backend
from latentvla_core.pdms.roads.road_kernels import areas_numba, lights_numba, ring_edges, slab_edges
from latentvla_core.pdms.roads.road_numpy import areas_numpy, lights_numpy, ring_edges_numpy
from latentvla_core.pdms.state import (
    HALF_LENGTH_M,
    HALF_WIDTH_M,
    Motion,
    RedLights,
    RoadPolygons,
    ego_motion,
    ego_points,
)
from latentvla_core.types import Array

ONCOMING_WINDOW = 11  # states: one second and its start
ONCOMING_HALF_M, ONCOMING_ZERO_M = 2.0, 6.0
LANE_DISTANCE_M = 0.5
LANE_STEPS = 20  # ceil(2.0 s / 0.1 s)


@dataclass(frozen=True, slots=True)
class Areas:
    """Flags of the ego box per proposal and step, all (B, T) bool."""

    multiple_lanes: Array
    non_drivable: Array
    oncoming: Array
    center_in_intersection: Array
    """Box centre, for DDC and LK."""
    rear_in_intersection: Array
    """Rear axle, for TTC."""

    @property
    def risky(self) -> Array:
        """(B, T) makes side contacts the ego's fault."""
        return self.multiple_lanes | self.non_drivable


@dataclass(frozen=True, slots=True)
class RoadIndex:
    """Road polygons prepared for many point tests."""

    kinds: Array
    """(P,) int8: 0 drivable area, 1 lane off the route, 2 lane on the route, 3 intersection (also
    drivable).
    """
    ranges: Array
    """(P, 4) x_min, y_min, x_max, y_max."""
    edges: Array
    """(E, 4) x1, y1, x2, y2, grouped by polygon."""
    edge_offsets: Array
    """(P + 1,)"""
    slabs: tuple[Array, Array, Array, Array] | None
    """Edges sorted into horizontal slabs, so that a point meets only those beside it; None for
    NumPy. First slab of each polygon (P + 1,), first edge of each slab (slabs + 1,), its extent in
    x (slabs, 2), edges (entries, 4).
    """


def index_roads(roads: RoadPolygons, *, motion: Array | None = None) -> RoadIndex:
    """Prepare the polygons of one scene; given motion (..., 7), only for points of ego boxes on it."""
    vertices = np.ascontiguousarray(roads.ring_vertices, np.float64).reshape(-1, 2)
    rings = np.ascontiguousarray(roads.ring_offsets, np.int64)
    owners = np.ascontiguousarray(roads.polygon_ring_offsets, np.int64)
    if backend.active() == "numba":
        edges, offsets, ranges = ring_edges(vertices, rings, owners)
        return RoadIndex(
            _kinds(roads),
            ranges,
            edges,
            offsets,
            slab_edges(edges, offsets, ranges, _region(motion)),
        )
    edges, offsets, ranges = ring_edges_numpy(vertices, rings, owners)
    return RoadIndex(_kinds(roads), ranges, edges, offsets, None)


def _region(motion: Array | None) -> Array:
    """(4,) x_min, y_min, x_max, y_max that the ego boxes of motion (..., 7) stay in."""
    if motion is None:
        return np.array([-np.inf, -np.inf, np.inf, np.inf])
    center = motion[..., Motion.CENTER_X : Motion.COS].reshape(-1, 2)
    reach = HALF_LENGTH_M + HALF_WIDTH_M
    return np.concatenate([center.min(axis=0) - reach, center.max(axis=0) + reach])


_KIND_OF_LAYER = np.array([0, 1, 1, 3, 0], np.int8)  # by Layer


def _kinds(roads: RoadPolygons) -> Array:
    """(P,) int8, see `RoadIndex.kinds`."""
    kinds = _KIND_OF_LAYER[roads.layers]
    return np.where((kinds == 1) & roads.on_route, np.int8(2), kinds)


def ego_areas(states: Array, index: RoadIndex, *, motion: Array | None = None) -> Areas:
    """Area flags of states (B, T, 11). A point on a polygon's boundary is outside (§7.1).

    Args:
        motion: (B, T, 7) `ego_motion(states)`, to save making it again.
    """
    motion = ego_motion(states) if motion is None else motion
    if index.slabs is not None:
        flags = areas_numba(motion, index.ranges, index.kinds, *index.slabs)
    else:
        flags = areas_numpy(motion, index.ranges, index.kinds, index.edges, index.edge_offsets)
    return Areas(*(flags[..., k] for k in range(5)))


def drivable_area_compliance(areas: Areas) -> Array:
    """(B,) 0 where a corner leaves the drivable area at any step, else 1."""
    return np.where(areas.non_drivable.any(axis=-1), 0.0, 1.0)


def driving_direction_compliance(
    states: Array, oncoming: Array, excused: Array | None = None, *, motion: Array | None = None
) -> tuple[Array, Array]:
    """DDC (B,) and the most metres driven off the route's lanes within one second (B,).

    Args:
        states: (B, T, 11) simulated states.
        oncoming: (B, T) bool: centre in no lane of the route.
        excused: (B, T) bool steps that do not count: the centre in an intersection (v2.2); None in
        v1.1.
        motion: (B, T, 7) `ego_motion(states)`, to save making it again.
    """
    motion = ego_motion(states) if motion is None else motion
    most = oncoming_metres(motion, oncoming if excused is None else oncoming & ~excused).max(
        axis=-1
    )
    return np.where(most < ONCOMING_HALF_M, 1.0, np.where(most < ONCOMING_ZERO_M, 0.5, 0.0)), most


def oncoming_metres(motion: Array, counted: Array) -> Array:
    """(B, T) metres driven off the route's lanes within the second up to each step.

    Args:
        motion: (B, T, 7) `ego_motion`; counted: (B, T) bool steps that count.
    """
    moved = np.zeros(counted.shape)
    moved[..., 1:] = np.sqrt(
        (np.diff(motion[..., Motion.CENTER_X : Motion.COS], axis=-2) ** 2).sum(-1)
    )
    moved[~counted] = 0.0
    total = np.cumsum(moved, axis=-1)
    total[..., ONCOMING_WINDOW:] -= np.cumsum(moved, axis=-1)[..., :-ONCOMING_WINDOW]
    return total


def traffic_light_compliance(states: Array, lights: RedLights) -> Array:
    """(B,) 0 where the ego box touches a connector while it is red, at any step of states (B, T,
    11), else 1.
    """
    if len(lights.offsets) < 2 or not lights.active.any():
        return np.ones(len(states))
    test = lights_numba if backend.active() == "numba" else lights_numpy
    vertices = np.ascontiguousarray(lights.vertices, np.float64)
    active = np.ascontiguousarray(lights.active[: states.shape[1]])
    points = np.ascontiguousarray(ego_points(states)[..., :4, :])
    return np.where(test(points, vertices, np.asarray(lights.offsets, np.int64), active), 0.0, 1.0)


def lane_keeping(off_center: Array, in_intersection: Array) -> Array:
    """(B,) 0 where the centre is too far from the centre line for 2 s, else 1.

    Args:
        off_center: (B, T) bool: box centre more than `LANE_DISTANCE_M` from the centre line.
        in_intersection: (B, T) bool: step is skipped, the count neither grows nor restarts.
    """
    if not (off_center.sum(axis=1) >= LANE_STEPS).any():  # nearly always
        return np.ones(len(off_center))
    return np.where((lane_counts(off_center, in_intersection) >= LANE_STEPS).any(axis=1), 0.0, 1.0)


def lane_counts(off_center: Array, in_intersection: Array) -> Array:
    """(B, T) steps too far from the centre line in a row, up to each step; arguments as in
    `lane_keeping`.
    """
    counts, count = np.zeros(off_center.shape, np.int64), np.zeros(len(off_center), np.int64)
    for t in range(off_center.shape[1]):
        grown = np.where(off_center[:, t], count + 1, 0)
        count = np.where(in_intersection[:, t], count, grown)
        counts[:, t] = count
    return counts
