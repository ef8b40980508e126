"""What the reference planner expects other road users to do: constant speed along their heading
(pdms.md §13.4).

Legend: A objects, R red lights, N maps 0.2 s apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import shapely

from latentvla_core.geometry import wrap
from latentvla_core.pdms.observation import Detections, exterior_rings
from latentvla_core.pdms.state import DT_S, NUM_STEPS, Obstacles, RedLights, ego_points
from latentvla_core.types import Array, ObjectClass, Pose

RADIUS_M = 100.0
TREE_NODE_CAPACITY = 10
STEPS_PER_MAP = 2
NUM_MAPS = 26  # 5 s
LIMITS = (  # classes and how many of the nearest are kept
    (
        (
            ObjectClass.TRAFFIC_CONE,
            ObjectClass.BARRIER,
            ObjectClass.CZONE_SIGN,
            ObjectClass.GENERIC_OBJECT,
        ),
        50,
    ),
    ((ObjectClass.VEHICLE,), 50),
    ((ObjectClass.PEDESTRIAN,), 25),
    ((ObjectClass.BICYCLE,), 10),
)


@dataclass(frozen=True, slots=True)
class Forecast:
    """Boxes over 5 s and the red lights of now. The planner passes over what overlaps the ego now
    (`*_ignored`).
    """

    objects: Detections
    """(A) static objects, vehicles, pedestrians, bicycles; each group by distance from the ego."""
    speed_mps: Array
    """(A,)"""
    corners: Array
    """(N, A, 4, 2) at 0, 0.2, … 5 s, global."""
    ignored: Array
    """(A,) bool: the box touches the ego's."""
    light_ids: tuple[str, ...]
    """(R) red connectors of the route."""
    lights: Array
    """(R,) their shapely polygons, global."""
    light_ignored: Array
    """(R,) bool: the ego's box lies within."""

    @property
    def ignored_tokens(self) -> tuple[str, ...]:
        """What is passed over, in the devkit's names."""
        lights = [
            f"red_light_{id_}" for id_ in np.array(self.light_ids, object)[self.light_ignored]
        ]
        return tuple(np.array(self.objects.tokens, object)[self.ignored]) + tuple(lights)

    def obstacles(self, origin_m: Array) -> Obstacles:
        """For scoring, minus an origin (2,): step t meets the map of t // 2."""
        steps = np.arange((NUM_MAPS - 1) * STEPS_PER_MAP + 1) // STEPS_PER_MAP
        who = np.flatnonzero(~self.ignored)
        boxes = self.corners[:, who] - origin_m
        present = np.ones(boxes.shape[:2], bool)
        return Obstacles.of(boxes, present, self.objects.classes[who], self.speed_mps[who], steps)

    def red_lights(self, origin_m: Array) -> RedLights:
        """For scoring, minus an origin (2,): red all the time, also where the ego stands in one."""
        vertices, offsets = exterior_rings(self.lights, origin_m)
        return RedLights(vertices, offsets, np.ones((NUM_STEPS + 1, len(self.lights)), bool))

    def query_order(self, index: int, area: Any) -> Array:
        """Objects (0 … A - 1) and lights (A …) of map `index` that meet an area, in the order the
        devkit's tree gives.

        Only where two of them are equally far does the order matter: both overlap the ego.
        """
        shapes = np.concatenate([shapely.polygons(self.corners[index]), self.lights])
        return shapely.STRtree(shapes, node_capacity=TREE_NODE_CAPACITY).query(
            area, predicate="intersects"
        )


def forecast(ego_state: Array, objects: Detections, red_lights: Mapping[str, Any]) -> Forecast:
    """Forecast from the objects of now and the red connectors of the route (id → polygon), all in
    one frame.
    """
    ego_box = ego_points(ego_state)
    near = objects.take(_nearest(ego_box[4], objects))
    ego = shapely.Polygon(ego_box[:4])
    lights = np.array(list(red_lights.values()), object)
    near = replace(near, velocities_mps=np.nan_to_num(near.velocities_mps))  # unknown: it stands
    speed = np.hypot(near.velocities_mps[:, 0], near.velocities_mps[:, 1])
    return Forecast(
        objects=near,
        speed_mps=speed,
        corners=_move(near, speed),
        ignored=np.asarray(shapely.intersects(shapely.polygons(near.corners), ego), bool),
        light_ids=tuple(red_lights),
        lights=lights,
        light_ignored=np.asarray(shapely.within(ego, lights), bool),
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
    """(N, A, 4, 2) boxes moved at their speed along their heading, or backwards if that is where
    they go.
    """
    velocity, yaw = objects.velocities_mps, objects.poses[:, Pose.YAW]
    course = np.where(speed_mps > 0, np.arctan2(velocity[:, 1], velocity[:, 0]), yaw)
    sign = np.where(np.abs(wrap(yaw - course)) >= np.pi / 2, -1.0, 1.0)
    step = (sign * speed_mps)[:, None] * np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)  # (A, 2) m/s
    time_s = np.arange(NUM_MAPS) * (STEPS_PER_MAP * DT_S)
    return objects.corners + (time_s[:, None, None] * step)[:, :, None, :]
