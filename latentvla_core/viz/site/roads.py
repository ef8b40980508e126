"""Road, road users and route of a scene, in the ego frame of now, small enough to send.

Lengths are whole centimetres, angles whole milliradians; axes x forward, y left.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely

from latentvla_core.geometry import rotate, to_local
from latentvla_core.pdms.state import DRIVABLE
from latentvla_core.pdms.world import World
from latentvla_core.types import Array
from latentvla_core.viz.site.files import centimetres, milliradians

REACH_M = 80.0
"""What lies farther from the ego now is left out."""
TOLERANCE_M = 0.08  # outlines may move by this much: a pixel or less on any screen
STEPS = 51  # of 0.1 s


def ego_frame(world: World, points: Array) -> Array:
    """(..., 2) world points → the ego frame of now."""
    ego = np.asarray(world.ego_state)[:3]
    return rotate(np.asarray(points)[..., :2] - ego[:2], -ego[2])


def road_data(world: World) -> dict[str, Any]:
    """Polygons, lights, centre line and reference of one scene."""
    reference = to_local(np.asarray(world.ego_state)[:3], np.asarray(world.reference_v1))
    center = ego_frame(world, world.centerline)
    near = center[np.abs(center).max(axis=1) < REACH_M]
    return {
        "polygons": _polygons(world),
        "lights": _lights(world),
        "route_cm": centimetres(_simplified(near)),
        "reference_cm": centimetres(reference[np.isfinite(reference).all(axis=1)][:, :2]),
    }


def _polygons(world: World) -> list[list[Any]]:
    """[kind, ring in cm] per polygon near the ego; kind 0 lane edge, 1 road, 2 route."""
    offsets, rings = np.asarray(world.ring_offsets), np.asarray(world.polygon_ring_offsets)
    vertices = ego_frame(world, world.ring_vertices)
    found = []
    for number, layer in enumerate(np.asarray(world.polygon_layers)):
        outer = rings[number]
        ring = vertices[offsets[outer] : offsets[outer + 1]]
        kind = 2 if world.polygon_on_route[number] else 1 if layer in DRIVABLE else 0
        found += [[kind, centimetres(part)] for part in _clipped(ring)]
    return sorted(found, key=lambda each: (each[0] == 2, each[0]))


def _clipped(ring: Array) -> list[Array]:
    """Outlines of what lies within reach; empty for what does not."""
    if len(ring) < 4 or (ring.min(axis=0) > REACH_M).any() or (ring.max(axis=0) < -REACH_M).any():
        return []
    shape = shapely.simplify(shapely.make_valid(shapely.Polygon(ring)), TOLERANCE_M)
    near = shapely.clip_by_rect(shape, -REACH_M, -REACH_M, REACH_M, REACH_M)
    parts = shapely.get_parts(near)
    return [
        shapely.get_coordinates(shapely.get_exterior_ring(part))
        for part in parts
        if shapely.get_type_id(part) == 3 and not shapely.is_empty(part)
    ]


def _simplified(line: Array) -> Array:
    if len(line) < 2:
        return np.zeros((0, 2))
    return shapely.get_coordinates(shapely.simplify(shapely.LineString(line), TOLERANCE_M))


def _lights(world: World) -> list[dict[str, Any]]:
    """Connectors that show red at some step: outline, and the first and last red step."""
    found = []
    offsets, vertices = np.asarray(world.light_offsets), ego_frame(world, world.light_vertices)
    for number in range(len(world.light_ids)):
        red = np.flatnonzero(np.asarray(world.light_active)[:, number])
        parts = _clipped(vertices[offsets[number] : offsets[number + 1]]) if len(red) else []
        span = [int(red[0]), int(red[-1])] if len(red) else []
        found += [{"ring_cm": centimetres(part), "red": span} for part in parts]
    return found


def object_data(world: World) -> list[dict[str, Any]]:
    """Road users within reach: class, name, size, first step and a pose per step of 0.1 s."""
    corners = ego_frame(world, world.object_corners)  # (T, A, 4, 2)
    valid = np.asarray(world.object_valid) & np.isfinite(corners).all(axis=(2, 3))
    found = []
    for who in range(corners.shape[1]):
        seen = np.flatnonzero(valid[:, who])
        if len(seen) == 0:
            continue
        boxes = corners[seen[0] : seen[-1] + 1, who]
        if np.nanmin(np.abs(boxes.mean(axis=1)).max(axis=1)) < REACH_M:
            found.append(_object(world, who, int(seen[0]), boxes))
    return found


def _object(world: World, who: int, first: int, boxes: Array) -> dict[str, Any]:
    """(n, 4, 2) boxes from step `first` on; steps without one hold the pose before."""
    ahead = boxes[:, 0] - boxes[:, 1]
    poses = np.column_stack([boxes.mean(axis=1), np.arctan2(ahead[:, 1], ahead[:, 0])])
    for step in np.flatnonzero(~np.isfinite(poses).all(axis=1)):
        poses[step] = poses[step - 1]
    if len(poses) > 1 and np.abs(poses - poses[0]).max() < 0.01:
        poses = poses[:1]  # stands still
    xy, yaw = centimetres(poses[:, :2]), milliradians(poses[:, 2])
    return {
        "class": int(world.object_classes[who]),
        "name": world.object_tokens[who],
        "size_cm": centimetres(
            [np.linalg.norm(ahead[0]), np.linalg.norm(boxes[0, 0] - boxes[0, 3])]
        ),
        "steps": [first, first + len(boxes) - 1],
        "poses": [v for i, a in enumerate(yaw) for v in (xy[2 * i], xy[2 * i + 1], a)],
    }
