"""The picture of an asset: fitted to its page, kept over runs with nothing to do, of the scene that
shows most.
"""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipelines import pictures
from pipelines.steps.context import Outcome
from pipelines.steps.lineage import Stage


def stage(**change: Any) -> Stage:
    plain = {"table": "latent_actions", "deps": (), "group": "g", "doc": "", "run": print}
    return Stage(name="toy", kind="shards", **(plain | change))


def png(width: int, height: int = 10) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 10, 10)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_picture_is_no_wider_than_its_page_and_a_small_one_is_left_alone():
    from PIL import Image

    small = png(100)
    assert pictures.fitted(small, 860) is small
    with Image.open(io.BytesIO(pictures.fitted(png(1720, 20), 860))) as image:
        assert image.size == (860, 10) and image.getpixel((5, 5)) == (200, 10, 10)
    assert str(pictures.as_markdown(small).value).startswith(
        "![picture](data:image/png;base64,iVBOR"
    )


def drawn(tmp_path: Path, *results: tuple[Any, bool, int]) -> list[dict[str, Any]]:
    """Metadata after runs that drew (what, was skipped, rows)."""
    context: Any = SimpleNamespace(settings=SimpleNamespace(home=tmp_path))
    told = []
    for what, skipped, rows in results:
        toy = stage(picture=lambda context, keys, what=what: what)
        outcomes = {"train-00": Outcome("f", skipped=skipped, rows=rows)}
        told.append(pictures.pictures_of(context, toy, outcomes))
    return told


def test_a_run_with_nothing_to_do_keeps_the_picture_and_one_that_made_nothing_does_not(tmp_path):
    first, kept, none = drawn(
        tmp_path, ([png(9), b"", png(8)], False, 3), (b"", True, 3), (b"", False, 0)
    )
    assert list(first) == ["picture", "picture_2"]
    assert {k: v.value for k, v in kept.items()} == {k: v.value for k, v in first.items()}
    assert none == {}
    assert pictures.pictures_of(SimpleNamespace(), stage(), {}) == {}  # type: ignore[arg-type]


def test_the_scene_that_is_shown_turns_most_and_has_a_picture():
    def scene(token: str, aside: float, cameras: tuple[str, ...] = ("CAM_F0",)) -> Any:
        path = np.zeros((8, 3))
        path[-1, 1] = aside
        return SimpleNamespace(scene_token=token, camera_names=cameras, future_poses=path)

    rows = [scene("straight", 0.1), scene("turn", -5.0), scene("blind", 9.0, ())]
    asked = []
    context: Any = SimpleNamespace(records=lambda **where: asked.append(where) or rows)
    shown = pictures.scene_to_show(context, ["train-00", "train-01"])
    assert shown is not None and shown.scene_token == "turn"
    assert asked == [{"split": "train", "shard": 1}]
    rows[:] = [scene("blind", 9.0, ())]
    assert pictures.scene_to_show(context, ["train-00"]) is None
