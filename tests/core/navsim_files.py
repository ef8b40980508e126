"""Hand-made NAVSIM files for tests: frame dicts, log pickles, maps. None of the code under test."""

from __future__ import annotations

import os
import pickle
import sqlite3
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

CAMERAS = ("CAM_F0", "CAM_L0", "CAM_L1", "CAM_L2", "CAM_R0", "CAM_R1", "CAM_R2", "CAM_B0")
LAYERS = {
    "lanes_polygons": ("lane_fid", "lane_group_fid", "lane_index", "speed_limit_mps"),
    "lane_connectors": (
        *("exit_lane_fid", "entry_lane_fid", "lane_group_connector_fid", "speed_limit_mps"),
        "traffic_light_stop_line_fids",
    ),
    "gen_lane_connectors_scaled_width_polygons": ("lane_connector_fid",),
    "lane_groups_polygons": (),
    "lane_group_connectors": ("from_lane_group_fid", "to_lane_group_fid"),
    "intersections": (),
    "carpark_areas": (),
    "baseline_paths": ("lane_fid", "lane_connector_fid"),
    "boundaries": (),
    "stop_polygons": (),
}


def shared(part: str) -> Path:
    """A folder of the reference data; skips the test where it is not at hand."""
    root = Path(os.environ.get("LATENTVLA_SHARED", Path(__file__).parents[2].parent / "shared"))
    if not (root / part).exists():
        pytest.skip(f"reference data {part} not found; set LATENTVLA_SHARED")
    return root / part


def camera_dict(path: str) -> dict[str, Any]:
    return {
        "data_path": path,
        "sensor2lidar_rotation": np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]),
        "sensor2lidar_translation": np.array([1.6, 0.0, 1.5]),
        "cam_intrinsic": np.array([[1545.0, 0, 960], [0, 1545, 560], [0, 0, 1]]),
        "distortion": np.array([-0.356, 0.172, 0.0, 0.0, -0.05]),
    }


def frame_dict(
    index: int, *, log: str = "2021.05.25_veh-1", speed_mps: float = 5.0, objects: int = 2
) -> dict[str, Any]:
    """Frame `index` of a drive straight along x with yaw 0.1, from UTM-like coordinates."""
    yaw = 0.1
    x = 331_000.0 + 0.5 * speed_mps * index * np.cos(yaw)
    y = 4_690_000.0 + 0.5 * speed_mps * index * np.sin(yaw)
    names = np.array(["vehicle", "pedestrian", "traffic_cone"])[np.arange(objects) % 3]
    token = f"{sum(map(ord, log)) % 0xFFFF:04x}{index:012x}"
    return {
        "token": token,
        "frame_idx": index,
        "timestamp": 1_621_944_000_000_000 + 500_000 * index,
        "log_name": log,
        "log_token": "l0",
        "scene_name": "log-0001-scene-0001",
        "scene_token": "scene0",
        "map_location": "us-ma-boston",
        "roadblock_ids": ["101", "201", "102"],
        "vehicle_name": "veh-1",
        "can_bus": np.zeros(18),
        "lidar_path": f"{log}/MergedPointCloud/{token}.pcd",
        "lidar2ego_translation": np.zeros(3),
        "lidar2ego_rotation": [1.0, 0.0, 0.0, 0.0],
        "ego2global_translation": np.array([x, y, 12.5]),
        "ego2global_rotation": np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]),
        "ego_dynamic_state": [speed_mps + 0.1, 0.01, 0.2, -0.03],
        "traffic_lights": [(301, True), (302, False)],
        "driving_command": np.array([0, 1, 0, 0]),
        "cams": {name: camera_dict(f"{log}/{name}/{token}.jpg") for name in CAMERAS},
        "sample_prev": None,
        "sample_next": None,
        "anns": {
            "gt_boxes": np.array(
                [[10.0 + i, 2.0, 0.8, 4.5, 1.9, 1.6, -3.5] for i in range(objects)]
            ).reshape(-1, 7),
            "gt_names": names if objects else np.array([]),
            "gt_velocity_3d": np.tile([1.0, -0.5, 0.1], (objects, 1)),
            "instance_tokens": [f"{token}-{i}" for i in range(objects)],
            "track_tokens": [f"track-{i}" for i in range(objects)],
        },
    }


def log_frames(count: int, **options: Any) -> list[dict[str, Any]]:
    return [frame_dict(i, **options) for i in range(count)]


def write_pickle(path: Path, value: Any, protocol: int = 5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


Row = tuple[int, shapely.Geometry | None, tuple[Any, ...]]


def write_gpkg(
    path: Path,
    layers: dict[str, Sequence[Row]],
    *,
    crs: int = 32619,
    srs: int = 32619,
    envelope: bool = False,
) -> Path:
    """A GeoPackage with `meta` and all of LAYERS (empty unless given as {layer: [(fid, geometry,
    columns)]}).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    db = sqlite3.connect(path)
    db.execute("PRAGMA application_id = 0x47504B47")
    db.execute(
        "CREATE TABLE gpkg_spatial_ref_sys (srs_id INTEGER, organization TEXT, organization_coordsys_id INTEGER)"
    )
    db.executemany(
        "INSERT INTO gpkg_spatial_ref_sys VALUES (?, 'EPSG', ?)", [(4326, 4326), (srs, srs)]
    )
    db.execute(
        "CREATE TABLE gpkg_geometry_columns (table_name TEXT, column_name TEXT, srs_id INTEGER)"
    )
    db.execute("CREATE TABLE meta (id INTEGER PRIMARY KEY, key TEXT, value TEXT)")
    db.execute("INSERT INTO meta (key, value) VALUES ('projectedCoordSystem', ?)", (f"epsg:{crs}",))
    for name, columns in LAYERS.items():
        if layers.get(name, ()) is None:
            continue  # a map without this layer
        db.execute(
            f"CREATE TABLE {name} ({', '.join(('fid INTEGER PRIMARY KEY', 'geom BLOB', *columns))})"
        )
        db.execute("INSERT INTO gpkg_geometry_columns VALUES (?, 'geom', ?)", (name, srs))
        for fid, shape, values in layers.get(name, ()):
            marks = ", ".join("?" * (2 + len(columns)))
            db.execute(
                f"INSERT INTO {name} VALUES ({marks})", (fid, _blob(shape, srs, envelope), *values)
            )
    db.commit()
    db.close()
    return path


def _blob(shape: shapely.Geometry | None, srs: int, envelope: bool) -> bytes | None:
    if shape is None:
        return None
    x0, y0, x1, y1 = shape.bounds
    box = struct.pack("<4d", x0, x1, y0, y1) if envelope else b""
    return (
        b"GP"
        + bytes([0, 1 | (1 << 1 if envelope else 0)])
        + struct.pack("<i", srs)
        + box
        + shapely.to_wkb(shape)
    )
