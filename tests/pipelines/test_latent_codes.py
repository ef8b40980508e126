"""What the atlas is made of: which labels it reads, what a scene tells of them, and the pictures it
shows.
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from label_rows import label
from PIL import Image

import pipelines.assets.latent_codes as latent_codes
from latentvla_core.errors import SetupError
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.model import LatentActionModel, save
from latentvla_core.latent.rows.contexts import (
    Labelled,
    each_once,
    scene_contexts,
    sentence_of,
    transitions_of,
)
from latentvla_core.tables import TABLES
from latentvla_core.types import Command, ObjectClass
from latentvla_core.viz.atlas_examples import EXAMPLES, THUMBNAIL_WH, examples_of, thumbnail
from pipelines.assets.latent_codes import labelled, red_lights, scenes_of
from pipelines.settings import Settings
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import place_of

NAN = float("nan")
HISTORY, FRAMES, GAP = 4, 14, 2  # of a scene; key frames between the pictures of a transition
BRIGHTNESS = 18  # frame i of the little drive is a flat grey of i times this
AHEAD, WALKER = "vehicle ahead within 25 m", "pedestrian within 15 m"


# ---- a little world ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures that can be told apart, and one that is no picture."""
    folder = tmp_path_factory.mktemp("drive")
    for i in range(FRAMES):
        Image.new("RGB", (64, 36), (i * BRIGHTNESS,) * 3).save(folder / f"{i}.jpg", quality=95)
    (folder / "broken.jpg").write_bytes((folder / "3.jpg").read_bytes()[:60])
    return folder


def frame_in(jpeg: bytes) -> float:
    """Number of the drive's frame that a thumbnail shows."""
    picture = np.asarray(Image.open(io.BytesIO(jpeg)), float)
    assert picture.shape == (*reversed(THUMBNAIL_WH), 3)
    assert picture.std() < 1
    return round(picture.mean() / BRIGHTNESS, 1)


def scene(
    token: str = "s", folder: Path | str = "", paths: Sequence[str] | None = None, **changes: Any
) -> dict[str, Any]:
    """A row of `scenes` as the atlas reads it: navigation says straight on, nobody about."""
    shown = [f"{i}.jpg" for i in range(FRAMES)] if paths is None else paths
    row = {
        "scene_token": token,
        "map_location": "",
        "command": int(Command.FORWARD),
        "sensor_root": str(folder),
        "front_paths": tuple(shown),
        "history_poses": np.zeros((HISTORY, 3)),
        "object_boxes": np.zeros((0, 7)),
        "object_classes": np.zeros(0, np.int8),
        "has_objects": True,
    }
    return {**row, **changes}


def labels_of(rows: Sequence[dict[str, Any]], read: int = 1, of: int = 1) -> Labelled:
    """The atlas's columns of these rows of `latent_actions`."""
    columns = {name: np.array([row[name] for row in rows]) for name in latent_codes.LABELS}
    return Labelled(columns, ("train-00",), read, of)


def shown(
    rows: Sequence[dict[str, Any]], scenes: Sequence[dict[str, Any]], code: int = 0
) -> list[Any]:
    """Examples of a code among these labels."""
    labels, by_token = labels_of(rows), {s["scene_token"]: s for s in scenes}
    return examples_of(labels, by_token, transitions_of(labels, by_token, {}, 1.0), code, GAP)


class Line:
    """A lake of three splits of two shards, and the current model "m"."""

    def __init__(self, home: Path) -> None:
        self.engine = Engine(
            Settings.from_env(
                {"LATENTVLA_HOME": str(home), "LATENTVLA_RECIPE": "debug", "LATENTVLA_SHARDS": "2"}
            ),
            {},
        )

    def model(self, config: LatentActionConfig) -> None:
        """Finish an untrained model as version "m"."""
        save(LatentActionModel(config), self.engine.settings.models / latent_codes.MODEL / "m")
        done = {**stored("materialisations"), "asset": latent_codes.MODEL, "made_by": "m"}
        self.engine.ledger.record(done)

    def write(self, partition: str, rows: Sequence[dict[str, Any]]) -> None:
        """Labels of one shard; each row is of a transition of its own unless it says otherwise."""
        place = place_of(partition)
        filled = [
            {"log_name": partition, "timestamp_us": i, **row, **place} for i, row in enumerate(rows)
        ]
        for model in {row["model_version"] for row in rows}:
            some = [row for row in filled if row["model_version"] == model]
            self.engine.lake.replace("latent_actions", some, {**place, "model_version": model})


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return Line(tmp_path)


