"""Both stages of v2.2 from a tree: synthetic scene files become worlds, a v2 submission becomes one
score.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from devkit_lookalikes import lookalikes
from two_stage_tree import LATER, NAME, NOW, Tree, write_tree

from latentvla_core.data.filters import SceneFilter, scenes_of_log
from latentvla_core.data.map_files.maps import MapStore
from latentvla_core.data.v2.submissions import read_submission
from latentvla_core.data.v2.synthetic_scenes import read_synthetic_scene
from latentvla_core.errors import SetupError
from latentvla_core.pdms.metrics import SUB_SCORES
from latentvla_core.pdms.reactive.traffic import reaction
from latentvla_core.pdms.score import ScoreConfig, score_trajectories
from latentvla_core.pdms.world import World, build
from latentvla_core.scoring import Plans, score_tree, score_two_stage, submit
from latentvla_core.types import Scene

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    with pytest.MonkeyPatch.context() as patch:
        return write_tree(tmp_path_factory.mktemp("navhard") / "tree", lookalikes(patch))


def log_scene(tree: Tree, index: int) -> Scene:
    window = SceneFilter(num_future_frames=8, frame_interval=1, has_route=False)
    return next(
        s for s in scenes_of_log(tree.frames, window) if s.token == tree.frames[index].token
    )


def log_world(tree: Tree, index: int) -> tuple[Scene, Any, World]:
    scene = log_scene(tree, index)
    road = MapStore(tree.root / "maps").get(scene.current.map_location)
    return scene, road, build(scene, road)


def plan(tree: Tree) -> np.ndarray:
    """Straight on, as far as the human gets in four seconds: the second stage starts near its end."""
    ahead = np.linalg.norm(tree.frames[LATER].ego_pose[:2] - tree.frames[NOW].ego_pose[:2])
    return np.stack([ahead / 8 * np.arange(1, 9), np.zeros(8), np.zeros(8)], axis=-1)


def submission(tree: Tree, path: Path, tokens: list[str] | None = None) -> Path:
    plans = {token: {"slow": plan(tree)} for token in tokens or tree.tokens}
    made = submit(path, Plans(plans), version="v2")  # type: ignore[arg-type]
    assert (len(made.first_stage), len(made.second_stage)) == (2, len(plans) - 2)
    return path


@pytest.mark.slow
def test_a_synthetic_scene_file_is_the_world_the_log_shows(tree: Tree):
    path = tree.root / NAME / f"synthetic_scene_pickles/scene-{tree.followers[0][0]}.pkl"
    made = read_synthetic_scene(path)
    scene, road, original = log_world(tree, LATER)
    world = build(made.scene, road, extended=made.key_frames())
    assert world.valid, world.reason
    assert world.is_synthetic
    assert not world.human_valid
    for field in fields(World):
        ours, theirs = getattr(world, field.name), getattr(original, field.name)
        if field.name in (
            "scene_token",
            "previous_token",
            "is_synthetic",
            "human_poses",
            "human_valid",
        ):
            continue
        if isinstance(theirs, np.ndarray):
            np.testing.assert_array_equal(ours, theirs, err_msg=field.name)
        else:
            assert ours == theirs, field.name
    assert len(world.object_tokens) > 0
    assert scene.token != made.token


def test_a_v2_submission_is_scored_in_both_stages(tree: Tree, tmp_path: Path):
    file = submission(tree, tmp_path / "submission.pkl")
    assert set(read_submission(file).second_stage) == {
        token for pair in tree.followers for token in pair
    }
    report = score_two_stage(
        tree.root, "test", file, tmp_path / "S.parquet", scene_filter=tree.split_file
    )
    result = report.results["submission"]
    assert not isinstance(result, str), result
    rows = {row["scene_token"]: row for row in pq.read_table(tmp_path / "S.parquet").to_pylist()}
    assert set(rows) == set(tree.tokens)
    assert all(
        row["valid"] and row["metric_version"] == "epdms-v2.2-reactive" for row in rows.values()
    )
    assert [rows[token]["stage"] for token in tree.tokens] == [1, 1] + [2] * 6
    _weights_fall_with_the_distance(tree, rows)
    for name in (*SUB_SCORES["epdms"], "score"):
        now = sum(rows[a]["weight"] * rows[a][name] for a, _ in tree.followers)
        then = sum(rows[b]["weight"] * rows[b][name] for _, b in tree.followers)
        combined = (rows[tree.now][name] * now + rows[tree.previous][name] * then) / 2
        assert result.combined[name] == pytest.approx(combined, abs=1e-12)
        assert result.stage_two[name] == pytest.approx((now + then) / 2, abs=1e-12)
    assert "combined" in str(report)


def _weights_fall_with_the_distance(tree: Tree, rows: dict[str, dict[str, Any]]) -> None:
    """Gaussian with variance 0.1 m² around the end of the first plan."""
    pose = tree.frames[NOW].ego_pose
    end = pose[:2] + plan(tree)[-1, 0] * np.array([np.cos(pose[2]), np.sin(pose[2])])
    later = tree.frames[LATER].ego_pose
    left = np.array([-np.sin(later[2]), np.cos(later[2])])
    starts = [later[:2] + aside * left for aside in (0.0, 0.4, -0.3)]
    raw = np.array([np.exp(-((start - end) ** 2).sum() / 0.2) for start in starts])
    expected = raw / raw.sum()
    assert expected.max() - expected.min() > 0.2
    np.testing.assert_allclose([rows[a]["weight"] for a, _ in tree.followers], expected, atol=1e-9)


def test_the_second_stage_is_scored_as_the_same_moment_of_the_log_without_human_filter(
    tree: Tree, tmp_path: Path
):
    file = submission(tree, tmp_path / "submission.pkl")
    score_two_stage(tree.root, "test", file, tmp_path / "S.parquet", scene_filter=tree.split_file)
    rows = {row["scene_token"]: row for row in pq.read_table(tmp_path / "S.parquet").to_pylist()}
    found = [log_world(tree, index) for index in (LATER - 1, LATER)]
    reactions = [reaction(scene, road, world) for scene, road, world in found]
    table = score_trajectories(
        [world for _, _, world in found], np.stack([plan(tree)] * 2), reactions=reactions,
        config=ScoreConfig(metric="epdms", human_filter=False),
    )  # fmt: skip
    row = rows[tree.followers[0][0]]
    for name in (*SUB_SCORES["epdms"], "score"):
        assert row[name] == pytest.approx(table[name][1], abs=1e-12), name


def test_processes_change_nothing(tree: Tree, tmp_path: Path):
    file = submission(tree, tmp_path / "submission.pkl")
    for workers in (1, 2):
        out = tmp_path / f"{workers}.parquet"
        score_two_stage(tree.root, "test", file, out, scene_filter=tree.split_file, workers=workers)
    assert pq.read_table(tmp_path / "1.parquet").equals(pq.read_table(tmp_path / "2.parquet"))


def test_a_hole_is_no_score_and_says_which_scene(tree: Tree, tmp_path: Path):
    tokens = [token for token in tree.tokens if token != tree.followers[1][1]]
    file = submission(tree, tmp_path / "submission.pkl", tokens)
    report = score_two_stage(
        tree.root, "test", file, tmp_path / "S.parquet", scene_filter=tree.split_file
    )
    assert "1 of 8 scenes of the mapping are not scored" in str(report)
    assert tree.followers[1][1] in str(report)
    rows = pq.read_table(tmp_path / "S.parquet").to_pylist()
    assert len(rows) == 7
    assert not any(row["valid"] for row in rows)
    assert all("not scored" in row["reason"] and np.isnan(row["score"]) for row in rows)


def test_splits_and_trees_without_a_second_stage_are_refused(tree: Tree, tmp_path: Path):
    file = submission(tree, tmp_path / "submission.pkl")
    with pytest.raises(SetupError, match="no reactive_all_mapping"):
        score_two_stage(tree.root, "test", file, tmp_path / "S.parquet", scene_filter="test")
    other = tmp_path / "other_name.yaml"
    other.write_text(tree.split_file.read_text())
    with pytest.raises(
        SetupError, match="other_name/synthetic_scene_pickles has no synthetic scenes"
    ):
        score_two_stage(tree.root, "test", file, tmp_path / "S.parquet", scene_filter=other)


def test_one_stage_in_reactive_traffic_says_so(tree: Tree, tmp_path: Path):
    file = submission(tree, tmp_path / "submission.pkl")
    out = tmp_path / "S.parquet"
    report = score_tree(tree.root, "test", file, "epdms", out, traffic="reactive")
    assert report.total.metric_version == "epdms-v2.2-reactive"
    scores = {row["scene_token"]: row for row in pq.read_table(out).to_pylist()}
    assert scores[tree.now]["valid"]
    with pytest.raises(SetupError, match="replays the log"):
        score_tree(tree.root, "test", file, "pdms", out, traffic="reactive")
