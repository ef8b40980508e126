"""Reactive traffic of v2.2: vehicles follow their lane by IDM and brake for each other and for the
ego (pdms.md §14.2).

The devkit's mistakes are part of the score and kept: the ego's box is put on its rear axle, a path
lacks its last vertex, vehicles stop at the end of their lane, lights do not matter. Log replay
(§14.1) is `measure.obstacles_v2`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import shapely

from latentvla_core.geometry import arc_length, box_corners
from latentvla_core.pdms import backend
from latentvla_core.pdms.contacts.quads import put_back_numba
from latentvla_core.pdms.observation import detections
from latentvla_core.pdms.reactive.traffic_cars import (
    EGO_SIZE_M,
    SIMPLIFY_M,
    Car,
    Driver,
    box_of,
    drive_with_shapely,
    leader,
)
from latentvla_core.pdms.reactive.traffic_kernels import ASK, drive_on
from latentvla_core.pdms.roads.map_index import Lane, MapIndex
from latentvla_core.pdms.state import NUM_STEPS, Obstacles, State
from latentvla_core.pdms.world import World
from latentvla_core.types import Array, ObjectClass, Pose, RoadMap, Scene, Vehicle

FALLBACK_SPEED_MPS = 10.0
SNAP_M, PARKED_MPS, SAME_M, HEADING_STEP_M = 3.0, 0.1, 1e-8, 0.5
RING_VERTICES, WAY_VERTICES = 256, 4096  # most that an outline may have; shapely draws longer ones


@dataclass(frozen=True, slots=True)
class ReactiveTraffic:
    """What is the same for all plans of a scene; local coordinates of its world. V vehicles at t =
    0.
    """

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
    lanes: tuple[Array, ...] = field(init=False, repr=False)
    """What `traffic_kernels.drive_on` needs to know of the drivers."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lanes", _lanes(self.drivers, self.sizes_m))


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


def reaction(
    scene: Scene, road_map: RoadMap | MapIndex, world: World
) -> Callable[[Array], Obstacles]:
    """How the traffic of a scene reacts to driven states: an entry of
    `score_trajectories(..., reactions=…)`.
    """
    return partial(roll_out, reactive_traffic(scene, road_map, world))


def as_reacted(world: World, traffic: ReactiveTraffic, states: Array) -> World:
    """The world with its objects where they are while one plan is driven, states (41, 11): to look
    at, or to replay.
    """
    found, others = roll_out(traffic, states), _not_vehicles(world)
    center, ahead, left = found.boxes[..., :2], found.boxes[..., 2:4], found.boxes[..., 4:]
    corners = np.stack(
        [
            center + ahead + left,
            center - ahead + left,
            center - ahead - left,
            center + ahead - left,
        ],
        axis=2,
    )
    missing = len(world.object_corners) - len(corners)
    vehicles = np.full(len(traffic.tokens), ObjectClass.VEHICLE, np.int8)
    return replace(
        world,
        object_tokens=(*traffic.tokens, *(world.object_tokens[a] for a in others)),
        object_classes=np.concatenate([vehicles, world.object_classes[others]]),
        object_speed_mps=found.speed_mps,
        object_corners=np.pad(
            corners, [(0, missing), (0, 0), (0, 0), (0, 0)], constant_values=np.nan
        ),
        object_valid=np.pad(found.valid, [(0, missing), (0, 0)]),
        object_valid_v2=found.valid,
        object_overlaps_ego=np.zeros(
            found.valid.shape[1], bool
        ),  # reactive traffic takes nobody out
    )


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
    """The lane whose direction fits best (headings are not wrapped), and the nearest pose on it;
    None off the lanes.
    """
    point = shapely.Point(pose[:2] + origin_m)
    places = [_nearest(pose, index.lane(id_), origin_m) for id_ in _lanes_at(point, index)]
    return min(places, key=lambda place: abs(place.pose[Pose.YAW] - pose[Pose.YAW]), default=None)


