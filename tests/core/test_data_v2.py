"""Submissions and synthetic scenes: files of devkit classes, written and read without the devkit.

Small look-alikes of the devkit's classes stand in for it here: they pickle the real files' way (by
state dictionary).
"""

from __future__ import annotations

import pickle
from pathlib import Path, PosixPath
from typing import Any

import numpy as np
import pytest
from devkit_lookalikes import Kind, Status, detections, lookalikes, tracked
from navsim_files import camera_dict, frame_dict, log_frames, write_pickle

from latentvla_core.data.filters import SceneFilter, scenes_of_log
from latentvla_core.data.navsim import read_log
from latentvla_core.data.v2.submissions import (
    Plan,
    Submission,
    SubmissionInfo,
    read_submission,
    write_submission,
)
from latentvla_core.data.v2.synthetic_scenes import (
    LightStatus,
    SyntheticScene,
    read_synthetic_scene,
    select,
)
from latentvla_core.errors import DataError, DataFaults, SetupError
from latentvla_core.types import Command, ObjectClass


@pytest.fixture
def devkit(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Importable look-alikes under the devkit's module names, for the length of a test."""
    return lookalikes(monkeypatch)


def _plans(count: int, dtype: type = np.float64) -> dict[str, Plan]:
    steps = np.arange(1, 9)[:, None] * np.array([1.5, 0.1, 0.02])
    return {f"{i:016x}": Plan((steps + i).astype(dtype)) for i in range(count)}


INFO = SubmissionInfo(
    team_name="Ünser", authors="A, B", email="a@b.c", institution="I", country_or_region="CH"
)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_written_submission_reads_back(tmp_path: Path, version: Any) -> None:
    second = _plans(2) if version == "v2" else {}
    made = Submission(version=version, info=INFO, first_stage=_plans(300), second_stage=second)
    write_submission(tmp_path / "s/submission.pkl", made)
    back = read_submission(tmp_path / "s/submission.pkl")
    assert (back.version, back.info) == (version, INFO)
    assert list(back.first_stage) == list(made.first_stage)
    for token, poses in back.poses().items():
        np.testing.assert_array_equal(poses, {**made.first_stage, **second}[token].poses)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_devkit_can_load_what_we_write(
    tmp_path: Path, devkit: dict[str, Any], dtype: type
) -> None:
    made = Submission(version="v2", info=INFO, first_stage=_plans(2, dtype), second_stage=_plans(1))
    write_submission(tmp_path / "submission.pkl", made)
    raw = pickle.loads(
        (tmp_path / "submission.pkl").read_bytes()
    )  # plain pickle, as the devkit does
    assert list(raw) == [
        *("team_name", "authors", "email", "institution", "country / region"),
        *("first_stage_predictions", "second_stage_predictions"),
    ]
    (first,) = raw["first_stage_predictions"]
    trajectory = first["0000000000000001"]
    assert type(trajectory) is devkit["Trajectory"]
    assert trajectory.poses.dtype == dtype
    np.testing.assert_array_equal(trajectory.poses, made.first_stage["0000000000000001"].poses)
    sampling = trajectory.trajectory_sampling
    assert type(sampling) is devkit["TrajectorySampling"]
    assert vars(sampling) == {"num_poses": 8, "time_horizon": 4.0, "interval_length": 0.5}
    trajectory.poses[0, 0] = 1.0  # writable, as arrays from the devkit's own files are


def _official(devkit: dict[str, Any], poses: Any, num_poses: int = 8, interval: float = 0.5) -> Any:
    sampling = devkit["TrajectorySampling"](
        num_poses=num_poses, time_horizon=4.0, interval_length=interval
    )
    return devkit["Trajectory"](poses=poses, trajectory_sampling=sampling)


def test_official_submissions_read(tmp_path: Path, devkit: dict[str, Any]) -> None:
    poses = np.arange(24, dtype=np.float32).reshape(8, 3)
    raw = {
        "team_name": "t",
        "authors": ["A", "B"],
        "predictions": [{"aa": _official(devkit, poses)}],
    }
    back = read_submission(write_pickle(tmp_path / "submission.pkl", raw, 4))
    np.testing.assert_array_equal(back.poses()["aa"], poses)
    assert back.info.authors == "A, B"


def test_all_bad_trajectories_of_a_submission_are_reported(
    tmp_path: Path, devkit: dict[str, Any]
) -> None:
    bad = {
        "ok": _official(devkit, np.zeros((8, 3))),
        "shape": _official(devkit, np.zeros((8, 2))),
        "nan": _official(devkit, np.full((8, 3), np.nan)),
        "count": _official(devkit, np.zeros((8, 3)), num_poses=40, interval=0.1),
        "array": np.zeros((8, 3)),
    }
    with pytest.raises(DataFaults) as caught:
        read_submission(write_pickle(tmp_path / "submission.pkl", {"predictions": [bad]}))
    assert [fault.frame for fault in caught.value.faults] == ["shape", "nan", "count", "array"]
    with pytest.raises(DataFaults, match="2 entries"):
        read_submission(write_pickle(tmp_path / "two.pkl", {"predictions": [{}, {}]}))
    with pytest.raises(DataError, match="neither predictions"):
        read_submission(write_pickle(tmp_path / "none.pkl", {"team_name": "t"}))
    with pytest.raises(DataError, match="a submission is a dict"):
        read_submission(write_pickle(tmp_path / "list.pkl", []))


def test_other_samplings_are_named_when_eight_poses_are_needed(tmp_path: Path) -> None:
    plans = {"aa": Plan(np.zeros((40, 3)), 0.1), "bb": Plan(np.zeros((8, 3)))}
    submission = Submission(version="v1", first_stage=plans)
    write_submission(tmp_path / "s.pkl", submission)
    assert read_submission(tmp_path / "s.pkl").first_stage["aa"].horizon_s == pytest.approx(4.0)
    with pytest.raises(DataFaults, match=r"frame aa: 40 poses every 0\.1 s"):
        submission.poses()
    with pytest.raises(SetupError, match="one stage"):
        write_submission(
            tmp_path / "s.pkl", Submission(version="v1", first_stage={}, second_stage=plans)
        )


def _detections(devkit: dict[str, Any], step: int) -> Any:
    pose = (np.float64(10.0 + step), 2.0, 0.3)
    agent = tracked(devkit, Kind.VEHICLE, "t1", pose, (4.5, 1.9, 1.6), np.array([3.0, 0.5]), step)
    return detections(
        devkit, [agent, tracked(devkit, Kind.TRAFFIC_CONE, "t2", pose, (4.5, 1.9, 1.6))]
    )


def _synthetic(devkit: dict[str, Any], **meta: Any) -> dict[str, Any]:
    frames = []
    for i in range(4):
        raw = frame_dict(i)
        notes = {key.removeprefix("gt_"): value for key, value in raw["anns"].items()}
        ego = {"ego_pose": np.array([1.0 * i, 2.0, 0.1]), "ego_velocity": np.array([5.1, 0.0])}
        ego |= {
            "ego_acceleration": np.array([0.1, 0.2]),
            "driving_command": raw["driving_command"],
            "in_global_frame": True,
        }
        frames.append(
            {key: raw[key] for key in ("timestamp", "roadblock_ids", "traffic_lights")}
            | {"token": f"{i:017x}", "annotations": notes, "ego_status": ego, "lidar_path": None}
            | {"camera_dict": {"cam_f0": camera_dict("a/cam_f0.jpg"), "cam_b0": {}}}
        )
    light = devkit["TrafficLightStatusData"](status=Status.RED, lane_connector_id=301, timestamp=1)
    metadata = {
        "log_name": "2021.05",
        "scene_token": "s" * 17,
        "map_name": "us-ma-boston",
        "initial_token": f"{3:017x}",
    }
    metadata |= {"num_history_frames": 4, "num_future_frames": 0}
    metadata |= {
        "corresponding_original_scene": "o" * 16,
        "corresponding_original_initial_token": "p" * 16,
    }
    return {
        "scene_metadata": metadata | meta,
        "frames": frames,
        "extended_traffic_light_data": [devkit["TrafficLightStatuses"](traffic_lights=[light])] * 8,
        "extended_detections_tracks": [_detections(devkit, step) for step in range(8)],
    }


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_a_synthetic_scene_becomes_a_scene_with_a_future(
    tmp_path: Path, devkit: dict[str, Any], protocol: int
) -> None:
    synthetic = read_synthetic_scene(
        write_pickle(tmp_path / "s.pkl", _synthetic(devkit), protocol), "navhard"
    )
    assert (synthetic.token, len(synthetic.token)) == (f"{3:017x}", 17)
    now = synthetic.scene.current
    assert (now.command, now.map_location, synthetic.scene.split) == (
        Command.FORWARD,
        "us-ma-boston",
        "navhard",
    )
    np.testing.assert_array_equal(now.ego_pose, [3.0, 2.0, 0.1])
    assert now.ego_velocity_mps[0] == 5.1  # not rounded: these files hold float64
    assert list(now.cameras) == ["CAM_F0"]
    assert now.objects is not None
    assert len(now.objects) == 2
    assert synthetic.future_tracks is not None
    assert len(synthetic.future_tracks) == 8
    step = synthetic.future_tracks[2]
    np.testing.assert_array_equal(step.centers[0], [12.0, 2.0, 0.3])
    np.testing.assert_array_equal(step.sizes_m[1], [4.5, 1.9, 1.6])
    np.testing.assert_array_equal(step.velocities_mps, [[3.0, 0.5], [0.0, 0.0]])
    assert step.classes.tolist() == [ObjectClass.VEHICLE, ObjectClass.TRAFFIC_CONE]
    assert step.track_tokens == ("t1", "t2")
    assert synthetic.future_lights is not None
    assert synthetic.future_lights[0] == (("301", LightStatus.RED),)


def test_synthetic_scenes_may_lack_their_future_and_hold_paths(
    tmp_path: Path, devkit: dict[str, Any]
) -> None:
    raw = _synthetic(devkit) | {
        "extended_detections_tracks": None,
        "extended_traffic_light_data": None,
    }
    raw["origin"] = PosixPath("/somewhere/else.pkl")
    synthetic = read_synthetic_scene(write_pickle(tmp_path / "s.pkl", raw))
    assert (synthetic.future_tracks, synthetic.future_lights) == (None, None)


def test_faults_of_a_synthetic_scene_are_collected(tmp_path: Path, devkit: dict[str, Any]) -> None:
    raw = _synthetic(devkit, map_name="us-ma-bosten")
    raw["frames"][1]["ego_status"]["ego_pose"] = np.zeros(2)
    raw["frames"][2]["ego_status"]["in_global_frame"] = False
    raw["extended_detections_tracks"] = [devkit["DetectionsTracks"](objects=[])]
    with pytest.raises(DataFaults) as caught:
        read_synthetic_scene(write_pickle(tmp_path / "s.pkl", raw))
    fields = [fault.field for fault in caught.value.faults]
    assert fields == [
        *("scene_metadata.map_name", "ego_status.ego_pose", "ego_status.in_global_frame"),
        "extended_detections_tracks",
    ]
    with pytest.raises(DataFaults, match="initial_token"):
        read_synthetic_scene(
            write_pickle(tmp_path / "s.pkl", _synthetic(devkit, initial_token="x" * 17))
        )
    with pytest.raises(DataFaults, match="5 of 4 frames"):
        read_synthetic_scene(
            write_pickle(tmp_path / "s.pkl", _synthetic(devkit, num_history_frames=5))
        )


def test_the_second_stage_is_selected_as_the_devkit_does(
    tmp_path: Path, devkit: dict[str, Any]
) -> None:
    frames = read_log(write_pickle(tmp_path / "log.pkl", log_frames(12)))
    first = scenes_of_log(frames, SceneFilter(num_future_frames=8, frame_interval=1))

    def synthetic(name: str, original: str) -> SyntheticScene:
        raw = _synthetic(devkit, corresponding_original_scene=original, log_name=name)
        return read_synthetic_scene(write_pickle(tmp_path / f"{name}.pkl", raw))

    follows, stranger = synthetic("log-a", first[0].frames[-1].token), synthetic("log-b", "f" * 16)
    assert select([follows, stranger], SceneFilter(), first) == [follows]
    assert select([follows, stranger], SceneFilter(log_names=frozenset(["log-b"])), first) == []
    listed = SceneFilter(synthetic_scene_tokens=frozenset([stranger.token]))
    assert select([follows, stranger], listed) == [
        follows,
        stranger,
    ]  # both have this initial token
