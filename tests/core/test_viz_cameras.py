"""Looking at a scene works also where its pictures do not."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from planner_factory import make_records

from latentvla_core.viz.cameras import camera_strip


def strip_of(record) -> Image.Image:
    return Image.open(io.BytesIO(camera_strip(record, {"human": record.future_poses[:8]}))).convert(
        "RGB"
    )


@pytest.mark.parametrize("fault", ["missing", "cut off"])
def test_a_picture_that_cannot_be_read_is_a_grey_tile(tmp_path: Path, fault: str):
    record = make_records(tmp_path, 1)[0]
    whole = strip_of(record)
    path = tmp_path / record.camera_paths[record.camera_names.index("CAM_R0")]
    content = path.read_bytes()
    path.unlink()
    if fault == "cut off":
        path.write_bytes(content[: len(content) // 3])
    damaged = strip_of(record)
    assert damaged.height == whole.height
    assert np.asarray(damaged)[-10:, -10:].tolist() == np.full((10, 10, 3), 150).tolist()
    assert np.array_equal(np.asarray(damaged)[:, :300], np.asarray(whole)[:, :300])


def test_a_scene_without_front_cameras_is_refused(tmp_path: Path):
    record = make_records(tmp_path, 1)[0]
    blind = replace(record, camera_names=(), camera_paths=())
    with pytest.raises(ValueError, match="no front camera"):
        camera_strip(blind, {})
