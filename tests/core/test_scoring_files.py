"""Plans as files hold them, and rows of scores as files get them: every shape people have, and what
is said of the others.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latentvla_core.errors import DataError, SetupError
from latentvla_core.pdms.metrics import SUB_SCORES
from latentvla_core.pdms.table import ScoreTable
from latentvla_core.scoring.plans import Plans, check_writable, read_trajectories
from latentvla_core.scoring.rows import (
    as_rows,
    blank_row,
    blank_rows,
    in_order,
    schema,
    write_rows,
)

PLAN = np.stack([2.0 * np.arange(1, 9), 0.25 * np.arange(1, 9), np.linspace(0, 0.1, 8)], 1)
NAMED = [dict(zip(("x_m", "y_m", "yaw_rad"), pose, strict=True)) for pose in PLAN.tolist()]


def file(folder: Path, poses: pa.Array | pa.ChunkedArray, tokens: list | None = None) -> Path:
    """A table of plans of planner p, one scene each."""
    tokens = tokens or [f"scene{k}" for k in range(len(poses))]
    path = folder / "T.parquet"
    columns = {"scene_token": tokens, "trajectory_id": ["p"] * len(poses), "poses": poses}
    pq.write_table(pa.table(columns), path)
    return path


def flat(kind: pa.DataType) -> pa.Array:
    return pa.array([PLAN.ravel().tolist()] * 2, pa.list_(kind))


@pytest.mark.parametrize(
    "poses",
    [
        pa.array([PLAN.tolist()] * 2),
        pa.array([PLAN.tolist()] * 2, pa.large_list(pa.large_list(pa.float64()))),
        pa.array([PLAN.tolist()] * 2, pa.list_(pa.list_(pa.float64(), 3), 8)),
        flat(pa.float64()),
        pa.array([PLAN.ravel().tolist()] * 2, pa.list_(pa.float64(), 24)),
        pa.array([NAMED] * 2),
        pa.chunked_array([pa.array([PLAN.tolist()]), pa.array([PLAN.tolist()])]),
        pa.array([[[9.0] * 3] * 8, PLAN.tolist(), PLAN.tolist()]).slice(1),
    ],
    ids=["lists", "large", "fixed", "flat", "flat fixed", "named", "in chunks", "a slice"],
)
def test_a_plan_is_read_the_same_however_a_file_stores_it(tmp_path: Path, poses):
    plans = read_trajectories(file(tmp_path, poses))
    assert len(plans) == 2
    for scene in ("scene0", "scene1"):
        found = plans.of_scene[scene]["p"]
        assert isinstance(found, np.ndarray) and found.dtype == np.float64
        np.testing.assert_array_equal(found, PLAN)


def test_single_precision_and_whole_numbers_are_numbers(tmp_path: Path):
    (single,) = read_trajectories(file(tmp_path, flat(pa.float32()).slice(0, 1))).of_scene.values()
    np.testing.assert_array_equal(single["p"], PLAN.astype(np.float32))
    whole = pa.array([[[k, 0, 0] for k in range(8)]], pa.list_(pa.list_(pa.int32())))
    (found,) = read_trajectories(file(tmp_path, whole)).of_scene.values()
    np.testing.assert_array_equal(np.asarray(found["p"])[:, 0], np.arange(8))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (None, "no poses; a plan needs 8 poses of x_m, y_m, yaw_rad"),
        ([], r"shape \(0,\); a plan needs 8"),
        (PLAN[:6].tolist(), r"shape \(6, 3\)"),
        ([*PLAN[:7].tolist(), [1.0, 2.0]], "not a regular table of numbers"),
        ([*PLAN[:7].tolist(), None], "not a regular table of numbers"),
        ([*PLAN[:7].tolist(), []], "not a regular table of numbers"),
    ],
    ids=["null", "empty", "six", "no heading in one", "a null pose", "an empty pose"],
)
def test_a_row_that_is_no_plan_keeps_its_reason_and_spoils_no_other(tmp_path: Path, bad, reason):
    plans = read_trajectories(file(tmp_path, pa.array([PLAN.tolist(), bad, PLAN.tolist()])))
    import re

    assert re.search(reason, str(plans.of_scene["scene1"]["p"]))
    for scene in ("scene0", "scene2"):
        np.testing.assert_array_equal(plans.of_scene[scene]["p"], PLAN)


def test_a_number_that_is_null_is_not_a_number(tmp_path: Path):
    holed = PLAN.tolist()
    holed[3][1] = None
    plans = read_trajectories(file(tmp_path, pa.array([holed, PLAN.tolist()])))
    found = plans.of_scene["scene0"]["p"]
    assert isinstance(found, str) or np.isnan(found).any()
    np.testing.assert_array_equal(plans.of_scene["scene1"]["p"], PLAN)


def test_words_for_numbers_and_poses_without_a_name_are_reasons(tmp_path: Path):
    words = pa.array([[["left", "right", "on"]] * 8])
    assert "regular table" in str(read_trajectories(file(tmp_path, words)).of_scene["scene0"])
    other = [{"x": 1.0, "y": 2.0, "yaw": 0.0}] * 8
    found = read_trajectories(file(tmp_path, pa.array([other]))).of_scene["scene0"]["p"]
    assert "a plan needs 8 poses of x_m, y_m, yaw_rad" in str(found)


def test_scenes_of_any_alphabet_keep_their_names(tmp_path: Path):
    tokens = ["場面", "scène", "s c"]
    plans = read_trajectories(file(tmp_path, pa.array([PLAN.tolist()] * 3), tokens))
    assert list(plans.of_scene) == tokens


def test_keys_must_be_text_and_unique(tmp_path: Path):
    poses = pa.array([PLAN.tolist()] * 2)
    with pytest.raises(DataError, match="scene_token None and trajectory_id 'p'; both are its key"):
        read_trajectories(file(tmp_path, poses, ["a", None]))
    with pytest.raises(DataError, match="scene_token 1 and"):
        read_trajectories(file(tmp_path, poses, [1, 2]))
    with pytest.raises(DataError, match=r"frame a: trajectory 'p' occurs twice; keys must be uni"):
        read_trajectories(file(tmp_path, poses, ["a", "a"]))


def test_a_file_that_cannot_be_plans_is_named_with_what_to_give(tmp_path: Path):
    with pytest.raises(SetupError, match="is a folder; give a Parquet file with scene_token"):
        read_trajectories(tmp_path)
    (tmp_path / "words.parquet").write_text("scene,poses\n")
    with pytest.raises(DataError, match=r"words\.parquet: cannot be read as Parquet"):
        read_trajectories(tmp_path / "words.parquet")
    empty = pa.array([], pa.list_(pa.list_(pa.float64())))
    with pytest.raises(DataError, match="has no rows, so there is nothing to score"):
        read_trajectories(file(tmp_path, empty))
    pq.write_table(pa.table({"scene_token": ["a"], "poses": [[0.0]]}), tmp_path / "T.parquet")
    with pytest.raises(DataError, match="lacks trajectory_id; has scene_token, poses"):
        read_trajectories(tmp_path / "T.parquet")


def test_columns_that_nobody_asked_for_are_left_alone(tmp_path: Path):
    path = file(tmp_path, pa.array([PLAN.tolist()]))
    more = pq.read_table(path).append_column("note", pa.array(["mine"]))
    pq.write_table(more, path)
    assert list(read_trajectories(path).of_scene["scene0"]) == ["p"]


def test_plans_count_every_planner_of_every_scene():
    assert len(Plans({})) == 0
    assert len(Plans({"a": {"p": PLAN, "q": "broken"}, "b": {"p": PLAN}})) == 3


def test_where_to_write_is_tried_before_anything_is_done(tmp_path: Path):
    check_writable(tmp_path / "new" / "folder" / "S.parquet")
    assert list((tmp_path / "new" / "folder").iterdir()) == []  # the try left nothing
    with pytest.raises(SetupError, match=r"is a folder; give the name of a file.*scores\.parquet"):
        check_writable(tmp_path)
    (tmp_path / "note").write_text("")
    with pytest.raises(SetupError, match="cannot be written .*; give a file in a folder of yours"):
        check_writable(tmp_path / "note" / "S.parquet")


@pytest.mark.parametrize("metric", ["pdms", "epdms"])
def test_rows_have_a_column_for_every_sub_score_of_their_metric(metric: str):
    names = schema(metric).names
    assert names[:2] == ["scene_token", "trajectory_id"]
    assert tuple(names[2:-4]) == SUB_SCORES[metric]
    assert names[-4:] == ["score", "valid", "reason", "metric_version"]
    more = schema(metric, {"stage": pa.int8()})
    assert more.names == [*names, "stage"] and more.field("stage").type == pa.int8()


def scores(*tokens: str) -> ScoreTable:
    """Every sub-score is 1, the score of scene k is k / 10."""
    count = len(tokens)
    columns = {name: np.ones(count) for name in SUB_SCORES["pdms"]}
    return ScoreTable(
        "pdms",
        "pdms-v1.1",
        np.array(tokens, object),
        np.array(["p"] * count, object),
        columns | {"score": np.arange(count) / 10},
        np.ones(count, bool),
        np.array([""] * count, object),
        {},
        np.arange(count + 1),
    )


def test_a_score_table_travels_as_arrow_and_loses_nothing():
    table = scores("b", "a", "c")
    assert as_rows(table).to_pylist() == table.rows()
    assert as_rows(scores()).num_rows == 0


def test_a_row_without_a_score_is_no_zero():
    row = blank_row("s", "p", "no map", "epdms-v2.2-reactive")
    values = [row[name] for name in (*SUB_SCORES["epdms"], "score")]
    assert np.isnan(values).all()
    assert (row["valid"], row["reason"]) == (False, "no map")
    rows = blank_rows({"s": {"p": "no map", "q": "NaN"}, "t": {}}, "pdms-v1.1").to_pylist()
    assert [(r["trajectory_id"], r["reason"]) for r in rows] == [("p", "no map"), ("q", "NaN")]


def test_the_same_rows_in_any_parts_are_the_same_bytes(tmp_path: Path):
    whole = in_order([as_rows(scores("c", "a", "b"))])
    parts = [as_rows(scores("c", "a", "b")).slice(k, 1) for k in (2, 0, 1)]
    assert whole["scene_token"].to_pylist() == ["a", "b", "c"]
    assert whole["score"].to_pylist() == [0.1, 0.2, 0.0]
    write_rows(whole, tmp_path / "one.parquet")
    write_rows(in_order(parts), tmp_path / "new" / "two.parquet")
    one, two = (tmp_path / name for name in ("one.parquet", "new/two.parquet"))
    assert one.read_bytes() == two.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "one.parquet"]


def test_rows_replace_those_of_an_earlier_run(tmp_path: Path):
    for tokens in (("a", "b"), ("c",)):
        write_rows(as_rows(scores(*tokens)), tmp_path / "S.parquet")
    assert pq.read_table(tmp_path / "S.parquet")["scene_token"].to_pylist() == ["c"]
