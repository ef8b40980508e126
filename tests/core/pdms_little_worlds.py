"""Little worlds to score plans in, drawn directly as `World` columns: a straight two-lane road, and
what stands on it.

x runs along the road. The ego starts at the origin in its own lane (|y| < 1.75, on the route); to
the left lies the oncoming lane (1.75 < y < 5.25, not on the route); to the right, at y = -1.75, the
road ends.
"""

from dataclasses import replace

import numpy as np

from latentvla_core.geometry import box_corners, rotate, wrap
from latentvla_core.pdms.state import Layer, State
from latentvla_core.pdms.world import World
from latentvla_core.types import ObjectClass, Vehicle

TIME_US = 1_700_000_000_123_457
EDGE_M, LANE_M = -1.75, 3.5
CAR, PERSON, CONE = (4.6, 1.9), (0.7, 0.7), (0.4, 0.4)
STEPS = np.arange(51) * 0.1


def rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]], float)


def straight_road(
    speed: float = 8.0, *, token: str = "now", human_speed: float | None = None
) -> World:
    """The road above, empty; the reference drives at `speed` (the human too) and the past was
    driven at it.
    """
    own, left = rectangle(-60, EDGE_M, 160, -EDGE_M), rectangle(-60, -EDGE_M, 160, LANE_M - EDGE_M)
    polygons = [own, left, own, left]
    line = np.stack([np.arange(-60.0, 161.0, 4.0), np.zeros(56), np.zeros(56)], axis=-1)
    history = np.zeros((14, 11))
    history[:, State.X], history[:, State.VX] = speed * np.arange(-1.5, -0.15, 0.1), speed
    ego = np.zeros(11)
    ego[State.VX] = speed
    reference = np.stack([speed * STEPS, 0 * STEPS, 0 * STEPS], axis=-1)
    human = straight_plan(speed if human_speed is None else human_speed)
    return World(
        scene_token=token,
        log_name="little",
        map_location="sg-one-north",
        timestamp_us=TIME_US,
        previous_token="",
        is_synthetic=False,
        origin_m=np.zeros(2),
        ego_state=ego,
        object_tokens=(),
        object_classes=np.zeros(0, np.int8),
        object_speed_mps=np.zeros(0),
        object_corners=np.zeros((51, 0, 4, 2)),
        object_valid=np.zeros((51, 0), bool),
        object_valid_v2=np.zeros((41, 0), bool),
        object_overlaps_ego=np.zeros(0, bool),
        light_ids=(),
        light_vertices=np.zeros((0, 2)),
        light_offsets=np.zeros(1, np.int64),
        light_active=np.zeros((41, 0), bool),
        polygon_ids=("block", "oncoming block", "lane", "oncoming lane"),
        polygon_layers=np.array(
            [Layer.ROADBLOCK, Layer.ROADBLOCK, Layer.LANE, Layer.LANE], np.int8
        ),
        polygon_on_route=np.array([False, False, True, False]),
        ring_vertices=np.concatenate(polygons),
        ring_offsets=np.arange(5) * 5,
        polygon_ring_offsets=np.arange(5),
        centerline=line,
        route_lane_ids=("lane",),
        reference_v1=reference,
        reference_v2=reference,
        history_states=history,
        human_poses=human,
        human_valid=True,
        has_v1=True,
        valid=True,
        reason="",
    )


def with_object(
    world: World, xy, velocity=(0.0, 0.0), *, size=CAR, kind=ObjectClass.VEHICLE, heading=None
) -> World:
    """One more object that moves at constant velocity and faces the way it moves (or `heading`)."""
    velocity = np.asarray(velocity, float)
    speed = float(np.hypot(*velocity))
    yaw = (
        heading if heading is not None else (np.arctan2(velocity[1], velocity[0]) if speed else 0.0)
    )
    poses = np.concatenate(
        [np.asarray(xy, float) + STEPS[:, None] * velocity, np.full((51, 1), yaw)], axis=1
    )
    corners = box_corners(poses, *size)
    return replace(
        world,
        object_tokens=(*world.object_tokens, f"object {len(world.object_tokens)}"),
        object_classes=np.append(world.object_classes, np.int8(kind)),
        object_speed_mps=np.append(world.object_speed_mps, speed),
        object_corners=np.concatenate([world.object_corners, corners[:, None]], axis=1),
        object_valid=np.pad(world.object_valid, [(0, 0), (0, 1)], constant_values=True),
        object_valid_v2=np.pad(world.object_valid_v2, [(0, 0), (0, 1)], constant_values=True),
        object_overlaps_ego=np.append(world.object_overlaps_ego, False),
    )


