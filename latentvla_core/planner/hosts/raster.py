"""The Transfuser's bird's-eye target: seven classes drawn from the map and the boxes around the ego
(latentvla.md §4.2).

A pixel row is x (0 at the ego, forward), a column is y (right to left); both halves follow NAVSIM's
target builder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from latentvla_core.geometry import box_corners, rotate
from latentvla_core.types import Array, Box, ObjectClass, RoadMap, SceneRecord

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

NUM_CLASSES = 7
BACKGROUND, ROAD, WALKWAY, CENTERLINE, STATIC, VEHICLE, PEDESTRIAN = range(NUM_CLASSES)
UNKNOWN = 255  # pixels without a target: the record has no map or no boxes
STATIC_CLASSES = (
    ObjectClass.CZONE_SIGN,
    ObjectClass.BARRIER,
    ObjectClass.TRAFFIC_CONE,
    ObjectClass.GENERIC_OBJECT,
)


class MapLayers:
    """Search trees over the drawn layers of one map."""

    def __init__(self, road_map: RoadMap) -> None:
        from shapely import STRtree, linestrings

        self.roads = _exteriors(road_map.lanes.shapes) + _exteriors(road_map.intersections.shapes)
        self.walkways = _exteriors(road_map.walkways.shapes)
        self.lines = [
            b for b in (*road_map.lanes.baselines, *road_map.connectors.baselines) if len(b) > 1
        ]
        groups = (self.roads, self.walkways, self.lines)
        self.trees = [
            STRtree(np.array([linestrings(line) for line in group], object)) for group in groups
        ]

    def near(
        self, center_m: Array, radius_m: float
    ) -> tuple[list[Array], list[Array], list[Array]]:
        """Global vertices of roads, walkways and centrelines that touch the square around a point."""
        from shapely import box

        square = box(
            *(center_m - radius_m), *(center_m + radius_m)
        )  # tested against bounds: outlines may surround it
        groups = (self.roads, self.walkways, self.lines)
        found = [
            [group[i] for i in sorted(t.query(square))]
            for group, t in zip(groups, self.trees, strict=True)
        ]
        return found[0], found[1], found[2]


def _exteriors(shapes: Iterable) -> list[Array]:
    """(m, 2) outer rings; holes are filled, as in NAVSIM's target."""
    rings: list[Array] = []
    for shape in shapes:
        parts = shape.geoms if hasattr(shape, "geoms") else (shape,)
        rings += [np.asarray(part.exterior.coords)[:, :2] for part in parts]
    return rings


def semantic_map(
    record: SceneRecord, layers: MapLayers | None, width_px: int, range_m: float
) -> Array:
    """(width_px / 2, width_px) uint8 classes ahead of the ego, from y = -range_m to range_m;
    UNKNOWN without a map.

    Painted in the order of the class numbers, so that road users lie on top of the road.
    """
    from PIL import Image, ImageDraw

    if layers is None or not record.has_objects:
        return np.full((width_px // 2, width_px), UNKNOWN, np.uint8)
    picture = Image.new("L", (width_px, width_px // 2), BACKGROUND)
    pen = _Pen(ImageDraw.Draw(picture), width_px, range_m)
    roads, walkways, lines = layers.near(
        record.ego_pose[:2], 1.5 * range_m
    )  # reaches the picture's corners
    for color, shapes in ((ROAD, roads), (WALKWAY, walkways)):
        for shape in shapes:
            pen.fill(_to_ego(record, shape), color)
    for line in lines:
        pen.line(_to_ego(record, line), CENTERLINE)
    for color, classes in ((STATIC, STATIC_CLASSES), (VEHICLE, (ObjectClass.VEHICLE,)),
                           (PEDESTRIAN, (ObjectClass.PEDESTRIAN,))):  # fmt: skip
        for corners in _boxes(record, classes):
            pen.fill(corners, color)
    return np.asarray(picture)


def _to_ego(record: SceneRecord, xy_m: Array) -> Array:
    return rotate(xy_m - record.ego_pose[:2], -record.ego_pose[2])


def _boxes(record: SceneRecord, classes: Sequence[ObjectClass]) -> Array:
    rows = record.object_boxes.reshape(-1, 7)[np.isin(record.object_classes, classes)]
    return box_corners(rows[:, [Box.X, Box.Y, Box.YAW]], rows[:, Box.LENGTH], rows[:, Box.WIDTH])


class _Pen:
    def __init__(self, draw: ImageDraw, width_px: int, range_m: float) -> None:
        self.draw, self.width_px, self.px_per_m = draw, width_px, width_px / (2 * range_m)

    def fill(self, xy_m: Array, color: int) -> None:
        self.draw.polygon(self._pixels(xy_m), fill=color)

    def line(self, xy_m: Array, color: int) -> None:
        width = max(1, round(2 * self.px_per_m * 0.25))  # 2 pixels at NAVSIM's 0.25 m
        self.draw.line(self._pixels(xy_m), fill=color, width=width)

    def _pixels(self, xy_m: Array) -> list[tuple[float, float]]:
        columns = np.trunc(xy_m[:, 1] * self.px_per_m + self.width_px / 2)
        rows = np.trunc(xy_m[:, 0] * self.px_per_m)
        return list(zip(columns.tolist(), rows.tolist(), strict=True))
