"""The plumbing of the side-by-side benchmark, with a devkit of cardboard: same names, same arguments, made-up scores.

The real one cannot be installed beside this project; whether the names are still the devkit's is seen only with a checkout.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import devkit
from latentvla_core.errors import SetupError
from latentvla_core.world.write import WorldConfig, write_world

FILES = {
    "nuplan/planning/simulation/trajectory/trajectory_sampling.py": """
class TrajectorySampling:
    def __init__(self, num_poses=None, time_horizon=None, interval_length=None):
        self.num_poses = num_poses
""",
    "navsim/common/dataclasses.py": """
class SceneFilter:
    def __init__(self, num_history_frames, num_future_frames, frame_interval, tokens):
        self.tokens = tokens
class SensorConfig:
    @staticmethod
    def build_no_sensors(): return None
class Trajectory:
    def __init__(self, poses, trajectory_sampling):
        assert poses.shape == (8, 3) and poses.dtype == "float32"
        self.poses = poses
""",
    "navsim/common/dataloader.py": """
class SceneLoader:
    def __init__(self, data_path, sensor_blobs_path, scene_filter, sensor_config):
        assert list(data_path.glob("*.pkl"))
    def get_scene_from_token(self, token): return token
""",
    "navsim/evaluate/pdm_score.py": """
class Result:
    score = 0.25
def pdm_score(metric_cache, model_trajectory, future_sampling, simulator, scorer):
    sum(i * i for i in range(20000))
    return Result
""",
    "navsim/planning/metric_caching/metric_cache_processor.py": """
import lzma, pickle, pathlib
class Entry: pass
class MetricCacheProcessor:
    def __init__(self, cache_path, force_feature_computation): self.path = pathlib.Path(cache_path)
    def compute_metric_cache(self, scenario):
        self.path.mkdir(parents=True, exist_ok=True)
        entry = Entry()
        entry.file_name = self.path / "metric_cache.pkl"
        with lzma.open(entry.file_name, "wb") as file: pickle.dump(scenario.scene, file)
        return entry
""",
    "navsim/planning/scenario_builder/navsim_scenario.py": """
class NavSimScenario:
    def __init__(self, scene, map_root, map_version): self.scene = scene
""",
    "navsim/planning/simulation/planner/pdm_planner/scoring/pdm_scorer.py": "class PDMScorer:\n    def __init__(self, p): pass\n",
    "navsim/planning/simulation/planner/pdm_planner/simulation/pdm_simulator.py": (
        "class PDMSimulator:\n    def __init__(self, p): pass\n"
    ),
}


@pytest.fixture(scope="module")
def cardboard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("devkit")
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def job(devkit_root: Path, logs: Path) -> dict[str, object]:
    plans = {token: np.zeros((2, 8, 3)).tolist() for token in ("a", "b", "c")}
    return {"devkit": str(devkit_root), "logs": str(logs), "maps": "m", "tokens": list(plans), "plans": plans}


def test_the_probe_prepares_each_scene_once_and_scores_each_plan(cardboard: Path, tmp_path: Path):
    (tmp_path / "log.pkl").touch()
    found = devkit.run_probe(sys.executable, job(cardboard, tmp_path))
    assert (found["version"], len(found["prepare_s"]), len(found["score_s"])) == ("v1", 3, 6)
    assert [row["token"] for row in found["rows"]] == ["a", "a", "b", "b", "c", "c"]
    assert all(seconds > 0 for seconds in found["score_s"])


def test_both_are_measured_on_the_same_scenes_and_scores_are_compared(cardboard: Path, tmp_path: Path):
    config = WorldConfig(seed=6, logs_train=1, logs_val=0, logs_test=1, seconds_per_log=8.0, cameras=(), workers=1)
    tree = write_world(tmp_path / "tree", config)
    found = devkit.side_by_side(str(cardboard), sys.executable, tree.root, "test", 2, 3)
    assert (found["scenes"], found["plans"]) == (2, 3)
    assert 0.0 < found["largest_difference"] <= 0.75 + 1e-12  # 0.25 of cardboard against scores in 0…1
    assert found["devkit_score_ms"] > 0.0
    assert found["score_one_ms"] > 0.0
    text = devkit.report(found)
    assert "devkit v1 beside ours: 2 scenes" in text
    json.dumps(found)


def test_a_devkit_that_does_not_run_says_why(tmp_path: Path):
    with pytest.raises(SetupError, match=r"(?s)could not be measured.*ModuleNotFoundError"):
        devkit.run_probe(sys.executable, job(tmp_path, tmp_path))
