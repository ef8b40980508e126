"""RoadNetwork → nuPlan GeoPackage (navsim_format.md §7, §13), readable by the devkit and by
`data.maps`.

Layers are declared in EPSG:4326 like the published maps; the reader projects them back. Bytes
depend on the network only.
"""

from __future__ import annotations

import json
import sqlite3
import struct
from collections.abc import Iterable, Sequence
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from latentvla_core.types import Array
from latentvla_core.world.streets.network import LANE_WIDTH_M, LanePath, RoadNetwork

VERSIONS = {
    "sg-one-north": "9.17.1964",
    "us-ma-boston": "9.12.1817",
    "us-nv-las-vegas-strip": "9.15.1915",
    "us-pa-pittsburgh-hazelwood": "9.17.1937",
}
EPSG = {
    "sg-one-north": 32648,
    "us-ma-boston": 32619,
    "us-nv-las-vegas-strip": 32611,
    "us-pa-pittsburgh-hazelwood": 32617,
}
ORIGINS_M = {
    "sg-one-north": (365_000.0, 143_500.0),
    "us-ma-boston": (331_000.0, 4_690_500.0),
    "us-nv-las-vegas-strip": (664_500.0, 3_997_500.0),
    "us-pa-pittsburgh-hazelwood": (589_800.0, 4_473_500.0),
}
INTERSECTION_TYPES = {"signal": 1, "stop": 2, "merge": 4, "crossing": 5, "priority": 0}
TURN_TYPES = {"straight": 0, "left": 1, "right": 2}
_FIRST_OWN_ID = 5_000_000  # baselines and boundaries get ids far from the network's own

Row = tuple[int, Array | None, dict[str, Any]]
"""(feature id, geometry, other columns)."""


def write_map_index(maps_root: Path) -> None:
    """`nuplan-maps-v1.0.json` with all four locations."""
    index = {location: {"version": version, "layers": {}} for location, version in VERSIONS.items()}
    maps_root.mkdir(parents=True, exist_ok=True)
    (maps_root / "nuplan-maps-v1.0.json").write_text(
        json.dumps(index, indent=2) + "\n", encoding="utf-8"
    )


def write_map(maps_root: Path, network: RoadNetwork) -> Path:
    """Writes `<location>/<version>/map.gpkg`, replacing what is there."""
    path = maps_root / network.location / VERSIONS[network.location] / "map.gpkg"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with closing(sqlite3.connect(path)) as db:
        package = _Package(db, EPSG[network.location])
        for name, geometry, columns, rows in _layers(network):
            package.add_layer(name, geometry, columns, rows, network.origin_m)
        db.commit()
        db.execute("VACUUM")
    return path


class _Package:
    """The tables every GeoPackage has (OGC 12-128r19)."""

    def __init__(self, db: sqlite3.Connection, epsg: int) -> None:
        from pyproj import CRS, Transformer

        self.db, self.epsg = db, epsg
        self.to_degrees = Transformer.from_crs(epsg, 4326, always_xy=True)
        db.execute(f"PRAGMA application_id = {0x47504B47}")
        db.execute("PRAGMA user_version = 10300")
        db.execute(
            "CREATE TABLE gpkg_spatial_ref_sys (srs_name TEXT NOT NULL, srs_id INTEGER PRIMARY KEY, organization TEXT"
            " NOT NULL, organization_coordsys_id INTEGER NOT NULL, definition TEXT NOT NULL, description TEXT)"
        )
        db.execute(
            "CREATE TABLE gpkg_contents (table_name TEXT PRIMARY KEY, data_type TEXT NOT NULL, identifier TEXT UNIQUE,"
            " description TEXT DEFAULT '', last_change DATETIME NOT NULL, min_x DOUBLE, min_y DOUBLE, max_x DOUBLE,"
            " max_y DOUBLE, srs_id INTEGER)"
        )
        db.execute(
            "CREATE TABLE gpkg_geometry_columns (table_name TEXT NOT NULL, column_name TEXT NOT NULL,"
            " geometry_type_name TEXT NOT NULL, srs_id INTEGER NOT NULL, z TINYINT NOT NULL, m TINYINT NOT NULL,"
            " PRIMARY KEY (table_name, column_name))"
        )
        systems = [
            ("Undefined cartesian SRS", -1, "NONE", -1, "undefined"),
            ("Undefined geographic SRS", 0, "NONE", 0, "undefined"),
        ]
        systems += [(CRS(e).name, e, "EPSG", e, CRS(e).to_wkt("WKT1_GDAL")) for e in (4326, epsg)]
        db.executemany("INSERT INTO gpkg_spatial_ref_sys VALUES (?, ?, ?, ?, ?, NULL)", systems)
        db.execute("CREATE TABLE meta (id INTEGER PRIMARY KEY, key TEXT, value TEXT)")
        facts = [("projectedCoordSystem", f"epsg:{epsg}"), ("geographicCoordSystem", "epsg:4326")]
        db.executemany("INSERT INTO meta (key, value) VALUES (?, ?)", facts)
        self._register("meta", "attributes", None)

    def _register(self, name: str, data_type: str, bounds: Sequence[float] | None) -> None:
        box = bounds if bounds is not None else (None,) * 4
        srs = 4326 if data_type == "features" else 0
        row = (name, data_type, name, "2021-06-01T00:00:00.000Z", *box, srs)
        self.db.execute("INSERT INTO gpkg_contents VALUES (?, ?, ?, '', ?, ?, ?, ?, ?, ?)", row)

    def add_layer(
        self,
        name: str,
        geometry: str,
        columns: dict[str, str],
        rows: Iterable[Row],
        origin_m: Array,
    ) -> None:
        """One feature table; coordinates are turned from the town's frame into degrees."""
        fields = "".join(f", {column} {kind}" for column, kind in columns.items())
        self.db.execute(
            f"CREATE TABLE {name} (fid INTEGER PRIMARY KEY NOT NULL, geom {geometry}{fields})"
        )
        insert = f"INSERT INTO {name} VALUES ({', '.join('?' * (2 + len(columns)))})"
        bounds = []
        for fid, points, values in rows:
            degrees = np.stack(self.to_degrees.transform(*(points + origin_m).T), axis=1)
            bounds.append(np.concatenate([degrees.min(axis=0), degrees.max(axis=0)]))
            self.db.execute(
                insert, (fid, _blob(geometry, degrees), *(values.get(c) for c in columns))
            )
        box = np.array(bounds) if bounds else np.zeros((1, 4))
        self._register(
            name, "features", [*box[:, :2].min(axis=0).tolist(), *box[:, 2:].max(axis=0).tolist()]
        )
        self.db.execute(
            "INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', ?, 4326, 0, 0)", (name, geometry)
        )


