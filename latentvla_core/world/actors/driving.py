"""One driven road user: where it is on its chain of lanes, how it accelerates (IDM), how it moves
sideways.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import cos, inf, sin

import numpy as np

from latentvla_core.types import Array, ObjectClass, Vehicle
from latentvla_core.world.streets.network import LanePath, RoadNetwork

STEP_S = 0.1
LOOK_AHEAD_M = 70.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Style:
    """How somebody drives. IDM parameters: Treiber et al., 2000."""

    speed_factor: float = 0.97
    """Desired speed as a share of the limit."""
    headway_s: float = 1.5
    accel_mps2: float = 1.4
    decel_mps2: float = 1.8
    """Comfortable braking."""
    lateral_mps2: float = 2.0
    """Accepted in bends."""
    max_speed_mps: float = 30.0
    jerk_mps3: float = 2.5
    root_mps2: float = field(init=False, repr=False, compare=False)
    """2 √(accel · decel), of IDM."""
    bend_key: tuple[float, ...] = field(init=False, repr=False, compare=False)
    """What the speed in a lane depends on."""

    def __post_init__(self) -> None:
        """Numbers that every step asks for."""
        root = 2 * (self.accel_mps2 * self.decel_mps2) ** 0.5
        object.__setattr__(self, "root_mps2", root)
        key = (self.lateral_mps2, self.speed_factor, self.decel_mps2)
        object.__setattr__(self, "bend_key", key)


STYLES = {
    "calm": Style(
        speed_factor=0.91,
        headway_s=1.9,
        accel_mps2=1.1,
        decel_mps2=1.4,
        lateral_mps2=1.6,
        jerk_mps3=2.0,
    ),
    "normal": Style(),
    "brisk": Style(
        speed_factor=1.03,
        headway_s=1.3,
        accel_mps2=1.8,
        decel_mps2=2.1,
        lateral_mps2=2.5,
        jerk_mps3=3.0,
    ),
}
CYCLIST = Style(accel_mps2=0.8, decel_mps2=1.5, headway_s=1.2, lateral_mps2=1.5, max_speed_mps=4.8)


@dataclass(slots=True, eq=False)
class Driver:
    """A vehicle, bicycle or the ego on a chain of lanes and connectors. `s_m` is its centre on
    `chain[at]`.
    """

    token: str
    cls: ObjectClass
    size_m: tuple[float, float, float]
    rgb: tuple[int, int, int]
    style: Style
    chain: list[str]
    at: int
    s_m: float
    speed_mps: float = 0.0
    accel_mps2: float = 0.0
    lateral_m: float = 0.0
    """Offset from the lane's centre line, left positive."""
    lateral_mps: float = 0.0
    lateral_goal_m: float = 0.0
    shadow: str = ""
    """The lane being left in a lane change."""
    calm_s: float = 0.0
    """Seconds until the next lane change is considered."""
    waited_s: float = 0.0
    stopped_at: str = ""
    """Connector at whose stop line it has come to a stop."""
    grants: set[str] = field(default_factory=set)
    """Connectors it may pass, until it has left them."""
    slow_until: list[tuple[float, float, float]] = field(default_factory=list)
    """(from_s, to_s, speed limit): scripted slowing, e.g. a lead that brakes for no visible reason."""
    half_length_m: float = field(init=False)
    width_m: float = field(init=False)

    def __post_init__(self) -> None:
        """Nobody changes size."""
        self.half_length_m, self.width_m = self.size_m[0] / 2, self.size_m[1]

    def lane(self, network: RoadNetwork) -> LanePath:
        return network.lanes[self.chain[self.at]]


def size_of_ego() -> tuple[float, float, float]:
    """Length, width, height of the ego vehicle."""
    return Vehicle.LENGTH_M, Vehicle.WIDTH_M, Vehicle.HEIGHT_M


Way = list[tuple[LanePath, float]]
"""Lanes ahead, each with the distance to its start. What is within a shorter reach is the first part
of it: the lanes whose start is not beyond that reach.
"""


def ahead(driver: Driver, network: RoadNetwork, reach_m: float = LOOK_AHEAD_M) -> Way:
    """Lanes of the chain from the current one on, each with the distance from the driver's centre
    to its start.
    """
    found, start, lanes = [], -driver.s_m, network.lanes
    for lane_id in driver.chain[driver.at :]:
        lane = lanes[lane_id]
        found.append((lane, start))
        start += lane.length_m
        if start > reach_m:
            break
    return found


