"""Pictures and poses → logs at 2 Hz: phases, rear axle, velocities, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from navsim_files import shared

from latentvla_core.data.filters import SceneFilter, scenes_of_log, why_no_scenes
from latentvla_core.data.frames_poses import is_sequence, read_logs, read_sequence
from latentvla_core.data.records import scene_record
from latentvla_core.data.sequences import SequenceConfig, describe
from latentvla_core.errors import DataError, DataFaults
from latentvla_core.types import Command

RADIUS_M, SPEED_MPS = 20.0, 8.0


def _circle(
    folder: Path, *, rate_hz: float = 10.0, seconds: float = 8.0, ahead_m: float = 0.0
) -> Path:
    """A left-hand circle of the rear axle at constant speed, as a point `ahead_m` of it sees it."""
    t = np.arange(0, seconds + 1e-9, 1 / rate_hz)
    yaw = SPEED_MPS / RADIUS_M * t
    x = RADIUS_M * np.sin(yaw) + ahead_m * np.cos(yaw) - ahead_m
    y = RADIUS_M * (1 - np.cos(yaw)) + ahead_m * np.sin(yaw)
    rows = zip(range(len(t)), t, x, y, yaw, strict=True)
    lines = [
        "frame,timestamp_s,x,y,heading",
        *(f"{i:06d},{a:.6f},{b:.6f},{c:.6f},{d:.8f}" for i, a, b, c, d in rows),
    ]
    (folder / "frames").mkdir(parents=True)
    (folder / "poses.csv").write_text("\n".join(lines) + "\n")
    for i in range(len(t)):
        (folder / f"frames/{i:06d}.jpg").touch()
    return folder


def test_faster_sequences_give_one_log_per_phase(tmp_path: Path) -> None:
    logs = read_logs(_circle(tmp_path / "drive"))
    assert list(logs) == [f"drive@{i}" for i in range(5)]
    assert [len(frames) for frames in logs.values()] == [17, 16, 16, 16, 16]
    second = logs["drive@1"]
    assert [frame.timestamp_us for frame in second[:3]] == [100_000, 600_000, 1_100_000]
    assert second[1].cameras["CAM_F0"].path == "frames/000006.jpg"
    assert len({frame.token for frame in read_sequence(tmp_path / "drive")}) == 17 + 4 * 16
    assert second[0].command is Command.UNKNOWN
    assert (second[0].objects, second[0].map_location, second[0].roadblock_ids) == (None, "", ())


def test_motion_on_a_circle(tmp_path: Path) -> None:
    for frame in read_logs(_circle(tmp_path / "drive"))["drive@0"]:
        np.testing.assert_allclose(frame.ego_velocity_mps, [SPEED_MPS, 0], atol=0.12)
        np.testing.assert_allclose(
            frame.ego_acceleration_mps2, [0, SPEED_MPS**2 / RADIUS_M], atol=0.45
        )


def test_poses_of_a_camera_are_moved_to_the_rear_axle(tmp_path: Path) -> None:
    config = SequenceConfig(pose_ahead_of_rear_axle_m=1.5)
    frames = read_logs(_circle(tmp_path / "drive", ahead_m=1.5), config)["drive@0"]
    on_circle = [np.hypot(f.ego_pose[0] + 1.5, f.ego_pose[1] - RADIUS_M) for f in frames]
    np.testing.assert_allclose(on_circle, RADIUS_M, atol=1e-5)
    assert (
        np.abs([f.ego_velocity_mps[1] for f in frames]).max() < 0.05
    )  # a rear axle does not slip sideways
    wrong = read_logs(tmp_path / "drive", SequenceConfig())["drive@0"]
    assert np.abs([f.ego_velocity_mps[1] for f in wrong]).max() > 0.4


def test_poses_between_samples_are_interpolated_and_pictures_are_the_nearest(
    tmp_path: Path,
) -> None:
    frames = read_logs(_circle(tmp_path / "drive", rate_hz=9.65))["drive@0"]
    assert frames[1].timestamp_us == 518_135  # of the picture that is shown
    yaw = SPEED_MPS / RADIUS_M * 5 / 9.65
    np.testing.assert_allclose(
        frames[1].ego_pose, [RADIUS_M * np.sin(yaw), RADIUS_M * (1 - np.cos(yaw)), yaw], atol=0.005
    )
    assert frames[1].cameras["CAM_F0"].path == "frames/000005.jpg"  # 0.518 s is nearer than 0.415 s
    (tmp_path / "drive/frames/000005.jpg").unlink()
    again = read_logs(tmp_path / "drive")["drive@0"]
    assert again[1].cameras == {}  # the next nearest is too far away in time
    assert len(again) == len(frames)


def test_two_hertz_is_taken_as_it_is(tmp_path: Path) -> None:
    logs = read_logs(_circle(tmp_path / "drive", rate_hz=2.0))
    assert list(logs) == ["drive@0"]
    assert [f.cameras["CAM_F0"].path for f in logs["drive@0"]] == [
        f"frames/{i:06d}.jpg" for i in range(17)
    ]
    np.testing.assert_allclose(
        [f.ego_velocity_mps[0] for f in logs["drive@0"]][1:-1], SPEED_MPS, rtol=0.01
    )


def test_windows_and_records_come_out(tmp_path: Path) -> None:
    (frames, *_) = read_logs(_circle(tmp_path / "drive")).values()
    assert "has_route=False" in why_no_scenes(frames, SceneFilter())
    scenes = scenes_of_log(frames, SceneFilter(frame_interval=1, has_route=False), "real")
    assert len(scenes) == 4
    record = scene_record(scenes[0], str(tmp_path / "drive"))
    assert record.future_poses[0, 1] > 0
    assert record.camera_names == ("CAM_F0",)
    assert not record.has_objects
    assert "too short by 9" in why_no_scenes(frames[:5], SceneFilter())
    assert "quarantine" in why_no_scenes([None, *frames[1:14]], SceneFilter())
    assert "tokens" in why_no_scenes(frames, SceneFilter(has_route=False, tokens=frozenset(["x"])))
    assert why_no_scenes(frames, SceneFilter(has_route=False)) == ""


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda text: text.replace("heading", "headng"), "did you mean 'headng'"),
        (lambda text: text.replace("0.300000", "0.150000"), "time must increase"),
        (
            lambda text: "\n".join(text.split("\n")[:15] + text.split("\n")[30:]),
            "Split the sequence",
        ),
        (lambda text: "\n".join(text.split("\n")[:3]), "at least 3"),
        (
            lambda text: text.replace("000002,0.2", "000002,nan,0.2,"),
            r"line 4.*nan.*not a finite number",
        ),
        (lambda text: "", "no rows"),
    ],
)
def test_broken_poses_are_named(tmp_path: Path, edit: object, says: str) -> None:
    path = _circle(tmp_path / "drive") / "poses.csv"
    path.write_text(edit(path.read_text()))  # type: ignore[operator]
    with pytest.raises((DataError, DataFaults), match=rf"poses\.csv.*{says}"):
        read_logs(tmp_path / "drive")


def test_pictures_without_poses_are_refused_with_the_reason(tmp_path: Path) -> None:
    (_circle(tmp_path / "dashcam") / "poses.csv").unlink()
    assert not is_sequence(tmp_path / "dashcam")
    with pytest.raises(
        DataError, match=r"dashcam: no poses\.csv: pictures without poses show no ego motion"
    ):
        read_logs(tmp_path / "dashcam")
    with pytest.raises(DataError, match="no folder frames/"):
        read_logs(tmp_path)


def test_a_description_beside_the_frames_is_used(tmp_path: Path) -> None:
    folder = _circle(tmp_path / "drive")
    (folder / "sequence.yaml").write_text(
        "name: ours\nfocal_px: [500, 501]\ncenter_px: [320, 180]\ncamera_height_m: 1.2\n"
    )
    assert describe(folder) == SequenceConfig(
        name="ours", focal_px=(500.0, 501.0), center_px=(320.0, 180.0), camera_height_m=1.2
    )
    camera = read_logs(folder)["ours@0"][0].cameras["CAM_F0"]
    np.testing.assert_array_equal(camera.intrinsics_px, [[500, 0, 320], [0, 501, 180], [0, 0, 1]])
    np.testing.assert_array_equal(camera.rotation @ [0, 0, 1], [1, 0, 0])  # it looks ahead
    for bad in (
        "focal: [1, 2]",
        "focal_px: 500",
        "focal_px: [1, 2]",
        "smoothing_s: -1",
        "- 1",
        "name: 3",
    ):
        (folder / "sequence.yaml").write_text(bad + "\n")
        with pytest.raises(DataError, match=r"sequence\.yaml"):
            describe(folder)


@pytest.mark.parametrize(
    ("name", "logs", "scenes", "speeds"),
    [
        ("kitti_01_gray", 5, 7, (9.0, 12.5)),
        ("kitti_02_color", 5, 0, (13.5, 15.0)),
        ("kitti_city_stop_color", 5, 33, (0.0, 2.6)),
        ("nuscenes_0103_front", 1, 14, (1.5, 9.2)),
        ("navsim_demo_scenes/scene_hotel_loop", 1, 5, (4.2, 5.6)),
        ("navsim_demo_scenes/scene_75fb2c6cfcd3562a", 1, 5, (8.1, 8.9)),
    ],
)
def test_real_sequences_read(
    name: str, logs: int, scenes: int, speeds: tuple[float, float]
) -> None:
    found = read_logs(shared(f"real/{name}"))
    filter = SceneFilter(num_future_frames=6, frame_interval=1, has_route=False)
    assert len(found) == logs
    assert sum(len(scenes_of_log(frames, filter)) for frames in found.values()) == scenes
    frames = [frame for log in found.values() for frame in log]
    forward = np.array([frame.ego_velocity_mps[0] for frame in frames])
    assert speeds[0] - 0.2 <= forward.min()
    assert forward.max() <= speeds[1]
    assert all("CAM_F0" in frame.cameras for frame in frames)
    assert np.isfinite(frames[0].cameras["CAM_F0"].intrinsics_px).all()


def test_the_real_dashcam_is_refused() -> None:
    with pytest.raises(DataError, match="no ego motion"):
        read_logs(shared("real/dashcam_highway_unlabelled"))