def _nearest(pose: Array, lane: Lane, origin_m: Array) -> _Place:
    """Nearest pose on a lane's baseline; heading over half a metre ahead, or behind at the end
    (navsim_format.md §7.5).
    """
    line = shapely.LineString(lane.path[:, :2] - origin_m)
    progress = line.project(shapely.Point(pose[:2]))
    here, ahead = line.interpolate(progress), line.interpolate(progress + HEADING_STEP_M)
    start = here
    if here.equals(ahead):
        start, ahead = line.interpolate(progress - HEADING_STEP_M), here
    yaw = np.arctan2(ahead.y - start.y, ahead.x - start.x)
    gap = float(np.hypot(here.x - pose[0], here.y - pose[1]))
    return _Place(lane, line, np.array([here.x, here.y, yaw]), float(progress), gap)


def _drivers(
    poses: Array, sizes: Array, places: list[_Place | None], world: World
) -> Iterator[Driver]:
    """Vehicles that are simulated: near a lane, and clear of the ego and of each other once moved
    onto it.
    """
    taken = [box_of(_ego_center(world.ego_state), np.array([Vehicle.LENGTH_M, Vehicle.WIDTH_M]))]
    target = FALLBACK_SPEED_MPS
    for row, place in enumerate(places):
        if place is None or place.gap_m > SNAP_M:
            continue
        box = box_of(place.pose, sizes[row])
        if shapely.intersects(box, taken).any():
            continue
        path, progress = _path_of(place.lane, world.origin_m)
        if len(path) < 2:
            continue  # the devkit stops here; a lane of two vertices has no path once it lost one
        limit = place.lane.speed_limit_mps
        target = (
            limit if np.isfinite(limit) and limit > 0 else target
        )  # else the target of the vehicle before
        taken.append(box)
        yield Driver(row, path, progress, place.progress_m, place.pose, float(target))


def _path_of(lane: Lane, origin_m: Array) -> tuple[Array, Array]:
    """Poses (n, 3) and arc lengths (n,) of a baseline without its last vertex and without repeated
    ones.
    """
    progress = arc_length(lane.path[:, :2])
    keep = np.flatnonzero(np.diff(progress) > SAME_M)
    path = lane.path[keep] - [*origin_m, 0.0]
    path[:, Pose.YAW] = np.unwrap(path[:, Pose.YAW])
    return path, progress[keep]


def _not_vehicles(world: World) -> Array:
    """(n,) columns of the world's objects that are replayed from the interpolated future."""
    return np.flatnonzero(
        (world.object_classes != ObjectClass.VEHICLE) & world.object_valid_v2.any(axis=0)
    )


def _others(world: World, detected: set[str]) -> Obstacles:
    """Objects that are not vehicles, replayed."""
    keep = _not_vehicles(world)
    valid = world.object_valid_v2[:, keep].copy()
    valid[0] &= np.array([world.object_tokens[a] in detected for a in keep], bool)
    corners = world.object_corners[: NUM_STEPS + 1, keep]
    return Obstacles.of(corners, valid, world.object_classes[keep], world.object_speed_mps[keep])


def _ego_center(state: Array) -> Array:
    ahead = Vehicle.REAR_AXLE_TO_CENTER_M * np.array(
        [np.cos(state[State.YAW]), np.sin(state[State.YAW])]
    )
    return np.array([*(state[:2] + ahead), state[State.YAW]])


# ---------------------------------------------------------------- roll-out, once per plan


def roll_out(traffic: ReactiveTraffic, states: Array) -> Obstacles:
    """The traffic that reacts to one plan's driven states (41, 11)."""
    rows = np.array([driver.row for driver in traffic.drivers], np.int64)
    sizes, speeds = traffic.sizes_m[rows], traffic.speed_mps[rows]
    unknown = np.hypot(
        states[0, State.VX], states[0, State.VY]
    )  # a vehicle of unknown speed starts with the ego's
    speeds = np.where(np.isnan(speeds), unknown, speeds)
    compiled = backend.active() == "numba"
    poses = (
        _drive(traffic, speeds, states)
        if compiled
        else drive_with_shapely(traffic.drivers, sizes, speeds, states)
    )
    corners = np.full((NUM_STEPS + 1, len(traffic.tokens), 4, 2), np.nan)
    corners[:, rows] = box_corners(poses, sizes[:, 0], sizes[:, 1])
    corners[0] = box_corners(traffic.poses, traffic.sizes_m[:, 0], traffic.sizes_m[:, 1])
    (put_back_numba if compiled else _put_back)(corners, traffic.returns)
    return _joined(traffic, corners)


