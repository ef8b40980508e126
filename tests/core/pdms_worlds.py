"""Little road maps and scenes to build worlds of: a straight road of three blocks, and what stands
and moves on it.

x runs along the road. Two lanes lead east ("own" at |y| < 1.75, "side" to its right) and one leads
west ("west", to the left). Block "a" ends at x = 40 in a roadblock connector "j" over an
intersection of 20 m, then comes block "b".
"""

from dataclasses import replace

import numpy as np
import shapely

from latentvla_core.geometry import rotate, wrap
from latentvla_core.types import (
    Command,
    Frame,
    GroupConnectors,
    LaneConnectors,
    Lanes,
    ObjectClass,
    Objects,
    Polygons,
    RoadMap,
    Scene,
)

TIME_US = 1_700_000_000_123_457
LANE_M, START_M, CROSS_M, AFTER_M, END_M = 3.5, -100.0, 40.0, 60.0, 260.0
CAR, CONE, PERSON = (4.6, 1.9), (0.4, 0.4), (0.7, 0.7)
SIZES = {ObjectClass.VEHICLE: CAR, ObjectClass.TRAFFIC_CONE: CONE, ObjectClass.PEDESTRIAN: PERSON}


def _rectangles(*bounds):
    shapes = np.empty(len(bounds), object)
    shapes[:] = [shapely.box(*b) for b in bounds]
    return shapes


def _line(x0, x1, y, step=5.0):
    n = round(abs(x1 - x0) / step) + 1
    return np.stack([np.linspace(x0, x1, n), np.full(n, y)], axis=-1)


def _lanes(speed_limit):
    rows = [
        ("own_a", "a", START_M, CROSS_M, 0.0),
        ("side_a", "a", START_M, CROSS_M, -LANE_M),
        ("own_b", "b", AFTER_M, END_M, 0.0),
        ("side_b", "b", AFTER_M, END_M, -LANE_M),
        ("west", "w", END_M, START_M, LANE_M),
    ]
    return Lanes(
        ids=tuple(r[0] for r in rows),
        shapes=_rectangles(
            *((min(r[2:4]), r[4] - LANE_M / 2, max(r[2:4]), r[4] + LANE_M / 2) for r in rows)
        ),
        group_ids=tuple(r[1] for r in rows),
        index=np.array([0, 1, 0, 1, 0]),
        speed_limit_mps=np.full(len(rows), speed_limit),
        baselines=tuple(_line(r[2], r[3], r[4]) for r in rows),
    )


def straight_map(*, speed_limit: float = 12.0) -> RoadMap:
    """The road above, near the origin."""
    ys = (0.0, -LANE_M)
    connectors = LaneConnectors(
        ids=("own_j", "side_j"),
        shapes=_rectangles(*((CROSS_M, y - LANE_M / 2, AFTER_M, y + LANE_M / 2) for y in ys)),
        group_connector_ids=("j", "j"),
        from_lane_ids=("own_a", "side_a"),
        to_lane_ids=("own_b", "side_b"),
        speed_limit_mps=np.full(2, np.nan),
        baselines=tuple(_line(CROSS_M, AFTER_M, y) for y in ys),
        stop_line_ids=((), ()),
    )
    low, high = -1.5 * LANE_M, LANE_M / 2
    blocks = _rectangles(
        (START_M, low, CROSS_M, high),
        (AFTER_M, low, END_M, high),
        (START_M, high, END_M, high + LANE_M),
    )
    none = Polygons((), np.empty(0, object))
    return RoadMap(
        location="sg-one-north",
        lanes=_lanes(speed_limit),
        connectors=connectors,
        lane_groups=Polygons(("a", "b", "w"), blocks),
        group_connectors=GroupConnectors(
            ("j",), _rectangles((CROSS_M, low, AFTER_M, high)), ("a",), ("b",)
        ),
        intersections=Polygons(("cross",), _rectangles((CROSS_M, low, AFTER_M, high + LANE_M))),
        carparks=none,
        crosswalks=none,
        stop_polygons=none,
        walkways=none,
        generic_drivable=none,
    )


