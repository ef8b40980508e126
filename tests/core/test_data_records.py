"""Scenes → records → table rows and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from navsim_files import frame_dict, log_frames, shared, write_pickle

from latentvla_core.data.filters import SceneFilter, iter_scenes, scenes_of_log
from latentvla_core.data.navsim import read_log
from latentvla_core.data.records import record_from_row, row_from_record, scene_record
from latentvla_core.tables import TABLES, to_arrow, to_rows
from latentvla_core.types import Scene, SceneRecord


def _scene(tmp_path: Path, frames: list[dict[str, Any]], future: int = 10) -> Scene:
    filter = SceneFilter(num_future_frames=future, frame_interval=1)
    return scenes_of_log(read_log(write_pickle(tmp_path / "log.pkl", frames)), filter, "mini")[0]


def test_poses_are_relative_to_the_current_rear_axle(tmp_path: Path) -> None:
    record = scene_record(_scene(tmp_path, log_frames(14, speed_mps=6.0)), "/blobs")
    np.testing.assert_allclose(
        record.history_poses, [[-9, 0, 0], [-6, 0, 0], [-3, 0, 0], [0, 0, 0]], atol=1e-8
    )
    np.testing.assert_allclose(record.future_poses[:, 0], 3.0 * np.arange(1, 11), atol=1e-8)
    assert (record.num_history, record.num_future, record.split) == (4, 10, "mini")
    assert record.history_velocities_mps[0, 0] == np.float32(6.1)
    assert len(record.front_paths) == 14
    assert record.front_paths[3].endswith(frame_dict(3)["token"] + ".jpg")
    assert record.object_velocities_mps.shape == (2, 2)


def test_scenes_may_lack_a_future_objects_and_cameras(tmp_path: Path) -> None:
    frames = log_frames(4)
    for frame in frames:
        del frame["anns"]
        frame["cams"] = {"CAM_R0": frame["cams"]["CAM_R0"]}
    record = scene_record(_scene(tmp_path, frames, future=0), "s3://blobs/mini")
    assert record.future_poses.shape == (0, 3)
    assert not record.has_objects
    assert record.object_boxes.shape == (0, 7)
    assert record.front_paths == ("", "", "", "")
    assert record.camera_names == ("CAM_R0",)
    assert record.camera_rotations.shape == (1, 3, 3)
    for frame in frames:
        frame["cams"] = {}
    assert scene_record(_scene(tmp_path, frames, future=0), "").camera_translations_m.shape == (
        0,
        3,
    )


def _same(a: SceneRecord, b: SceneRecord) -> None:
    left, right = row_from_record(a), row_from_record(b)
    assert list(left) == list(right)
    for name, value in left.items():
        assert type(value) is type(right[name]), name
        np.testing.assert_array_equal(value, right[name], err_msg=name)


def test_records_survive_the_scenes_table(tmp_path: Path) -> None:
    spec = TABLES["scenes"]
    for frames, future in ((log_frames(14), 10), (log_frames(4, objects=0), 0)):
        record = scene_record(_scene(tmp_path, frames, future), "/blobs", made_by="v1")
        row = row_from_record(record) | {"shard": 0, "split": record.split}
        (back,) = to_rows(spec, to_arrow(spec, [{c: row[c] for c in spec.names}]))
        _same(record, record_from_row(back))


def test_golden_futures_equal_the_devkits() -> None:
    import pyarrow.parquet as pq

    root = shared("golden")
    rows = pq.read_table(
        root / "scenes.parquet", columns=["scene_token", "human_future"]
    ).to_pylist()
    future = {row["scene_token"]: np.array(row["human_future"]) for row in rows}
    logs = sorted((root / "data/navsim_logs/golden").glob("*.pkl"))
    records = [
        scene_record(scene, "")
        for scene in iter_scenes(logs, SceneFilter(frame_interval=1), "golden")
    ]
    assert len(records) == 171
    worst = max(np.abs(r.future_poses - future[r.scene_token]).max() for r in records)
    assert worst < 1e-9
