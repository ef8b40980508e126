"""Little roads and drives by hand, so that each test of a closed-loop score reads as a picture.

y = 7.2  ◀────────── oncoming
y = 3.6  ──────────▶ left
y = 0.0  ──────────▶ own (the route)          one second = 10 steps
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from latentvla_core.closed_loop.scenes.route import Route
from latentvla_core.closed_loop.scores.drive import Actors, Drive, Flow, Ground, StopLine
from latentvla_core.pdms.roads.drivable import rings_of
from latentvla_core.pdms.state import Layer, RoadPolygons, State
from latentvla_core.types import Array, ObjectClass, Vehicle

LANES = {"own": 0.0, "left": 3.6, "oncoming": 7.2}
LONG_M, HALF_M = 400.0, 1.8


def road(
    limit_mps: float = 14.0, stop_at_m: float | None = None, control: str = "signal"
) -> Ground:
    """Three straight lanes; with a stop line before connector "c" at `stop_at_m`."""
    flows, shapes = [], []
    for name, y in LANES.items():
        x = np.linspace(-50.0, LONG_M, 226)
        xy = np.column_stack([x[::-1] if name == "oncoming" else x, np.full(226, y)])
        flows.append(Flow(name, Route.of(xy), limit_mps))
        shapes.append(shapely.box(-50.0, y - HALF_M, LONG_M, y + HALF_M))
    whole = shapely.box(-50.0, -HALF_M, LONG_M, 7.2 + HALF_M)
    polygons = np.array([whole, *shapes], object)
    layers = np.array([Layer.ROADBLOCK, *[Layer.LANE] * 3], np.int8)
    on_route = np.array([False, True, False, False])
    roads = RoadPolygons(layers, on_route, *rings_of(polygons, np.zeros(2)))
    lines = ()
    if stop_at_m is not None:
        lines = (StopLine(np.array([stop_at_m, 0.0]), 0.0, ("c",), control),)
    route = Route.of(flows[0].path.xy_m, ("own",))
    return Ground(tuple(flows), np.array(shapes, object), whole, roads, lines, route)


@dataclass(frozen=True)
class Thing:
    """Somebody on the road."""

    poses: Array
    """(T, 3) centre."""
    speed_mps: float
    cls: ObjectClass = ObjectClass.VEHICLE
    size_m: tuple[float, float] = (4.6, 1.9)


def states(x: Array, y: Array | float = 0.0, yaw: Array | float = 0.0) -> Array:
    """(T, 11) of a driven path of the rear axle; speed and acceleration from it."""
    x = np.asarray(x, float)
    out = np.zeros((len(x), 11))
    out[:, State.X], out[:, State.Y], out[:, State.YAW] = x, y, yaw
    steps = np.diff(out[:, :2], axis=0)
    along = (steps * np.stack([np.cos(out[1:, 2]), np.sin(out[1:, 2])], axis=1)).sum(1) * 10.0
    out[:, State.VX] = np.concatenate([along[:1], along])
    out[1:, State.AX] = np.diff(out[:, State.VX]) * 10.0
    out[1:, State.YAW_RATE] = np.diff(out[:, State.YAW]) * 10.0
    return out


def steady(speed_mps: float, seconds: float = 4.0, y: float = 0.0, yaw: float = 0.0) -> Array:
    """The ego at one speed along its heading, from x = 0."""
    t = np.arange(round(seconds * 10) + 1) * 0.1
    return states(speed_mps * t * np.cos(yaw), y + speed_mps * t * np.sin(yaw), yaw)


def car(
    x_m: float, y: float = 0.0, speed_mps: float = 0.0, seconds: float = 4.0, **more: object
) -> Thing:
    """A car whose centre starts at x and keeps its speed along +x (negative: comes towards)."""
    t = np.arange(round(seconds * 10) + 1) * 0.1
    yaw = 0.0 if speed_mps >= 0 else np.pi
    poses = np.column_stack([x_m + speed_mps * t, np.full(len(t), y), np.full(len(t), yaw)])
    return Thing(poses, abs(speed_mps), **more)  # type: ignore[arg-type]


def drive(ego: Array, things: Sequence[Thing] = (), ground: Ground | None = None, red=()) -> Drive:
    """A drive; `red`: steps at which connector "c" shows red."""
    steps = len(ego)
    actors = Actors(
        tokens=tuple(f"a{k}" for k in range(len(things))),
        classes=np.array([t.cls for t in things], np.int8),
        sizes_m=np.array([t.size_m for t in things], float).reshape(-1, 2),
        poses=np.array([t.poses[:steps] for t in things])
        .reshape(len(things), steps, 3)
        .transpose(1, 0, 2),
        speed_mps=np.array([[t.speed_mps for t in things]] * steps).reshape(steps, len(things)),
    )
    lights = [{"c": "red" if step in set(red) else "green"} for step in range(steps)]
    return Drive(ego, actors, lights, ground or road())


FRONT_M = Vehicle.LENGTH_M - Vehicle.REAR_AXLE_TO_REAR_M
"""Rear axle to front bumper."""
