"""`latentvla score` on files, trees and maps that are not as they should be: a reason in the row,
or one clear error.
"""

from __future__ import annotations

import pickle
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latentvla_core.data.filters import SceneFilter, iter_scenes
from latentvla_core.data.map_files.maps import MapStore
from latentvla_core.data.v2.submissions import Plan, Submission, write_submission
from latentvla_core.errors import DataError, DataFaults
from latentvla_core.pdms import build, score_trajectories
from latentvla_core.scoring import score_tree
from latentvla_core.world.write import WorldConfig, WorldTree, write_world

GOOD = np.stack([3.0 * np.arange(1, 9) * 0.5, np.zeros(8), np.zeros(8)], axis=-1)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> WorldTree:
    """One training and one test log of nine seconds, without pictures."""
    config = WorldConfig(
        seed=5, logs_train=1, logs_val=0, logs_test=1, seconds_per_log=9.0, cameras=(), workers=1
    )
    return write_world(tmp_path_factory.mktemp("bad") / "tree", config)


def log_of(tree: WorldTree) -> Path:
    return tree.log_path("test", tree.logs["test"][0])


def tokens_of(tree: WorldTree) -> list[str]:
    return [frame["token"] for frame in pickle.loads(log_of(tree).read_bytes())]


def table(path: Path, rows: list[tuple[str, str, object]]) -> Path:
    tokens, names, poses = zip(*rows, strict=True)
    pq.write_table(
        pa.table({"scene_token": list(tokens), "trajectory_id": list(names), "poses": list(poses)}),
        path,
    )
    return path


def scored(tree: WorldTree, file: Path, metric: str = "pdms") -> dict[tuple[str, str], dict]:
    out = file.with_suffix(".scores.parquet")
    score_tree(tree.root, "test", file, metric, out)
    return {
        (row["scene_token"], row["trajectory_id"]): row for row in pq.read_table(out).to_pylist()
    }


def with_value(value: float) -> list[list[float]]:
    poses = GOOD.copy()
    poses[3, 1] = value
    return poses.tolist()


@pytest.mark.parametrize(
    ("poses", "reason"),
    [
        (with_value(float("nan")), "NaN or infinity"),
        (with_value(float("inf")), "NaN or infinity"),
        (with_value(2e4), "beyond 10000"),
        (GOOD[:7].tolist(), r"\(7, 3\); a plan needs 8 poses"),
        (np.repeat(GOOD, 5, axis=0).tolist(), r"\(40, 3\)"),
        (GOOD[:, :2].tolist(), r"\(8, 2\)"),
        ([[1.0], [1.0, 2.0]], "not a regular table"),
        (None, "no poses"),
    ],
    ids=["nan", "infinity", "far", "seven", "forty", "no heading", "ragged", "none"],
)
@pytest.mark.parametrize("metric", ["pdms", "epdms"])
def test_a_bad_plan_is_a_row_with_a_reason_beside_a_good_one(tree, tmp_path, metric, poses, reason):
    token = tokens_of(tree)[5]
    rows = scored(
        tree,
        table(tmp_path / "T.parquet", [(token, "bad", poses), (token, "good", GOOD.tolist())]),
        metric,
    )
    bad, good = rows[token, "bad"], rows[token, "good"]
    assert good["valid"]
    assert not bad["valid"]
    assert np.isnan(bad["score"])
    import re

    assert re.search(reason, bad["reason"]), bad["reason"]


def test_scenes_without_their_frames_say_how_many_are_needed(tree, tmp_path):
    tokens = tokens_of(tree)
    picked = {"first": tokens[1], "v2 only": tokens[-9], "last": tokens[-1], "unknown": "f" * 16}
    file = table(
        tmp_path / "T.parquet", [(token, "plan", GOOD.tolist()) for token in picked.values()]
    )
    old, new = scored(tree, file, "pdms"), scored(tree, file, "epdms")
    for name, token in picked.items():
        assert old[token, "plan"]["valid"] is False, name
        assert new[token, "plan"]["valid"] is (name == "v2 only"), name
    assert "10 frames after it and 3 before" in old[picked["last"], "plan"]["reason"]
    assert "8 frames after it and 3 before" in new[picked["last"], "plan"]["reason"]


def test_other_horizons_of_a_submission_are_all_named(tree, tmp_path):
    token = tokens_of(tree)
    plans = {
        token[5]: Plan(GOOD[:6]),
        token[6]: Plan(np.repeat(GOOD, 5, axis=0), 0.1),
        token[7]: Plan(GOOD),
    }
    write_submission(tmp_path / "s.pkl", Submission(version="v1", first_stage=plans))
    with pytest.raises(DataFaults) as caught:
        score_tree(tree.root, "test", tmp_path / "s.pkl", "pdms", tmp_path / "S.parquet")
    assert [fault.frame for fault in caught.value.faults] == [token[5], token[6]]
    assert "6 poses every 0.5 s; 8 every 0.5 s are scored" in str(caught.value)


def changed(tree: WorldTree, root: Path) -> WorldTree:
    shutil.copytree(tree.root, root)
    return WorldTree(root, tree.logs)


def test_a_map_without_a_layer_is_named_with_the_layer(tree, tmp_path):
    other = changed(tree, tmp_path / "tree")
    for file in other.maps_root.glob("*/*/map.gpkg"):
        with sqlite3.connect(file) as db:
            db.execute("drop table carpark_areas")
    rows = table(tmp_path / "T.parquet", [(tokens_of(tree)[5], "plan", GOOD.tolist())])
    with pytest.raises(DataError, match=r"map\.gpkg.*carpark_areas"):
        scored(other, rows)


def test_a_scene_beyond_the_edge_of_the_map_is_not_scored_and_says_why(tree, tmp_path):
    other = changed(tree, tmp_path / "tree")
    frames = pickle.loads(log_of(other).read_bytes())
    for frame in frames:
        frame["ego2global_translation"] = np.asarray(frame["ego2global_translation"]) + [
            20_000.0,
            0.0,
            0.0,
        ]
    log_of(other).write_bytes(pickle.dumps(frames))
    token = tokens_of(tree)[5]
    row = scored(other, table(tmp_path / "T.parquet", [(token, "plan", GOOD.tolist())]))[
        token, "plan"
    ]
    assert not row["valid"]
    assert "no roads within 100 m of the ego" in row["reason"]


def test_python_says_what_is_wrong_with_the_arrays(tree):
    scene = next(iter_scenes([log_of(tree)], SceneFilter(frame_interval=1)))
    world = build(scene, MapStore(tree.maps_root).get(scene.current.map_location))
    with pytest.raises(DataError, match=r"shape \(1, 7, 3\).*8 poses"):
        score_trajectories([world], GOOD[None, None, :7])
    with pytest.raises(DataError, match="poses are for 2 scenes, there are 1 worlds"):
        score_trajectories([world], np.stack([GOOD, GOOD])[:, None])
    with pytest.raises(DataError, match="trajectory ids repeat"):
        score_trajectories([world], np.stack([GOOD, GOOD])[None], trajectory_ids=[("a", "a")])
    bad = score_trajectories([world], with_value(float("nan")) * np.ones((1, 1, 1, 1)))
    assert not bad.valid[0]
    assert "NaN" in bad.reason[0]