def _drive(traffic: ReactiveTraffic, speeds_mps: Array, states: Array) -> Array:
    """`drive_with_shapely`, compiled. Where hundredths of a millimetre decide, shapely is asked."""
    count, lanes = len(traffic.drivers), traffic.lanes
    start = np.array([driver.start_m for driver in traffic.drivers])
    cars = (start, speeds_mps.copy(), np.ones(count, bool), np.zeros(count, bool))
    boxes = np.empty((count + 1, 4, 2))
    for i, driver in enumerate(traffic.drivers):
        boxes[i] = box_corners(driver.start_pose, *lanes[4][i])
    limits = np.concatenate([boxes.min(axis=1), boxes.max(axis=1)], axis=1)
    longest = int(np.diff(lanes[2]).max(initial=0)) + 2
    rings, counts = np.empty((count, RING_VERTICES, 2)), np.zeros(count, np.int64)
    shapes = (
        boxes,
        limits,
        rings,
        counts,
        np.empty((longest, 2)),
        np.empty((longest, 2)),
        np.empty((WAY_VERTICES, 2)),
    )
    egos = np.ascontiguousarray(states[:, [State.X, State.Y, State.YAW, State.VX, State.VY]])
    poses = np.full((NUM_STEPS + 1, count, 3), np.nan)
    step, car, answer = 1, 0, (-2, 0.0)
    while step:
        step, car, open_ = drive_on(lanes, egos, cars, shapes, poses, step, car, answer)
        answer = (
            _judge(traffic, cars, limits, states[step - 1], car, ASK - 1 - open_)
            if step
            else answer
        )
    return poses


def _judge(
    traffic: ReactiveTraffic, cars: tuple[Array, ...], limits: Array, ego: Array, i: int, lead: int
) -> tuple[int, float]:
    """Leader (number of drivers: the ego, -1: nobody) and gap, metres, of vehicle i, by shapely.
    lead: known, if not negative.
    """
    progress, speed, alive, moved = cars
    everybody = len(traffic.drivers)

    def entry(j: int) -> Any:
        if j == everybody:
            return box_of(ego[:3], EGO_SIZE_M)
        return shapely.simplify(car(j).entry, SIMPLIFY_M)

    def car(j: int) -> Car:
        driver = traffic.drivers[j]
        return Car(
            driver,
            traffic.sizes_m[driver.row],
            float(speed[j]),
            float(progress[j]) if moved[j] else None,
        )

    if lead >= 0:
        return lead, float(shapely.distance(entry(i), entry(lead)))
    way = car(i).way_ahead()
    x0, y0, x1, y1 = way.bounds
    near = (limits[:, 0] <= x1) & (limits[:, 2] >= x0) & (limits[:, 1] <= y1) & (limits[:, 3] >= y0)
    who = [i, *(int(j) for j in np.flatnonzero(near & np.append(alive, True)) if j != i)]
    found, gap = leader(np.array([entry(j) for j in who], object), 0, way)
    return (who[found] if found >= 0 else -1), gap


def _lanes(drivers: tuple[Driver, ...], sizes_m: Array) -> tuple[Array, ...]:
    """Paths (n, 3), arc lengths (n,), offsets (D + 1,), target speeds (D,) and sizes (D + 1, 2),
    the ego's last.
    """
    counts = [len(driver.path) for driver in drivers]
    return (
        np.concatenate([np.zeros((0, 3)), *(driver.path for driver in drivers)]),
        np.concatenate([np.zeros(0), *(driver.progress_m for driver in drivers)]),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.array([driver.target_mps for driver in drivers], np.float64),
        np.concatenate(
            [sizes_m[[driver.row for driver in drivers]].reshape(-1, 2), EGO_SIZE_M[None]]
        ),
    )


def _put_back(corners: Array, returns: Array) -> None:
    """Parked vehicles, and those far from their lane, stand where they stood unless somebody is
    there; fills corners.
    """
    for step in range(1, len(corners)):
        present = ~np.isnan(corners[step, :, 0, 0])
        shown = [shapely.Polygon(box) for box in corners[step, present]]
        for row in np.flatnonzero(returns & ~present):
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