def rows_of(count: int, name: str, **changes: Any) -> list[dict[str, Any]]:
    """Labels of as many transitions of one log."""
    return [label(f"{name}-{i}", log_name=name, timestamp_us=i, **changes) for i in range(count)]


def stored(table: str, **changes: Any) -> dict[str, Any]:
    """A row of a table that says nothing but what is given."""
    empty = {"string": "", "bool": False}
    row = {
        c.name: (() if c.dtype == "string" else np.zeros([max(s, 0) for s in c.shape]))
        if c.shape is not None
        else empty.get(c.dtype, 0)
        for c in TABLES[table].columns
    }
    return {**row, "made_by": "f", **changes}


# ---- which labels ------------------------------------------------------------------------------


def test_a_transition_that_several_scenes_show_counts_once_where_its_contexts_are_known():
    rows = [
        ("a", 3, 2, "s1"),
        ("a", 3, 0, "s3"),
        ("a", 3, 1, "s2"),
        ("b", 3, 1, "s4"),
        ("a", 5, 1, "s3"),
    ]
    names = ("log_name", "timestamp_us", "step", "scene_token")
    labels = pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True)))
    kept = each_once(labels).to_pylist()
    assert [row["scene_token"] for row in kept] == ["s3", "s4", "s3"]
    assert [row["step"] for row in kept] == [0, 1, 1]


def test_only_valid_labels_of_the_model_are_read(line: Line):
    bad = label(
        "bad",
        log_name="a",
        timestamp_us=7,
        valid=False,
        reason="no picture",
        ego_codes=[],
        ego_confidence=[],
    )
    line.write("train-00", [*rows_of(2, "a"), bad, *rows_of(1, "other", model_version="n")])
    line.write("val-01", rows_of(3, "b", ego_codes=np.full(4, 5)))
    found = labelled(line.engine, "m")
    assert sorted(found.columns["scene_token"]) == ["a-0", "a-1", "b-0", "b-1", "b-2"]
    assert found.columns["ego_codes"].shape == (5, 4)
    assert found.columns["ego_codes"][found.columns["log_name"] == "b"].tolist() == [[5] * 4] * 3
    assert found.partitions == ("train-00", "val-01")
    assert sentence_of(found) == "5 labelled transitions of 2 logs: train 2, val 3."


def test_without_a_label_of_the_model_it_is_said_what_to_do(line: Line):
    line.write("train-00", rows_of(2, "a", model_version="n"))
    with pytest.raises(
        SetupError, match="no valid label of model m; materialise latent_actions first"
    ):
        labelled(line.engine, "m")


