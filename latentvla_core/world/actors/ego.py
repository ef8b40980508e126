"""The ego vehicle: a bicycle model, and the human who drives it along a route."""

from __future__ import annotations

from dataclasses import dataclass
from math import hypot

import numpy as np

from latentvla_core.geometry import wrap
from latentvla_core.types import Array, Vehicle
from latentvla_core.world.actors.driving import STEP_S, Driver, on_chain
from latentvla_core.world.actors.traffic import Traffic, chain_along
from latentvla_core.world.streets.network import LANE_WIDTH_M, RoadNetwork

STEERING_RATE_RAD_S = 0.45
STEERING_LIMIT_RAD = 0.6
OFFSET_GAIN = 0.05
"""Curvature per metre of lateral error, 1/m²."""
HEADING_GAIN = 0.40
"""Curvature per radian of heading error, 1/m; about 0.9 of critical damping."""
PREVIEW_S = 0.35
TURN_IN_M2 = 3.1
"""In a bend the rear axle keeps to the inside by this times the curvature, so that the front does
not swing wide.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class EgoControl:
    """What drives the ego for one step."""

    accel_mps2: float
    steering_rad: float
    """Wanted front wheel angle; the wheels turn there at a limited rate."""


@dataclass(slots=True)
class EgoState:
    """Rear axle pose and motion in the world frame."""

    pose: Array
    speed_mps: float
    accel_mps2: float = 0.0
    steering_rad: float = 0.0

    @property
    def curvature_per_m(self) -> float:
        return float(np.tan(self.steering_rad)) / Vehicle.WHEEL_BASE_M

    def center_m(self) -> Array:
        """(2,) centre of the box."""
        yaw = self.pose[2]
        return self.pose[:2] + Vehicle.REAR_AXLE_TO_CENTER_M * np.array([np.cos(yaw), np.sin(yaw)])

    def dynamics(self) -> tuple[float, float, float, float]:
        """(vx, vy, ax, ay) at the rear axle in the ego frame; the lateral part is centripetal."""
        return self.speed_mps, 0.0, self.accel_mps2, self.speed_mps**2 * self.curvature_per_m

    def advance(self, control: EgoControl) -> None:
        """One step of the kinematic bicycle model."""
        change = np.clip(control.steering_rad - self.steering_rad, -1, 1)
        self.steering_rad += float(
            np.clip(change, -STEERING_RATE_RAD_S * STEP_S, STEERING_RATE_RAD_S * STEP_S)
        )
        before = self.speed_mps
        self.speed_mps = max(0.0, before + control.accel_mps2 * STEP_S)
        self.accel_mps2 = (self.speed_mps - before) / STEP_S
        travelled = (before + self.speed_mps) / 2 * STEP_S
        turned = travelled * self.curvature_per_m
        yaw = self.pose[2] + turned / 2
        xy = self.pose[:2] + travelled * np.array([np.cos(yaw), np.sin(yaw)])
        self.pose = np.array([xy[0], xy[1], wrap(self.pose[2] + turned)])


def locate(driver: Driver, network: RoadNetwork, state: EgoState) -> None:
    """Finds the ego on its chain; when it has left the chain (closed loop), on the nearest lane
    instead.
    """
    center = state.center_m()
    tries = [k for k in (driver.at, driver.at + 1) if k < len(driver.chain)]
    for k in tries:
        lane = network.lanes[driver.chain[k]]
        s, lateral = lane.project(center)
        if s < lane.length_m or k == tries[-1]:
            break
    if abs(lateral) > 4.5:
        k, s, lateral = _relocate(driver, network, state)
    driver.shadow = "" if k != driver.at or abs(lateral) < 0.9 else driver.shadow
    driver.at, driver.s_m, driver.lateral_m = k, s, lateral
    driver.speed_mps, driver.accel_mps2 = state.speed_mps, state.accel_mps2


STRADDLE_M = LANE_WIDTH_M / 2 - Vehicle.WIDTH_M / 2
"""Lateral offset from which the ego's box reaches into the neighbouring lane."""


def locate_guest(
    driver: Driver, network: RoadNetwork, state: EgoState, route: tuple[str, ...]
) -> None:
    """As `locate`, for an ego that somebody else drives: it may change lanes without saying so, and
    traffic sees it in every lane that its box is in.
    """
    locate(driver, network, state)
    lane = driver.lane(network)
    if not lane.is_connector and abs(driver.lateral_m) > LANE_WIDTH_M / 2:
        beside = network.neighbours(lane.id)[0 if driver.lateral_m > 0 else 1]
        if beside is not None:
            s, lateral = network.lanes[beside].project(state.center_m())
            rest = route[route.index(lane.block_id) :] if lane.block_id in route else ()
            driver.chain, driver.at = chain_along(network, beside, rest) or [beside], 0
            driver.s_m, driver.lateral_m = s, lateral
            driver.grants.clear()
    driver.shadow = _straddled(driver, network)


