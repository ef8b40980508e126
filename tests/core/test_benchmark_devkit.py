"""The plumbing of the side-by-side benchmark, with a devkit of cardboard: same names, same
arguments, made-up scores.

The real one cannot be installed beside this project. Both cardboards take what v1.1 (3e8291b) and
v2.2 (0a380a9) took when the benchmark ran against them; whether the names are still the devkit's is
seen only with a checkout.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import devkit
from latentvla_core.errors import SetupError
from latentvla_core.world.write import WorldConfig, write_world

pytestmark = pytest.mark.slow

CACHES = """
import lzma, pickle, pathlib
class Entry: pass
class Time: time_point = 0
class Cache:
    ego_state = Time
    trajectory = observation = centerline = route_lane_ids = drivable_area_map = None
def saved(folder, cache):
    folder.mkdir(parents=True, exist_ok=True)
    entry = Entry()
    entry.file_name = folder / "metric_cache.pkl"
    with lzma.open(entry.file_name, "wb") as file: pickle.dump(cache, file)
    return entry
"""

TRAJECTORIES = """
import numpy as np
def transform_trajectory(pred_trajectory, initial_ego_state): return pred_trajectory
def get_trajectory_as_array(trajectory, future_sampling, start_time): return np.zeros((41, 11))
"""

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
    "navsim/evaluate/pdm_score.py": TRAJECTORIES
    + """
class Result:
    score = 0.25
def pdm_score(metric_cache, model_trajectory, future_sampling, simulator, scorer):
    sum(i * i for i in range(20000))
    return Result
""",
    "navsim/planning/metric_caching/metric_cache_processor.py": CACHES
    + """
class MetricCacheProcessor:
    def __init__(self, cache_path, force_feature_computation): self.path = pathlib.Path(cache_path)
    def compute_metric_cache(self, scenario): return saved(self.path, Cache())
""",
    "navsim/planning/scenario_builder/navsim_scenario.py": """
class NavSimScenario:
    def __init__(self, scene, map_root, map_version): self.scene = scene
""",
    "navsim/planning/simulation/planner/pdm_planner/scoring/pdm_scorer.py": """
class PDMScorerConfig: pass
class PDMScorer:
    def __init__(self, proposal_sampling, config): pass
    def score_proposals(self, states, observation, centerline, route_lane_ids, drivable_area_map):
        sum(i * i for i in range(2000 * len(states)))
""",
    "navsim/planning/simulation/planner/pdm_planner/simulation/pdm_simulator.py": """
class PDMSimulator:
    def __init__(self, proposal_sampling): pass
    def simulate_proposals(self, states, initial_ego_state):
        assert states.shape[1:] == (41, 11)
        return states
""",
}


CHANGED_IN_V2 = {
    "navsim/common/dataloader.py": """
class SceneLoader:
    def __init__(self, data_path, original_sensor_path, scene_filter, sensor_config): pass
    def get_scene_from_token(self, token): return token
""",
    "navsim/evaluate/pdm_score.py": TRAJECTORIES
    + """
class Column: iloc = [0.5]
def pdm_score(metric_cache, model_trajectory, future_sampling, simulator, scorer, traffic_agents_policy):
    assert scorer.config.human_penalty_filter and traffic_agents_policy
    return {"pdm_score": Column}, None
""",
    "navsim/planning/metric_caching/metric_cache_processor.py": CACHES
    + """
Cache.map_parameters = Cache.past_human_trajectory = None
class MetricCacheProcessor:
    def __init__(self, cache_path, force_feature_computation, proposal_sampling): self.path = pathlib.Path(cache_path)
    def compute_metric_cache(self, scenario): return Cache()
    def compute_and_save_metric_cache(self, scenario): return saved(self.path, self.compute_metric_cache(scenario))
""",
    "navsim/planning/simulation/planner/pdm_planner/scoring/pdm_scorer.py": """
class PDMScorerConfig:
    def __init__(self, human_penalty_filter=None): self.human_penalty_filter = human_penalty_filter
class PDMScorer:
    def __init__(self, proposal_sampling, config): self.config = config
    def score_proposals(self, states, observation, centerline, route_lane_ids, drivable_area_map, map_parameters,
                        simulated_agent_detections_tracks, human_past_trajectory):
        assert simulated_agent_detections_tracks == "tracks"
""",
    "navsim/traffic_agents_policies/log_replay_traffic_agents.py": """
class LogReplayTrafficAgents:
    def __init__(self, future_trajectory_sampling): pass
    def simulate_environment(self, simulated_ego_states, metric_cache): return "tracks"
""",
}


@pytest.fixture(scope="module")
def cardboard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fold(tmp_path_factory.mktemp("devkit"), FILES)


def fold(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def job(devkit_root: Path, logs: Path) -> dict[str, Any]:
    plans = {token: np.zeros((2, 8, 3)).tolist() for token in ("a", "b", "c")}
    found: dict[str, Any] = {"devkit": str(devkit_root), "logs": str(logs), "maps": "m"}
    return found | {"tokens": list(plans), "plans": plans, "counts": [1, 2]}


def test_the_probe_prepares_each_scene_once_and_scores_each_plan(cardboard: Path, tmp_path: Path):
    (tmp_path / "log.pkl").touch()
    found = devkit.run_probe(sys.executable, job(cardboard, tmp_path))
    assert (found["version"], len(found["prepare_s"]), len(found["score_s"])) == ("v1", 3, 6)
    assert [row["token"] for row in found["rows"]] == ["a", "a", "b", "b", "c", "c"]
    assert all(seconds > 0 for seconds in found["score_s"])


def test_the_probe_knows_v2_by_its_arguments(tmp_path: Path):
    found = devkit.run_probe(sys.executable, job(fold(tmp_path, FILES | CHANGED_IN_V2), tmp_path))
    assert found["version"] == "v2"
    assert [row["score"] for row in found["rows"]] == [0.5] * 6
    assert np.shape(found["many_s"]) == (3, 2)


def test_both_are_measured_on_the_same_scenes_and_scores_are_compared(
    cardboard: Path, tmp_path: Path
):
    config = WorldConfig(
        seed=6, logs_train=1, logs_val=0, logs_test=1, seconds_per_log=8.0, cameras=(), workers=1
    )
    tree = write_world(tmp_path / "tree", config)
    found = devkit.side_by_side(str(cardboard), sys.executable, tree.root, "test", 2, (1, 3))
    assert (found["scenes"], found["metric"]) == (2, "pdms")
    assert (
        0.0 < found["largest_difference"] <= 0.75 + 1e-12
    )  # 0.25 of cardboard against scores in 0…1
    assert found["devkit_score_ms"] > 0.0
    for name in ("devkit_many_ms", "devkit_core_ms", "many_ms"):
        assert list(found[name]) == [1, 3]
        assert min(found[name].values()) > 0.0
    text = devkit.report(found)
    assert "devkit v1 beside ours (pdms): 2 scenes" in text
    assert f"ratio {found['devkit_prepare_ms'] / found['prepare_ms']:7.1f}" in text
    json.dumps(found)


def test_a_devkit_that_does_not_run_says_why(tmp_path: Path):
    with pytest.raises(SetupError, match=r"(?s)could not be measured.*ModuleNotFoundError"):
        devkit.run_probe(sys.executable, job(tmp_path, tmp_path))
