"""Log pickles → frames: exact meaning, every fault named, holes where frames are quarantined."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from navsim_files import frame_dict, log_frames, shared, write_pickle

from latentvla_core.data.navsim import read_log, read_log_slots, read_log_tolerant
from latentvla_core.errors import DataError, DataFaults
from latentvla_core.types import Command, ObjectClass


def test_a_frame_means_what_the_devkit_reads(tmp_path: Path) -> None:
    frame = read_log(write_pickle(tmp_path / "log.pkl", log_frames(3)))[1]
    assert (frame.token, frame.frame_idx, frame.timestamp_us) == (
        frame_dict(1)["token"],
        1,
        1_621_944_000_500_000,
    )
    np.testing.assert_allclose(frame.ego_pose[2], 0.1, atol=1e-15)
    assert frame.ego_pose[0] == frame_dict(1)["ego2global_translation"][0]
    assert frame.ego_velocity_mps[0] == float(
        np.float32(5.1)
    )  # rounded to float32 as the devkit does
    assert frame.command is Command.FORWARD
    assert frame.traffic_lights == (("301", True), ("302", False))
    assert frame.objects is not None
    assert frame.objects.classes.tolist() == [ObjectClass.VEHICLE, ObjectClass.PEDESTRIAN]
    assert frame.objects.boxes[0, 6] == -3.5  # not wrapped
    assert set(frame.cameras) == set(frame_dict(1)["cams"])
    assert type(frame.ego_pose) is np.ndarray


def test_the_yaw_formula_has_a_minus() -> None:
    from latentvla_core.geometry import yaw_from_quaternion

    w, x, y, z = q = np.array([0.9, 0.1, -0.2, 0.3]) / np.linalg.norm([0.9, 0.1, -0.2, 0.3])
    assert yaw_from_quaternion(q) == pytest.approx(
        np.arctan2(2 * (w * z - x * y), 1 - 2 * (y * y + z * z))
    )


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_all_pickle_protocols_read_the_same(tmp_path: Path, protocol: int) -> None:
    frames = read_log(write_pickle(tmp_path / "log.pkl", log_frames(2), protocol))
    assert frames[1].objects is not None
    np.testing.assert_array_equal(frames[1].objects.boxes, frame_dict(1)["anns"]["gt_boxes"])
    assert frames[1].objects.track_tokens == ("track-0", "track-1")


@pytest.mark.parametrize(
    "blank", [np.zeros((0, 3)), np.array([]), np.zeros((0, 7), np.float32), []]
)
def test_a_frame_without_objects_may_have_arrays_of_any_type(tmp_path: Path, blank: object) -> None:
    raw = frame_dict(0, objects=0)
    raw["anns"] |= {"gt_boxes": blank, "gt_velocity_3d": blank, "gt_names": blank}
    (frame,) = read_log(write_pickle(tmp_path / "log.pkl", [raw]))
    assert frame.objects is not None
    assert frame.objects.boxes.shape == (0, 7)
    assert frame.objects.velocities_mps.shape == (0, 3)


def test_blind_logs_have_no_objects_and_empty_camera_entries_no_camera(tmp_path: Path) -> None:
    raw = frame_dict(0)
    del raw["anns"]
    raw["cams"]["CAM_B0"] = {}
    raw["lidar_path"] = None
    (frame,) = read_log(write_pickle(tmp_path / "log.pkl", [raw]))
    assert frame.objects is None
    assert "CAM_B0" not in frame.cameras
    assert frame.lidar_path == ""


def test_all_faults_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    frames = log_frames(4)
    del frames[0]["timestamp"]
    frames[1]["driving_command"] = np.array([0, 1, 1, 0])
    frames[1]["anns"]["gt_names"] = np.array(["vehicle", "pedestrain"])
    frames[3]["map_location"] = "us-ma-bostn"
    with pytest.raises(DataFaults) as caught:
        read_log(write_pickle(tmp_path / "log.pkl", frames))
    text = str(caught.value)
    assert [fault.field for fault in caught.value.faults] == [
        *("timestamp", "driving_command", "anns.gt_names"),
        "map_location",
    ]
    assert "did you mean 'pedestrian'" in text
    assert "did you mean 'us-ma-boston'" in text
    assert "#3" in text
    assert "log.pkl" in text


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("token", 7, "not a non-empty text"),
        ("timestamp", 1.6e15, "float"),
        ("timestamp", True, "bool"),
        ("timestamp", -5, "negative"),
        ("ego2global_translation", np.zeros(2), "(2,)"),
        ("ego2global_translation", np.array([0.0, np.nan, 0.0]), "NaN"),
        ("ego2global_rotation", np.zeros(4), "length 0"),
        ("ego_dynamic_state", ["a", 0, 0, 0], "not numeric"),
        ("ego_dynamic_state", [1e300, 0, 0, 0], "does not fit float32"),
        ("driving_command", 1, "shape ()"),
        ("driving_command", np.zeros(4), "one-hot"),
        ("roadblock_ids", "101", "a list of ids"),
        ("roadblock_ids", [1.5], "not an id"),
        ("traffic_lights", [(1, True, 3)], "pair"),
        ("cams", {"CAM_F9": {}}, "not a camera"),
        ("cams", [1], "a dict is expected"),
    ],
)
def test_a_broken_field_is_named_with_its_value_and_rule(
    tmp_path: Path, field: str, value: object, says: str
) -> None:
    frames, faults = read_log_tolerant(
        write_pickle(tmp_path / "log.pkl", [frame_dict(0) | {field: value}, frame_dict(1)])
    )
    assert [frame.frame_idx for frame in frames] == [1]
    assert len(faults) == 1
    assert (faults[0].field, says in faults[0].reason) == (field, True), faults[0]


def test_lists_of_objects_must_agree_and_boxes_have_a_size(tmp_path: Path) -> None:
    frames = log_frames(2)
    frames[0]["anns"]["track_tokens"].pop()
    frames[1]["anns"]["gt_boxes"][0, 3] = -1.0
    _, faults = read_log_tolerant(write_pickle(tmp_path / "log.pkl", frames))
    assert "track_tokens 1" in faults[0].reason
    assert "negative size" in faults[1].reason


def test_a_quarantined_frame_leaves_a_hole(tmp_path: Path) -> None:
    frames = log_frames(3)
    frames[1] = "not a frame"  # type: ignore[call-overload]
    slots, faults = read_log_slots(write_pickle(tmp_path / "log.pkl", frames))
    assert [slot is None for slot in slots] == [False, True, False]
    assert "#1" in str(faults[0])


@pytest.mark.parametrize(
    ("keep", "says"), [(0, "empty"), (0.5, "ends early"), (0.999, "ends early")]
)
def test_a_half_downloaded_log_says_so_once(tmp_path: Path, keep: float, says: str) -> None:
    path = write_pickle(tmp_path / "half.pkl", log_frames(3))
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match=f"half.pkl.*{says}.*download it again"):
        read_log(path)
    frames, faults = read_log_tolerant(path)
    assert (frames, len(faults)) == ([], 1)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<html>", "web page"),
        (b"hello.", "pickle"),
    ],
)
def test_files_that_are_no_pickles(tmp_path: Path, data: bytes, says: str) -> None:
    path = tmp_path / "log.pkl"
    path.write_bytes(data)
    with pytest.raises(DataError, match=says):
        read_log(path)


def test_a_pickle_of_something_else_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a log is a list of frames"):
        read_log(write_pickle(tmp_path / "log.pkl", {"frames": []}))
    with pytest.raises(DataError, match="does not exist"):
        read_log(tmp_path / "none.pkl")


def test_every_golden_log_reads_and_equals_the_devkit_states() -> None:
    import pyarrow.parquet as pq

    root = shared("golden")
    logs = sorted((root / "data/navsim_logs/golden").glob("*.pkl"))
    frames = {frame.token: frame for log in logs for frame in read_log(log)}
    assert len(logs) == 100
    rows = pq.read_table(root / "scenes.parquet").to_pylist()
    for row in rows:
        frame = frames[row["scene_token"]]
        state = np.concatenate(
            [frame.ego_pose, frame.ego_velocity_mps, frame.ego_acceleration_mps2]
        )
        np.testing.assert_array_equal(
            state, np.array(row["ego_state"])[:7]
        )  # bit by bit, yaw included
        assert frame.timestamp_us == row["timestamp_us"]
        assert frame.command == row["driving_command"]
        assert list(frame.roadblock_ids) == row["roadblock_ids"]


def test_a_real_navsim_frame_reads_and_its_camera_looks_ahead(tmp_path: Path) -> None:
    """Calibration and ego motion of a real frame, in a log pickle: the axes are those this project
    assumes.
    """
    sample = json.loads((shared("real/navsim_sample_8bc34517e08758ff") / "sample.json").read_text())
    raw = frame_dict(0, objects=0)
    *command, vx, vy, ax, ay = sample["ego_status"]["rows_oldest_first"][-1]
    raw |= {
        "driving_command": np.array(command, np.int64),
        "ego_dynamic_state": [vx, vy, ax, ay],
        "cams": {},
    }
    for name, entry in sample["calibration"].items():
        pose = np.array(entry["camera_to_lidar"])
        values = {"sensor2lidar_rotation": pose[:3, :3], "sensor2lidar_translation": pose[:3, 3]}
        values |= {
            "cam_intrinsic": np.array(entry["intrinsics_1920x1080"]),
            "distortion": np.zeros(5),
        }
        raw["cams"][name] = values | {"data_path": f"cameras/{name}.jpg"}
    (frame,) = read_log(write_pickle(tmp_path / "log.pkl", [raw]))
    assert frame.ego_velocity_mps[0] == pytest.approx(5.1, abs=0.1)
    assert frame.command is Command(int(np.argmax(command)))
    ahead = {name: camera.rotation @ [0.0, 0.0, 1.0] for name, camera in frame.cameras.items()}
    assert ahead["CAM_F0"][0] > 0.99
    assert ahead["CAM_L0"][1] > 0.5 > -0.5 > ahead["CAM_R0"][1]  # left is +y
    assert ahead["CAM_B0"][0] < -0.99
    assert 1.0 < frame.cameras["CAM_F0"].translation_m[2] < 2.0
