"""Official scores of real scenes, and the worlds of those scenes built from logs and maps; each
made once per session.
"""

import os
from collections import defaultdict
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from latentvla_core.data.filters import SceneFilter, iter_scenes
from latentvla_core.data.map_files.maps import MapStore
from latentvla_core.pdms.world import World, build

GOLDEN = (
    Path(os.environ.get("LATENTVLA_SHARED", Path(__file__).parents[2].parent / "shared")) / "golden"
)
needs_golden = pytest.mark.skipif(
    not (GOLDEN / "pdms_v1.parquet").exists(),
    reason=f"official scores are not at {GOLDEN}; set LATENTVLA_SHARED to the folder that holds golden/",
)


@cache
def worlds() -> tuple[World, ...]:
    """All golden scenes, in order of log and time, from log pickles and GeoPackages alone."""
    wanted = frozenset(table("scenes")["scene_token"])
    scene_filter = SceneFilter(
        num_history_frames=4, num_future_frames=10, frame_interval=1, tokens=wanted
    )
    logs = sorted((GOLDEN / "data" / "navsim_logs" / "golden").glob("*.pkl"))
    maps = MapStore(GOLDEN / "data" / "maps")
    return tuple(
        build(scene, maps.get(scene.current.map_location))
        for scene in iter_scenes(logs, scene_filter)
    )


@cache
def table(name: str) -> dict[str, np.ndarray]:
    """Column name → (n, …) array of a golden table; nested fixed-size lists become dimensions."""
    columns = pq.read_table(GOLDEN / f"{name}.parquet")
    out = {}
    for key in columns.column_names:
        values, shape = columns[key].combine_chunks(), []
        while hasattr(values.type, "list_size"):
            shape.append(values.type.list_size)
            values = values.flatten()
        out[key] = (
            np.array(values.to_pylist(), object)
            if "list" in str(values.type)
            else values.to_numpy(False)
        )
        out[key] = out[key].reshape(-1, *shape) if shape else out[key]
    return out


@cache
def plans() -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Scene token → trajectory ids (K) and poses (K, 8, 3)."""
    rows = table("trajectories")
    of_scene = defaultdict(list)
    for i, token in enumerate(rows["scene_token"]):
        of_scene[token].append(i)
    return {
        token: (tuple(rows["trajectory_id"][index]), rows["poses"][index].astype(float))
        for token, index in of_scene.items()
    }


@cache
def row_of(name: str) -> dict[tuple[str, str], int]:
    """(scene token, trajectory id) → row of a golden table."""
    rows = table(name)
    return {
        key: i for i, key in enumerate(zip(rows["scene_token"], rows["trajectory_id"], strict=True))
    }
