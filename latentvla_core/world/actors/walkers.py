"""Pedestrians: along the walkways, and across the crosswalks when it is safe to step out."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import hypot
from typing import Literal

import numpy as np

from latentvla_core.types import Array
from latentvla_core.world.actors.driving import STEP_S
from latentvla_core.world.streets.lights import SignalCycle
from latentvla_core.world.streets.network import Crosswalk, RoadNetwork

Phase = Literal["pause", "to_kerb", "kerb", "crossing", "from_kerb", "stroll"]


@dataclass(slots=True, eq=False)
class Walker:
    """One pedestrian. Crossers go back and forth over one crosswalk, strollers along one walkway."""

    token: str
    rgb: tuple[int, int, int]
    height_m: float
    speed_mps: float
    path_m: Array
    """(n, 2) from one end of its way to the other."""
    crosswalk: int = -1
    """Index of the crosswalk; -1 for a stroller. Then the path is approach, kerb, kerb, approach."""
    phase: Phase = "stroll"
    leg: int = 0
    along_m: float = 0.0
    timer_s: float = 0.0
    side_m: float = 0.0
    """Sideways offset, so that people do not walk inside each other."""
    moving: bool = True

    _legs: dict[int, tuple[float, Array, float]] = field(default_factory=dict)
    """Leg of the present path → its length, direction and course."""
    _circle: tuple[float, float, float] | None = None
    """Centre and radius of a circle around the whole way."""

    def pose(self) -> Array:
        """(3,) position and direction of walking."""
        _, u, course = self._leg()
        xy = self.path_m[self.leg] + u * self.along_m + np.array([-u[1], u[0]]) * self.side_m
        return np.array([xy[0], xy[1], course])

    def _leg(self) -> tuple[float, Array, float]:
        found = self._legs.get(self.leg)
        if found is None:
            step = self.path_m[self.leg + 1] - self.path_m[self.leg]
            length = float(np.linalg.norm(step))
            u = step / max(length, 1e-6)
            found = self._legs[self.leg] = (length, u, np.arctan2(u[1], u[0]))
        return found

    def leg_length_m(self) -> float:
        return self._leg()[0]

    def velocity(self, pose: Array) -> Array:
        """(2,) at a pose of `pose()`."""
        return np.array([np.cos(pose[2]), np.sin(pose[2])]) * (
            self.speed_mps if self.moving else 0.0
        )

    def may_be_within(self, reach_m: float, x: float, y: float) -> bool:
        """False where the whole way is farther than that from (x, y)."""
        if self._circle is None:
            low, high = self.path_m.min(axis=0), self.path_m.max(axis=0)
            middle, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
            self._circle = (float(middle[0]), float(middle[1]), radius + abs(self.side_m))
        mx, my, radius = self._circle
        return hypot(mx - x, my - y) - radius < reach_m

    def turn_back(self) -> None:
        """The way is walked from its other end."""
        self.path_m = self.path_m[::-1].copy()
        self._legs.clear()
        self.leg, self.along_m, self.side_m = 0, 0.0, -self.side_m


@dataclass(frozen=True, slots=True)
class Approach:
    """A vehicle that will drive over a crosswalk: how far its front is from it, and how fast it
    comes.
    """

    gap_m: float
    speed_mps: float
    width_m: float


def may_step_out(
    crosswalk: Crosswalk,
    approaches: list[Approach],
    cycle: SignalCycle | None,
    time_s: float,
    speed_mps: float,
) -> bool:
    """Whether every vehicle can stop with gentle braking, and, at a signal, the traffic crossed is
    red long enough.
    """
    if cycle is not None:
        length = float(np.linalg.norm(crosswalk.path_m[1] - crosswalk.path_m[0]))
        if cycle.colour(crosswalk.group, time_s) != "red":
            return False
        if cycle.until_green_s(crosswalk.group, time_s) < length / speed_mps * 0.8:
            return False
    for car in approaches:
        stopping = car.speed_mps**2 / (2 * 1.6) + 1.2 * car.speed_mps + 1.5
        if car.gap_m < stopping and not (car.speed_mps < 0.3 and car.gap_m > 0.8):
            return False
    return True


def step_walker(walker: Walker, allowed: bool, rng: np.random.Generator) -> None:
    """Moves a pedestrian by one step; `allowed` says whether one waiting at a kerb may go."""
    if walker.phase == "pause":
        walker.moving, walker.timer_s = False, walker.timer_s - STEP_S
        if walker.timer_s <= 0:
            _turn_back(walker)
        return
    if walker.phase == "kerb":
        walker.moving = False
        if not allowed:
            return
        walker.phase, walker.leg, walker.along_m = "crossing", 1, 0.0
    walker.moving = True
    walker.along_m += walker.speed_mps * STEP_S
    if walker.along_m >= walker.leg_length_m():
        _next_leg(walker, rng)


def _turn_back(walker: Walker) -> None:
    walker.turn_back()
    walker.phase = "to_kerb" if walker.crosswalk >= 0 else "stroll"


def _next_leg(walker: Walker, rng: np.random.Generator) -> None:
    if walker.phase == "to_kerb":
        walker.phase, walker.along_m = "kerb", walker.leg_length_m()
    elif walker.leg + 2 < len(walker.path_m):
        walker.along_m -= walker.leg_length_m()
        walker.leg += 1
        walker.phase = "from_kerb" if walker.crosswalk >= 0 else "stroll"
    else:
        walker.along_m = walker.leg_length_m()
        walker.phase, walker.timer_s = "pause", float(rng.uniform(1.0, 8.0))


def make_walkers(
    network: RoadNetwork, rng: np.random.Generator, per_crosswalk: float, strollers: int
) -> list[Walker]:
    """Crossers at about `per_crosswalk` of each crosswalk's two ends, and strollers on random
    walkways.
    """
    walkers: list[Walker] = []
    for index, crosswalk in enumerate(network.crosswalks):
        for _ in range(int(rng.poisson(per_crosswalk))):
            walkers.append(make_crosser(crosswalk, index, rng, f"w{len(walkers)}"))
    for _ in range(strollers):
        middle = network.walkways[int(rng.integers(len(network.walkways)))][2]
        walker = _person(
            middle[::3] if rng.random() < 0.5 else middle[::-3], rng, f"w{len(walkers)}"
        )
        walker.leg = int(rng.integers(len(walker.path_m) - 1))
        walkers.append(walker)
    return walkers


def make_crosser(crosswalk: Crosswalk, index: int, rng: np.random.Generator, token: str) -> Walker:
    """A pedestrian who walks towards a crosswalk from somewhere near."""
    a, b = crosswalk.path_m
    path = np.array([crosswalk.approach_m[0], a, b, crosswalk.approach_m[1]])
    across = (b - a) / np.linalg.norm(b - a)
    path = path + np.array([-across[1], across[0]]) * rng.uniform(
        -1.1, 1.1
    )  # his own line within the stripes
    walker = _person(path if rng.random() < 0.5 else path[::-1].copy(), rng, token)
    walker.crosswalk, walker.phase, walker.side_m = index, "to_kerb", 0.0
    walker.along_m = float(rng.uniform(0, walker.leg_length_m()))
    return walker


def _person(path_m: Array, rng: np.random.Generator, token: str) -> Walker:
    rgb = tuple(int(c) for c in rng.integers(30, 230, 3))
    return Walker(
        token,
        (rgb[0], rgb[1], rgb[2]),
        height_m=float(rng.uniform(1.55, 1.9)),
        speed_mps=float(rng.uniform(1.0, 1.6)),
        path_m=path_m,
        side_m=float(rng.uniform(-0.8, 0.8)),
    )