def _straddled(driver: Driver, network: RoadNetwork) -> str:
    """The neighbouring lane that the ego's box reaches into; "" = none."""
    lane, off = driver.lane(network), driver.lateral_m
    if lane.is_connector or abs(off) <= STRADDLE_M:
        return ""
    return network.neighbours(lane.id)[0 if off > 0 else 1] or ""


def _relocate(driver: Driver, network: RoadNetwork, state: EgoState) -> tuple[int, float, float]:
    best: tuple[float, str, float, float] | None = None
    center = state.center_m()
    x, y = float(center[0]), float(center[1])
    for lane in network.lanes.values():
        least = hypot(lane.middle_m[0] - x, lane.middle_m[1] - y) - lane.radius_m
        if best is not None and least >= best[0]:
            continue
        s, lateral = lane.project(center)
        turned = abs(float(wrap(np.interp(s, lane.s_m, lane.yaw_rad) - state.pose[2])))
        cost = abs(lateral) + 4.0 * turned
        if best is None or cost < best[0]:
            best = (cost, lane.id, s, lateral)
    assert best is not None, "a network has lanes"
    driver.chain, driver.grants = [best[1]], set()
    return 0, best[2], best[3]


class HumanDriver:
    """Follows the ego's chain of lanes: IDM, lights, people and lane changes as all traffic, with
    smooth pedals.
    """

    def __init__(self, route: tuple[str, ...]) -> None:
        self.route = route
        self.offset_m, self.offset_mps = 0.0, 0.0
        self.keeps_lane_until_s = 0.0
        """Before it, a lane that does not lead along the route is kept all the same."""

    def control(
        self,
        driver: Driver,
        state: EgoState,
        traffic: Traffic,
        time_s: float,
        rng: np.random.Generator,
    ) -> EgoControl:
        """Pedals and steering for the next step."""
        lateral = driver.lateral_m
        if driver.chain[driver.at] in traffic.network.drive_lanes:
            block = driver.lane(traffic.network).block_id
            rest = self.route[self.route.index(block) :] if block in self.route else ()
            if len(rest) > 2:
                traffic.consider_lane_change(driver, rng, rest)
            if len(rest) > 1 and time_s >= self.keeps_lane_until_s:
                traffic.change_to_route(driver, rest)
        self.offset_m += driver.lateral_m - lateral
        traffic.nudge(driver)
        self._swing(driver, state.speed_mps)
        wanted = traffic.acceleration(driver, time_s)
        return EgoControl(
            accel_mps2=self._pedals(driver, state, wanted),
            steering_rad=self._steer(driver, state, traffic),
        )

    def _pedals(self, driver: Driver, state: EgoState, wanted: float) -> float:
        """Bounded jerk; an emergency may brake faster."""
        jerk = driver.style.jerk_mps3 if wanted > -3.5 else 10.0
        change = np.clip(wanted - state.accel_mps2, -jerk * STEP_S * 1.2, jerk * STEP_S)
        return state.accel_mps2 + float(change)

    def _swing(self, driver: Driver, speed_mps: float) -> None:
        """Moves the wanted lateral offset smoothly towards its goal."""
        rate = 1.0 * min(1.0, speed_mps / 4.0)
        pull = rate**2 * (driver.lateral_goal_m - self.offset_m) - 2 * rate * self.offset_mps
        self.offset_mps += float(np.clip(pull, -0.9, 0.9)) * STEP_S
        self.offset_mps *= speed_mps > 0.2
        self.offset_m += self.offset_mps * STEP_S

    def _steer(self, driver: Driver, state: EgoState, traffic: Traffic) -> float:
        """Front wheel angle that brings the rear axle to the lane's centre line plus the wanted
        offset.
        """
        network, here = traffic.network, driver.s_m - Vehicle.REAR_AXLE_TO_CENTER_M
        lane, s = on_chain(driver, network, here)
        _, lateral = lane.project(state.pose[:2])
        yaw = np.interp(s, lane.s_m, lane.yaw_rad) + np.arctan2(
            self.offset_mps, max(state.speed_mps, 2.0)
        )
        ahead_lane, ahead_s = on_chain(driver, network, here + PREVIEW_S * state.speed_mps)
        bend = np.interp(ahead_s, ahead_lane.s_m, ahead_lane.curvature_per_m)
        turned = float(wrap(state.pose[2] - yaw))
        inside = TURN_IN_M2 * float(np.interp(s, lane.s_m, lane.curvature_per_m))
        curvature = bend - OFFSET_GAIN * (lateral - self.offset_m - inside) - HEADING_GAIN * turned
        wheel = np.arctan(Vehicle.WHEEL_BASE_M * curvature)
        return float(np.clip(wheel, -STEERING_LIMIT_RAD, STEERING_LIMIT_RAD))
