"""A road map made quick to ask: spatial trees, and the graphs of lanes and of blocks
(navsim_format.md §7.4).

A *lane* here is a lane or a lane connector, a *block* a roadblock (lane group) or a roadblock
connector: route ids name blocks, and the ids of the two kinds do not clash. Built once per map;
everything is in the global frame.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from latentvla_core.errors import DataError
from latentvla_core.geometry import wrap
from latentvla_core.types import Array, Polygons, Pose, RoadMap

_MAX_KEPT = 8
_kept: dict[int, MapIndex] = {}


@dataclass(frozen=True, slots=True)
class Lane:
    """One lane or lane connector."""

    id: str
    block_id: str
    is_connector: bool
    polygon: Any
    """shapely polygon, global."""
    path: Array
    """(m, 3) vertices of the baseline with the heading towards the next vertex; the last repeats
    its predecessor's.
    """
    length_m: float
    speed_limit_mps: float
    """NaN = unknown."""

    def nearest_vertex(self, pose: Array) -> tuple[float, float]:
        """(distance m, absolute heading error rad) of the baseline vertex nearest to pose (3,)."""
        offset = self.path[:, :2] - pose[:2]
        distance = np.sqrt((offset**2).sum(-1))
        k = int(np.argmin(distance))
        return float(distance[k]), float(np.abs(wrap(self.path[k, Pose.YAW] - pose[Pose.YAW])))


def vertex_headings(xy: Array) -> Array:
    """(m,) heading of each vertex of a polyline (m, 2) towards the next one; the last repeats the
    one before.
    """
    step = np.diff(xy, axis=0)
    heading = np.arctan2(step[:, 1], step[:, 0])
    return np.append(heading, heading[-1])


class MapIndex:
    """Queries that building a world asks of a map. Rows come back in the order of the map's file,
    as the devkit's.
    """

    def __init__(self, road_map: RoadMap) -> None:
        self.road_map = road_map
        self._trees: dict[str, shapely.STRtree] = {}
        self._lanes: dict[str, Lane] = {}
        lanes, connectors, groups = road_map.lanes, road_map.connectors, road_map.group_connectors
        self._lane_row = {id_: k for k, id_ in enumerate(lanes.ids)}
        self._connector_row = {id_: k for k, id_ in enumerate(connectors.ids)}
        self.block_row = {id_: k for k, id_ in enumerate(road_map.lane_groups.ids)}
        self.block_connector_row = {id_: k for k, id_ in enumerate(groups.ids)}
        self._lanes_of = _grouped(lanes.group_ids, lanes.ids)
        self._connectors_of = _grouped(connectors.group_connector_ids, connectors.ids)
        self._connectors_from = _grouped(connectors.from_lane_ids, connectors.ids)
        self._blocks_out = _grouped(groups.from_group_ids, groups.ids)
        self._blocks_in = _grouped(groups.to_group_ids, groups.ids)

    @staticmethod
    def of(road_map: RoadMap | MapIndex) -> MapIndex:
        """The index of a map; kept, so that scenes of one map share it."""
        if isinstance(road_map, MapIndex):
            return road_map
        found = _kept.get(id(road_map))
        if found is None:
            if len(_kept) >= _MAX_KEPT:
                _kept.pop(next(iter(_kept)))
            found = _kept[id(road_map)] = MapIndex(road_map)  # holds the map, so its id stays taken
        return found

    # ------------------------------------------------------------ places

    def rows_in(self, layer: str, box: Array) -> Array:
        """Rows of a layer whose polygons intersect the rectangle (x0, y0, x1, y1), ascending."""
        polygons = self._layer(layer)
        if not len(polygons):
            return np.zeros(0, np.int64)
        return np.sort(self._tree(layer).query(shapely.box(*box), predicate="intersects"))

    def nearest_row(self, layer: str, xy: Array) -> int | None:
        """Row of the polygon of a layer nearest to a point; None for an empty layer."""
        polygons = self._layer(layer)
        return (
            int(np.argmin(shapely.distance(polygons.shapes, shapely.Point(xy))))
            if len(polygons)
            else None
        )

    def _layer(self, name: str) -> Polygons:
        return getattr(self.road_map, name)

    def _tree(self, name: str) -> shapely.STRtree:
        if name not in self._trees:
            self._trees[name] = shapely.STRtree(self._layer(name).shapes)
        return self._trees[name]

    # ------------------------------------------------------------ lanes

    def lane(self, id_: str) -> Lane:
        """The lane or lane connector with this id."""
        if id_ not in self._lanes:
            self._lanes[id_] = self._make_lane(id_)
        return self._lanes[id_]

    def _make_lane(self, id_: str) -> Lane:
        is_connector = id_ not in self._lane_row
        if is_connector and id_ not in self._connector_row:
            raise self._missing("lane or lane connector", id_)
        layer = self.road_map.connectors if is_connector else self.road_map.lanes
        row = (self._connector_row if is_connector else self._lane_row)[id_]
        blocks = (
            self.road_map.connectors.group_connector_ids
            if is_connector
            else self.road_map.lanes.group_ids
        )
        xy = np.asarray(layer.baselines[row], np.float64)
        if len(xy) < 2:
            raise DataError(
                f"lane {id_} has a baseline of {len(xy)} vertices; it needs at least 2",
                field="baselines",
            )
        return Lane(
            id=id_,
            block_id=blocks[row],
            is_connector=is_connector,
            polygon=layer.shapes[row],
            path=np.column_stack([xy, vertex_headings(xy)]),
            length_m=float(shapely.length(shapely.LineString(xy))),
            speed_limit_mps=float(layer.speed_limit_mps[row]),
        )

    def lanes_after(self, id_: str) -> tuple[str, ...]:
        """Lanes one can enter from a lane: its connectors in row order, or a connector's one lane."""
        if id_ in self._lane_row:
            return self._connectors_from.get(id_, ())
        return (self.road_map.connectors.to_lane_ids[self._connector_row[id_]],)

    # ------------------------------------------------------------ blocks

    def is_block(self, id_: str) -> bool:
        return id_ in self.block_row or id_ in self.block_connector_row

    def lanes_of(self, block_id: str) -> tuple[str, ...]:
        """Lanes of a roadblock, or connectors of a roadblock connector, in row order."""
        if block_id in self.block_row:
            return self._lanes_of.get(block_id, ())
        if block_id in self.block_connector_row:
            return self._connectors_of.get(block_id, ())
        raise self._missing("roadblock or roadblock connector", block_id)

    def lanes_of_blocks(self, block_ids: Iterable[str]) -> tuple[str, ...]:
        """Lanes of all blocks in order, each once."""
        return tuple(dict.fromkeys(lane for block in block_ids for lane in self.lanes_of(block)))

    def blocks_after(self, block_id: str) -> tuple[str, ...]:
        if block_id in self.block_row:
            return self._blocks_out.get(block_id, ())
        return self._end_of(block_id, self.road_map.group_connectors.to_group_ids)

    def blocks_before(self, block_id: str) -> tuple[str, ...]:
        if block_id in self.block_row:
            return self._blocks_in.get(block_id, ())
        return self._end_of(block_id, self.road_map.group_connectors.from_group_ids)

    def _end_of(self, connector_id: str, ends: Sequence[str]) -> tuple[str, ...]:
        end = ends[self.block_connector_row[connector_id]]
        return (end,) if end in self.block_row else ()

    def connector_polygon(self, block_id: str) -> Any | None:
        """Polygon of a roadblock connector; None for a roadblock."""
        if block_id in self.block_row:
            return None
        return self.road_map.group_connectors.shapes[self.block_connector_row[block_id]]

    def _missing(self, kind: str, id_: str) -> DataError:
        location = self.road_map.location
        return DataError(
            f"no {kind} has id {id_!r} in map {location!r}; use the map the log was made with"
        )


def _grouped(keys: Sequence[str], values: Sequence[str]) -> dict[str, tuple[str, ...]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for key, value in zip(keys, values, strict=True):
        groups[key].append(value)
    return {key: tuple(group) for key, group in groups.items()}
