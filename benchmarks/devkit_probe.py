"""Runs inside the devkit's own Python, without our package: times its caching and its `pdm_score`, and keeps its scores.

    PYTHON devkit_probe.py JOB.json RESULT.json

JOB: devkit, logs, maps, tokens, plans {token: [[8, 3], …]}, cache. Works with v1.1 and with v2.2 (log replay); the arguments
of `pdm_score` tell which one it is. CPU seconds of this process. Called by `benchmarks/devkit.py`.
"""

import inspect
import json
import os
import sys
import time
from pathlib import Path


def main(job, result):
    os.environ["NUPLAN_MAPS_ROOT"] = job["maps"]
    sys.path.insert(0, job["devkit"])
    tools = Tools(job)
    prepare_s, score_s, rows = [], [], []
    for token in job["tokens"]:
        start = time.process_time()
        cache = tools.cache(token)
        prepare_s.append(time.process_time() - start)
        for poses in job["plans"][token]:
            start = time.process_time()
            score = tools.score(cache, poses)
            score_s.append(time.process_time() - start)
            rows.append({"token": token, "score": score})
    done = {"version": tools.version, "prepare_s": prepare_s, "score_s": score_s, "rows": rows}
    Path(result).write_text(json.dumps(done))


class Tools:
    """The devkit's objects, made once."""

    def __init__(self, job):
        import numpy as np
        from navsim.common.dataclasses import SceneFilter, SensorConfig, Trajectory
        from navsim.common.dataloader import SceneLoader
        from navsim.evaluate.pdm_score import pdm_score
        from navsim.planning.metric_caching.metric_cache_processor import MetricCacheProcessor
        from navsim.planning.scenario_builder.navsim_scenario import NavSimScenario
        from navsim.planning.simulation.planner.pdm_planner.scoring.pdm_scorer import PDMScorer
        from navsim.planning.simulation.planner.pdm_planner.simulation.pdm_simulator import PDMSimulator
        from nuplan.planning.simulation.trajectory.trajectory_sampling import TrajectorySampling

        self.np, self.job, self.pdm_score = np, job, pdm_score
        self.version = "v2" if "traffic_agents_policy" in inspect.signature(pdm_score).parameters else "v1"
        self.horizon = TrajectorySampling(num_poses=40, interval_length=0.1)
        self.plan = lambda poses: Trajectory(poses, TrajectorySampling(time_horizon=4, interval_length=0.5))
        self.simulator, self.scorer = PDMSimulator(self.horizon), PDMScorer(self.horizon)
        more = "proposal_sampling" in inspect.signature(MetricCacheProcessor).parameters  # v2.2
        places = {"cache_path": job["cache"], "force_feature_computation": True}
        self.processor = MetricCacheProcessor(**places, **({"proposal_sampling": self.horizon} if more else {}))
        self.scenario = NavSimScenario
        chosen = SceneFilter(
            num_history_frames=4,
            num_future_frames=10 if self.version == "v1" else 8,
            frame_interval=1,
            tokens=job["tokens"],
        )
        places = {"data_path": Path(job["logs"]), "scene_filter": chosen}
        places["sensor_config"] = SensorConfig.build_no_sensors()
        known = inspect.signature(SceneLoader).parameters
        blobs = [name for name in ("sensor_blobs_path", "original_sensor_path") if name in known]
        self.scenes = SceneLoader(**places, **dict.fromkeys(blobs, None))
        self.policy = self._policy() if self.version == "v2" else None

    def _policy(self):
        from navsim.traffic_agents_policies.log_replay_traffic_agents import LogReplayTrafficAgents

        return LogReplayTrafficAgents(self.horizon)

    def cache(self, token):
        """The metric cache of one scene, computed, written and read back as the devkit's scripts do."""
        import lzma
        import pickle

        scene = self.scenes.get_scene_from_token(token)
        scenario = self.scenario(scene, map_root=self.job["maps"], map_version="nuplan-maps-v1.0")
        entry = self.processor.compute_metric_cache(scenario)
        with lzma.open(entry.file_name, "rb") as file:
            return pickle.load(file)

    def score(self, cache, poses):
        arguments = {"metric_cache": cache, "model_trajectory": self.plan(self.np.array(poses, self.np.float32))}
        arguments |= {"future_sampling": self.horizon, "simulator": self.simulator, "scorer": self.scorer}
        if self.policy is not None:
            arguments["traffic_agents_policy"] = self.policy
        answer = self.pdm_score(**arguments)
        if self.version == "v1":
            return float(answer.score)
        row = answer[0] if isinstance(answer, tuple) else answer
        return float(row["pdm_score"].iloc[0])


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        main(json.load(file), sys.argv[2])
