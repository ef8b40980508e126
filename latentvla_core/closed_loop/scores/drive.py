"""The arrays that scores are made from: a driven path, the actors around it, the ground below it.

Legend: T steps of 0.1 s, A actors, L lanes and connectors, S stop lines. One frame of coordinates
for all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely

from latentvla_core.closed_loop.scenes.route import Route
from latentvla_core.closed_loop.scenes.town import Town
from latentvla_core.closed_loop.steps import Moment
from latentvla_core.geometry import box_corners
from latentvla_core.pdms.state import RoadPolygons, ego_motion, ego_points
from latentvla_core.types import Array, ObjectClass

TOLERANCE_M = 0.3
"""A corner may be so far outside the drivable area (nuPlan's closed loop)."""


@dataclass(frozen=True, slots=True)
class Value:
    """A term of a score, and whether it could be computed."""

    value: float
    valid: bool = True


@dataclass(frozen=True, slots=True)
class Actors:
    """Road users and things over time."""

    tokens: tuple[str, ...]
    classes: Array
    """(A,) int8 `ObjectClass`."""
    sizes_m: Array
    """(A, 2) length, width."""
    poses: Array
    """(T, A, 3) box centres; NaN where absent."""
    speed_mps: Array
    """(T, A)"""

    @property
    def present(self) -> Array:
        """(T, A) bool"""
        return np.asarray(~np.isnan(self.poses[..., 0]), bool)

    @property
    def corners(self) -> Array:
        """(T, A, 4, 2)"""
        return box_corners(self.poses, self.sizes_m[:, 0], self.sizes_m[:, 1])

    @property
    def is_static(self) -> Array:
        """(A,) bool: neither vehicle, bicycle nor person."""
        return self.classes > ObjectClass.BICYCLE

    @staticmethod
    def of(moments: Sequence[Moment]) -> Actors:
        """Arrays of the actors of every step."""
        first = {a.token: a for m in reversed(moments) for a in m.actors}
        index = {token: k for k, token in enumerate(first)}
        poses = np.full((len(moments), len(index), 3), np.nan)
        speed = np.zeros(poses.shape[:2])
        for step, moment in enumerate(moments):
            for a in moment.actors:
                poses[step, index[a.token]] = a.pose
                speed[step, index[a.token]] = np.hypot(a.velocity_mps[0], a.velocity_mps[1])
        classes = np.array([int(a.cls) for a in first.values()], np.int8)
        sizes = np.array([a.size_m[:2] for a in first.values()], float).reshape(-1, 2)
        return Actors(tuple(first), classes, sizes, poses, speed)


@dataclass(frozen=True, slots=True)
class Flow:
    """A lane or connector: where it goes and how fast one may drive."""

    id: str
    path: Route
    limit_mps: float
    """NaN = unknown."""


@dataclass(frozen=True, slots=True)
class StopLine:
    """Where an incoming lane ends before a junction."""

    xy_m: Array
    """(2,)"""
    yaw_rad: float
    connector_ids: tuple[str, ...]
    control: str
    """signal | stop | others, which ask for nothing."""


@dataclass(frozen=True, eq=False)
class Ground:
    """The road that a run is scored on."""

    flows: tuple[Flow, ...]
    flow_shapes: Array
    """(L,) shapely polygons of the flows."""
    drivable: shapely.Geometry
    roads: RoadPolygons
    """For the PDM score's area flags; on the route: its lanes."""
    stop_lines: tuple[StopLine, ...]
    route: Route

    @cached_property
    def forgiving(self) -> shapely.Geometry:
        """The drivable area with nuPlan's tolerance around it."""
        wide = shapely.buffer(self.drivable, TOLERANCE_M)
        shapely.prepare(wide)
        return wide

    @cached_property
    def tree(self) -> shapely.STRtree:
        return shapely.STRtree(self.flow_shapes)

    def flows_at(self, xy_m: Array) -> list[list[int]]:
        """Per point (T, 2) the flows whose polygon holds it."""
        found: list[list[int]] = [[] for _ in xy_m]
        points, rows = self.tree.query(shapely.points(xy_m), predicate="intersects")
        for point, row in zip(points, rows, strict=True):
            found[point].append(int(row))
        return found


@dataclass(frozen=True, eq=False)
class Drive:
    """One run, ready to be scored."""

    states: Array
    """(T, 11) `State`."""
    actors: Actors
    lights: Sequence[Mapping[str, str]]
    """(T) connector id → colour."""
    ground: Ground

    @cached_property
    def motion(self) -> Array:
        """(1, T, 7)"""
        return ego_motion(self.states[None])

    @cached_property
    def points(self) -> Array:
        """(T, 5, 2) corners and centre of the ego's box."""
        return ego_points(self.states)

    @cached_property
    def center(self) -> Array:
        """(T, 2)"""
        return self.points[:, 4]

    @cached_property
    def moved_m(self) -> Array:
        """(T,) metres since the step before; 0 at the first."""
        steps = np.linalg.norm(np.diff(self.center, axis=0), axis=1)
        return np.concatenate([[0.0], steps])

    @cached_property
    def flow_rows(self) -> list[list[int]]:
        """Per step the flows that the ego's centre is in."""
        return self.ground.flows_at(self.center)


def ground_of(town: Town, route: Route) -> Ground:
    """The ground of a run in a town."""
    network, lanes = town.network, list(town.network.lanes.values())
    flows = tuple(
        Flow(a.id, Route(a.path_m, a.s_m, a.yaw_rad, ()), a.speed_limit_mps) for a in lanes
    )
    shapes = np.array([shapely.make_valid(shapely.Polygon(a.outline_m)) for a in lanes], object)
    _, roads = _all_roads(town, frozenset(route.lane_ids))
    lines = tuple(
        StopLine(
            lane.path_m[-1],
            float(lane.yaw_rad[-1]),
            network.successors[lane.id],
            network.junctions[network.lanes[network.successors[lane.id][0]].junction_id].control,
        )
        for lane in lanes
        if not lane.is_connector and network.successors[lane.id]
    )
    return Ground(flows, shapes, town.drivable, roads, lines, route)


def _all_roads(town: Town, lane_ids: frozenset[str]) -> tuple[Array, RoadPolygons]:
    from latentvla_core.pdms.roads.drivable import rings_of
    from latentvla_core.pdms.state import Layer

    lanes = np.isin(town.layers, (Layer.LANE, Layer.LANE_CONNECTOR))
    on_route = lanes & np.array([i in lane_ids for i in town.ids], bool)
    return np.zeros(2), RoadPolygons(town.layers, on_route, *rings_of(town.shapes, np.zeros(2)))
