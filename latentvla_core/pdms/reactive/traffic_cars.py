"""Vehicles of reactive traffic, one by one with shapely (pdms.md §14.2): twin of `traffic_kernels`
where numba is missing, its oracle in tests, and the judge of the few meetings that it leaves open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from latentvla_core.geometry import box_corners
from latentvla_core.pdms.reactive.outline_kernels import QUAD_SEGMENTS
from latentvla_core.pdms.state import DT_S, NUM_STEPS, State
from latentvla_core.types import Array, Pose, Vehicle

MIN_GAP_M, HEADWAY_S, ACCEL_MPS2, DECEL_MPS2, EXPONENT = 1.0, 1.5, 1.0, 2.0, 4
RADIUS_M, SIMPLIFY_M = 100.0, 1e-5
EGO_SIZE_M = np.array([Vehicle.LENGTH_M, Vehicle.WIDTH_M])


@dataclass(frozen=True, slots=True)
class Driver:
    """A vehicle that is simulated, as it starts."""

    row: int
    """Row in `ReactiveTraffic.poses`."""
    path: Array
    """(n, 3) poses of its lane without the last one, headings unwrapped."""
    progress_m: Array
    """(n,) arc length of the poses."""
    start_m: float
    start_pose: Array
    """(3,) nearest pose on its lane, where its box stands for the others until it has moved."""
    target_mps: float


class Car:
    """A simulated vehicle on its way."""

    def __init__(
        self, driver: Driver, size_m: Array, speed_mps: float, progress_m: float | None = None
    ) -> None:
        """Where it starts, or at a progress on its way."""
        self.driver, self.size, self.speed = driver, size_m, speed_mps
        self.progress = driver.start_m if progress_m is None else progress_m
        self.entry: Any = (
            box_of(driver.start_pose, size_m) if progress_m is None else self.footprint()
        )

    def pose(self) -> Array:
        """(3,) at the clamped progress."""
        return self._at(self.progress)

    def _at(self, progress_m: float) -> Array:
        arc, path = self.driver.progress_m, self.driver.path
        return np.array([np.interp(progress_m, arc, path[:, k]) for k in range(3)])

    def way_ahead(self) -> Any:
        """The corridor it still has to drive."""
        later = self.driver.path[self.driver.progress_m > self.progress, :2]
        points = (
            np.concatenate([self.pose()[None, :2], later])
            if len(later)
            else self.driver.path[-2:, :2]
        )
        return shapely.buffer(
            shapely.LineString(points), self.size[1] / 2, quad_segs=QUAD_SEGMENTS, cap_style="flat"
        )

    def footprint(self) -> Any:
        """Its box, and the piece of path it claims: half a length behind to half a length and 1.5 s
        ahead.
        """
        arc, path = self.driver.progress_m, self.driver.path
        half = self.size[0] / 2
        start, end = np.clip(
            [self.progress - half, self.progress + half + HEADWAY_S * self.speed], arc[0], arc[-1]
        )
        if not (arc > start).any():
            points = path[-2:, :2]
        elif not (arc < end).any():
            points = path[:2, :2]
        else:
            between = path[(arc > start) & (arc < end), :2]
            points = np.concatenate([self._at(start)[None, :2], between, self._at(end)[None, :2]])
        piece = shapely.buffer(
            shapely.LineString(points), self.size[1] / 2, quad_segs=QUAD_SEGMENTS, cap_style="flat"
        )
        return shapely.union(piece, box_of(self.pose(), self.size))

    def advance(self, gap_m: float, lead_mps: float, lead_rear_m: float) -> None:
        """One step of IDM."""
        v = self.speed
        wanted = (
            MIN_GAP_M + HEADWAY_S * v + v * (v - lead_mps) / (2 * np.sqrt(ACCEL_MPS2 * DECEL_MPS2))
        )
        free = max(gap_m - lead_rear_m, MIN_GAP_M)
        accel = ACCEL_MPS2 * (1 - (v / self.driver.target_mps) ** EXPONENT - (wanted / free) ** 2)
        self.progress += DT_S * v
        self.speed = max(0.0, v + DT_S * float(np.clip(accel, -DECEL_MPS2, ACCEL_MPS2)))


def drive_with_shapely(
    drivers: Sequence[Driver], sizes_m: Array, speeds_mps: Array, states: Array
) -> Array:
    """(41, D, 3) poses of D vehicles that react to one plan's states (41, 11); NaN at step 0 and
    where one has left.

    Args:
        sizes_m: (D, 2) length, width; speeds_mps: (D,) at the start.
    """
    cars = [Car(*of_one) for of_one in zip(drivers, sizes_m, speeds_mps.tolist(), strict=True)]
    poses = np.full((NUM_STEPS + 1, len(cars), 3), np.nan)
    left = np.zeros(len(cars), bool)
    for step in range(1, NUM_STEPS + 1):
        ego = states[step - 1]
        left |= np.array([np.hypot(*(car.pose()[:2] - ego[:2])) > RADIUS_M for car in cars], bool)
        here = np.flatnonzero(~left)
        _step([cars[i] for i in here], ego)
        for i in here:
            poses[step, i] = cars[i].pose()
    return poses


def _step(cars: Sequence[Car], ego: Array) -> None:
    """All vehicles one step on, each seeing the ones before it already moved."""
    ego_entry = box_of(ego[:3], EGO_SIZE_M)  # centre on the rear axle, as the devkit
    entries = shapely.simplify(
        np.array([*(car.entry for car in cars), ego_entry], object), SIMPLIFY_M
    )
    for i, car in enumerate(cars):
        lead, gap_m = leader(entries, i, car.way_ahead())
        if lead < 0:
            car.advance(float(car.driver.progress_m[-1]) - car.progress, 0.0, car.size[0] / 2)
        else:
            yaw, speed = _motion(cars[lead] if lead < len(cars) else None, ego)
            car.advance(gap_m, speed * np.cos(yaw - car.pose()[Pose.YAW]), 0.0)
        car.entry = car.footprint()
        entries[i] = shapely.simplify(car.entry, SIMPLIFY_M)


def leader(entries: Array, i: int, way: Any) -> tuple[int, float]:
    """Of the (simplified) shapes that meet a way, the one nearest to shape i, and their distance;
    -1: nobody.
    """
    met = np.flatnonzero(shapely.intersects(entries, way))
    met = met[met != i]
    if not len(met):
        return -1, 0.0
    gaps = shapely.distance(entries[met], entries[i])
    return int(met[np.argmin(gaps)]), float(gaps.min())


def _motion(car: Car | None, ego: Array) -> tuple[float, float]:
    """Heading and speed of a vehicle, or of the ego (None)."""
    if car is None:
        return float(ego[State.YAW]), float(np.hypot(ego[State.VX], ego[State.VY]))
    return float(car.pose()[Pose.YAW]), car.speed


def box_of(pose: Array, size_m: Array) -> Any:
    """shapely box of a centre pose (3,) and a size (2,)."""
    return shapely.Polygon(box_corners(pose, size_m[0], size_m[1]))
