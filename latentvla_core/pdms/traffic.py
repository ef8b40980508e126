"""Reactive traffic of v2.2: vehicles follow their lane by IDM and brake for each other and for the ego (pdms.md §14.2).

The devkit's mistakes are part of the score and kept: the ego's box is put on its rear axle, a path lacks its last vertex,
vehicles stop at the end of their lane, lights do not matter. Log replay (§14.1) is `measure.obstacles_v2`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from latentvla_core.geometry import arc_length, box_corners
from latentvla_core.pdms.map_index import Lane, MapIndex
from latentvla_core.pdms.observation import detections
from latentvla_core.pdms.state import DT_S, NUM_STEPS, Obstacles, State
from latentvla_core.pdms.world import World
from latentvla_core.types import Array, ObjectClass, Pose, RoadMap, Scene, Vehicle

FALLBACK_SPEED_MPS = 10.0
MIN_GAP_M, HEADWAY_S, ACCEL_MPS2, DECEL_MPS2, EXPONENT = 1.0, 1.5, 1.0, 2.0, 4
RADIUS_M, SNAP_M, PARKED_MPS = 100.0, 3.0, 0.1
SIMPLIFY_M, SAME_M, HEADING_STEP_M = 1e-5, 1e-8, 0.5


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


@dataclass(frozen=True, slots=True)
class ReactiveTraffic:
    """What is the same for all plans of a scene; local coordinates of its world. V vehicles at t = 0."""

    tokens: tuple[str, ...]
    poses: Array
    """(V, 3) box centres."""
    sizes_m: Array
    """(V, 2) length, width."""
    speed_mps: Array
    """(V,)"""
    drivers: tuple[Driver, ...]
    returns: Array
    """(V,) bool: stands in its place while it is not simulated, if nobody is there."""
    others: Obstacles
    """Everybody else, replayed: at step 0 only who was detected then."""


def reactive_traffic(scene: Scene, road_map: RoadMap | MapIndex, world: World) -> ReactiveTraffic:
    """Prepare the reactive traffic of a scene; `world` is the scene's own."""
    index = MapIndex.of(road_map)
    now = detections(scene.current)
    rows = [i for i, kind in enumerate(now.classes) if kind == ObjectClass.VEHICLE]
    rows = [i for k, i in enumerate(rows) if now.tokens[i] not in {now.tokens[j] for j in rows[:k]}]
    cars = now.take(np.array(rows, np.int64)).moved(-world.origin_m)
    speed = np.hypot(cars.velocities_mps[:, 0], cars.velocities_mps[:, 1])
    places = [_starting_place(pose, index, world.origin_m) for pose in cars.poses]
    drivers = tuple(_drivers(cars.poses, cars.sizes_m, places, world))
    far = np.array([place is not None and place.gap_m > SNAP_M for place in places], bool)
    off_road = np.array([not _on_road(pose, index, world.origin_m) for pose in cars.poses], bool)
    return ReactiveTraffic(
        cars.tokens,
        cars.poses,
        cars.sizes_m,
        speed,
        drivers,
        far | ((speed < PARKED_MPS) & off_road),
        _others(world, set(now.tokens)),
    )


def reaction(scene: Scene, road_map: RoadMap | MapIndex, world: World) -> Callable[[Array], Obstacles]:
    """How the traffic of a scene reacts to driven states: an entry of `score_trajectories(..., reactions=…)`."""
    traffic = reactive_traffic(scene, road_map, world)
    return lambda states: roll_out(traffic, states)


@dataclass(frozen=True, slots=True)
class _Place:
    """The nearest pose on the lane a vehicle starts in."""

    lane: Lane
    line: Any
    pose: Array
    progress_m: float
    gap_m: float


def _lanes_at(point: Any, index: MapIndex) -> list[str]:
    """Lanes that contain the point; if none, and it is in an intersection, the connectors that do."""

    def holding(layer: str) -> list[str]:
        polygons = getattr(index.road_map, layer)
        found = index.rows_in(layer, np.array([point.x, point.y, point.x, point.y]))
        return [polygons.ids[k] for k in found if polygons.shapes[k].contains(point)]

    return holding("lanes") or (holding("connectors") if holding("intersections") else [])


def _on_road(pose: Array, index: MapIndex, origin_m: Array) -> bool:
    """Is the box centre in a lane or an intersection?"""
    x, y = pose[:2] + origin_m
    boxes = np.array([x, y, x, y])
    return any(
        getattr(index.road_map, layer).shapes[k].contains(shapely.Point(x, y))
        for layer in ("lanes", "intersections")
        for k in index.rows_in(layer, boxes)
    )


def _starting_place(pose: Array, index: MapIndex, origin_m: Array) -> _Place | None:
    """The lane whose direction fits best (headings are not wrapped), and the nearest pose on it; None off the lanes."""
    point = shapely.Point(pose[:2] + origin_m)
    places = [_nearest(pose, index.lane(id_), origin_m) for id_ in _lanes_at(point, index)]
    return min(places, key=lambda place: abs(place.pose[Pose.YAW] - pose[Pose.YAW]), default=None)


