"""What one scene needs to be scored, as plain arrays: one row of the table `scene_worlds` (replaces
the metric cache).

Legend: T time steps of 0.1 s, A objects, R red-light connectors, P polygons, V vertices, C
centre-line points, H past states. Coordinates are global minus `origin_m` (whole metres, so that
the difference is exact and float64 keeps nanometres). Source: pdms.md §2, §6, §7, §13.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import shapely

from latentvla_core.errors import DataError
from latentvla_core.geometry import box_corners
from latentvla_core.pdms import history, observation
from latentvla_core.pdms.observation import KeyFrame
from latentvla_core.pdms.pdm_closed.reference import PlannerScene, plan_reference
from latentvla_core.pdms.roads.drivable import DrivableMap, drivable_map, rings_of
from latentvla_core.pdms.roads.map_index import Lane, MapIndex
from latentvla_core.pdms.roads.route import (
    center_pose,
    centerline,
    correct_route,
    logged_route,
    starting_lane,
)
from latentvla_core.pdms.state import RoadPolygons
from latentvla_core.types import Array, RoadMap, Scene, Vehicle

FUTURE_V1 = 10  # key frames after now that v1.1 looks at (5 s)
FUTURE_V2 = 8  # and v2.2 (4 s)
STEPS_V1 = FUTURE_V1 * observation.STEPS_PER_FRAME + 1
STEPS_V2 = FUTURE_V2 * observation.STEPS_PER_FRAME + 1
SYNTHETIC_TOKEN_LENGTH = 17
MAX_PAIR_INTERVAL_US = (
    550_000  # two-frame comfort pairs scenes at most this far apart (pdms.md §11)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One scene, ready to be scored. `valid` false: it cannot be scored, `reason` says why; it is
    never a zero.
    """

    scene_token: str
    log_name: str
    map_location: str
    timestamp_us: int
    previous_token: str
    """Token of the frame before, at most 0.55 s earlier: its scene is the pair of two-frame
    comfort; "" = none.
    """
    is_synthetic: bool
    """A scene of v2's second stage (17-character token): no human, no human filter."""
    origin_m: Array
    """(2,) whole metres, global."""
    ego_state: Array
    """(11,) `State` at t = 0."""
    object_tokens: tuple[str, ...]
    """(A) track tokens. A token can stand twice: once as v1.1 and once as v2.2 sees it (see
    object_valid_v2).
    """
    object_classes: Array
    """(A,) int8 `ObjectClass`."""
    object_speed_mps: Array
    """(A,) at the first appearance."""
    object_corners: Array
    """(51, A, 4, 2) boxes every 0.1 s; NaN where absent."""
    object_valid: Array
    """(51, A) bool: present in v1.1. All false after 4 s when `has_v1` is false."""
    object_valid_v2: Array
    """(41, A) bool: present in v2.2, which looks at 9 key frames: what it sees once only is a ghost
    at all steps.
    """
    object_overlaps_ego: Array
    """(A,) bool: the box at t = 0 touches the ego's; v2.2 log replay removes these."""
    light_ids: tuple[str, ...]
    """(R) lane connectors of the logged route that show red at some step (v2.2)."""
    light_vertices: Array
    """(V, 2) outer rings, not closed."""
    light_offsets: Array
    """(R + 1,) first vertex of each."""
    light_active: Array
    """(41, R) bool: red at that step."""
    polygon_ids: tuple[str, ...]
    """(P) drivable map in the devkit's order."""
    polygon_layers: Array
    """(P,) int8 `Layer`."""
    polygon_on_route: Array
    """(P,) bool: lane or connector of the corrected route."""
    ring_vertices: Array
    """(V, 2) closed rings, shells and holes."""
    ring_offsets: Array
    """(rings + 1,) first vertex of each ring."""
    polygon_ring_offsets: Array
    """(P + 1,) first ring of each polygon."""
    centerline: Array
    """(C, 3) with repeated points where lanes meet."""
    route_lane_ids: tuple[str, ...]
    """Lanes and connectors of the corrected route, in order."""
    reference_v1: Array
    """(51, 3) PDM-Closed with the v1.1 scorer: poses at exact multiples of 0.1 s from now."""
    reference_v2: Array
    """(51, 3) the same with the v2.2 scorer."""
    history_states: Array
    """(H, 11) past states that v2.2 puts before the plan."""
    human_poses: Array
    """(8, 3) logged future in the ego frame, 0.5 s apart; NaN when human_valid is false."""
    human_valid: bool
    """The human can be scored: an original scene with 4 s of future."""
    has_v1: bool
    """The log reaches 5 s ahead, which v1.1 needs; v2.2 needs 4 s."""
    valid: bool
    reason: str

    def __repr__(self) -> str:
        state = "valid" if self.valid else f"invalid: {self.reason}"
        return f"World({self.scene_token}, {len(self.object_tokens)} objects, {len(self.polygon_ids)} polygons, {state})"

    def to_row(self) -> dict[str, Any]:
        """The world as a table row: one key per field."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> World:
        """The world of a table row; other columns of the row are ignored."""
        return World(**{field.name: row[field.name] for field in fields(World)})


def build(
    scene: Scene, road_map: RoadMap | MapIndex, *, extended: Sequence[KeyFrame] = ()
) -> World:
    """Everything scoring needs to know about a scene. A scene that cannot be scored gives a world
    that says why.

    Args:
        scene: frames with annotations; at least 8 (v2.2) or 10 (v1.1) after the current one.
        road_map: the map of the scene's location; pass the same object for all its scenes, its
        index is kept.
        extended: key frames after the last frame of the scene, 0.5 s apart, for v2's synthetic
        scenes, whose future
            is a list of detections (pdms.md §6.1).
    """
    try:
        return _build(scene, MapIndex.of(road_map), extended)
    except DataError as error:
        return _unusable(scene, str(error))
    except shapely.errors.GEOSException as error:
        text = f"a polygon of map {scene.current.map_location!r} or a box is not valid geometry ({error})"
        return _unusable(scene, f"{text}; check the map with shapely.is_valid")


@dataclass(frozen=True, slots=True)
class Ground:
    """The road under a scene, global."""

    logged: tuple[str, ...]
    """Blocks of the logged route."""
    blocks: tuple[str, ...]
    """Blocks of the corrected route."""
    lanes: tuple[str, ...]
    """Its lanes and connectors."""
    area: DrivableMap
    start: Lane
    """The starting lane."""
    centerline: Array
    """(C, 3)"""
    roads: RoadPolygons
    """The drivable map minus the scene's origin."""