def on_chain(driver: Driver, network: RoadNetwork, s_m: float) -> tuple[LanePath, float]:
    """(lane, arc length on it) of a position counted from the start of the driver's current lane;
    may be negative.
    """
    at = driver.at
    lane = network.lanes[driver.chain[at]]
    while s_m < 0 and at > 0:
        at -= 1
        lane = network.lanes[driver.chain[at]]
        s_m += lane.length_m
    while s_m > lane.length_m and at + 1 < len(driver.chain):
        s_m -= lane.length_m
        at += 1
        lane = network.lanes[driver.chain[at]]
    return lane, s_m


def center_pose(driver: Driver, network: RoadNetwork) -> Array:
    """(3,) pose of the centre; the heading follows the axles, so that long cars swing through
    bends.
    """
    axle = 0.3 * driver.size_m[0]
    front, rear = (_chain_point(driver, network, driver.s_m + step) for step in (axle, -axle))
    yaw = float(np.arctan2(front[1] - rear[1], front[0] - rear[0]))
    if driver.lateral_mps != 0.0:
        yaw += float(np.arctan2(driver.lateral_mps, max(driver.speed_mps, 2.0)))
    return np.array([(front[0] + rear[0]) / 2, (front[1] + rear[1]) / 2, yaw])


def _chain_point(driver: Driver, network: RoadNetwork, s_m: float) -> tuple[float, float]:
    lane, s = on_chain(driver, network, s_m)
    x, y, yaw = lane.pose_at(s)
    if driver.lateral_m == 0.0:
        return x, y
    return x - driver.lateral_m * sin(yaw), y + driver.lateral_m * cos(yaw)


def idm(
    style: Style, speed_mps: float, wish_mps: float, gaps: list[tuple[float, float, float]]
) -> float:
    """Acceleration by the Intelligent Driver Model for the worst of several leaders (gap m, speed,
    gap kept at rest).
    """
    accel = style.accel_mps2
    if speed_mps <= wish_mps:
        free = 1 - (speed_mps / (wish_mps if wish_mps > 0.1 else 0.1)) ** 4
    else:
        free = (wish_mps - speed_mps) * 0.9
    worst = (free if free > -style.decel_mps2 else -style.decel_mps2) * accel
    for gap, lead_mps, rest_m in gaps:
        # Standing targets need no headway, only a reaction distance.
        headway = style.headway_s if lead_mps > 0.3 else 0.35
        closing = speed_mps * (speed_mps - lead_mps) / style.root_mps2
        wanted = rest_m + max(0.0, speed_mps * headway + closing)
        worst = min(worst, accel * (min(free, 1.0) - (wanted / max(gap, 0.1)) ** 2))
    return min(max(worst, -7.0), accel)


@dataclass(frozen=True, slots=True)
class Bends:
    """How fast a style drives a lane; kept with the lane."""

    straight: float
    """Squared speed where nothing bends, m²/s²."""
    slowest: float
    """The same in the sharpest bend."""
    matter: bool
    """Whether any bend asks for less than the limit."""
    gain_mps2: float
    """What a metre more before a bend adds to the squared speed."""
    squares: list[float]
    """(n,) at each vertex."""
    tightest: list[int]
    """(n,) which vertex from each on is the one to brake for, seen from before all of them."""

    @staticmethod
    def of(lane: LanePath, style: Style) -> Bends:
        straight = (lane.speed_limit_mps * style.speed_factor) ** 2
        bend = style.lateral_mps2 / np.maximum(np.abs(lane.curvature_per_m), 1e-4)
        squares, gain = np.minimum(bend, straight), 2 * (0.75 * style.decel_mps2)
        seen = (squares + gain * lane.s_m).tolist()
        tightest = list(range(len(seen)))
        for k in range(len(seen) - 2, -1, -1):
            if seen[tightest[k + 1]] < seen[k]:
                tightest[k] = tightest[k + 1]
        return Bends(
            straight,
            min(style.lateral_mps2 / lane.peak_curvature_per_m, straight),
            style.lateral_mps2 <= straight * lane.peak_curvature_per_m,
            gain,
            squares.tolist(),
            tightest,
        )

    def allowed(self, lane: LanePath, start: float, wish: float) -> float:
        """Squared speed that the bends of a lane allow from `start` before it (negative: within
        it); infinity where they ask for nothing below the wished square.
        """
        first, last = lane.vertices_within(-1.0 - start, BEND_REACH_M - start)
        least, here = inf, first
        if start <= 0.0:  # vertices that are just passed still count, at no distance
            here = lane.vertices_within(-start, -start)[0]
            least = min(self.squares[first:here], default=inf)
        if here >= last:
            return least
        k, s = self.tightest[here], lane.vertices_m
        at = self.squares[k] + self.gain_mps2 * (s[k] + start)
        if k < last or at >= wish:
            return min(least, at)
        within = (self.squares[i] + self.gain_mps2 * (s[i] + start) for i in range(here, last))
        return min(least, *within)


