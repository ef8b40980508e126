"""`latentvla score` from files to files."""

import numpy as np
import pdms_golden as golden
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pdms_golden import GOLDEN, needs_golden

from latentvla_core.data.filters import SceneFilter
from latentvla_core.errors import DataError, SetupError
from latentvla_core.scoring import read_trajectories, score_tree

pytestmark = pytest.mark.slow

PLAN = [[4.0 * k, 0.0, 0.0] for k in range(1, 9)]


def write(path, rows):
    columns = [list(column) for column in zip(*rows, strict=True)]
    pq.write_table(
        pa.table(dict(zip(("scene_token", "trajectory_id", "poses"), columns, strict=True))), path
    )
    return path


def test_rows_with_wrong_poses_keep_their_reason(tmp_path):
    rows = [("a", "seven", PLAN[:7]), ("a", "good", PLAN), ("b", "none", None)]
    plans = read_trajectories(write(tmp_path / "T.parquet", rows)).of_scene
    assert np.shape(plans["a"]["good"]) == (8, 3)
    assert "(7, 3)" in plans["a"]["seven"]
    assert "no poses" in plans["b"]["none"]


def test_files_that_cannot_be_used_are_refused(tmp_path):
    with pytest.raises(SetupError, match="does not exist"):
        read_trajectories(tmp_path / "nothing.parquet")
    pq.write_table(pa.table({"token": ["a"], "poses": [PLAN]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="lacks scene_token, trajectory_id"):
        read_trajectories(tmp_path / "other.parquet")
    with pytest.raises(DataError, match="twice"):
        read_trajectories(write(tmp_path / "twice.parquet", [("a", "x", PLAN), ("a", "x", PLAN)]))
    with pytest.raises(SetupError, match="metric"):
        score_tree(tmp_path, "test", tmp_path / "twice.parquet", "pdm", tmp_path / "S.parquet")


@pytest.fixture(scope="module")
def log_scenes():
    """Five scenes of one real log."""
    rows = golden.table("scenes")
    picked = rows["log_name"] == "av2-adcf7d18-p0"
    return list(rows["scene_token"][picked][:5])


@needs_golden
@pytest.mark.parametrize(("metric", "official"), [("pdms", "pdms_v1"), ("epdms", "epdms_v2")])
def test_a_tree_is_scored_as_the_devkit_scores_it(tmp_path, log_scenes, metric, official):
    wanted = {"human", "constant_velocity", "swerve"}
    rows = [
        (token, name, poses.tolist())
        for token in log_scenes
        for name, poses in zip(*golden.plans()[token], strict=True)
        if name in wanted
    ]
    file = write(tmp_path / "T.parquet", rows)
    report = score_tree(GOLDEN / "data", "golden", file, metric, tmp_path / "S.parquet")
    assert "scored 5 of 5" in str(report)
    assert set(report.by_trajectory) == wanted
    scores = pq.read_table(tmp_path / "S.parquet").to_pylist()
    assert len(scores) == len(rows)
    table, place = golden.table(official), golden.row_of(official)
    for row in scores:
        expected = table["score"][place[row["scene_token"], row["trajectory_id"]]]
        assert row["valid"]
        assert row["score"] == pytest.approx(expected, abs=1e-8)
        assert row["metric_version"] == report.total.metric_version


@needs_golden
def test_holes_are_counted_and_named(tmp_path, log_scenes):
    rows = [
        (log_scenes[0], "plan", PLAN),
        (log_scenes[1], "plan", PLAN[:5]),
        ("feedfeedfeedfeed", "plan", PLAN),
    ]
    file = write(tmp_path / "T.parquet", rows)
    chosen = SceneFilter(frame_interval=1, tokens=frozenset(log_scenes[:3]))
    report = score_tree(
        GOLDEN / "data", "golden", file, "pdms", tmp_path / "S.parquet", scene_filter=chosen
    )
    text = str(report)
    assert "scored 1 of 3" in text
    assert f"1 without a trajectory ({log_scenes[2]})" in text
    assert "feedfeedfeedfeed" in text
    assert "no mean" in text
    scores = {row["scene_token"]: row for row in pq.read_table(tmp_path / "S.parquet").to_pylist()}
    assert [scores[token]["valid"] for token, *_ in rows] == [True, False, False]
    assert "no such scene" in scores["feedfeedfeedfeed"]["reason"]
    assert np.isnan(scores[log_scenes[1]]["score"])


@needs_golden
def test_a_submission_is_scored_and_processes_change_nothing(tmp_path, log_scenes):
    from latentvla_core.data.v2.submissions import Plan, Submission, write_submission

    other = golden.table("scenes")["scene_token"][:2]
    tokens = [*log_scenes[:2], *other]
    human = {token: dict(zip(*golden.plans()[token], strict=True))["human"] for token in tokens}
    plans = {token: Plan(poses) for token, poses in human.items()}
    write_submission(tmp_path / "submission.pkl", Submission(version="v1", first_stage=plans))
    one = score_tree(
        GOLDEN / "data", "golden", tmp_path / "submission.pkl", "pdms", tmp_path / "1.parquet"
    )
    two = score_tree(
        GOLDEN / "data",
        "golden",
        tmp_path / "submission.pkl",
        "pdms",
        tmp_path / "2.parquet",
        workers=2,
    )
    assert one.total == two.total
    assert one.total.mean() > 0.5
    assert pq.read_table(tmp_path / "1.parquet").equals(pq.read_table(tmp_path / "2.parquet"))
