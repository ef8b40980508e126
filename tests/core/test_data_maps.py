"""GeoPackage maps: topology as the nuPlan devkit reads it, geometry equal to the devkit's."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import shapely
from navsim_files import shared, write_gpkg

from latentvla_core.data.map_files.maps import MapStore, load_map
from latentvla_core.errors import DataError, SetupError

X0, Y0 = 331_000.0, 4_690_000.0


def _rect(x: float, y: float, length: float, width: float) -> shapely.Polygon:
    return shapely.box(X0 + x, Y0 + y, X0 + x + length, Y0 + y + width)


def _line(*xy: tuple[float, float]) -> shapely.LineString:
    return shapely.LineString([(X0 + x, Y0 + y) for x, y in xy])


def _layers() -> dict:
    """Two lanes in a row, joined by one connector; rows deliberately not in id order."""
    return {
        "lanes_polygons": [
            (12, _rect(40, 0, 30, 4), (12, 102, 0, None)),
            (11, _rect(0, 0, 30, 4), (11, 101, 1, 13.4)),
        ],
        "lane_connectors": [(21, _line((30, 2), (40, 2)), (11, 12, 201, None, "31, 32"))],
        "gen_lane_connectors_scaled_width_polygons": [(900, _rect(30, 0, 10, 4), (21,))],
        "lane_groups_polygons": [(101, _rect(0, 0, 30, 4), ()), (102, _rect(40, 0, 30, 4), ())],
        "lane_group_connectors": [(201, _rect(30, 0, 10, 4), (101, None))],
        "intersections": [(301, _rect(30, -5, 10, 14), ())],
        "baseline_paths": [
            (1, _line((0, 2), (15, 2), (30, 2)), (11, None)),
            (2, _line((30, 2), (40, 2)), (None, 21)),
        ],
    }


def _root(tmp_path: Path, layers: dict, **options: object) -> Path:
    write_gpkg(tmp_path / "us-ma-boston/9.12.1817/map.gpkg", layers, **options)  # type: ignore[arg-type]
    (tmp_path / "nuplan-maps-v1.0.json").write_text(
        json.dumps({"us-ma-boston": {"version": "9.12.1817", "layers": {}}})
    )
    return tmp_path


@pytest.mark.parametrize("envelope", [False, True])
def test_rows_keys_and_baselines_come_out_as_the_devkit_reads_them(
    tmp_path: Path, envelope: bool
) -> None:
    road = load_map(_root(tmp_path, _layers(), envelope=envelope), "us-ma-boston")
    assert road.lanes.ids == ("11", "12")  # feature id order is row order
    assert road.lanes.group_ids == ("101", "102")
    np.testing.assert_array_equal(road.lanes.speed_limit_mps, [13.4, np.nan])
    assert (road.connectors.from_lane_ids, road.connectors.to_lane_ids) == (("11",), ("12",))
    assert road.connectors.stop_line_ids == (("31", "32"),)
    assert road.connectors.shapes[0].equals(_rect(30, 0, 10, 4))  # from the scaled-width layer
    assert road.group_connectors.to_group_ids == ("",)  # NULL
    np.testing.assert_array_equal(road.lanes.baselines[0] - (X0, Y0), [[0, 2], [15, 2], [30, 2]])
    assert road.lanes.baselines[1].shape == (0, 2)  # lane 12 has none
    assert (len(road.crosswalks), len(road.carparks)) == (0, 0)


def test_longitude_and_latitude_are_projected(tmp_path: Path) -> None:
    import pyproj

    inverse = pyproj.Transformer.from_crs(32619, 4326, always_xy=True)
    layers = {
        name: [
            (fid, shapely.transform(g, lambda xy: np.column_stack(inverse.transform(*xy.T))), row)
            for fid, g, row in rows
        ]
        for name, rows in _layers().items()
    }
    road = load_map(_root(tmp_path, layers, srs=4326), "us-ma-boston")
    np.testing.assert_allclose(
        road.lanes.baselines[0] - (X0, Y0), [[0, 2], [15, 2], [30, 2]], atol=1e-7
    )


def test_a_lane_with_two_baselines_has_none(tmp_path: Path) -> None:
    layers = _layers()
    layers["baseline_paths"].append((3, _line((0, 1), (30, 1)), (11, None)))
    assert load_map(_root(tmp_path, layers), "us-ma-boston").lanes.baselines[0].shape == (0, 2)


def test_what_is_missing_is_named_with_its_remedy(tmp_path: Path) -> None:
    root = _root(tmp_path, _layers() | {"intersections": None})
    with pytest.raises(DataError, match=r"map\.gpkg.*'intersections' is missing; use"):
        load_map(root, "us-ma-boston")
    with pytest.raises(SetupError, match="did you mean 'us-ma-boston'"):
        load_map(root, "us-ma-bosten")
    with pytest.raises(SetupError, match="NUPLAN_MAPS_ROOT"):
        load_map(tmp_path / "nowhere", "us-ma-boston")
    (root / "us-ma-boston/9.12.1817/map.gpkg").write_bytes(b"half a map" * 100)
    with pytest.raises(DataError, match=r"not a GeoPackage.*download"):
        load_map(root, "us-ma-boston")
    (root / "us-ma-boston/9.12.1817/map.gpkg").unlink()
    with pytest.raises(DataError, match="does not exist"):
        load_map(root, "us-ma-boston")


def test_values_and_geometries_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    layers = _layers()
    layers["lane_connectors"] = [(21, _line((30, 2), (40, 2)), ("eleven", 12, 201, None, ""))]
    with pytest.raises(DataError, match=r"exit_lane_fid.*'eleven' is not a number"):
        load_map(_root(tmp_path, layers), "us-ma-boston")


def test_a_store_reads_each_map_once(tmp_path: Path) -> None:
    store = MapStore(_root(tmp_path, _layers()))
    assert store.get("us-ma-boston") is store.get("us-ma-boston")


@pytest.mark.slow
def test_golden_maps_equal_the_devkits_polygons_and_read_fast() -> None:
    import pyarrow.parquet as pq

    root = shared("golden")
    store, started = MapStore(root / "data/maps"), time.process_time()
    maps = {
        name: store.get(name)
        for name in ("sg-one-north", "us-ma-boston", "us-pa-pittsburgh-hazelwood")
    }
    assert time.process_time() - started < 3.0  # 1 s each
    scenes = pq.read_table(root / "scenes.parquet", columns=["scene_token", "map_name"]).to_pylist()
    map_of = {row["scene_token"]: row["map_name"] for row in scenes}
    shapes = {}
    for name, road in maps.items():
        layers = {
            "ROADBLOCK": road.lane_groups,
            "INTERSECTION": road.intersections,
            "CARPARK_AREA": road.carparks,
        }
        layers |= {"LANE": road.lanes, "LANE_CONNECTOR": road.connectors}
        shapes |= {
            (name, k, i): s
            for k, layer in layers.items()
            for i, s in zip(layer.ids, layer.shapes, strict=True)
        }
    rows = pq.read_table(root / "drivable_map.parquet").to_pylist()
    ours = np.array(
        [shapes[map_of[r["scene_token"]], r["layer"], str(r["object_id"])] for r in rows]
    )
    theirs = shapely.from_wkb([r["polygon_wkb"] for r in rows])
    assert len(rows) > 20_000
    np.testing.assert_array_equal(
        shapely.get_coordinates(ours), shapely.get_coordinates(theirs)
    )  # bit by bit


def _change(root: Path, *sql: str) -> None:
    import sqlite3

    with sqlite3.connect(next(root.rglob("map.gpkg"))) as db:
        for statement in sql:
            db.execute(statement)


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        (("UPDATE lanes_polygons SET geom = 7",), "a geometry that is a int"),
        (("UPDATE meta SET value = 'EPSG:999999'",), "no way from"),
        (("UPDATE meta SET value = 'a city''s own'",), "no way from"),
        (("DROP TABLE meta", "CREATE TABLE meta (a)", "INSERT INTO meta VALUES (1)"), "key and value"),
        (("DROP TABLE lanes_polygons", "CREATE VIEW lanes_polygons AS WITH RECURSIVE n(fid) AS"
          " (SELECT 1 UNION ALL SELECT fid + 1 FROM n) SELECT max(fid) AS fid, NULL AS geom FROM n"),
         "a view without end"),
    ],
)  # fmt: skip
def test_a_map_made_to_harm_is_refused_with_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: tuple[str, ...], says: str
) -> None:
    monkeypatch.setattr("latentvla_core.data.map_files.gpkg.MOST_STEPS", 2_000_000)
    root = _root(tmp_path, _layers())
    _change(root, *sql)
    with pytest.raises(DataError, match=f"map.gpkg.*{says}"):
        load_map(root, "us-ma-boston")


def test_infinite_coordinates_and_an_index_that_leaves_the_root_are_refused(tmp_path: Path) -> None:
    layers = _layers()
    shape = shapely.Polygon([(0, 0), (np.inf, 0), (1, 1)])
    layers["lane_groups_polygons"] = [(101, shape, ())]
    with pytest.raises(DataError, match=r"map\.gpkg.*coordinates are no numbers"):
        load_map(_root(tmp_path, layers), "us-ma-boston")
    index = {"us-ma-boston": {"version": "../../elsewhere"}}
    (tmp_path / "nuplan-maps-v1.0.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match="leaves the root"):
        load_map(tmp_path, "us-ma-boston")
