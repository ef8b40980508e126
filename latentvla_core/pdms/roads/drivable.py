"""Polygons of the drivable map around the ego (pdms.md §7.1)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import shapely

from latentvla_core.pdms.roads.map_index import MapIndex
from latentvla_core.pdms.state import Layer
from latentvla_core.types import Array

RADIUS_M = 100.0  # half side of the square


@dataclass(frozen=True, slots=True)
class DrivableMap:
    """Polygons in the devkit's order, global."""

    ids: tuple[str, ...]
    layers: Array
    """(P,) int8 `Layer`."""
    shapes: Array
    """(P,) shapely polygons."""

    def on_route(self, route_lanes: Collection[str]) -> Array:
        """(P,) bool: lanes and connectors of the route."""
        lanes = np.isin(self.layers, [Layer.LANE, Layer.LANE_CONNECTOR])
        return lanes & np.array([id_ in route_lanes for id_ in self.ids], bool)

    def touching(self, xy: Array) -> tuple[str, ...]:
        """Ids of the polygons that intersect a point, boundary included."""
        return tuple(np.array(self.ids, object)[shapely.intersects_xy(self.shapes, *xy)])


def drivable_map(center_xy: Array, index: MapIndex) -> DrivableMap:
    """The drivable map around the ego's box centre (2,), global. No polygons when the ego is off
    the map.
    """
    (x, y), r, road = center_xy, RADIUS_M, index.road_map
    box = np.array([x - r, y - r, x + r, y + r])
    blocks = [road.lane_groups.ids[k] for k in index.rows_in("lane_groups", box)]
    connectors = [road.group_connectors.ids[k] for k in index.rows_in("group_connectors", box)]
    lanes = [index.lane(id_) for block in blocks + connectors for id_ in index.lanes_of(block)]
    parts = [
        (Layer.ROADBLOCK, blocks, [road.lane_groups.shapes[index.block_row[b]] for b in blocks]),
        (
            Layer.LANE,
            [a.id for a in lanes if not a.is_connector],
            [a.polygon for a in lanes if not a.is_connector],
        ),
        (
            Layer.LANE_CONNECTOR,
            [a.id for a in lanes if a.is_connector],
            [a.polygon for a in lanes if a.is_connector],
        ),
    ]
    for layer, name in ((Layer.INTERSECTION, "intersections"), (Layer.CARPARK, "carparks")):
        rows, polygons = index.rows_in(name, box), getattr(road, name)
        parts.append((layer, [polygons.ids[k] for k in rows], list(polygons.shapes[rows])))
    layers = np.repeat([p[0] for p in parts], [len(p[1]) for p in parts]).astype(np.int8)
    shapes = np.array([shape for p in parts for shape in p[2]], object)
    return DrivableMap(tuple(id_ for p in parts for id_ in p[1]), layers, shapes)


def rings_of(shapes: Array, origin_m: Array) -> tuple[Array, Array, Array]:
    """shapely polygons (P,) → vertices (V, 2) minus origin, ring offsets (rings + 1,), polygon ring
    offsets (P + 1,).
    """
    rings, polygon = shapely.get_rings(shapes, return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    ring_offsets = np.concatenate([[0], np.cumsum(np.bincount(ring, minlength=len(rings)))])
    polygon_offsets = np.concatenate([[0], np.cumsum(np.bincount(polygon, minlength=len(shapes)))])
    return xy - origin_m, ring_offsets.astype(np.int64), polygon_offsets.astype(np.int64)