def find_ground(scene: Scene, index: MapIndex) -> Ground:
    """Route, drivable map and centre line of a scene. Raises DataError where one of them cannot be
    found.
    """
    pose = scene.current.ego_pose
    logged = logged_route(scene.current.roadblock_ids, index)
    blocks = correct_route(pose, logged, index)
    lanes = index.lanes_of_blocks(blocks)
    area = drivable_map(center_pose(pose)[:2], index)
    if not area.ids:
        where = np.round(pose[:2], 1).tolist()
        text = f"map {index.road_map.location!r} has no roads within 100 m of the ego at {where}"
        raise DataError(f"{text}; check that log and map belong together")
    start = starting_lane(pose, lanes, area.touching(pose[:2]), index)
    rings = rings_of(area.shapes, np.round(pose[:2]))
    roads = RoadPolygons(area.layers, area.on_route(set(lanes)), *rings)
    return Ground(
        logged, blocks, lanes, area, start, centerline(start, blocks, lanes, index), roads
    )


def planner_scene(scene: Scene, now: KeyFrame, ground: Ground, index: MapIndex) -> PlannerScene:
    """What the reference planner knows of a scene; now: its current key frame."""
    ids, shapes, _ = observation.red_lights([now], ground.lanes, index, 1)
    return PlannerScene(
        ego_state=history.ego_state(scene.current),
        origin_m=np.round(scene.current.ego_pose[:2]),
        objects=now.detections,
        centerline=ground.centerline,
        speed_limit_mps=ground.start.speed_limit_mps,
        red_lights=dict(zip(ids, shapes, strict=True)),
        roads=ground.roads,
    )


def _build(scene: Scene, index: MapIndex, extended: Sequence[KeyFrame]) -> World:
    _check(scene, len(extended))
    origin = np.round(scene.current.ego_pose[:2])
    ground = find_ground(scene, index)
    frames = [*map(observation.key_frame, (scene.current, *scene.future)), *extended][
        : FUTURE_V1 + 1
    ]
    reference = plan_reference(planner_scene(scene, frames[0], ground, index))
    return World(
        **_identity(scene, origin),
        **_objects(scene, frames, origin),
        **_lights(frames, ground, index, origin),
        **_road(ground),
        **_driver(scene, origin),
        ego_state=_less(history.ego_state(scene.current), origin),
        centerline=_less(ground.centerline, origin),
        route_lane_ids=ground.lanes,
        reference_v1=_less(reference.poses_v1, origin),
        reference_v2=_less(reference.poses_v2, origin),
        has_v1=len(frames) > FUTURE_V1,
        valid=True,
        reason="",
    )


def _less(states: Array, origin: Array) -> Array:
    """Poses or states (..., 2+) minus origin (2,), which is exact."""
    out = np.array(states, np.float64)
    out[..., :2] -= origin
    return out


def _check(scene: Scene, num_extended: int) -> None:
    if len(scene.future) + num_extended < FUTURE_V2:
        text = f"has {len(scene.future) + num_extended} frames after it; scoring needs {FUTURE_V2} (v2.2) or {FUTURE_V1} (v1.1)"
        raise DataError(text, frame=scene.token)
    state = history.ego_state(scene.current)
    if not np.isfinite(state).all():
        raise DataError(
            "the ego state has values that are not finite",
            frame=scene.token,
            field="ego_dynamic_state",
        )