def _blob(geometry: str, degrees: Array) -> bytes:
    """GeoPackage geometry: header without envelope, little endian, then WKB."""
    if geometry == "POINT":
        shape: shapely.Geometry = shapely.Point(degrees[0])
    else:
        shape = shapely.Polygon(degrees) if geometry == "POLYGON" else shapely.LineString(degrees)
    return b"GP\x00\x01" + struct.pack("<i", 4326) + shapely.to_wkb(shape, byte_order=1)


def _layers(network: RoadNetwork) -> list[tuple[str, str, dict[str, str], list[Row]]]:
    """(name, geometry type, columns, rows) of every layer."""
    ids = count(_FIRST_OWN_ID)
    boundary_columns = _integers("boundary_type_fid", "has_reflectors", "creator_id")
    edges = {lane_id: (next(ids), next(ids)) for lane_id in network.lanes}
    return [
        *_lane_layers(network, edges, ids),
        *_block_layers(network),
        *_area_layers(network),
        ("boundaries", "LINESTRING", boundary_columns, _boundary_rows(network, edges)),
        ("generic_drivable_areas", "POLYGON", {}, []),
        ("dubins_nodes", "POINT", {}, []),
        ("traffic_lights", "POINT", {"ori_mean_yaw": "REAL"}, _light_rows(network, ids)),
    ]  # fmt: skip


def _integers(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "INTEGER")


def _lane_layers(network: RoadNetwork, edges: dict[str, tuple[int, int]], ids: count) -> list[Any]:
    """Lanes, connectors, the connectors' areas, and the baseline of each."""
    lanes, connectors, areas, baselines = [], [], [], []
    for lane in network.lanes.values():
        fid, (left, right) = int(lane.id), edges[lane.id]
        own = {"left_boundary_fid": left, "right_boundary_fid": right}
        if lane.is_connector:
            connectors.append((fid, lane.path_m, _connector_values(network, lane)))
            areas.append((fid, lane.outline_m, {"lane_connector_fid": fid, **own}))
        else:
            values = {
                "lane_fid": fid,
                "lane_group_fid": int(lane.block_id),
                "lane_index": lane.index,
                "lane_type_fid": 0,
            }
            values |= {
                "speed_limit_mps": lane.speed_limit_mps,
                "width": LANE_WIDTH_M,
                "name": f"lane {lane.id}",
                **own,
            }
            lanes.append((fid, lane.outline_m, values))
        key = "lane_connector_fid" if lane.is_connector else "lane_fid"
        baselines.append((next(ids), lane.path_m, {key: fid, "path_type_fid": 0}))
    edge_columns = _integers("left_boundary_fid", "right_boundary_fid")
    lane_columns = _integers("lane_fid", "lane_group_fid", "lane_index", "lane_type_fid")
    lane_columns |= {"speed_limit_mps": "REAL", "width": "REAL", "name": "TEXT", **edge_columns}
    connector_columns = _integers(
        "exit_lane_fid", "entry_lane_fid", "lane_group_connector_fid", "exit_lane_group_fid"
    )
    connector_columns |= _integers("entry_lane_group_fid", "intersection_fid", "turn_type_fid")
    connector_columns |= {"speed_limit_mps": "REAL", "traffic_light_stop_line_fids": "TEXT"}
    area_columns = _integers("lane_connector_fid") | edge_columns
    return [
        ("lanes_polygons", "POLYGON", lane_columns, lanes),
        ("lane_connectors", "LINESTRING", connector_columns, connectors),
        ("gen_lane_connectors_scaled_width_polygons", "POLYGON", area_columns, areas),
        (
            "baseline_paths",
            "LINESTRING",
            _integers("lane_fid", "lane_connector_fid", "path_type_fid"),
            baselines,
        ),
    ]


