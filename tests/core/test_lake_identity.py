"""Keys of folders: they change with any name, size or content, never with a place or a time."""

import os
import shutil
import time
from pathlib import Path

import pytest

from latentvla_core.lake import identity
from latentvla_core.lake.identity import Looks, content_key

PAST_NS = time.time_ns() - 3_600_000_000_000


@pytest.fixture
def drive(tmp_path: Path) -> Path:
    """Three pictures and a table."""
    root = tmp_path / "data" / "drive"
    (root / "frames").mkdir(parents=True)
    for index in range(3):
        (root / "frames" / f"{index}.jpg").write_bytes(bytes([index]) * 100)
    (root / "poses.csv").write_text("frame,x\n0,1\n")
    return root


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch):
    """Files count as old at once: tests do not wait two seconds."""
    monkeypatch.setattr(identity, "SETTLED_NS", -3_600_000_000_000)


def rewritten(path: Path, content: bytes) -> None:
    """Other content of the same size, with the times of the old file."""
    times = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


CHANGES = {
    "a picture is replaced by one of the same size and time": lambda root: rewritten(
        root / "frames" / "1.jpg", b"x" * 100
    ),
    "a picture is removed": lambda root: (root / "frames" / "1.jpg").unlink(),
    "a picture is added": lambda root: (root / "frames" / "3.jpg").write_bytes(b"3"),
    "a picture is renamed": lambda root: (root / "frames" / "1.jpg").rename(
        root / "frames" / "9.jpg"
    ),
    "two pictures change places": lambda root: (
        (root / "frames" / "0.jpg").rename(root / "t"),
        (root / "frames" / "1.jpg").rename(root / "frames" / "0.jpg"),
        (root / "t").rename(root / "frames" / "1.jpg"),
    ),
    "a table is corrected": lambda root: (root / "poses.csv").write_text("frame,x\n0,2\n"),
    "a calibration is added": lambda root: (root / "sequence.yaml").write_text("name: a\n"),
    "a picture is cut off": lambda root: (root / "frames" / "1.jpg").write_bytes(b"\1" * 50),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_key_changes_when(drive: Path, tmp_path: Path, settled, change: str):
    looks = Looks(tmp_path / "looks")
    before = looks.tree(drive)
    CHANGES[change](drive)
    assert looks.tree(drive) != before
    assert Looks().tree(drive) == looks.tree(drive)  # notes decide nothing


def test_what_is_put_back_has_its_old_key(drive: Path, tmp_path: Path, settled):
    looks = Looks(tmp_path / "looks")
    before = looks.tree(drive)
    shutil.move(drive / "frames" / "1.jpg", tmp_path / "kept.jpg")
    without = looks.tree(drive)
    shutil.move(tmp_path / "kept.jpg", drive / "frames" / "1.jpg")
    assert looks.tree(drive) == before != without


def test_a_folder_has_the_same_key_wherever_it_lies_and_whenever_it_was_written(
    drive: Path, tmp_path: Path, settled
):
    copy = tmp_path / "elsewhere" / "other name"
    shutil.copytree(drive, copy, copy_function=shutil.copy)
    for path in copy.rglob("*"):
        os.utime(path, ns=(PAST_NS, PAST_NS))
    assert Looks(tmp_path / "looks").tree(copy) == Looks(tmp_path / "looks").tree(drive)


def test_a_second_look_reads_nothing_and_a_touched_file_is_read_again(
    drive: Path, tmp_path: Path, settled
):
    first = Looks(tmp_path / "looks")
    key = first.tree(drive)
    assert first.read == 4
    second = Looks(tmp_path / "looks")
    assert (second.tree(drive), second.read) == (key, 0)
    os.utime(drive / "frames" / "1.jpg")
    third = Looks(tmp_path / "looks")
    assert (third.tree(drive), third.read) == (key, 1)


def test_a_file_that_changed_just_now_is_not_trusted_to_its_times(drive: Path, tmp_path: Path):
    looks = Looks(tmp_path / "looks")
    looks.tree(drive)
    again = Looks(tmp_path / "looks")
    again.tree(drive)
    assert again.read == 4


def test_a_clock_that_was_set_back_makes_files_of_the_future_which_are_read_each_time(
    drive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(identity.time, "time_ns", lambda: PAST_NS)
    for _ in range(2):
        looks = Looks(tmp_path / "looks")
        looks.tree(drive)
        assert looks.read == 4


def test_notes_that_are_damaged_cost_a_look_and_change_no_key(drive: Path, tmp_path: Path, settled):
    key = Looks(tmp_path / "looks").tree(drive)
    for note in (tmp_path / "looks").rglob("*.json"):
        note.write_text('{"frames/1.jpg": [1')
    assert Looks(tmp_path / "looks").tree(drive) == key


def test_large_pictures_are_known_by_size_and_both_ends(tmp_path: Path):
    whole, path = identity.SENSOR_WHOLE_B, tmp_path / "large.jpg"

    def key(at: int, size: int = 1 << 18) -> str:
        content = bytearray(size)
        content[at] = 1
        path.write_bytes(content)
        return content_key(path)

    keys = {key(0), key(-1), key(5, (1 << 18) + 1), key(1 << 17)}
    assert len(keys) == 4
    assert key(1 << 17) == key((1 << 17) + 1)  # the middle of a large file is not looked at
    assert key(100, whole) != key(101, whole)


def test_links_are_followed_circles_end_and_links_that_lead_nowhere_are_not_there(
    drive: Path, tmp_path: Path, settled
):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "frames").symlink_to(drive / "frames")
    (linked / "poses.csv").symlink_to(drive / "poses.csv")
    assert Looks().tree(linked) == Looks().tree(drive)
    (linked / "loop").symlink_to(linked)
    (linked / "gone").symlink_to(tmp_path / "nothing")
    assert Looks().tree(linked) == Looks().tree(drive)


def test_one_file_has_a_key_and_none_has_none(drive: Path, tmp_path: Path):
    looks = Looks(tmp_path / "looks")
    assert looks.file(drive / "poses.csv")
    assert looks.file(drive / "nothing.csv") == looks.tree(tmp_path / "nowhere") == ""
