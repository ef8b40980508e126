"""nuPlan vector maps → `RoadMap` (navsim_format.md §7), without geopandas or the nuPlan devkit.

Parity notes: ids are feature ids as text; rows keep file order, which the devkit's queries return;
a connector runs from its `exit_lane_fid` to its `entry_lane_fid`; its polygon sits in another layer
than its row.
"""

from __future__ import annotations

import json
from pathlib import Path
from threading import Lock

import numpy as np
import shapely

from latentvla_core.data.fields import near_miss
from latentvla_core.data.files import exists, join, local_file, read_bytes
from latentvla_core.data.guards.places import place_below
from latentvla_core.data.map_files.gpkg import GeoPackage, Layer
from latentvla_core.errors import DataError, SetupError
from latentvla_core.types import Array, GroupConnectors, LaneConnectors, Lanes, Polygons, RoadMap

INDEX_FILE = "nuplan-maps-v1.0.json"
REQUIRED_LAYERS = (
    *(
        "lanes_polygons",
        "lane_connectors",
        "gen_lane_connectors_scaled_width_polygons",
        "lane_groups_polygons",
    ),
    *(
        "lane_group_connectors",
        "intersections",
        "carpark_areas",
        "baseline_paths",
        "boundaries",
        "stop_polygons",
    ),
)
_INDEX_REMEDY = "set NUPLAN_MAPS_ROOT to the folder that holds it, or download the nuPlan maps"


def read_index(maps_root: str | Path) -> dict[str, str]:
    """{location: version} of `nuplan-maps-v1.0.json`."""
    path = join(maps_root, INDEX_FILE)
    if not exists(path):
        raise SetupError(f"{path}: the map index does not exist; {_INDEX_REMEDY}")
    try:
        raw = json.loads(read_bytes(path, remedy=_INDEX_REMEDY))
        return {str(location): str(entry["version"]) for location, entry in raw.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"not a nuPlan map index ({error}); {_INDEX_REMEDY}", file=path) from error


def map_path(maps_root: str | Path, location: str) -> str:
    """The GeoPackage of a location. Raises SetupError when the index does not list it."""
    index = read_index(maps_root)
    if location not in index:
        listed = ", ".join(index) or "nothing"
        raise SetupError(
            f"{INDEX_FILE} does not list {location!r} (it lists {listed}){near_miss(location, index)}"
        )
    return place_below(str(maps_root), f"{location}/{index[location]}/map.gpkg")


def load_map(maps_root: str | Path, location: str) -> RoadMap:
    """The map of one city in its projected frame, metres.

    Raises DataError naming map, layer and remedy. Layers that scoring does not need may be missing.
    """
    package = GeoPackage(local_file(map_path(maps_root, location), remedy=_INDEX_REMEDY))
    crs = package.meta().get("projectedCoordSystem", "")
    if not crs:
        raise DataError(
            "layer 'meta' has no row projectedCoordSystem; add it",
            file=str(package.path),
            field="meta",
        )
    read = {name: package.layer(name, crs) for name in REQUIRED_LAYERS}
    by_lane, by_connector = _baselines(read["baseline_paths"])
    return RoadMap(
        location=location,
        lanes=_lanes(read["lanes_polygons"], by_lane),
        connectors=_connectors(
            read["lane_connectors"], read["gen_lane_connectors_scaled_width_polygons"], by_connector
        ),
        lane_groups=_polygons(read["lane_groups_polygons"]),
        group_connectors=_group_connectors(read["lane_group_connectors"]),
        intersections=_polygons(read["intersections"]),
        carparks=_polygons(read["carpark_areas"]),
        crosswalks=_optional(package, "crosswalks", crs),
        stop_polygons=_polygons(read["stop_polygons"]),
        walkways=_optional(package, "walkways", crs),
        generic_drivable=_optional(package, "generic_drivable_areas", crs),
        boundaries=tuple(_vertices(shape) for shape in read["boundaries"].shapes),
    )


def _polygons(layer: Layer) -> Polygons:
    return Polygons(layer.ids, layer.shapes)


def _optional(package: GeoPackage, name: str, crs: str) -> Polygons:
    if name not in package.layer_names():
        return Polygons((), np.empty(0, object))
    return _polygons(package.layer(name, crs))


def _lanes(layer: Layer, baselines: dict[str, Array]) -> Lanes:
    return Lanes(
        layer.ids,
        layer.shapes,
        group_ids=layer.keys("lane_group_fid"),
        index=layer.numbers("lane_index"),
        speed_limit_mps=layer.numbers("speed_limit_mps"),
        baselines=tuple(baselines.get(lane, np.zeros((0, 2))) for lane in layer.ids),
    )


def _connectors(layer: Layer, areas: Layer, baselines: dict[str, Array]) -> LaneConnectors:
    """`shapes` come from the scaled-width layer; a connector without exactly one row there has an
    empty polygon.
    """
    area_of = _unique(areas.keys("lane_connector_fid"), areas.shapes)
    shapes = np.empty(len(layer.ids), object)
    shapes[:] = [area_of.get(connector, shapely.Polygon()) for connector in layer.ids]
    return LaneConnectors(
        layer.ids,
        shapes,
        group_connector_ids=layer.keys("lane_group_connector_fid"),
        from_lane_ids=layer.keys("exit_lane_fid"),
        to_lane_ids=layer.keys("entry_lane_fid"),
        speed_limit_mps=layer.numbers("speed_limit_mps"),
        baselines=tuple(baselines.get(connector, np.zeros((0, 2))) for connector in layer.ids),
        stop_line_ids=layer.lists("traffic_light_stop_line_fids"),
    )


def _group_connectors(layer: Layer) -> GroupConnectors:
    return GroupConnectors(
        layer.ids, layer.shapes, layer.keys("from_lane_group_fid"), layer.keys("to_lane_group_fid")
    )


def _baselines(layer: Layer) -> tuple[dict[str, Array], dict[str, Array]]:
    """Vertices (m, 2) by lane and by connector. The devkit wants exactly one row each; others have
    no baseline here.
    """
    paths = [_vertices(shape) for shape in layer.shapes]
    return _unique(layer.keys("lane_fid"), paths), _unique(layer.keys("lane_connector_fid"), paths)


def _unique(keys: tuple[str, ...], values: Array | list[Array]) -> dict[str, Array]:
    """{key: value} of the keys that occur once; "" (NULL) is no key."""
    found: dict[str, Array] = {}
    twice = {""}
    for key, value in zip(keys, values, strict=True):
        if key in found:
            twice.add(key)
        found[key] = value
    return {key: value for key, value in found.items() if key not in twice}


def _vertices(shape: shapely.Geometry) -> Array:
    return shapely.get_coordinates(shape)


class MapStore:
    """Maps of one root, each read once; safe to share between threads."""

    def __init__(self, maps_root: str | Path) -> None:
        self.maps_root = str(maps_root)
        self._maps: dict[str, RoadMap] = {}
        self._lock = Lock()

    def get(self, location: str) -> RoadMap:
        with self._lock:
            if location not in self._maps:
                self._maps[location] = load_map(self.maps_root, location)
            return self._maps[location]
