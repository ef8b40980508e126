"""From a layout to a road network: lanes, lane groups, junction areas, connectors, crossings,
walkways, car parks.

Roads are cut back before each node; the lane groups end there and the junction area begins, sharing
the same vertices, so that lane groups, junctions and car parks cover the roads without gaps (what
drivable-area compliance asks).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

import numpy as np
import shapely

from latentvla_core.geometry import arc_length
from latentvla_core.types import Array
from latentvla_core.world.streets.connect import movements, turn_curve
from latentvla_core.world.streets.layout import Layout, Road
from latentvla_core.world.streets.network import (
    LANE_WIDTH_M,
    Block,
    Boundary,
    CarPark,
    Crosswalk,
    Junction,
    LanePath,
    RoadNetwork,
    offset_path,
    path_shape,
    ribbon,
)
from latentvla_core.world.streets.outlines import between, corner_kerb, unit

SHOULDER_M = 0.8
CENTRE_GAP_M = 0.5
"""Painted median: from the line between the directions to the first lane."""
WALKWAY_M = 2.6
CROSSWALK_M = 3.2
TURN_SPEED_MPS = 6.7
SPEED_LIMITS_MPS = {1: 11.18, 2: 13.41}  # 25 and 30 mph


@dataclass(slots=True)
class Arm:
    """One road end at a node, seen looking away from the node."""

    road: int
    starts_here: bool
    direction: Array
    """(2,) unit vector away from the node."""
    out_width_m: float
    in_width_m: float
    cut_m: float = 0.0
    in_group: str = ""
    out_group: str = ""
    right_m: Array = field(default_factory=lambda: np.zeros(2))
    left_m: Array = field(default_factory=lambda: np.zeros(2))


class Assembler:
    """Builds one `RoadNetwork`; every public step adds to the lists it holds."""

    def __init__(self, layout: Layout, location: str, origin_m: Array, first_id: int) -> None:
        self.layout, self.location, self.origin_m = layout, location, origin_m
        self._ids = (str(i) for i in count(first_id))
        self.lanes: dict[str, LanePath] = {}
        self.blocks: dict[str, Block] = {}
        self.junctions: dict[str, Junction] = {}
        self.crosswalks: list[Crosswalk] = []
        self.walkways: list[tuple[str, Array, Array]] = []
        self.carparks: list[CarPark] = []
        self.boundaries: list[Boundary] = []
        self.cones: list[Array] = []
        self.arms: list[list[Arm]] = [self._arms(k) for k in range(len(layout.nodes))]

    def build(self, rng: np.random.Generator) -> RoadNetwork:
        """The whole network."""
        junction_ids = [next(self._ids) for _ in self.layout.nodes]
        for k, arms in enumerate(self.arms):
            _set_cuts(arms, self.layout.nodes[k].control)
        for index, road in enumerate(self.layout.roads):
            self._add_road(index, road, junction_ids, rng)
        for k, junction_id in enumerate(junction_ids):
            self._add_junction(k, junction_id)
        return RoadNetwork(
            location=self.location,
            origin_m=self.origin_m,
            lanes=self.lanes,
            blocks=self.blocks,
            junctions=self.junctions,
            crosswalks=tuple(self.crosswalks),
            walkways=tuple(self.walkways),
            carparks=tuple(self.carparks),
            boundaries=tuple(self.boundaries),
            cones_m=tuple(self.cones),
        )

    def _arms(self, node: int) -> list[Arm]:
        arms = []
        for index, road in enumerate(self.layout.roads):
            ab, ba = _widths(road)
            if road.a == node:
                arms.append(Arm(index, True, unit(road.path_m[4] - road.path_m[0]), ab, ba))
            if road.b == node:
                arms.append(Arm(index, False, unit(road.path_m[-5] - road.path_m[-1]), ba, ab))
        return sorted(arms, key=lambda arm: float(np.arctan2(arm.direction[1], arm.direction[0])))

    def _arm(self, node: int, road: int, starts_here: bool) -> Arm:
        return next(
            arm for arm in self.arms[node] if arm.road == road and arm.starts_here == starts_here
        )

    def _add_road(
        self, index: int, road: Road, junction_ids: list[str], rng: np.random.Generator
    ) -> None:
        start, end = self._arm(road.a, index, True), self._arm(road.b, index, False)
        path = between(road.path_m, start.cut_m, end.cut_m)
        ab, ba = _widths(road)
        start.out_group = end.in_group = self._add_group(
            path, road.lanes_ab, road.parking[0], junction_ids[road.b], road.main
        )
        start.in_group = end.out_group = self._add_group(
            path[::-1], road.lanes_ba, road.parking[1], junction_ids[road.a], road.main
        )
        left, right = offset_path(path, ba), offset_path(path, -ab)
        start.right_m, start.left_m, end.right_m, end.left_m = (
            right[0],
            left[0],
            left[-1],
            right[-1],
        )
        self.boundaries.append(Boundary(next(self._ids), path, "centre"))
        self.boundaries += [Boundary(next(self._ids), line, "edge") for line in (left, right)]
        for side in (ba, -ab):
            near, far = side + np.sign(side) * 0.25, side + np.sign(side) * (0.25 + WALKWAY_M)
            middle = offset_path(path, (near + far) / 2)
            self.walkways.append(
                (next(self._ids), ribbon(path, max(near, far), min(near, far)), middle)
            )
        self._maybe_carpark(path, ab, rng)
        if road.main and rng.random() < 0.5:
            self._add_cones(path, road.lanes_ab, rng)

    def _add_group(
        self, path: Array, lanes: int, parking_m: float, junction_id: str, main: bool
    ) -> str:
        """One direction of a road; `path` runs with the traffic and its lanes lie to the right of
        it.
        """
        group_id, lane_ids = next(self._ids), []
        for i in range(lanes):
            last = i == lanes - 1
            left = CENTRE_GAP_M + i * LANE_WIDTH_M
            outline = ribbon(path, -left, -(left + LANE_WIDTH_M))
            center = offset_path(path, -(left + LANE_WIDTH_M / 2))
            speed = SPEED_LIMITS_MPS[2 if main else 1]
            shoulder = SHOULDER_M + parking_m if last else 0.0
            lane_ids.append(self._add_lane(center, group_id, i, outline, speed, shoulder))
            if not last:
                line = offset_path(path, -(left + LANE_WIDTH_M))
                self.boundaries.append(Boundary(next(self._ids), line, "lane"))
        width = CENTRE_GAP_M + lanes * LANE_WIDTH_M + SHOULDER_M + parking_m
        outline = ribbon(path, 0.0, -width)
        self.blocks[group_id] = Block(
            group_id, tuple(lane_ids), outline, junction_id=junction_id, parking_m=parking_m
        )
        return group_id

    def _add_lane(
        self, path: Array, block: str, index: int, outline: Array, speed: float, shoulder: float
    ) -> str:
        lane_id = next(self._ids)
        self.lanes[lane_id] = LanePath(
            lane_id, block, index, path, *path_shape(path), outline, speed, shoulder_m=shoulder
        )
        return lane_id

    def _maybe_carpark(self, path: Array, width: float, rng: np.random.Generator) -> None:
        """A car park on the right of a road, with two rows of bays across the road's direction."""
        length = arc_length(path)[-1]
        if length < 80.0 or rng.random() > 0.3:
            return
        middle = len(path) // 2
        u = unit(path[middle + 3] - path[middle - 3])
        n = np.array([u[1], -u[0]])  # to the right
        half, depth = 15.0, 17.0
        part = path[middle - 8 : middle + 9]
        if (
            abs(
                np.cross(
                    np.append(unit(part[1] - part[0]), 0), np.append(unit(part[-1] - part[-2]), 0)
                )[2]
            )
            > 0.12
        ):
            return
        edge = path[middle] + n * (width - 0.3)
        outline = np.array(
            [
                edge - u * half,
                edge - u * half + n * depth,
                edge + u * half + n * depth,
                edge + u * half,
            ]
        )
        slots = [(x, y) for y in (depth - 2.6,) for x in np.arange(-half + 1.6, half - 1.0, 2.7)]
        bays = [
            np.append(edge + u * x + n * y, np.arctan2(n[1], n[0]))
            for x, y in slots
            if rng.random() < 0.6
        ]
        self.carparks.append(CarPark(next(self._ids), outline, np.array(bays).reshape(-1, 3)))

    def _add_cones(self, path: Array, lanes: int, rng: np.random.Generator) -> None:
        """Roadworks on the shoulder: a row of cones."""
        s = arc_length(path)
        if s[-1] < 50.0:
            return
        first = rng.uniform(12.0, s[-1] - 30.0)
        at = first + np.arange(0.0, 15.0, 3.0)
        line = offset_path(path, -(CENTRE_GAP_M + lanes * LANE_WIDTH_M + SHOULDER_M - 0.45))
        _, headings, bends = path_shape(path)
        if np.abs(np.interp(at, s, bends)).max() > 0.006:  # in a bend they would stand in the way
            return
        yaw = np.interp(at, s, headings)
        self.cones.append(
            np.stack([np.interp(at, s, line[:, 0]), np.interp(at, s, line[:, 1]), yaw], axis=1)
        )

    def _add_junction(self, node: int, junction_id: str) -> None:
        arms, control = self.arms[node], self.layout.nodes[node].control
        major = {arm.in_group for arm in arms if self.layout.roads[arm.road].main}
        connectors = self._add_connectors(arms, junction_id, control, major)
        ring, kerbs = _ring(arms)
        shapes = [
            shapely.Polygon(ring).buffer(0),
            *(shapely.Polygon(self.lanes[c].outline_m).buffer(0) for c in connectors),
        ]
        area = max(shapely.get_parts(shapely.unary_union(shapes)), key=shapely.area)
        outline = shapely.get_coordinates(shapely.get_exterior_ring(area))[:-1]
        groups = {arm.in_group: _signal_group(arms, arm) for arm in arms}
        stops = {arm.in_group: (next(self._ids), self._stop_line(arm.in_group)) for arm in arms}
        center = self.layout.nodes[node].position_m
        self.junctions[junction_id] = Junction(
            junction_id, control, center, outline, tuple(kerbs), tuple(connectors), groups, stops
        )
        self._add_crosswalks(arms, junction_id, node, groups)

    def _add_connectors(
        self, arms: list[Arm], junction_id: str, control: str, major: set[str]
    ) -> list[str]:
        made = []
        for arm in arms:
            for other, pairs in movements(
                arm.direction, [a.direction for a in arms], arms.index(arm), self._counts(arms, arm)
            ):
                block_id = next(self._ids)
                ids = [
                    self._add_connector(
                        arm, arms[other], i, j, block_id, n, junction_id, control, major
                    )
                    for n, (i, j) in enumerate(pairs)
                ]
                outlines = shapely.unary_union(
                    [shapely.Polygon(self.lanes[c].outline_m).buffer(0.01) for c in ids]
                )
                shape = outlines if outlines.geom_type == "Polygon" else outlines.convex_hull
                outline = shapely.get_coordinates(shapely.get_exterior_ring(shape))[:-1]
                self.blocks[block_id] = Block(
                    block_id, tuple(ids), outline, arm.in_group, arms[other].out_group, junction_id
                )
                made.extend(ids)
        return made

    def _counts(self, arms: list[Arm], arm: Arm) -> tuple[int, list[int]]:
        """(lanes arriving on the arm, lanes leaving on every arm)."""
        return len(self.blocks[arm.in_group].lane_ids), [
            len(self.blocks[a.out_group].lane_ids) for a in arms
        ]

    def _add_connector(
        self,
        arm: Arm,
        other: Arm,
        i: int,
        j: int,
        block_id: str,
        index: int,
        junction_id: str,
        control: str,
        major: set[str],
    ) -> str:
        source = self.lanes[self.blocks[arm.in_group].lane_ids[i]]
        target = self.lanes[self.blocks[other.out_group].lane_ids[j]]
        path, turn = turn_curve(source, target, straight=control in ("merge", "crossing"))
        speed = source.speed_limit_mps if turn == "straight" else TURN_SPEED_MPS
        rank = {"straight": 0, "right": 1, "left": 2}[turn]
        if control == "priority" and arm.in_group not in major and major:
            rank += 3
        if control == "merge":
            rank = i
        connector_id = next(self._ids)
        half = LANE_WIDTH_M / 2
        outline = ribbon(path, half, -half)
        self.lanes[connector_id] = LanePath(
            connector_id, block_id, index, path, *path_shape(path), outline, speed, 0.0,
            junction_id, turn, source.id, target.id, rank,
        )  # fmt: skip
        return connector_id

    def _stop_line(self, group_id: str) -> Array:
        """(4, 2) outline of the half metre before the end of an incoming group's lanes."""
        lanes = [self.lanes[i] for i in self.blocks[group_id].lane_ids]
        left, right = lanes[0], lanes[-1]
        u = np.array([np.cos(left.yaw_rad[-1]), np.sin(left.yaw_rad[-1])])
        n = np.array([-u[1], u[0]]) * LANE_WIDTH_M / 2
        a, b = left.path_m[-1] + n - u * 0.3, right.path_m[-1] - n - u * 0.3
        return np.array([a, a - u * 0.5, b - u * 0.5, b])

    def _add_crosswalks(
        self, arms: list[Arm], junction_id: str, node: int, groups: dict[str, int]
    ) -> None:
        control = self.layout.nodes[node].control
        if control == "merge":
            return
        for arm in arms[:1] if control == "crossing" else arms:
            path = self.layout.roads[arm.road].path_m
            path = path if arm.starts_here else path[::-1]
            at = 0.0 if control == "crossing" else arm.cut_m - 0.6 - CROSSWALK_M / 2
            s = arc_length(path)
            p = np.array([np.interp(at, s, path[:, 0]), np.interp(at, s, path[:, 1])])
            q = np.array([np.interp(at + 1, s, path[:, 0]), np.interp(at + 1, s, path[:, 1])])
            u = unit(q - p)
            n = np.array([-u[1], u[0]])
            kerbs = np.array([p + n * (arm.in_width_m + 0.3), p - n * (arm.out_width_m + 0.3)])
            half = u * CROSSWALK_M / 2
            outline = np.array([kerbs[0] - half, kerbs[1] - half, kerbs[1] + half, kerbs[0] + half])
            walk = np.array([n, -n]) * (WALKWAY_M / 2) + u * (
                9.0 if control != "crossing" else 12.0
            )
            group = groups[arm.in_group] if control == "signal" else -1
            self.crosswalks.append(
                Crosswalk(next(self._ids), junction_id, outline, kerbs, kerbs + walk, group)
            )


