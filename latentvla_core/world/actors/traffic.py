"""All drivers of the town together: who follows whom, who may change lanes, who stops for whom."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from operator import attrgetter
from weakref import WeakKeyDictionary

import numpy as np
import shapely

from latentvla_core.types import Array, ObjectClass
from latentvla_core.world.actors.driving import (
    LOOK_AHEAD_M,
    Driver,
    Way,
    ahead,
    idm,
    wished_speed,
)
from latentvla_core.world.actors.walkers import Approach, Walker
from latentvla_core.world.state import LightColour
from latentvla_core.world.streets.junctions import RightOfWay
from latentvla_core.world.streets.network import LANE_WIDTH_M, LanePath, RoadNetwork

REST_M = 2.4
"""Gap kept behind a standing vehicle."""
LINE_REST_M = 0.9
"""Gap kept before a stop line."""
NUDGE_REACH_M = 30.0
_place = attrgetter("s_m")


@dataclass(frozen=True, slots=True)
class Zebra:
    """Where a connector runs over a crosswalk."""

    crosswalk: int
    enter_m: float
    leave_m: float
    across_m: float
    """Position of the lane's centre along the crosswalk, from its first kerb."""


Zebras = dict[str, tuple[Zebra, ...]]
_ZEBRAS: WeakKeyDictionary[RoadNetwork, Zebras] = WeakKeyDictionary()


def zebras(network: RoadNetwork) -> Zebras:
    """Crosswalks per connector, in driving order; found once per network."""
    if network not in _ZEBRAS:
        _ZEBRAS[network] = _zebras(network)
    return _ZEBRAS[network]


def _zebras(network: RoadNetwork) -> Zebras:
    found: dict[str, tuple[Zebra, ...]] = {}
    shapes = [shapely.Polygon(c.outline_m) for c in network.crosswalks]
    for junction in network.junctions.values():
        here = [i for i, c in enumerate(network.crosswalks) if c.junction_id == junction.id]
        for connector_id in junction.connector_ids:
            lane = network.lanes[connector_id]
            hits = (_zebra(lane, i, shapes[i], network.crosswalks[i].path_m) for i in here)
            found[connector_id] = tuple(
                sorted((z for z in hits if z is not None), key=lambda z: z.enter_m)
            )
    return found


def _zebra(lane: LanePath, index: int, shape: shapely.Polygon, path_m: Array) -> Zebra | None:
    part = shapely.LineString(lane.path_m).intersection(shape)
    if part.is_empty or part.length < 0.5:
        return None
    s = [lane.project(np.array(xy))[0] for piece in shapely.get_parts(part) for xy in piece.coords]
    middle = np.array(part.interpolate(0.5, normalized=True).coords[0])
    u = (path_m[1] - path_m[0]) / np.linalg.norm(path_m[1] - path_m[0])
    return Zebra(index, min(s), max(s), float((middle - path_m[0]) @ u))


def chain_along(network: RoadNetwork, lane_id: str, route: tuple[str, ...]) -> list[str]:
    """Lanes and connectors from a lane through the blocks of a route, without a lane change; [] if
    there is no way.
    """
    if len(route) < 2:
        return [lane_id]
    for connector_id in network.successors[lane_id]:
        if network.lanes[connector_id].block_id == route[1]:
            rest = chain_along(network, network.lanes[connector_id].to_lane, route[2:])
            if rest:
                return [lane_id, connector_id, *rest]
    return []


