"""Stepping the world: 10 Hz, one ego that a human drives, or whoever gives its controls. Knows
nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import cos, hypot, sin
from typing import Literal

import numpy as np

from latentvla_core.types import Array, ObjectClass, Vehicle
from latentvla_core.world.actors.driving import (
    STEP_S,
    Driver,
    ahead,
    center_pose,
    extend_chain,
    move,
)
from latentvla_core.world.actors.ego import (
    EgoControl,
    EgoState,
    HumanDriver,
    locate,
    locate_guest,
)
from latentvla_core.world.actors.traffic import Traffic
from latentvla_core.world.actors.walkers import Walker, may_step_out, step_walker
from latentvla_core.world.scenario import Scenario
from latentvla_core.world.state import Actor, LightColour, Snapshot
from latentvla_core.world.streets.lights import connector_colours
from latentvla_core.world.streets.network import LanePath

Luck = Callable[[str], np.random.Generator]
"""Token of an actor → its own stream of random numbers."""
LANE_SLACK_M = 20.0
"""More than a vehicle's middle can be off its lane's path: sideways, or across a seam."""
SIGHT_M = 80.0
"""Objects within this distance of the ego are perceived (and annotated)."""


class Simulation:
    """One run of a scenario."""

    def __init__(
        self,
        scenario: Scenario,
        rng: np.random.Generator,
        still: Sequence[Actor] = (),
        luck: Luck | None = None,
    ) -> None:
        """`luck`: a stream per actor, so that two egos meet the same world until they differ; None:
        all draw from `rng`, as the written logs do.
        """
        self.scenario, self.network = scenario, scenario.network
        self.luck: Luck = luck or (lambda token: rng)
        self.still = tuple(still)
        self._still_m = np.array([a.pose[:2] for a in self.still], float).reshape(-1, 2)
        self.time_s, self.steps = 0.0, 0
        self.driver = scenario.ego
        x, y, yaw = self.driver.lane(self.network).pose_at(
            self.driver.s_m - Vehicle.REAR_AXLE_TO_CENTER_M
        )
        self.ego = EgoState(np.array([x, y, yaw]), self.driver.speed_mps)
        self.human = HumanDriver(scenario.route)
        self.traffic = Traffic(self.network, scenario.drivers, scenario.walkers)
        self.colours: dict[str, LightColour] = connector_colours(self.network, scenario.cycles, 0.0)
        self.traffic.observe(self.colours)
        self.seen = self.snapshot()
        """The latest snapshot."""

    def step(self, control: EgoControl | EgoState | None = None, *, look: bool = True) -> Snapshot:
        """Advances the world by 0.1 s. With no control, the human drives; an `EgoState` is where a
        guest at the wheel has brought the ego. `look=False` skips the new snapshot.
        """
        others, ways = [d for d in self.traffic.drivers if d is not self.driver], []
        for driver in others:
            luck = self.luck(driver.token)
            extend_chain(driver, self.network, luck)
            if driver.token != "lead":
                self.traffic.consider_lane_change(driver, luck)
            way = ahead(driver, self.network)
            self.traffic.nudge(driver, way)
            ways.append(way)
        extend_chain(self.driver, self.network, self.luck(self.driver.token))
        wishes = [
            self.traffic.acceleration(driver, self.time_s, way)
            for driver, way in zip(others, ways, strict=True)
        ]
        drive = control or self.human.control(
            self.driver, self.ego, self.traffic, self.time_s, self.luck(self.driver.token)
        )
        for driver, wish in zip(others, wishes, strict=True):
            move(driver, self.network, wish)
        if isinstance(drive, EgoState):
            self.ego = drive
            locate_guest(self.driver, self.network, self.ego, self.scenario.route)
        else:
            self.ego.advance(drive)
            locate(self.driver, self.network, self.ego)
        self._walk()
        self.steps += 1
        self.time_s = self.steps * STEP_S
        self.colours = connector_colours(self.network, self.scenario.cycles, self.time_s)
        self.traffic.observe(self.colours)
        if look:
            self.seen = self.snapshot()
        return self.seen

    def _walk(self) -> None:
        waiting = {w.crosswalk for w in self.scenario.walkers if w.phase == "kerb"}
        approaches = self.traffic.approaches(waiting)
        for walker in self.scenario.walkers:
            allowed = False
            if walker.phase == "kerb":
                crosswalk = self.network.crosswalks[walker.crosswalk]
                cycle = (
                    self.scenario.cycles.get(crosswalk.junction_id)
                    if crosswalk.group >= 0
                    else None
                )
                cars = approaches.get(walker.crosswalk, [])
                allowed = may_step_out(crosswalk, cars, cycle, self.time_s, walker.speed_mps)
            step_walker(walker, allowed, self.luck(walker.token))

    def snapshot(self) -> Snapshot:
        """What is there now, within sight of the ego."""
        center = self.ego.center_m()
        x, y = float(center[0]), float(center[1])
        others = (d for d in self.traffic.drivers if d is not self.driver)
        moving = [self._vehicle(d) for d in others if self._may_see(d, x, y)]
        people = [_person(w) for w in self.scenario.walkers if w.may_be_within(SIGHT_M + 2.0, x, y)]
        still = self._still_near(center)
        seen = [*self._in_sight([*moving, *people], center), *still]
        return Snapshot(self.time_s, self.ego.pose.copy(), tuple(seen), dict(self.colours))

    def _in_sight(self, actors: list[Actor], center: Array) -> list[Actor]:
        if not actors:
            return actors
        off = np.array([a.pose[:2] for a in actors]) - center
        near = np.hypot(off[:, 0], off[:, 1]) < SIGHT_M
        return [a for a, inside in zip(actors, near.tolist(), strict=True) if inside]

    def _may_see(self, driver: Driver, x: float, y: float) -> bool:
        """False where a driver's lane is so far from (x, y) that it cannot be in sight."""
        lane = driver.lane(self.network)
        gap = hypot(lane.middle_m[0] - x, lane.middle_m[1] - y) - lane.radius_m
        return gap < SIGHT_M + LANE_SLACK_M

    def _still_near(self, center: Array) -> list[Actor]:
        """Things that stand, in sight."""
        off = self._still_m - center
        near = np.hypot(off[:, 0], off[:, 1]) < SIGHT_M
        return [self.still[k] for k in np.flatnonzero(near).tolist()]

    def _vehicle(self, driver: Driver) -> Actor:
        pose = center_pose(driver, self.network)
        yaw = float(pose[2])
        velocity = np.array([driver.speed_mps * cos(yaw), driver.speed_mps * sin(yaw)])
        braking = driver.accel_mps2 < -0.5 or driver.speed_mps < 0.05
        lights = braking and driver.cls == ObjectClass.VEHICLE
        return Actor(
            driver.token,
            driver.cls,
            pose,
            driver.size_m,
            velocity,
            lights,
            self._indicator(driver),
            driver.rgb,
        )

    def _indicator(self, driver: Driver) -> Literal["off", "left", "right"]:
        if driver.cls != ObjectClass.VEHICLE:
            return "off"
        if driver.shadow:
            return "left" if driver.lateral_m < 0 else "right"
        turn: LanePath | None = next(
            (lane for lane, start in ahead(driver, self.network, 28.0) if lane.is_connector), None
        )
        if turn is None or turn.turn == "straight":
            return "off"
        return turn.turn

    def route_ahead(self) -> tuple[str, ...]:
        """Blocks of the route from the one the ego is in."""
        block = self.driver.lane(self.network).block_id
        route = self.scenario.route
        return route[route.index(block) :] if block in route else route

    def lane_points_ahead(self, distances_m: Sequence[float]) -> Array:
        """(n, 3) poses on the ego's lane chain at distances from its projection onto it."""
        poses = []
        for distance in distances_m:
            s, at = self.driver.s_m + distance, self.driver.at
            while s > self.network.lanes[self.driver.chain[at]].length_m and at + 1 < len(
                self.driver.chain
            ):
                s -= self.network.lanes[self.driver.chain[at]].length_m
                at += 1
            poses.append(self.network.lanes[self.driver.chain[at]].pose_at(s))
        return np.array(poses)


def _person(walker: Walker) -> Actor:
    size, pose = (0.55, 0.6, walker.height_m), walker.pose()
    return Actor(
        walker.token,
        ObjectClass.PEDESTRIAN,
        pose,
        size,
        walker.velocity(pose),
        False,
        "off",
        walker.rgb,
    )