def with_red_light(
    world: World, x0: float, x1: float, *, from_step: int = 0, to_step: int = 40
) -> World:
    """A connector across the own lane that shows red from one step to another."""
    active = np.zeros((41, 1), bool)
    active[from_step : to_step + 1] = True
    return replace(
        world,
        light_ids=(*world.light_ids, f"connector {x0}"),
        light_vertices=np.concatenate(
            [world.light_vertices, rectangle(x0, EDGE_M, x1, -EDGE_M)[:4]]
        ),
        light_offsets=np.append(world.light_offsets, world.light_offsets[-1] + 4),
        light_active=np.concatenate([world.light_active, active], axis=1),
    )


def with_intersection(world: World, x0: float, x1: float) -> World:
    """An intersection over both lanes."""
    return replace(
        world,
        polygon_ids=(*world.polygon_ids, "intersection"),
        polygon_layers=np.append(world.polygon_layers, np.int8(Layer.INTERSECTION)),
        polygon_on_route=np.append(world.polygon_on_route, False),
        ring_vertices=np.concatenate(
            [world.ring_vertices, rectangle(x0, EDGE_M, x1, LANE_M - EDGE_M)]
        ),
        ring_offsets=np.append(world.ring_offsets, world.ring_offsets[-1] + 5),
        polygon_ring_offsets=np.append(
            world.polygon_ring_offsets, world.polygon_ring_offsets[-1] + 1
        ),
    )


def seen_from(world: World, shift=(0.0, 0.0), turn: float = 0.0) -> World:
    """The same world in coordinates turned by `turn` rad and moved by `shift` metres."""
    shift = np.asarray(shift, float)

    def points(xy):
        return rotate(xy, turn) + shift

    def poses(array):
        out = array.copy()
        out[..., :2] = points(array[..., :2])
        out[..., 2] = wrap(array[..., 2] + turn)
        return out

    return replace(
        world,
        ego_state=poses(world.ego_state),
        object_corners=points(world.object_corners),
        light_vertices=points(world.light_vertices),
        ring_vertices=points(world.ring_vertices),
        centerline=poses(world.centerline),
        reference_v1=poses(world.reference_v1),
        reference_v2=poses(world.reference_v2),
        history_states=poses(world.history_states),
    )


def half_second_later(world: World, token: str = "later") -> World:
    """The next scene of the same log, drawn from its own ego (objects are left as they are)."""
    return replace(
        world,
        scene_token=token,
        previous_token=world.scene_token,
        timestamp_us=world.timestamp_us + 500_000,
    )


def straight_plan(speed: float, *, left_m: float = 0.0, over_s: float = 0.0) -> np.ndarray:
    """(8, 3) straight on at one speed; `left_m` sideways, at once or evenly over `over_s`."""
    t = np.arange(1, 9) * 0.5
    share = np.clip(t / over_s, 0.0, 1.0) if over_s else np.ones(8)
    return np.stack([speed * t, left_m * share, np.zeros(8)], axis=-1)


def braking_plan(speed: float, deceleration: float) -> np.ndarray:
    """(8, 3) straight on, braking to a stop."""
    t = np.minimum(np.arange(1, 9) * 0.5, speed / deceleration)
    return np.stack([speed * t - deceleration * t**2 / 2, np.zeros(8), np.zeros(8)], axis=-1)


FRONT_M = Vehicle.REAR_AXLE_TO_CENTER_M + Vehicle.LENGTH_M / 2  # rear axle → front bumper
REAR_M = Vehicle.REAR_AXLE_TO_REAR_M