def straight_scene(
    speed_mps: float = 8.0,
    *,
    route=("a", "j", "b"),
    start=(0.0, 0.0, 0.0),
    past: int = 3,
    future: int = 10,
) -> Scene:
    """The ego drives east at constant speed; no objects, no lights."""
    frames = []
    for k in range(-past, future + 1):
        pose = np.array(start, float)
        pose[:2] += rotate(np.array([speed_mps * 0.5 * k, 0.0]), pose[2])
        frames.append(
            Frame(
                token=f"frame{k + past:011d}",
                timestamp_us=TIME_US + 500_000 * k,
                frame_idx=k + past,
                log_name="little",
                scene_token="little",
                map_location="sg-one-north",
                ego_pose=pose,
                ego_translation_m=np.append(pose[:2], 0.0),
                ego_rotation_wxyz=np.array([np.cos(pose[2] / 2), 0.0, 0.0, np.sin(pose[2] / 2)]),
                ego_velocity_mps=np.array([speed_mps, 0.0]),
                ego_acceleration_mps2=np.zeros(2),
                command=Command.FORWARD,
                roadblock_ids=tuple(route),
                traffic_lights=(),
                objects=Objects.empty(),
            )
        )
    return Scene(tuple(frames), past + 1, "test")


def with_object(
    scene: Scene,
    token: str,
    xy,
    velocity=(0.0, 0.0),
    *,
    kind=ObjectClass.VEHICLE,
    heading=None,
    seen=None,
) -> Scene:
    """One more track, at global xy at the current frame, constant global velocity; seen: frames
    from now (default all).
    """
    velocity = np.asarray(velocity, float)
    yaw = (
        heading
        if heading is not None
        else float(np.arctan2(velocity[1], velocity[0]))
        if velocity.any()
        else 0.0
    )
    frames = list(scene.frames)
    for k, frame in enumerate(frames):
        step = k - (scene.num_history - 1)
        if seen is None or step in seen:
            frames[k] = replace(
                frame, objects=_added(frame, token, xy + 0.5 * step * velocity, velocity, yaw, kind)
            )
    return replace(scene, frames=tuple(frames))


def _added(frame, token, xy, velocity, yaw, kind):
    ego, old = frame.ego_pose, frame.objects
    local = rotate(np.asarray(xy, float) - ego[:2], -ego[2])
    box = np.array([[*local, 0.0, *SIZES[kind], 1.6, yaw - ego[2]]])
    moving = np.append(rotate(velocity, -ego[2]), 0.0)[None]
    return Objects(
        np.concatenate([old.boxes, box]),
        np.append(old.classes, np.int8(kind)).astype(np.int8),
        np.concatenate([old.velocities_mps, moving]),
        (*old.track_tokens, token),
        (*old.instance_tokens, f"{token}@{frame.token}"),
    )


def with_red_light(scene: Scene, connector: str, *, seen=None) -> Scene:
    """A lane connector that shows red in some frames from now (default all), green in the others."""
    frames = [
        replace(
            f,
            traffic_lights=(
                *f.traffic_lights,
                (connector, seen is None or k - scene.num_history + 1 in seen),
            ),
        )
        for k, f in enumerate(scene.frames)
    ]
    return replace(scene, frames=tuple(frames))


def moved_scene(scene: Scene, shift_m, turn_rad: float) -> Scene:
    """The scene turned about the origin and then shifted."""

    def move(frame):
        pose = np.append(
            rotate(frame.ego_pose[:2], turn_rad) + shift_m, wrap(frame.ego_pose[2] + turn_rad)
        )
        return replace(frame, ego_pose=pose)

    return replace(scene, frames=tuple(move(frame) for frame in scene.frames))


def moved_map(road_map: RoadMap, shift_m, turn_rad: float) -> RoadMap:
    """The map turned about the origin and then shifted."""

    def points(xy):
        return rotate(np.asarray(xy), turn_rad) + shift_m

    def layer(polygons):
        moved = {"shapes": shapely.transform(polygons.shapes, points)}
        if hasattr(polygons, "baselines"):
            moved["baselines"] = tuple(points(line) for line in polygons.baselines)
        return replace(polygons, **moved)

    names = ("lanes", "connectors", "lane_groups", "group_connectors", "intersections")
    return replace(road_map, **{name: layer(getattr(road_map, name)) for name in names})
