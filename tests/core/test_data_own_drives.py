"""Own drives as people have them: dialects that are read, and faults that are said with a remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from drives import arc, write_drive

from latentvla_core.data.frames_poses import read_logs
from latentvla_core.data.pose_file import read_poses
from latentvla_core.errors import DataError, DataFaults

DIALECTS = {
    "byte order mark": lambda text: b"\xef\xbb\xbf" + text.encode(),
    "UTF-16 of Excel": lambda text: text.replace(",", "\t").encode("utf-16"),
    "blanks in the header": lambda text: text.replace("frame,timestamp_s,x", "frame, timestamp_s, x").encode(),
    "capitals": lambda text: text.replace("frame,timestamp_s,x", "Frame,Timestamp_s,X").encode(),
    "semicolons": lambda text: text.replace(",", ";").encode(),
    "decimal commas": lambda text: text.replace(",", ";").replace(".", ",").encode(),
    "tabs": lambda text: text.replace(",", "\t").encode(),
    "Windows lines, and an empty one": lambda text: (text.replace("\n", "\r\n") + "\r\n").encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", DIALECTS)
def test_a_table_of_poses_is_read_as_spreadsheets_write_it(tmp_path: Path, name: str):
    folder = write_drive(tmp_path / "drive")
    file = folder / "poses.csv"
    plain = read_poses(file)
    file.write_bytes(DIALECTS[name](file.read_text()))
    again = read_poses(file)
    assert again.names == plain.names
    np.testing.assert_array_equal(again.poses, plain.poses)
    assert len(read_logs(folder)) == 5


def refusal(folder: Path) -> str:
    with pytest.raises((DataError, DataFaults)) as caught:
        read_logs(folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("factor", "unit"), [(1e9, "nanoseconds"), (1e6, "microseconds"), (1e3, "milliseconds")]
)
def test_a_unit_of_time_is_one_fault_with_the_likely_unit(tmp_path: Path, factor: float, unit: str):
    rows = arc(8.0) * [factor, 1, 1, 1]
    told = refusal(write_drive(tmp_path / "drive", rows))
    assert told.count("timestamp_s") == 2  # field and rule, once each
    assert f"timestamp_s looks like {unit}; divide by {factor:.0f}" in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda rows: rows * [1, 1000, 1000, 1], "usual speed is 8000 m/s: x, y looks like millimetres"),
        (lambda rows: rows * [1, 100, 100, 1], "x, y looks like centimetres"),
        (lambda rows: rows + np.eye(1, len(rows), 20).T * [0, 500, 0, 0], "the position jumps"),
        (lambda rows: rows * [1, 1, 1, 180 / np.pi], "it looks like degrees"),
        (lambda rows: rows * [1, 1, 1, -1] + [0, 0, 0, np.pi / 2], "it looks like a compass angle"),
        (lambda rows: rows * [1, 1, 1, -180 / np.pi] + [0, 0, 0, 90], "compass degrees"),
        (lambda rows: rows + [0, 0, 0, np.pi], "driving backwards"),
        (lambda rows: rows - [0, 0, 0, np.pi / 2], "measured from the y axis"),
        (lambda rows: rows[:41] * [1, 1, 1, -1], "heading turns right where the positions turn left"),
        (lambda rows: rows[:41] * [1, 1, -1, 1], "change the sign of heading, or of y"),
    ],
)  # fmt: skip
def test_poses_that_cannot_be_are_refused_with_the_likely_reason(tmp_path: Path, change, told: str):
    assert told in refusal(write_drive(tmp_path / "drive", change(arc(8.0)), files=None))


def test_a_drive_in_reverse_is_taken_when_its_description_says_so(tmp_path: Path):
    folder = write_drive(tmp_path / "drive", arc() + [0, 0, 0, np.pi], files=None)
    (folder / "sequence.yaml").write_text("heading_checked: false\n")
    assert read_logs(folder)["drive@0"][2].ego_velocity_mps[0] < -7


def test_a_road_that_bends_little_or_noisily_is_not_called_mirrored(tmp_path: Path):
    rng = np.random.default_rng(1)
    t = np.arange(81) / 10
    straight = np.column_stack([t, 8 * t, 0 * t, rng.normal(0, 0.02, 81)])
    straight[:, 1:3] += rng.normal(0, 0.05, (81, 2))
    assert read_logs(write_drive(tmp_path / "straight", straight, files=None))
    noisy = arc(8.0) + rng.normal(0, 0.01, arc(8.0).shape) * [0, 1, 1, 1]
    assert read_logs(write_drive(tmp_path / "noisy", noisy, files=None))


def test_a_car_that_stands_has_no_direction_to_check(tmp_path: Path):
    noise = np.random.default_rng(0).normal(0, 0.02, (81, 2))
    rows = np.column_stack([np.arange(81) / 10, noise, np.full(81, 2.0)])
    assert len(read_logs(write_drive(tmp_path / "drive", rows, files=None))) == 5


@pytest.mark.parametrize(
    ("names", "files", "told"),
    [
        ("{:d}".format, "{:06d}.jpg".format, "poses.csv names '0', frames/ has '000000.jpg'; none of the 41"),
        ("{:06d}.jpg".format, "{:06d}.jpg".format, "without its suffix"),
        ("{:06d}".format, "{:06d}.webp".format, "convert the pictures to one of .jpg, .jpeg, .png"),
        ("{:06d}".format, "{:06d}.gif".format, "frames/ has '000000.gif'"),
    ],
)  # fmt: skip
def test_a_drive_none_of_whose_pictures_matches_is_refused_with_both_names(
    tmp_path: Path, names, files, told: str
):
    assert told in refusal(write_drive(tmp_path / "drive", names=names, files=files))


def test_two_pictures_of_one_name_are_refused(tmp_path: Path):
    folder = write_drive(tmp_path / "drive")
    (folder / "frames/000003.png").write_bytes((folder / "frames/000003.jpg").read_bytes())
    assert "000003.jpg and 000003.png are both picture '000003'" in refusal(folder)


def test_pictures_under_another_name_are_pointed_at(tmp_path: Path):
    folder = write_drive(tmp_path / "drive")
    (folder / "frames").rename(folder / "image_2")
    assert "image_2/ is there: rename or link it to frames/" in refusal(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("picture_tolerance_s: 0", "picture_tolerance_s is 0.0; it must be positive"),
        ("max_pose_gap_s: 1e9", "a text to YAML; write 1.0e+9"),
        ("camera_height_m: 15e-1", "write 1.5e+0"),
        ("pose_ahead_of_rear_axle_m: .nan", "must be a finite number"),
        ("focal_px: [.inf, 1.0]\ncenter_px: [1, 2]", "must be a finite number"),
        ("name: null", "name is None"),
        ("heading_checked: 3", "heading_checked is 3"),
        ("a: [&x [1], *x" + ", *x" * 200 + "]", "aliases"),
        ("[" * 5000, "not readable YAML"),
        ("name: 2001-99-99", "not readable YAML"),
    ],
)
def test_a_bad_description_names_its_file_and_field(tmp_path: Path, text: str, told: str):
    folder = write_drive(tmp_path / "drive", files=None)
    (folder / "sequence.yaml").write_text(text + "\n")
    message = refusal(folder)
    assert "drive/sequence.yaml" in message
    assert told in message


def test_phases_follow_the_pictures_when_the_camera_is_slower_than_the_poses(tmp_path: Path):
    folder = write_drive(tmp_path / "drive", arc(6.0, rate_hz=100.0))
    for i in range(601):
        if i % 10:
            (folder / f"frames/{i:06d}.jpg").unlink()
    logs = read_logs(folder)
    assert list(logs) == [f"drive@{i}" for i in range(5)]
    assert all(frame.cameras for frames in logs.values() for frame in frames)


def test_a_frame_has_the_time_and_the_pose_of_the_picture_it_shows(tmp_path: Path):
    folder = write_drive(tmp_path / "drive", arc(6.0, rate_hz=50.0))
    kept = [i for i in range(301) if i % 25 in (0, 2)]  # now and then 40 ms late
    for i in range(301):
        if i not in kept or (i % 50 == 25):
            (folder / f"frames/{i:06d}.jpg").unlink()
    for frame in read_logs(folder)["drive@0"]:
        row = int(Path(frame.cameras["CAM_F0"].path).stem)
        assert frame.timestamp_us == row * 20_000
        np.testing.assert_allclose(frame.ego_pose, arc(6.0, rate_hz=50.0)[row, 1:], atol=1e-9)


def test_one_name_given_twice_shares_no_token(tmp_path: Path):
    tokens = []
    for folder in ("a", "d"):
        drive = write_drive(tmp_path / folder, files=None)
        (drive / "sequence.yaml").write_text("name: mycar\n")
        tokens.append({f.token for frames in read_logs(drive).values() for f in frames})
    assert not tokens[0] & tokens[1]


def test_a_folders_mere_name_brings_nothing(tmp_path: Path):
    frame = read_logs(write_drive(tmp_path / "kitti_01_gray", files=None))["kitti_01_gray@0"][0]
    ours = read_logs(write_drive(tmp_path / "ours", files=None))["ours@0"][0]
    np.testing.assert_array_equal(frame.ego_pose, ours.ego_pose)