class Traffic:
    """The drivers, with the ego among them, and their view of each other."""

    def __init__(self, network: RoadNetwork, drivers: list[Driver], walkers: list[Walker]) -> None:
        self.network, self.drivers, self.walkers = network, drivers, walkers
        self.right_of_way = RightOfWay(network)
        self.zebras = zebras(network)
        self.by_lane: dict[str, list[Driver]] = {}
        self._over: dict[int, set[str]] = {k: set() for k in range(-1, len(network.crosswalks))}
        for connector_id, crossed in self.zebras.items():
            for zebra in crossed:
                self._over[zebra.crosswalk].add(connector_id)
        self._across_m = [
            float(np.linalg.norm(c.path_m[1] - c.path_m[0])) for c in network.crosswalks
        ]

    def observe(self, colours: dict[str, LightColour]) -> None:
        """Refreshes who is where and who may go; before accelerations are asked for."""
        self.by_lane = {}
        for driver in self.drivers:
            self.by_lane.setdefault(driver.chain[driver.at], []).append(driver)
            if driver.shadow:
                self.by_lane.setdefault(driver.shadow, []).append(driver)
        for members in self.by_lane.values():
            if len(members) > 1:
                members.sort(key=_place)
        last = {lane_id: members[0] for lane_id, members in self.by_lane.items()}
        self.right_of_way.update(self.drivers, colours, last)

    def acceleration(self, driver: Driver, time_s: float, way: Way | None = None) -> float:
        """What a sensible driver does now, m/s². `way`: what lies ahead, if it is known already."""
        way = way or ahead(driver, self.network)
        gaps = self._leaders(driver, way)
        gaps += self._stop_lines(driver, way)
        wish = wished_speed(driver, self.network, time_s, way)
        return idm(driver.style, driver.speed_mps, wish, gaps)

    def _leaders(self, driver: Driver, way: Way) -> list[tuple[float, float, float]]:
        """(gap, speed, rest gap) of the next vehicle on the own chain, and of one that still leaves
        the own lane.
        """
        found: list[tuple[float, float, float]] = []
        by_lane = self.by_lane
        for lane, start in way:
            for other in by_lane.get(lane.id, ()):
                if (
                    start + other.s_m > 0.0
                    and other is not driver
                    and self._in_the_way(driver, other, lane.id)
                ):
                    gap = start + other.s_m - other.half_length_m - driver.half_length_m
                    found.append((max(gap, 0.2), other.speed_mps, REST_M))
                    break
            if lane.is_connector:
                found += self._siblings(driver, lane, start)
            if found:
                break
        if driver.shadow:
            found += self._left_behind(driver)
        return found

    def _left_behind(self, driver: Driver) -> list[tuple[float, float, float]]:
        """The leader in the lane that the driver is leaving."""
        for other in self.by_lane.get(driver.shadow, ()):
            if other is not driver and other.s_m > driver.s_m:
                gap = other.s_m - other.half_length_m - driver.s_m - driver.half_length_m
                return [(max(gap, 0.2), other.speed_mps, 0.8)]
        return []

    def _in_the_way(self, driver: Driver, other: Driver, lane_id: str) -> bool:
        changing = driver.shadow or other.shadow
        if changing and other.shadow != lane_id:  # both lanes are taken during a lane change
            return True
        lateral, own = other.lateral_m, driver.lateral_m
        if other.shadow == lane_id:
            lateral -= np.sign(lateral) * LANE_WIDTH_M
        room = abs(lateral - own) - (driver.width_m + other.width_m) / 2
        return room < (0.35 if driver.chain[driver.at] == lane_id else 0.6)

    def _siblings(
        self, driver: Driver, lane: LanePath, start: float
    ) -> list[tuple[float, float, float]]:
        """Vehicles that left the own lane towards another connector than `lane` and are not clear of
        it yet.
        """
        found = []
        for sibling in self.network.successors[lane.from_lane]:
            for other in self.by_lane.get(sibling, ()) if sibling != lane.id else ():
                if (
                    other.s_m - other.half_length_m < 9.0
                    and start + other.s_m > 0
                    and other is not driver
                ):
                    gap = start + other.s_m - other.half_length_m - driver.half_length_m
                    found.append((max(gap, 0.2), other.speed_mps, REST_M))
        return found

    def _stop_lines(self, driver: Driver, way: Way) -> list[tuple[float, float, float]]:
        """Standing targets: the next connector without a grant, and crosswalks with people on them."""
        targets, front = [], driver.half_length_m
        for lane, start in way:
            if not lane.is_connector:
                continue
            if start > 0 and lane.id not in driver.grants and start - front > -1.0:
                targets.append((max(start - front, 0.1), 0.0, LINE_REST_M))
                break
            for zebra in self.zebras[lane.id]:
                gap = start + zebra.enter_m - front
                if gap > -0.8 and self._people_on(zebra, driver):
                    line = start - front if zebra.enter_m < 2.5 and start - front > 0 else gap - 0.4
                    targets.append((max(line, 0.1), 0.0, LINE_REST_M))
        hard = [t for t in targets if driver.speed_mps**2 / (2 * t[0]) < 8.0]
        return hard

    def _people_on(self, zebra: Zebra, driver: Driver) -> bool:
        """Whether a pedestrian is on the crosswalk and has not passed the driver's lane yet."""
        for walker in self.walkers:
            if walker.phase != "crossing" or walker.crosswalk != zebra.crosswalk:
                continue
            path = self.network.crosswalks[zebra.crosswalk].path_m
            length = self._across_m[zebra.crosswalk]
            forward = np.linalg.norm(walker.path_m[1] - path[0]) < np.linalg.norm(
                walker.path_m[1] - path[1]
            )
            target = zebra.across_m if forward else length - zebra.across_m
            to_go = target - walker.along_m
            if -(driver.width_m / 2 + 0.9) < to_go < 8.5:
                return True
        return False

    def approaches(self, crosswalks: Collection[int]) -> dict[int, list[Approach]]:
        """Per crosswalk asked for, the vehicles that will drive over it, or stand on it."""
        found: dict[int, list[Approach]] = {}
        over = self._connectors_over(crosswalks)
        for driver in self.drivers if over else ():
            if over.isdisjoint(driver.chain[driver.at :]):
                continue
            for lane, start in ahead(driver, self.network, 55.0):
                for zebra in self.zebras[lane.id] if lane.id in over else ():
                    gap = start + zebra.enter_m - driver.half_length_m
                    near = start + zebra.leave_m + driver.half_length_m > 0 and gap < 55.0
                    if near and zebra.crosswalk in crosswalks:
                        found.setdefault(zebra.crosswalk, []).append(
                            Approach(gap, driver.speed_mps, driver.width_m)
                        )
        return found

    def _connectors_over(self, crosswalks: Collection[int]) -> set[str]:
        """Connectors that run over any of the crosswalks."""
        found: set[str] = set()
        for crosswalk in crosswalks:
            found |= self._over[crosswalk]
        return found

    def consider_lane_change(
        self, driver: Driver, rng: np.random.Generator, route: tuple[str, ...] = ()
    ) -> None:
        """Changes to a neighbouring lane that is free and goes faster; `route`: blocks it must lead
        along, from here on.
        """
        driver.calm_s -= 0.1
        if driver.calm_s > 0 or driver.shadow or driver.cls == ObjectClass.BICYCLE:
            return
        lane = driver.lane(self.network)
        if (
            lane.is_connector
            or lane.length_m - driver.s_m < 30.0
            or driver.s_m < 6.0
            or driver.speed_mps < 3.0
        ):
            return
        own = self._free_ahead(driver, lane.id)
        if own > max(3.0 * driver.speed_mps, 18.0) and rng.random() > 0.004:
            return
        for side, neighbour in zip((1, -1), self.network.neighbours(lane.id), strict=True):
            following = self._way_on(neighbour, route) if neighbour else []
            if neighbour and following and self._is_free(driver, neighbour, own):
                self.change_lane(driver, following, side)
                return

    def _way_on(self, lane_id: str, route: tuple[str, ...]) -> list[str]:
        """A chain from a lane along the route's blocks; with no route, over any connector. [] =
        there is none.
        """
        if route:
            return chain_along(self.network, lane_id, route)
        following = self.network.successors[lane_id][0]
        return [lane_id, following, self.network.lanes[following].to_lane]

    def _free_ahead(self, driver: Driver, lane_id: str) -> float:
        gaps = [
            o.s_m - driver.s_m + 4.0 * (o.speed_mps - driver.speed_mps)
            for o in self.by_lane.get(lane_id, ())
            if o is not driver and o.s_m > driver.s_m and o.lateral_m > -1.0
        ]
        return min(gaps, default=LOOK_AHEAD_M)

    def _is_free(self, driver: Driver, lane_id: str, own_gap: float) -> bool:
        if self._free_ahead(driver, lane_id) < own_gap + 8.0:
            return False
        for other in self.by_lane.get(lane_id, ()):
            apart = abs(other.s_m - driver.s_m) - other.half_length_m - driver.half_length_m
            closing = (
                other.speed_mps - driver.speed_mps
                if other.s_m < driver.s_m
                else driver.speed_mps - other.speed_mps
            )
            if (
                other is not driver
                and apart < 6.0 + 3.0 * max(0.0, closing) + 0.5 * driver.speed_mps
            ):
                return False
        return True

    def change_to_route(self, driver: Driver, route: tuple[str, ...]) -> None:
        """Changes to a neighbouring lane that leads along a route which the own lane does not
        follow, as soon as there is a gap.
        """
        lane = driver.lane(self.network)
        if driver.shadow or lane.length_m - driver.s_m < 15.0:
            return
        if chain_along(self.network, lane.id, route):
            return
        for side, neighbour in zip((1, -1), self.network.neighbours(lane.id), strict=True):
            following = chain_along(self.network, neighbour, route) if neighbour else []
            if neighbour and following and self._is_free(driver, neighbour, -1e9):
                self.change_lane(driver, following, side)
                return

    def change_lane(self, driver: Driver, chain: list[str], side: int) -> None:
        """Starts a change to the lane chain[0] at the left (side 1) or right (-1)."""
        old = driver.lane(self.network)
        driver.chain[driver.at :] = chain
        driver.s_m *= self.network.lanes[chain[0]].length_m / old.length_m
        driver.lateral_m -= side * LANE_WIDTH_M
        driver.shadow, driver.calm_s = old.id, 8.0
        driver.grants.clear()
        if driver.at > 0:  # what lies behind must join the new lane for poses near the seam
            driver.chain, driver.at = driver.chain[driver.at :], 0

    def nudge(self, driver: Driver, way: Way | None = None) -> None:
        """Sets the sideways goal: cyclists keep right, cars give cyclists room. `way`: what lies
        ahead, if it is known already.
        """
        if driver.cls == ObjectClass.BICYCLE:
            lane = driver.lane(self.network)
            driver.lateral_goal_m = -1.0 - 0.6 * (lane.shoulder_m > 0)
            return
        driver.lateral_goal_m = 0.0
        for step, start in way or ahead(driver, self.network, NUDGE_REACH_M):
            if start > NUDGE_REACH_M:
                return
            if step.turn != "straight":  # a turn needs the whole lane
                return
            for other in self.by_lane.get(step.id, ()) if step.shoulder_m > 0 else ():
                if other.cls == ObjectClass.BICYCLE and -6.0 < start + other.s_m < 28.0:
                    driver.lateral_goal_m = 0.55
