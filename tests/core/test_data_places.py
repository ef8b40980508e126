"""What a log calls a picture lies below its root, or the user has named where it lies."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from latentvla_core.data.cameras import load_image
from latentvla_core.data.guards.places import LARGEST_B, place_below, read_below
from latentvla_core.data.lidar import read_pcd
from latentvla_core.errors import DataError


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for place in ("root/in.png", "elsewhere/out.png"):
        Image.fromarray(np.full((8, 8, 3), 90, np.uint8)).save(tmp_path / place)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["/etc/hostname", "../elsewhere/out.png", "a/../../elsewhere/out.png", "s3://b/k",
             "file:///etc/hostname", "~/x.png", "in.png\0"],
)  # fmt: skip
def test_a_log_cannot_name_what_lies_outside_its_root(tree, name):
    with pytest.raises(DataError, match="root"):
        load_image(str(tree / "root"), name)


def test_a_link_out_of_the_root_is_refused_until_the_user_names_its_folder(tree, monkeypatch):
    (tree / "root" / "link.png").symlink_to(tree / "elsewhere" / "out.png")
    (tree / "root" / "inner.png").symlink_to(tree / "root" / "in.png")
    assert load_image(str(tree / "root"), "inner.png").mean() == 90
    with pytest.raises(DataError, match="LATENTVLA_DATA_ROOTS"):
        load_image(str(tree / "root"), "link.png")
    monkeypatch.setenv("LATENTVLA_DATA_ROOTS", str(tree / "elsewhere"))
    assert load_image(str(tree / "root"), "link.png").mean() == 90


def test_a_root_that_is_a_link_itself_was_named_by_the_user(tree):
    (tree / "other").symlink_to(tree / "root")
    assert load_image(str(tree / "other"), "in.png").mean() == 90


def test_pipes_and_files_beyond_a_size_are_not_opened(tree):
    os.mkfifo(tree / "root" / "pipe.png")
    with pytest.raises(DataError, match="no regular file"):
        load_image(str(tree / "root"), "pipe.png")
    with pytest.raises(DataError, match="no regular file"):
        read_pcd(tree / "root" / "pipe.png")
    with pytest.raises(DataError, match="at most 10 are read"):
        read_below(str(tree / "root"), "in.png", remedy="", largest_b=10)
    with (tree / "root" / "huge.pcd").open("wb") as file:
        file.truncate(LARGEST_B + 1)  # sparse: takes no room
    with pytest.raises(DataError, match="are read"):
        read_pcd(tree / "root" / "huge.pcd")


def test_without_a_root_nothing_is_opened():
    with pytest.raises(DataError, match="sensors:"):
        place_below("", "/etc/hostname")