def _widths(road: Road) -> tuple[float, float]:
    """Paved widths right of the dividing line for a → b and for b → a."""
    margin = CENTRE_GAP_M + SHOULDER_M
    return road.lanes_ab * LANE_WIDTH_M + margin + road.parking[
        0
    ], road.lanes_ba * LANE_WIDTH_M + margin + road.parking[1]


def _set_cuts(arms: list[Arm], control: str) -> None:
    """How far before the node each road ends."""
    fixed = {"merge": 17.0, "crossing": 4.0}.get(control)
    for arm in arms:
        others = [
            max(a.out_width_m, a.in_width_m) for a in arms if abs(arm.direction @ a.direction) < 0.8
        ]
        arm.cut_m = fixed if fixed else max(others, default=5.0) + 7.5 + CROSSWALK_M


def _signal_group(arms: list[Arm], arm: Arm) -> int:
    """0 for arms along the axis of the most opposed pair, 1 for the others."""
    pairs = [(float(a.direction @ b.direction), a) for a in arms for b in arms if a is not b]
    axis = min(pairs, key=lambda pair: pair[0])[1].direction
    return 0 if abs(arm.direction @ axis) > 0.7 else 1


def _ring(arms: list[Arm]) -> tuple[Array, list[Array]]:
    """Outline of a junction, counter-clockwise, and its corner kerbs."""
    points, kerbs = [], []
    for arm, after in zip(arms, arms[1:] + arms[:1], strict=True):
        corner = corner_kerb(arm.left_m, arm.direction, after.right_m, after.direction)
        points += [arm.right_m[None], corner]
        kerbs.append(corner)
    return np.concatenate(points), kerbs