def _connector_values(network: RoadNetwork, lane: LanePath) -> dict[str, Any]:
    source, target = network.lanes[lane.from_lane], network.lanes[lane.to_lane]
    junction = network.junctions[lane.junction_id]
    return {
        "exit_lane_fid": int(source.id),  # the lane that is exited, where the connector begins
        "entry_lane_fid": int(target.id),
        "lane_group_connector_fid": int(lane.block_id),
        "exit_lane_group_fid": int(source.block_id),
        "entry_lane_group_fid": int(target.block_id),
        "intersection_fid": int(junction.id),
        "turn_type_fid": TURN_TYPES[lane.turn],
        "speed_limit_mps": lane.speed_limit_mps,
        "traffic_light_stop_line_fids": junction.stop_lines[source.block_id][0]
        if junction.control == "signal"
        else "",
    }


def _block_layers(network: RoadNetwork) -> list[Any]:
    groups = [b for b in network.blocks.values() if not b.is_connector]
    connectors = [b for b in network.blocks.values() if b.is_connector]
    names = ("from_lane_group_fid", "to_lane_group_fid", "intersection_fid")
    links = [
        (
            int(b.id),
            b.outline_m,
            dict(zip(names, map(int, (b.from_block, b.to_block, b.junction_id)), strict=True)),
        )
        for b in connectors
    ]
    segments = [(int(b.id), b.outline_m, {"lane_group_fids": b.id}) for b in groups]
    return [
        ("lane_groups_polygons", "POLYGON", {}, [(int(b.id), b.outline_m, {}) for b in groups]),
        ("lane_group_connectors", "POLYGON", _integers(*names), links),
        ("road_segments", "POLYGON", {"lane_group_fids": "TEXT"}, segments),
    ]


def _area_layers(network: RoadNetwork) -> list[Any]:
    junctions = network.junctions.values()
    areas = [
        (
            int(j.id),
            j.outline_m,
            {"intersection_type_fid": INTERSECTION_TYPES[j.control], "is_mini": 0},
        )
        for j in junctions
    ]
    stops = [
        (
            int(fid),
            outline,
            {
                "stop_polygon_type_fid": 2 if j.control == "signal" else 1,
                "lane_group_fid": int(block),
            },
        )
        for j in junctions
        if j.control in ("signal", "stop")
        for block, (fid, outline) in j.stop_lines.items()
    ]
    crosswalks = [
        (int(c.id), c.outline_m, {"intersection_fids": c.junction_id, "is_marked": 1})
        for c in network.crosswalks
    ]
    return [
        ("intersections", "POLYGON", _integers("intersection_type_fid", "is_mini"), areas),
        ("stop_polygons", "POLYGON", _integers("stop_polygon_type_fid", "lane_group_fid"), stops),
        (
            "crosswalks",
            "POLYGON",
            {"intersection_fids": "TEXT", "is_marked": "INTEGER"},
            crosswalks,
        ),
        ("walkways", "POLYGON", {}, [(int(i), outline, {}) for i, outline, _ in network.walkways]),
        (
            "carpark_areas",
            "POLYGON",
            {"heading": "REAL"},
            [(int(c.id), c.outline_m, {"heading": 0.0}) for c in network.carparks],
        ),
    ]


def _boundary_rows(network: RoadNetwork, edges: dict[str, tuple[int, int]]) -> list[Row]:
    """Left and right edge of every lane: an outline runs along the left edge and back along the
    right one.
    """
    rows: list[Row] = []
    for lane in network.lanes.values():
        half = len(lane.outline_m) // 2
        sides = (lane.outline_m[:half], lane.outline_m[half:][::-1])
        inner = (lane.index > 0, lane.index + 1 < len(network.blocks[lane.block_id].lane_ids))
        for fid, line, dashed in zip(edges[lane.id], sides, inner, strict=True):
            kind = 3 if lane.is_connector else 0 if dashed else 2
            rows.append(
                (fid, line, {"boundary_type_fid": kind, "has_reflectors": 0, "creator_id": 0})
            )
    return rows


def _light_rows(network: RoadNetwork, ids: count) -> list[Row]:
    rows: list[Row] = []
    for junction in network.junctions.values():
        for block in junction.stop_lines if junction.control == "signal" else ():
            lane = network.lanes[network.blocks[block].lane_ids[-1]]
            rows.append((next(ids), lane.path_m[-1:], {"ori_mean_yaw": float(lane.yaw_rad[-1])}))
    return rows
