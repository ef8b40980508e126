"""Exports come back whole: by the public readers where they are installed, by Parquet and tar else."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from lerobot_reader import READERS

from benchmarks.site_lake import write_lake
from latentvla_core.data.cameras import decode_image
from latentvla_core.errors import DataError
from latentvla_core.exports.lerobot import IMAGE, statistics, write_lerobot
from latentvla_core.exports.shards import write_shards
from latentvla_core.geometry import to_global
from latentvla_core.lake.store import Lake
from latentvla_core.types import Array
from latentvla_core.viz.site.options import ViewOptions


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    root = tmp_path_factory.mktemp("exports")
    return write_lake(root / "lake", 30, pictures=root / "pictures")


def labels_of(lake: Lake, token: str) -> list[int]:
    rows = sorted(lake.rows("latent_actions", {"scene_token": token}), key=lambda r: r["step"])
    return np.concatenate([row["ego_codes"] for row in rows]).tolist()


@pytest.mark.slow
def test_shards_hold_every_scene_with_its_picture_and_codes(lake, tmp_path):
    done = write_shards(lake, ViewOptions(out=tmp_path), per_shard=10)
    assert [path.name for path in done.files] == [
        "train-000000.tar", "train-000001.tar", "train-000002.tar", "val-000000.tar"
    ]  # fmt: skip
    found = {}
    for path in done.files:
        with tarfile.open(path) as shard:
            for member in shard.getmembers():
                key, _, suffix = member.name.partition(".")
                found.setdefault(key, {})[suffix] = shard.extractfile(member).read()
    assert len(found) == done.samples == 30
    for row in lake.rows("scenes"):
        sample = found[row["scene_token"]]
        facts = json.loads(sample["json"])
        assert facts["codes"]["label"] == labels_of(lake, row["scene_token"])
        future = np.load(io.BytesIO(sample["future.npy"]))
        np.testing.assert_allclose(future, row["future_poses"], atol=1e-5)
        assert sample["front.jpg"].startswith(b"\xff\xd8")


def test_same_rows_same_bytes(lake, tmp_path):
    first = write_shards(lake, ViewOptions(out=tmp_path / "a"))
    second = write_shards(lake, ViewOptions(out=tmp_path / "b"))
    pairs = zip(first.files, second.files, strict=True)
    assert all(a.read_bytes() == b.read_bytes() for a, b in pairs)


def test_the_public_reader_reads_the_shards(lake, tmp_path):
    wds = pytest.importorskip("webdataset", reason="pip install webdataset")
    done = write_shards(lake, ViewOptions(out=tmp_path, where="split = 'train'"))
    samples = list(wds.WebDataset([str(p) for p in done.files], shardshuffle=False).decode("rgb"))
    assert len(samples) == 25
    assert samples[0]["front.jpg"].shape == (36, 64, 3)
    token = samples[0]["json"]["scene_token"]
    assert samples[0]["__key__"] == token
    assert samples[0]["json"]["codes"]["label"] == labels_of(lake, token)


def test_a_scene_without_its_picture_is_left_out_and_told(tmp_path):
    lake = write_lake(tmp_path / "lake", 3, pictures=tmp_path / "pictures")
    gone = lake.rows("scenes")[0]
    (Path(gone["sensor_root"]) / gone["camera_paths"][0]).unlink()
    done = write_shards(lake, ViewOptions(out=tmp_path / "out"))
    assert done.samples == 2 and gone["camera_paths"][0] in done.refused[0]


def test_a_lerobot_episode_is_a_drive_with_actions_that_retrace_it(lake, tmp_path):
    import pyarrow.parquet as pq

    done = write_lerobot(lake, ViewOptions(out=tmp_path))
    info = json.loads((tmp_path / "meta" / "info.json").read_text())
    assert (info["total_episodes"], info["fps"]) == (2, 2) and info["total_frames"] == done.samples
    table = pq.read_table(done.files[0]).to_pylist()
    assert set(table[0]) == set(info["features"])
    frames = sorted(lake.rows("frames", {"split": "train"}), key=lambda row: row["log_index"])
    pose = np.array(frames[0]["ego_pose"])
    for row in table[:-1]:
        x, y, yaw = row["action"]
        c, s = np.cos(pose[2]), np.sin(pose[2])
        pose = pose + [c * x - s * y, s * x + c * y, yaw]
    np.testing.assert_allclose(pose[:2], frames[-1]["ego_pose"][:2], atol=1e-3)
    token = frames[5]["token"]
    assert table[5]["latent_action"] == labels_of(lake, token)[:4]
    assert table[0]["latent_action"] == [-1] * 4  # no scene begins in the first frames
    assert table[7]["timestamp"] == 3.5 and table[7][IMAGE]["bytes"].startswith(b"\xff\xd8")


def test_statistics_are_those_of_all_frames(lake, tmp_path):
    import pyarrow.parquet as pq

    done = write_lerobot(lake, ViewOptions(out=tmp_path))
    rows = [row for path in done.files for row in pq.read_table(path).to_pylist()]
    stats = json.loads((tmp_path / "meta" / "stats.json").read_text())
    speed = np.array([row["observation.state"][0] for row in rows])
    assert stats["observation.state"]["mean"][0] == pytest.approx(speed.mean(), abs=1e-5)
    assert stats["observation.state"]["std"][0] == pytest.approx(speed.std(), abs=1e-5)
    assert np.shape(stats[IMAGE]["mean"]) == (3, 1, 1)
    one = {"a": (2, np.array([3.0]), np.array([5.0]), np.array([1.0]), np.array([2.0]))}
    assert statistics([one])["a"]["mean"] == [1.5]


def test_a_picture_that_cannot_be_read_ends_an_episode(tmp_path):
    lake = write_lake(tmp_path / "lake", 3, pictures=tmp_path / "pictures")
    frame = lake.rows("frames", {"log_index": 6})[0]
    (Path(frame["sensor_root"]) / frame["camera_paths"][0]).write_bytes(b"torn")
    done = write_lerobot(lake, ViewOptions(out=tmp_path / "out"))
    assert len(done.files) == 2 and len(done.refused) == 1
    for path in (tmp_path / "pictures").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(DataError, match="front picture"):
        write_lerobot(lake, ViewOptions(out=tmp_path / "none"))


@pytest.mark.slow
@pytest.mark.skipif(not READERS.is_dir(), reason="LeRobot's reader is not here: make readers")
def test_lerobots_own_reader_reads_the_data_set(lake, tmp_path):
    """Every frame, as the reader hands it to a training: picture, state, action, codes, task."""
    done = write_lerobot(lake, ViewOptions(out=tmp_path))
    script = Path(__file__).with_name("lerobot_reader.py")
    asked = [sys.executable, str(script), str(tmp_path)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    ran = subprocess.run(asked, capture_output=True, text=True, env=env)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert (found["episodes"], found["fps"], len(found["frames"])) == (2, 2, done.samples)
    assert {IMAGE, "action", "latent_action"} <= set(found["stats"])
    frames = [
        row
        for split in ("train", "val")
        for row in sorted(lake.rows("frames", {"split": split}), key=lambda row: row["log_index"])
    ]
    labelled = {row["scene_token"] for row in lake.rows("latent_actions")}
    pose: Array = np.zeros(3)
    for item, frame in zip(found["frames"], frames, strict=True):
        said = labels_of(lake, frame["token"])[:4] if frame["token"] in labelled else [-1] * 4
        assert item["latent_action"] == said
        speed = np.hypot(*frame["ego_velocity_mps"])
        assert item["observation.state"][0] == pytest.approx(speed, abs=1e-4)
        if item["frame_index"] > 0:
            np.testing.assert_allclose(pose[:2], frame["ego_pose"][:2], atol=1e-3)
        pose = to_global(np.array(frame["ego_pose"]), np.array(item["action"]))
        picture = decode_image((Path(frame["sensor_root"]) / frame["camera_paths"][0]).read_bytes())
        assert item[IMAGE]["shape"] == [3, 36, 64]
        np.testing.assert_allclose(item[IMAGE]["mean"], picture.mean((0, 1)) / 255, atol=0.02)
        assert item["task"] in ("turn left", "drive straight on", "turn right", "drive")


def test_a_query_exports_the_scenes_that_fit_it_alone(lake, tmp_path):
    lost = (
        "select scene_token from pdm_scores where trajectory_id = 'ipad' and"
        " metric_version = 'pdms-v1.1' and score < 1"
    )
    wanted = set(lake.sql(lost)["scene_token"].to_pylist())
    done = write_shards(lake, ViewOptions(out=tmp_path, where=lost))
    names = set()
    for path in done.files:
        with tarfile.open(path) as shard:
            names |= {member.partition(".")[0] for member in shard.getnames()}
    assert 0 < len(wanted) < 30 and names == wanted
    drive = lake.rows("logs")[0]["log_name"]
    done = write_lerobot(lake, ViewOptions(out=tmp_path / "drive", log=drive))
    assert len(done.files) == 1
