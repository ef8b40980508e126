"""What the reference planner expects other road users to do: constant speed along their heading (pdms.md §13.4).

Legend: A objects, R red lights, N maps 0.2 s apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from latentvla_core.geometry import wrap
from latentvla_core.pdms.observation import Detections, exterior_rings
from latentvla_core.pdms.state import DT_S, NUM_STEPS, Obstacles, RedLights, ego_points
from latentvla_core.types import Array, ObjectClass, Pose

RADIUS_M = 100.0
STEPS_PER_MAP = 2
NUM_MAPS = 26  # 5 s
LIMITS = (  # classes and how many of the nearest are kept
    ((ObjectClass.TRAFFIC_CONE, ObjectClass.BARRIER, ObjectClass.CZONE_SIGN, ObjectClass.GENERIC_OBJECT), 50),
    ((ObjectClass.VEHICLE,), 50),
    ((ObjectClass.PEDESTRIAN,), 25),
    ((ObjectClass.BICYCLE,), 10),
)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Boxes over 5 s and the red lights of now, without what overlaps the ego: the planner ignores that."""

    tokens: tuple[str, ...]
    classes: Array
    """(A,) int8 `ObjectClass`."""
    speed_mps: Array
    """(A,)"""
    heading_rad: Array
    """(A,)"""
    corners: Array
    """(N, A, 4, 2) at 0, 0.2, … 5 s."""
    lights: Array
    """(R,) shapely polygons of red connectors that the planner stops at."""
    all_lights: Array
    """(R',) red connectors, those that the ego stands in included: the scorer's."""
    ignored: tuple[str, ...]
    """Tokens of what overlaps the ego, in the devkit's names (red_light_<id>)."""

    def obstacles(self, origin_m: Array) -> Obstacles:
        """For scoring, minus an origin (2,): step t meets the map of t // 2."""
        steps = np.arange((NUM_MAPS - 1) * STEPS_PER_MAP + 1) // STEPS_PER_MAP
        present = np.ones(self.corners.shape[:2], bool)
        return Obstacles.of(self.corners - origin_m, present, self.classes, self.speed_mps, steps)

    def red_lights(self, origin_m: Array) -> RedLights:
        """For scoring, minus an origin (2,): red all the time."""
        vertices, offsets = exterior_rings(self.all_lights, origin_m)
        return RedLights(vertices, offsets, np.ones((NUM_STEPS + 1, len(self.all_lights)), bool))


def forecast(ego_state: Array, objects: Detections, red_lights: Mapping[str, Any]) -> Forecast:
    """Forecast from the objects of now and the red connectors of the route (id → polygon), all in one frame."""
    ego_box = ego_points(ego_state)
    near = objects.take(_nearest(ego_box[4], objects))
    ego = shapely.Polygon(ego_box[:4])
    hit = shapely.intersects(shapely.polygons(near.corners), ego) if len(near.tokens) else np.zeros(0, bool)
    kept = near.take(np.flatnonzero(~hit))
    inside = {id_ for id_, shape in red_lights.items() if shapely.within(ego, shape)}
    ignored = [token for token, is_hit in zip(near.tokens, hit, strict=True) if is_hit]
    speed = np.hypot(kept.velocities_mps[:, 0], kept.velocities_mps[:, 1])
    return Forecast(
        tokens=kept.tokens,
        classes=kept.classes,
        speed_mps=speed,
        heading_rad=kept.poses[:, Pose.YAW],
        corners=_move(kept, speed),
        lights=np.array([shape for id_, shape in red_lights.items() if id_ not in inside], object),
        all_lights=np.array(list(red_lights.values()), object),
        ignored=tuple(ignored + [f"red_light_{id_}" for id_ in red_lights if id_ in inside]),
    )


def _nearest(ego_center: Array, objects: Detections) -> Array:
    """Rows within 100 m: of each group of classes at most so many, the nearest."""
    distance = np.sqrt(((objects.poses[:, :2] - ego_center) ** 2).sum(-1))
    rows = []
    for classes, limit in LIMITS:
        members = np.flatnonzero(np.isin(objects.classes, classes) & (distance <= RADIUS_M))
        order = np.argsort(distance[members], kind="stable")
        rows.append(members[order[:limit]])
    return np.concatenate(rows)


def _move(objects: Detections, speed_mps: Array) -> Array:
    """(N, A, 4, 2) boxes moved at their speed along their heading, or backwards if that is where they go."""
    velocity, yaw = objects.velocities_mps, objects.poses[:, Pose.YAW]
    course = np.where(speed_mps > 0, np.arctan2(velocity[:, 1], velocity[:, 0]), yaw)
    sign = np.where(np.abs(wrap(yaw - course)) >= np.pi / 2, -1.0, 1.0)
    step = (sign * speed_mps)[:, None] * np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)  # (A, 2) m/s
    time_s = np.arange(NUM_MAPS) * (STEPS_PER_MAP * DT_S)
    return objects.corners + (time_s[:, None, None] * step)[:, :, None, :]
