"""A driven run as an mp4, and the page that shows it."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentvla_core.closed_loop.episode import human_run, prepare_scene
from latentvla_core.closed_loop.scenes.sets import SceneSet, candidates
from latentvla_core.closed_loop.steps import Run
from latentvla_core.errors import SetupError
from latentvla_core.viz.drives import video
from latentvla_core.viz.drives.page import key_of, render


@pytest.fixture(scope="module")
def run() -> Run:
    return human_run(prepare_scene(next(candidates("merge", 0)), 4.0), "reactive")


def fault(run: Run, step: int, kind: str = "collision_vehicle") -> dict[str, Any]:
    where = {"x_m": 1.0, "y_m": 2.0, "partner": "c3", "at_fault": True, "detail": ""}
    return {**run.key, "kind": kind, "step": step, "time_s": step / 10, **where}


def test_a_video_shows_what_came_before_the_first_fault_and_a_little_after(run: Run):
    assert video.shown_steps(run, []) == range(41)
    assert video.shown_steps(run, [fault(run, 38), fault(run, 5)]) == range(36)
    run_long = Run(**{**as_fields(run), "states": np.zeros((301, 11))})
    assert video.shown_steps(run_long, [fault(run, 200)]) == range(120, 231)


def as_fields(run: Run) -> dict[str, Any]:
    return {name: getattr(run, name) for name in Run.__slots__}


def test_the_caption_names_a_fault_for_two_seconds(run: Run):
    told = [fault(run, 10, "red_light")]
    assert "red light" not in video.caption(run, 9, told)
    assert "red light" in video.caption(run, 10, told)
    assert "red light" in video.caption(run, 29, told)
    assert "red light" not in video.caption(run, 30, told)
    assert video.caption(run, 20, []).startswith("human   2.0 s")


def test_frames_are_those_of_the_camera_under_a_line_of_text(run: Run):
    frames = list(video.told_frames(run, [fault(run, 3)], (112, 64)))
    assert len(frames) == 34
    assert {f.shape for f in frames} == {(64, 112, 3)}
    assert (frames[0][:14] == 0).mean() > 0.5  # a dark bar with letters
    assert frames[0][16:].std() > 10.0
    assert not np.array_equal(frames[0][16:], frames[-1][16:])  # it drives


def test_the_file_is_an_mp4_of_that_many_frames(run: Run, tmp_path: Path):
    encoder = pytest.importorskip("imageio_ffmpeg", reason="extra `video` is not installed")
    path = video.write_video(
        tmp_path / "v" / video.video_name(run), run, [fault(run, 3)], (112, 64)
    )
    assert path.read_bytes()[4:8] == b"ftyp"
    reader = encoder.read_frames(str(path))
    assert tuple(next(reader)["size"]) == (112, 64)
    assert len(list(reader)) == 34


def test_the_page_plays_the_videos_that_there_are(run: Run):
    whole = {**run.key, "situation": "merge", "prefix_s": 4.0, "valid": True, "reason": ""}
    numbers = ("cls", "cls_tlc", "ds", "success", "alpasim", "bridgesim", "ncap")
    row = {**whole, **dict.fromkeys(numbers, 0.5), "route_completion": 0.5}
    rows = {"closed_loop_scores": [row], "closed_loop_infractions": [fault(run, 3)]}
    scenes, name = SceneSet([], {"merge": 1}), f"videos/{video.video_name(run)}"
    page = render(scenes, rows, "human", [(run, None)], {key_of(run): name})
    assert f"<video controls preload=none width=448 src='{name}'>" in page
    assert "<video" not in render(scenes, rows, "human", [(run, None)])


def test_a_driver_of_a_folder_or_a_registry_has_a_file_name_too(run: Run):
    other = Run(**{**as_fields(run), "driver": "models/ipad@champion"})
    assert "/" not in video.video_name(other) and "@" not in video.video_name(other)


def test_without_an_encoder_the_remedy_is_said_before_anything_is_driven(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    from typer.testing import CliRunner

    from latentvla_core.cli import app

    whole = builtins.__import__

    def without(name: str, *args: Any, **more: Any) -> Any:
        if name == "imageio_ffmpeg":
            raise ImportError(name)
        return whole(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SetupError, match=r"latentvla\[video\]"):
        video.require_encoder()
    asked = ["drive", "--planner", "human", "--out", str(tmp_path / "o"), "--videos", "2"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code != 0 and isinstance(done.exception, SetupError)
    assert not (tmp_path / "o").exists()