def _identity(scene: Scene, origin: Array) -> dict[str, Any]:
    current = scene.current
    return {
        "scene_token": scene.token,
        "log_name": scene.log_name,
        "map_location": current.map_location,
        "timestamp_us": current.timestamp_us,
        "previous_token": _previous_token(scene),
        "is_synthetic": len(scene.token) == SYNTHETIC_TOKEN_LENGTH,
        "origin_m": origin,
    }


def _previous_token(scene: Scene) -> str:
    if scene.num_history < 2:
        return ""
    before = scene.frames[scene.num_history - 2]
    return (
        before.token
        if 0 < scene.current.timestamp_us - before.timestamp_us <= MAX_PAIR_INTERVAL_US
        else ""
    )


def _objects(scene: Scene, frames: Sequence[KeyFrame], origin: Array) -> dict[str, Any]:
    found = observation.tracks([frame.detections.moved(-origin) for frame in frames], FUTURE_V2 + 1)
    missing = STEPS_V1 - len(found.valid)
    corners = np.pad(found.corners, [(0, missing), (0, 0), (0, 0), (0, 0)], constant_values=np.nan)
    return {
        "object_tokens": found.tokens,
        "object_classes": found.classes,
        "object_speed_mps": found.speed_mps,
        "object_corners": corners,
        "object_valid": np.pad(found.valid, [(0, missing), (0, 0)]),
        "object_valid_v2": found.valid_v2,
        "object_overlaps_ego": overlaps(_less(scene.current.ego_pose, origin), corners[0]),
    }


def overlaps(rear_axle: Array, corners: Array) -> Array:
    """(A,) bool: boxes (A, 4, 2) that touch the ego box at rear_axle (3,); absent (NaN) boxes do
    not.
    """
    hit = np.zeros(len(corners), bool)
    present = ~np.isnan(corners[:, 0, 0])
    if present.any():
        ego = shapely.Polygon(
            box_corners(center_pose(rear_axle), Vehicle.LENGTH_M, Vehicle.WIDTH_M)
        )
        hit[present] = shapely.intersects(shapely.polygons(corners[present]), ego)
    return hit


def _lights(
    frames: Sequence[KeyFrame], ground: Ground, index: MapIndex, origin: Array
) -> dict[str, Any]:
    """Red lights of the logged route: v2.2 scores those, not the ones of the corrected route
    (pdms.md §6.2).
    """
    ids, shapes, active = observation.red_lights(
        frames[: FUTURE_V2 + 1], index.lanes_of_blocks(ground.logged), index, STEPS_V2
    )
    vertices, offsets = observation.exterior_rings(shapes, origin)
    return {
        "light_ids": ids,
        "light_vertices": vertices,
        "light_offsets": offsets,
        "light_active": active,
    }


def _road(ground: Ground) -> dict[str, Any]:
    return {
        "polygon_ids": ground.area.ids,
        "polygon_layers": ground.roads.layers,
        "polygon_on_route": ground.roads.on_route,
        "ring_vertices": ground.roads.ring_vertices,
        "ring_offsets": ground.roads.ring_offsets,
        "polygon_ring_offsets": ground.roads.polygon_ring_offsets,
    }


def _driver(scene: Scene, origin: Array) -> dict[str, Any]:
    _, past = history.history_states(scene.history)
    human = history.human_poses(scene.current, scene.future)
    original = len(scene.token) != SYNTHETIC_TOKEN_LENGTH
    return {
        "history_states": _less(past, origin),
        "human_poses": human if original else np.full_like(human, np.nan),
        "human_valid": bool(original and np.isfinite(human).all()),
    }


def _unusable(scene: Scene, reason: str) -> World:
    """A world that says why it cannot be scored; its arrays are empty."""
    origin = np.nan_to_num(np.round(scene.current.ego_pose[:2]))
    none, nowhere, steps = np.zeros(0), np.full((STEPS_V1, 3), np.nan), history.NUM_STATES
    return World(
        **_identity(scene, origin),
        ego_state=_less(history.ego_state(scene.current), origin),
        object_tokens=(),
        object_classes=none.astype(np.int8),
        object_speed_mps=none,
        object_corners=np.zeros((STEPS_V1, 0, 4, 2)),
        object_valid=np.zeros((STEPS_V1, 0), bool),
        object_valid_v2=np.zeros((STEPS_V2, 0), bool),
        object_overlaps_ego=none.astype(bool),
        light_ids=(),
        light_vertices=np.zeros((0, 2)),
        light_offsets=np.zeros(1, np.int64),
        light_active=np.zeros((STEPS_V2, 0), bool),
        polygon_ids=(),
        polygon_layers=none.astype(np.int8),
        polygon_on_route=none.astype(bool),
        ring_vertices=np.zeros((0, 2)),
        ring_offsets=np.zeros(1, np.int64),
        polygon_ring_offsets=np.zeros(1, np.int64),
        centerline=np.zeros((0, 3)),
        route_lane_ids=(),
        reference_v1=nowhere,
        reference_v2=nowhere,
        history_states=np.zeros((0, steps)),
        human_poses=np.full((8, 3), np.nan),
        human_valid=False,
        has_v1=False,
        valid=False,
        reason=reason,
    )