BEND_REACH_M = 45.0


def wished_speed(
    driver: Driver, network: RoadNetwork, time_s: float, way: Way | None = None
) -> float:
    """Desired speed now: limit, own wish, and what the bends ahead allow when braking comfortably.
    `way`: what lies ahead, if it is known already.
    """
    style, wish = driver.style, driver.style.max_speed_mps
    square, key = wish**2, style.bend_key
    for lane, start in way or ahead(driver, network, BEND_REACH_M):
        if start > BEND_REACH_M:
            break
        bends = lane.kept.get(key)
        if bends is None:
            bends = lane.kept[key] = Bends.of(lane, style)
        before = bends.gain_mps2 * start if start > 0.0 else 0.0
        if bends.slowest + before >= square:
            continue
        if bends.matter:
            allowed = bends.allowed(lane, start, square)
        else:
            allowed = bends.straight + before
        if allowed < square:
            wish = min(wish, allowed**0.5)
            square = wish**2
    for begin, end, limit in driver.slow_until:
        if begin <= time_s < end:
            wish = min(wish, limit)
    return wish


def move(driver: Driver, network: RoadNetwork, accel_mps2: float) -> None:
    """Advances a driver along its chain by one step, with bounded jerk and a smooth sideways
    motion.
    """
    limit = driver.style.jerk_mps3 if accel_mps2 > -3.5 else 12.0
    before, accel = driver.speed_mps, driver.accel_mps2
    accel += min(max(accel_mps2 - accel, -limit * 2 * STEP_S), limit * STEP_S)
    speed = max(0.0, before + accel * STEP_S)
    driver.s_m += (before + speed) / 2 * STEP_S
    driver.speed_mps = speed
    driver.accel_mps2 = min(0.0, max(accel, -0.3)) if speed == 0.0 else accel
    _swing(driver)
    advance_chain(driver, network)


def _swing(driver: Driver) -> None:
    """Moves the lateral offset towards its goal: critically damped, slower for a slow vehicle."""
    if driver.lateral_goal_m == driver.lateral_m and driver.lateral_mps == 0.0:
        if driver.shadow and abs(driver.lateral_m) < 0.9:
            driver.shadow = ""
        return
    rate = 1.1 * min(1.0, driver.speed_mps / 4.0)
    pull = rate**2 * (driver.lateral_goal_m - driver.lateral_m) - 2 * rate * driver.lateral_mps
    driver.lateral_mps += min(max(pull, -1.2), 1.2) * STEP_S
    if driver.speed_mps < 0.2:
        driver.lateral_mps = 0.0
    driver.lateral_m += driver.lateral_mps * STEP_S
    if driver.shadow and abs(driver.lateral_m) < 0.9:
        driver.shadow = ""


def advance_chain(driver: Driver, network: RoadNetwork) -> None:
    """Goes on to the next lane of the chain where the current one has ended."""
    while driver.s_m > (
        length := network.lanes[driver.chain[driver.at]].length_m
    ) and driver.at + 1 < len(driver.chain):
        driver.s_m -= length
        driver.at += 1
        driver.shadow = ""


def extend_chain(
    driver: Driver, network: RoadNetwork, rng: np.random.Generator, reach_m: float = 110.0
) -> None:
    """Appends random turns until the chain reaches far enough, and forgets lanes long passed."""
    known, lanes = 0, network.lanes
    for lane_id in driver.chain[driver.at :]:
        known += lanes[lane_id].length_m
    known -= driver.s_m
    while known < reach_m:
        options = network.successors[driver.chain[-1]]
        weights = np.array([2.0 if network.lanes[o].turn == "straight" else 1.0 for o in options])
        choice = options[int(rng.choice(len(options), p=weights / weights.sum()))]
        driver.chain.append(choice)
        known += network.lanes[choice].length_m
    if driver.at > 3 and driver.cls != ObjectClass.EGO:
        driver.chain, driver.at = driver.chain[driver.at - 2 :], 2