def test_reading_stops_when_there_are_enough_and_the_sentence_says_so(
    line: Line, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(latent_codes, "MOST_TRANSITIONS", 4)
    for partition, count in (("test-00", 3), ("val-00", 2), ("train-01", 9)):  # train-00 is empty
        line.write(partition, rows_of(count, partition))
    found = labelled(line.engine, "m")
    assert found.partitions == (
        "test-00",
        "val-00",
    )  # whole shards, the first of every split before the second of any
    assert (
        sentence_of(found)
        == "5 labelled transitions of 2 logs (the first 3 of 6 partitions): test 3, val 2."
    )


def test_the_sentence_says_so_also_when_the_labels_are_of_fewer_transitions(
    line: Line, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(latent_codes, "MOST_TRANSITIONS", 6)
    overlapping = [
        label(f"s{i}", log_name="a", timestamp_us=i + step, step=step)
        for i in range(2)
        for step in range(3)
    ]
    line.write("train-00", overlapping)
    line.write("train-01", rows_of(2, "b"))
    found = labelled(line.engine, "m")
    assert len(found) == 4
    assert "of 1 logs (the first 2 of 6 partitions)" in sentence_of(found)


def test_nothing_was_left_out_when_the_last_shard_made_it_enough(
    line: Line, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(latent_codes, "MOST_TRANSITIONS", 4)
    line.write("train-00", rows_of(3, "a"))
    line.write("val-01", rows_of(3, "b"))
    assert "partitions" not in sentence_of(labelled(line.engine, "m"))


# ---- what a scene tells ------------------------------------------------------------------------


def boxes(kind: ObjectClass, *places: tuple[float, float]) -> dict[str, Any]:
    """Objects of a class at (x, y)."""
    rows = np.zeros((len(places), 7))
    rows[:, :2] = places
    return {"object_boxes": rows, "object_classes": np.full(len(places), kind, np.int8)}


@pytest.mark.parametrize(
    ("kind", "place", "told"),
    [
        (ObjectClass.VEHICLE, (12, 0.5), {AHEAD}),
        (ObjectClass.VEHICLE, (24.9, -1.7), {AHEAD}),
        (ObjectClass.VEHICLE, (26, 0), set()),
        (ObjectClass.VEHICLE, (12, 1.8), set()),
        (ObjectClass.VEHICLE, (12, -3.5), set()),
        (ObjectClass.VEHICLE, (-6, 0), set()),
        (ObjectClass.BICYCLE, (12, 0), set()),
        (ObjectClass.PEDESTRIAN, (10, -9), {WALKER}),
        (ObjectClass.PEDESTRIAN, (-14, 0), {WALKER}),
        (ObjectClass.PEDESTRIAN, (12, 12), set()),
    ],
    ids=["in lane", "at the edge", "too far", "beside, left", "beside, right", "behind", "bicycle", "walker",
         "walker behind", "walker far"],
)  # fmt: skip
def test_who_is_near(kind: ObjectClass, place: tuple[float, float], told: set[str]):
    found = scene_contexts(scene(**boxes(kind, (80.0, 80.0), place)))
    assert {name for name in (AHEAD, WALKER) if found[name] == 1.0} == told
    assert {found[name] for name in (AHEAD, WALKER)} <= {0.0, 1.0}


def test_a_log_without_boxes_does_not_say_that_nobody_was_there():
    nobody = scene_contexts(scene())
    assert (nobody[AHEAD], nobody[WALKER]) == (0.0, 0.0)
    assert not {AHEAD, WALKER} & set(scene_contexts(scene(has_objects=False)))


@pytest.mark.parametrize(
    ("command", "told"),
    [(Command.LEFT, "left"), (Command.FORWARD, "straight on"), (Command.RIGHT, "right")],
)
def test_what_navigation_says(command: Command, told: str):
    found = {
        k: v
        for k, v in scene_contexts(scene(command=int(command))).items()
        if k.startswith("navigation")
    }
    assert found == {
        f"navigation says {way}": float(way == told) for way in ("left", "straight on", "right")
    }


def test_a_log_without_navigation_does_not_say_that_it_was_silent():
    assert not [
        k for k in scene_contexts(scene(command=int(Command.UNKNOWN))) if k.startswith("navigation")
    ]


def test_what_a_scene_tells_counts_for_its_first_step_only():
    rows = [label("s", step=step, speed_mps=speed) for step, speed in enumerate((0.2, 2.0, 5.0))]
    scenes = {
        "s": scene(
            command=int(Command.LEFT), map_location="boston", **boxes(ObjectClass.VEHICLE, (9, 0))
        )
    }
    found = transitions_of(labels_of(rows), scenes, {"s": True}, 1.0).contexts
    for name in ("navigation says left", "map boston", AHEAD, "red light on the route"):
        np.testing.assert_array_equal(found[name], [1.0, NAN, NAN], name)
    np.testing.assert_array_equal(found[WALKER], [0.0, NAN, NAN])


def test_each_transition_gets_what_its_own_scene_tells_and_unknown_is_not_no():
    known = {
        "a": scene("a", map_location="boston"),
        "b": scene("b", map_location="vegas", has_objects=False),
    }
    known["without a map"] = scene("without a map")
    rows = [label(token) for token in ("b", "a", "nowhere", "b")]
    found = transitions_of(labels_of(rows), known, {"a": False, "b": True}, 1.0).contexts
    np.testing.assert_array_equal(found["map boston"], [0.0, 1.0, NAN, 0.0])
    np.testing.assert_array_equal(found["map vegas"], [1.0, 0.0, NAN, 1.0])
    np.testing.assert_array_equal(found[AHEAD], [NAN, 0.0, NAN, NAN])
    np.testing.assert_array_equal(found["red light on the route"], [1.0, 0.0, NAN, 1.0])
    assert "map " not in found


def test_speed_is_known_at_every_step():
    speeds = [0.2, 0.5, 2.9, 3.0, 8.0, 30.0, NAN]
    rows = [label("s", step=i % 3, speed_mps=speed) for i, speed in enumerate(speeds)]
    found = transitions_of(labels_of(rows), {"s": scene()}, {}, 1.0).contexts
    np.testing.assert_array_equal(found["standing"], [1, 0, 0, 0, 0, 0, NAN])
    np.testing.assert_array_equal(found["slow, under 3 m/s"], [0, 1, 1, 0, 0, 0, NAN])
    np.testing.assert_array_equal(found["medium, 3 to 8 m/s"], [0, 0, 0, 1, 0, 0, NAN])
    np.testing.assert_array_equal(found["fast, over 8 m/s"], [0, 0, 0, 0, 1, 1, NAN])


def test_codes_and_motion_are_those_of_the_rows():
    rows = [
        label("s", ego_codes=[i] * 4, speed_mps=i, delta_speed_mps=-i, delta_heading_rad=i / 10)
        for i in range(3)
    ]
    data = transitions_of(labels_of(rows), {"s": scene()}, {}, 1.0)
    np.testing.assert_array_equal(data.codes, np.repeat([[0], [1], [2]], 4, axis=1))
    np.testing.assert_array_equal((data.speed_mps, data.delta_speed_mps), ([0, 1, 2], [0, -1, -2]))
    np.testing.assert_allclose(data.delta_heading_rad, [0, 0.1, 0.2])


def test_a_light_counts_when_it_is_red_now(line: Line):
    now, later, never = np.zeros((3, 41, 2), bool)
    now[0, 1] = later[5:] = True
    place = {"split": "train", "shard": 0}
    worlds = [
        stored(
            "scene_worlds",
            scene_token=name,
            light_ids=("7", "8"),
            light_active=active,
            valid=True,
            **place,
        )
        for name, active in (("now", now), ("later", later), ("never", never))
    ]
    worlds += [stored("scene_worlds", scene_token="no lights", valid=True, **place)]
    worlds += [stored("scene_worlds", scene_token="unusable", **place)]
    line.engine.lake.replace("scene_worlds", worlds, place)
    found = red_lights(line.engine, labels_of([label("now")]))
    assert found == {"now": True, "later": False, "never": False, "no lights": False}


def test_scenes_are_those_of_the_shards_that_hold_labels(line: Line):
    for shard in (0, 1):
        place = {"split": "train", "shard": shard}
        rows = [stored("scenes", scene_token=f"s{shard}", command=shard, **place)]
        line.engine.lake.replace("scenes", rows, place)
    found = scenes_of(line.engine, labels_of([label("s0")]))
    assert list(found) == ["s0"]
    assert set(scene()) == set(found["s0"])


# ---- pictures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("step", "frames"), [(0, (3, 5)), (1, (5, 7)), (2, (7, 9))])
def test_an_example_shows_where_its_transition_starts_and_where_it_ends(
    drive: Path, step: int, frames: tuple[float, float]
):
    (found,) = shown([label("s", step=step)], [scene(folder=drive)])
    assert (frame_in(found.before), frame_in(found.after)) == frames


def test_frames_count_and_not_seconds_as_for_the_model(drive: Path):
    (found,) = shown(
        [label("s", step=1, gap_s=1.6)], [scene(folder=drive)]
    )  # the log lost a frame or two
    assert (frame_in(found.before), frame_in(found.after)) == (5, 7)


def test_an_example_says_what_its_own_row_says(drive: Path):
    rows = [
        label(
            f"s{i}",
            log_name=f"log-{i}",
            ego_codes=[i] * 4,
            speed_mps=7.0 + i,
            delta_speed_mps=-i,
            delta_heading_rad=i / 4,
        )
        for i in range(3)
    ]
    scenes = [scene(f"s{i}", drive, [f"{i + j}.jpg" for j in range(8)]) for i in range(3)]
    for code in range(3):
        (found,) = shown(rows, scenes, code)
        assert found.log_name == f"log-{code}"
        assert (found.speed_mps, found.delta_speed_mps, found.delta_heading_rad) == (
            7.0 + code,
            -code,
            code / 4,
        )
        assert (frame_in(found.before), frame_in(found.after)) == (3 + code, 5 + code)
    assert shown(rows, scenes, 9) == []


@pytest.mark.parametrize(
    "paths",
    [
        ["gone.jpg"] * FRAMES,
        ["broken.jpg"] * FRAMES,
        [""] * FRAMES,
        [f"{i}.jpg" for i in range(5)],
        ["."] * FRAMES,
    ],
    ids=["missing", "damaged", "no picture", "too short", "a folder"],
)
def test_pictures_that_cannot_be_read_make_fewer_examples(drive: Path, paths: list[str]):
    rows = [label(token, log_name=token) for token in ("bad", "good")]
    (found,) = shown(rows, [scene("bad", drive, paths), scene("good", drive)])
    assert found.log_name == "good"


def test_so_does_a_scene_that_is_gone(drive: Path):
    rows = [label(token, log_name=token) for token in ("gone", "good")]
    assert [e.log_name for e in shown(rows, [scene("good", drive)])] == ["good"]


def test_no_more_examples_than_fit_a_card(drive: Path):
    rows = [label(f"s{i}", log_name=f"log-{i}") for i in range(9)]
    assert len(shown(rows, [scene(f"s{i}", drive) for i in range(9)])) == EXAMPLES


def test_a_thumbnail_is_a_small_jpeg(drive: Path):
    data = thumbnail(str(drive), "4.jpg")
    assert Image.open(io.BytesIO(data)).format == "JPEG"
    assert frame_in(data) == 4


def test_the_page_shows_the_pictures_that_the_model_was_shown(line: Line, drive: Path):
    line.model(LatentActionConfig.debug(gap_frames=3))
    line.write("val-01", [label("s", step=1, ego_codes=np.full(4, 6), log_name="the-log")])
    place = {"split": "val", "shard": 1}
    line.engine.lake.replace("scenes", [stored("scenes", **{**scene("s", drive), **place})], place)
    output = latent_codes.latent_codes(line.engine)
    assert [(row["code"], row["uses"]) for row in output.rows] == [
        (c, 4 * (c == 6)) for c in range(16)
    ]
    assert (output.groups, output.metadata["transitions"]) == (("m",), 1)
    html = output.metadata["page"].read_text()
    seen = [
        frame_in(base64.b64decode(data))
        for data in re.findall("data:image/jpeg;base64,([^'\"]+)", html)
    ]
    assert seen == [6, 9]
    for part in (
        "1 labelled transitions of 1 logs: val 1.",
        "over a transition of 1.5 s",
        "the-log",
    ):
        assert part in html
