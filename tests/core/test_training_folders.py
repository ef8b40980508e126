"""Model folders, sinks and the picture cache."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from latentvla_core.data.cameras import load_image
from latentvla_core.errors import SetupError
from latentvla_core.training import artifacts
from latentvla_core.training.images import MISSING, ImageCache
from latentvla_core.training.sinks import ListSink, Prefixed, ProgressSink, Tee

torch.set_num_threads(1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    levels: tuple[int, ...] = (4, 4)


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    maybe: Inner | None = None
    size: tuple[int, int] = (1, 2)
    mode: Literal["a", "b"] = "a"
    name: str | None = None


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


def test_a_model_folder_round_trips_with_tied_weights(tmp_path):
    config = Outer(inner=Inner(levels=(2, 3, 4)), maybe=Inner(), size=(3, 4), mode="b", name="x")
    first, second = Tied(), Tied()
    artifacts.save_model(tmp_path / "m", first, config, {"data_version": 7})
    artifacts.load_weights(tmp_path / "m", second)
    assert torch.equal(first.head.weight, second.head.weight)
    assert second.head.weight is second.embedding.weight
    assert artifacts.load_config(tmp_path / "m", Outer) == config
    assert artifacts.load_extra(tmp_path / "m") == {"data_version": 7}
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]


def test_a_model_folder_refuses_what_does_not_fit(tmp_path):
    artifacts.save_model(tmp_path, Tied(), Outer())
    with pytest.raises(SetupError, match="holds a Outer, not a Inner"):
        artifacts.load_config(tmp_path, Inner)
    with pytest.raises(SetupError, match="no field 'colour'"):
        artifacts.from_dict(Outer, {"colour": 1})
    (tmp_path / "model.safetensors").write_bytes(b"other")
    with pytest.raises(SetupError, match="not the file"):
        artifacts.load_weights(tmp_path, Tied())
    with pytest.raises(SetupError, match="no readable model config"):
        artifacts.load_config(tmp_path / "nowhere", Outer)


def test_progress_prints_plain_lines_without_a_terminal():
    stream = io.StringIO()
    with ProgressSink("latent", stream=stream, seconds_per_line=0.0) as sink:
        Prefixed(sink, "stage1").log(10, {"loss": 0.5, "samples_per_s": 1234.0, "progress": 0.25})
        Prefixed(sink, "stage1").log(40, {"loss": 0.25, "samples_per_s": 1000.0, "progress": 1.0})
    lines = stream.getvalue().splitlines()
    assert lines[0] == "latent stage1 step 10  25%  1,234 samples/s  loss 0.5"
    assert len(lines) == 2


def test_progress_lines_are_rare_but_the_last_one_comes():
    stream = io.StringIO()
    sink = ProgressSink("x", stream=stream, seconds_per_line=1000.0)
    for step in range(1, 11):
        sink.log(step, {"loss": 1.0, "progress": step / 10})
    assert [line.split()[2] for line in stream.getvalue().splitlines()] == ["1", "10"]


def test_numbers_of_a_group_have_a_line_of_their_own_that_is_never_left_out():
    stream = io.StringIO()
    sink = Prefixed(
        ProgressSink(
            "latent",
            stream=stream,
            seconds_per_line=1000.0,
            first=("gain", "quality/use", "quality/r2"),
        ),
        "stage1",
    )
    sink.log(1, {"gain": 0.1, "progress": 0.1})
    for step in (2, 3):
        figures = {"quality/r2": 0.31234, "quality/use": float(step), "quality/other": 7.0}
        sink.log(step, {"gain": 0.2, "progress": step / 10, **figures})
    assert stream.getvalue().splitlines() == [
        "latent stage1 step 1  10%  gain 0.1",
        "latent stage1 step 2  20%  quality  use 2  r2 0.312",
        "latent stage1 step 3  30%  quality  use 3  r2 0.312",
    ]


def test_progress_draws_a_bar_on_a_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    stream = io.StringIO()
    with ProgressSink("latent", stream=stream) as sink:
        sink.log(5, {"loss": 0.5, "samples_per_s": 99.0, "progress": 0.5})
    assert "50%" in stream.getvalue()
    assert "99 samples/s" in stream.getvalue()


def test_tee_and_prefix():
    a, b = ListSink(), ListSink()
    Prefixed(Tee(a, b), "s", first_step=100).log(1, {"loss": 2.0})
    assert a.rows == b.rows == [(101, {"s/loss": 2.0})]


def _picture(folder: Path, name: str, colour: int) -> str:
    Image.new("RGB", (64, 32), (colour, 10, 200)).save(folder / name, quality=95)
    return name


def test_each_picture_is_decoded_once(tmp_path):
    calls = []

    def counting(root, path, size_wh):
        calls.append(path)
        return load_image(root, path, size_wh)

    names = [_picture(tmp_path, f"{i}.jpg", 40 * i) for i in range(5)]
    root = str(tmp_path)
    cache = ImageCache((16, 8), load=counting)
    first = cache.indices([(root, n) for n in names[:3] + names[:2]])
    second = cache.indices([(root, n) for n in names[1:]])
    assert list(first) == [0, 1, 2, 0, 1]
    assert list(second) == [1, 2, 3, 4]
    assert sorted(calls) == sorted(names)
    assert cache.images.shape == (5, 8, 16, 3)
    assert cache.take(np.array([[0, 4]])).shape == (1, 2, 8, 16, 3)
    assert abs(int(cache.take(np.array([4]))[0, 4, 8, 0]) - 160) < 6


def test_missing_and_broken_pictures_are_marked_with_a_reason(tmp_path):
    good = _picture(tmp_path, "good.jpg", 1)
    (tmp_path / "bad.jpg").write_bytes(b"not a picture")
    cache = ImageCache((16, 8))
    rows = cache.indices([(str(tmp_path), p) for p in (good, "", "bad.jpg", "gone.jpg", good)])
    assert list(rows) == [0, MISSING, MISSING, MISSING, 0]
    assert set(cache.faults) == {"bad.jpg", "gone.jpg"}
    assert all(cache.faults.values())
    with pytest.raises(IndexError, match="drop missing"):
        cache.take(rows)


def test_a_cache_in_a_file_holds_the_same_pictures(tmp_path):
    names = [_picture(tmp_path, f"{i}.jpg", 40 * i) for i in range(4)]
    pictures = [(str(tmp_path), n) for n in names]
    memory, disk = ImageCache((16, 8)), ImageCache((16, 8), file=tmp_path / "cache" / "pictures.u8")
    memory.indices(pictures)
    disk.indices(pictures[:1])
    disk.indices(pictures)
    assert isinstance(disk.images, np.memmap)
    assert np.array_equal(memory.images, disk.images)
