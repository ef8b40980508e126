"""Runs inside the devkit's own Python, without our package: times its caching and its `pdm_score`,
and keeps its scores.

    PYTHON devkit_probe.py JOB.json RESULT.json

JOB: devkit, logs, maps, tokens, plans {token: [[8, 3], …]}, counts, cache. Works with v1.1 and with
v2.2 (log replay, human filter); the arguments of `pdm_score` tell which one it is. CPU seconds of
this process. Called by `benchmarks/devkit.py`.

The first `SINGLES` plans of a scene are scored one by one with `pdm_score`, as the devkit's scripts
do. It has no call for many plans, but its simulator and scorer take batches: `many_s` is the time
of these two with the conversions before them, `core_s` of the two alone, both without the human
filter, which the devkit applies outside of them.
"""

import inspect
import json
import os
import sys
import time
from pathlib import Path

SINGLES = 4
PACKAGES = ("numpy", "scipy", "pandas", "shapely")


def main(job, result):
    os.environ["NUPLAN_MAPS_ROOT"] = job["maps"]
    sys.path.insert(0, job["devkit"])
    tools = Tools(job)
    prepare_s, score_s, many_s, core_s, rows = [], [], [], [], []
    for token in job["tokens"]:
        tools.score(tools.cache(token), job["plans"][token][0])  # reads the map, warms what is lazy
        start = time.process_time()
        cache = tools.cache(token)
        prepare_s.append(time.process_time() - start)
        for poses in job["plans"][token][:SINGLES]:
            start = time.process_time()
            score = tools.score(cache, poses)
            score_s.append(time.process_time() - start)
            rows.append({"token": token, "score": score})
        taken = [tools.many(cache, job["plans"][token][:count]) for count in job["counts"]]
        many_s.append([all_of_it for all_of_it, _ in taken])
        core_s.append([core for _, core in taken])
    done = {"version": tools.version, "prepare_s": prepare_s, "score_s": score_s, "rows": rows}
    done |= {"many_s": many_s, "core_s": core_s, "singles": SINGLES, "packages": packages()}
    Path(result).write_text(json.dumps(done))


def packages():
    """Versions of what decides its speed."""
    from importlib.metadata import distributions

    known = {found.name.lower(): found.version for found in distributions()}
    return {"python": sys.version.split()[0]} | {name: known.get(name, "") for name in PACKAGES}


class Tools:
    """The devkit's objects, made once."""

    def __init__(self, job):
        import numpy as np
        from navsim.common.dataclasses import SceneFilter, SensorConfig, Trajectory
        from navsim.common.dataloader import SceneLoader
        from navsim.evaluate.pdm_score import (
            get_trajectory_as_array,
            pdm_score,
            transform_trajectory,
        )
        from navsim.planning.metric_caching.metric_cache_processor import MetricCacheProcessor
        from navsim.planning.scenario_builder.navsim_scenario import NavSimScenario
        from navsim.planning.simulation.planner.pdm_planner.scoring.pdm_scorer import (
            PDMScorer,
            PDMScorerConfig,
        )
        from navsim.planning.simulation.planner.pdm_planner.simulation.pdm_simulator import (
            PDMSimulator,
        )
        from nuplan.planning.simulation.trajectory.trajectory_sampling import TrajectorySampling

        self.np, self.job, self.pdm_score = np, job, pdm_score
        self.transform, self.sample = transform_trajectory, get_trajectory_as_array
        self.version = (
            "v2" if "traffic_agents_policy" in inspect.signature(pdm_score).parameters else "v1"
        )
        self.horizon = TrajectorySampling(num_poses=40, interval_length=0.1)
        self.plan = lambda poses: Trajectory(
            poses, TrajectorySampling(time_horizon=4, interval_length=0.5)
        )
        filters = (
            {"human_penalty_filter": True} if self.version == "v2" else {}
        )  # as in its scripts' configuration
        self.simulator, self.scorer = (
            PDMSimulator(self.horizon),
            PDMScorer(self.horizon, PDMScorerConfig(**filters)),
        )
        more = "proposal_sampling" in inspect.signature(MetricCacheProcessor).parameters  # v2.2
        places = {"cache_path": job["cache"], "force_feature_computation": True}
        places |= {"proposal_sampling": self.horizon} if more else {}
        self.processor = lambda: MetricCacheProcessor(**places)
        self.scenario = NavSimScenario
        chosen = SceneFilter(
            num_history_frames=4, num_future_frames=10, frame_interval=1, tokens=job["tokens"]
        )
        where = {"data_path": Path(job["logs"]), "scene_filter": chosen}
        where["sensor_config"] = SensorConfig.build_no_sensors()
        known = inspect.signature(SceneLoader).parameters
        blobs = [name for name in ("sensor_blobs_path", "original_sensor_path") if name in known]
        self.scenes = SceneLoader(**where, **dict.fromkeys(blobs, None))
        self.policy = self._policy() if self.version == "v2" else None

    def _policy(self):
        from navsim.traffic_agents_policies.log_replay_traffic_agents import LogReplayTrafficAgents

        return LogReplayTrafficAgents(self.horizon)

    def cache(self, token):
        """The metric cache of one scene, computed, written and read back as the devkit's scripts
        do.

        With a processor of its own: the planner inside it goes on ignoring what overlapped the ego
        in scenes before.
        """
        import lzma
        import pickle

        scene = self.scenes.get_scene_from_token(token)
        scenario = self.scenario(scene, map_root=self.job["maps"], map_version="nuplan-maps-v1.0")
        processor = self.processor()
        compute = getattr(
            processor, "compute_and_save_metric_cache", processor.compute_metric_cache
        )  # v2.2, v1.1
        entry = compute(scenario)
        with lzma.open(entry.file_name, "rb") as file:
            return pickle.load(file)

    def many(self, cache, plans):
        """CPU seconds for all plans in one batch: with the conversions, and of simulator and scorer
        alone.
        """
        start, ego = time.process_time(), cache.ego_state
        given = [self.transform(self._trajectory(poses), ego) for poses in plans]
        states = [
            self.sample(plan, self.horizon, ego.time_point) for plan in [cache.trajectory, *given]
        ]
        middle = time.process_time()
        simulated = self.simulator.simulate_proposals(self.np.stack(states), ego)
        fields = ("observation", "centerline", "route_lane_ids", "drivable_area_map")
        arguments = [getattr(cache, name) for name in fields]
        if self.policy is not None:
            traffic = self.policy.simulate_environment(simulated[1], cache)
            arguments += [cache.map_parameters, traffic, cache.past_human_trajectory]
        self.scorer.score_proposals(simulated, *arguments)
        end = time.process_time()
        return end - start, end - middle

    def _trajectory(self, poses):
        return self.plan(self.np.array(poses, self.np.float32))

    def score(self, cache, poses):
        arguments = {"metric_cache": cache, "model_trajectory": self._trajectory(poses)}
        arguments |= {
            "future_sampling": self.horizon,
            "simulator": self.simulator,
            "scorer": self.scorer,
        }
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