def _nearest(pose: Array, lane: Lane, origin_m: Array) -> _Place:
    """Nearest pose on a lane's baseline; heading over half a metre ahead, or behind at the end (navsim_format.md §7.5)."""
    line = shapely.LineString(lane.path[:, :2] - origin_m)
    progress = line.project(shapely.Point(pose[:2]))
    here, ahead = line.interpolate(progress), line.interpolate(progress + HEADING_STEP_M)
    start = here
    if here.equals(ahead):
        start, ahead = line.interpolate(progress - HEADING_STEP_M), here
    yaw = np.arctan2(ahead.y - start.y, ahead.x - start.x)
    gap = float(np.hypot(here.x - pose[0], here.y - pose[1]))
    return _Place(lane, line, np.array([here.x, here.y, yaw]), float(progress), gap)


def _drivers(poses: Array, sizes: Array, places: list[_Place | None], world: World) -> Iterator[Driver]:
    """Vehicles that are simulated: near a lane, and clear of the ego and of each other once moved onto it."""
    taken = [_box(_ego_center(world.ego_state), np.array([Vehicle.LENGTH_M, Vehicle.WIDTH_M]))]
    target = FALLBACK_SPEED_MPS
    for row, place in enumerate(places):
        if place is None or place.gap_m > SNAP_M:
            continue
        box = _box(place.pose, sizes[row])
        if shapely.intersects(box, taken).any():
            continue
        path, progress = _path_of(place.lane, world.origin_m)
        if len(path) < 2:
            continue  # the devkit stops here; a lane of two vertices has no path once it lost one
        limit = place.lane.speed_limit_mps
        target = limit if np.isfinite(limit) and limit > 0 else target  # else the target of the vehicle before
        taken.append(box)
        yield Driver(row, path, progress, place.progress_m, place.pose, float(target))


def _path_of(lane: Lane, origin_m: Array) -> tuple[Array, Array]:
    """Poses (n, 3) and arc lengths (n,) of a baseline without its last vertex and without repeated ones."""
    progress = arc_length(lane.path[:, :2])
    keep = np.flatnonzero(np.diff(progress) > SAME_M)
    path = lane.path[keep] - [*origin_m, 0.0]
    path[:, Pose.YAW] = np.unwrap(path[:, Pose.YAW])
    return path, progress[keep]


def _others(world: World, detected: set[str]) -> Obstacles:
    """Objects that are not vehicles, replayed from the interpolated future."""
    keep = np.flatnonzero((world.object_classes != ObjectClass.VEHICLE) & world.object_valid_v2.any(axis=0))
    valid = world.object_valid_v2[:, keep].copy()
    valid[0] &= np.array([world.object_tokens[a] in detected for a in keep], bool)
    corners = world.object_corners[: NUM_STEPS + 1, keep]
    return Obstacles.of(corners, valid, world.object_classes[keep], world.object_speed_mps[keep])


def _ego_center(state: Array) -> Array:
    ahead = Vehicle.REAR_AXLE_TO_CENTER_M * np.array([np.cos(state[State.YAW]), np.sin(state[State.YAW])])
    return np.array([*(state[:2] + ahead), state[State.YAW]])


def _box(pose: Array, size_m: Array) -> Any:
    return shapely.Polygon(box_corners(pose, size_m[0], size_m[1]))


# ---------------------------------------------------------------- roll-out, once per plan


class _Car:
    """A simulated vehicle on its way."""

    def __init__(self, driver: Driver, size_m: Array, speed_mps: float) -> None:
        self.driver, self.size, self.speed, self.progress = driver, size_m, speed_mps, driver.start_m
        self.entry: Any = _box(driver.start_pose, size_m)

    def pose(self) -> Array:
        """(3,) at the clamped progress."""
        return self._at(self.progress)

    def _at(self, progress_m: float) -> Array:
        arc, path = self.driver.progress_m, self.driver.path
        return np.array([np.interp(progress_m, arc, path[:, k]) for k in range(3)])

    def way_ahead(self) -> Any:
        """The corridor it still has to drive."""
        later = self.driver.path[self.driver.progress_m > self.progress, :2]
        points = np.concatenate([self.pose()[None, :2], later]) if len(later) else self.driver.path[-2:, :2]
        return shapely.buffer(shapely.LineString(points), self.size[1] / 2, cap_style="flat")

    def footprint(self) -> Any:
        """Its box, and the piece of path it claims: half a length behind to half a length and 1.5 s ahead."""
        arc, path = self.driver.progress_m, self.driver.path
        half = self.size[0] / 2
        start, end = np.clip([self.progress - half, self.progress + half + HEADWAY_S * self.speed], arc[0], arc[-1])
        if not (arc > start).any():
            points = path[-2:, :2]
        elif not (arc < end).any():
            points = path[:2, :2]
        else:
            between = path[(arc > start) & (arc < end), :2]
            points = np.concatenate([self._at(start)[None, :2], between, self._at(end)[None, :2]])
        piece = shapely.buffer(shapely.LineString(points), self.size[1] / 2, cap_style="flat")
        return shapely.union(piece, _box(self.pose(), self.size))

    def advance(self, gap_m: float, lead_mps: float, lead_rear_m: float) -> None:
        """One step of IDM."""
        v = self.speed
        wanted = MIN_GAP_M + HEADWAY_S * v + v * (v - lead_mps) / (2 * np.sqrt(ACCEL_MPS2 * DECEL_MPS2))
        free = max(gap_m - lead_rear_m, MIN_GAP_M)
        accel = ACCEL_MPS2 * (1 - (v / self.driver.target_mps) ** EXPONENT - (wanted / free) ** 2)
        self.progress += DT_S * v
        self.speed = max(0.0, v + DT_S * float(np.clip(accel, -DECEL_MPS2, ACCEL_MPS2)))


def roll_out(traffic: ReactiveTraffic, states: Array) -> Obstacles:
    """The traffic that reacts to one plan's driven states (41, 11)."""
    count = len(traffic.tokens)
    corners = np.full((NUM_STEPS + 1, count, 4, 2), np.nan)
    corners[0] = box_corners(traffic.poses, traffic.sizes_m[:, 0], traffic.sizes_m[:, 1])
    unknown = np.hypot(states[0, State.VX], states[0, State.VY])  # a vehicle of unknown speed starts with the ego's
    speeds = np.where(np.isnan(traffic.speed_mps), unknown, traffic.speed_mps)
    cars = [_Car(d, traffic.sizes_m[d.row], float(speeds[d.row])) for d in traffic.drivers]
    for step in range(1, NUM_STEPS + 1):
        cars = _step(cars, states[step - 1])
        for car in cars:
            corners[step, car.driver.row] = box_corners(car.pose(), car.size[0], car.size[1])
        _put_back(traffic, corners, step, {car.driver.row for car in cars})
    return _joined(traffic, corners)


def _step(cars: list[_Car], ego: Array) -> list[_Car]:
    """All vehicles one step on, each seeing the ones before it already moved; those too far away leave for good."""
    cars = [car for car in cars if np.hypot(*(car.pose()[:2] - ego[:2])) <= RADIUS_M]
    ego_entry = _box(ego[:3], np.array([Vehicle.LENGTH_M, Vehicle.WIDTH_M]))  # centre on the rear axle, as the devkit
    entries = shapely.simplify(np.array([*(car.entry for car in cars), ego_entry], object), SIMPLIFY_M)
    for i, car in enumerate(cars):
        met = np.flatnonzero(shapely.intersects(entries, car.way_ahead()))
        met = met[met != i]
        if len(met):
            gaps = shapely.distance(entries[met], entries[i])
            lead = int(met[np.argmin(gaps)])
            yaw, speed = _motion(cars[lead] if lead < len(cars) else None, ego)
            car.advance(float(gaps.min()), speed * np.cos(yaw - car.pose()[Pose.YAW]), 0.0)
        else:
            car.advance(float(car.driver.progress_m[-1]) - car.progress, 0.0, car.size[0] / 2)
        car.entry = car.footprint()
        entries[i] = shapely.simplify(car.entry, SIMPLIFY_M)
    return cars


def _motion(car: _Car | None, ego: Array) -> tuple[float, float]:
    """Heading and speed of a vehicle, or of the ego (None)."""
    if car is None:
        return float(ego[State.YAW]), float(np.hypot(ego[State.VX], ego[State.VY]))
    return float(car.pose()[Pose.YAW]), car.speed


def _put_back(traffic: ReactiveTraffic, corners: Array, step: int, simulated: set[int]) -> None:
    """Parked vehicles, and those far from their lane, stand where they stood unless somebody is there."""
    shown = [shapely.Polygon(corners[step, row]) for row in simulated]
    for row in np.flatnonzero(traffic.returns):
        if row in simulated:
            continue
        box = shapely.Polygon(corners[0, row])
        if not shown or not shapely.intersects(box, shown).any():
            corners[step, row] = corners[0, row]
            shown.append(box)


def _joined(traffic: ReactiveTraffic, corners: Array) -> Obstacles:
    """Vehicles and everybody else as one set of obstacles."""
    classes = np.full(len(traffic.tokens), ObjectClass.VEHICLE, np.int8)
    cars = Obstacles.of(corners, ~np.isnan(corners[..., 0, 0]), classes, traffic.speed_mps)
    others = traffic.others
    return Obstacles(
        np.concatenate([cars.boxes, others.boxes], axis=1),
        np.concatenate([cars.reach, others.reach], axis=1),
        np.concatenate([cars.valid, others.valid], axis=1),
        np.concatenate([cars.is_agent, others.is_agent]),
        np.concatenate([cars.speed_mps, others.speed_mps]),
        np.arange(NUM_STEPS + 1),
    )
