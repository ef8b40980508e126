"""Runs inside the devkit's own Python, without our package: its scene loader, the agent that
`latentvla serve navsim` wrote, and its `pdm_score` on the agent's plans.

    PYTHON doors_probe.py JOB.json RESULT.json

JOB: devkit, agent (folder), logs, maps, blobs, tokens, cache. The agent is made by Hydra from its
configuration, as the devkit's scripts do. Called by `benchmarks/doors.py`.
"""

import inspect
import json
import os
import sys
import time
from pathlib import Path


def main(job, result):
    os.environ["NUPLAN_MAPS_ROOT"] = job["maps"]
    sys.path[:0] = [job["devkit"], job["agent"]]
    from devkit_probe import Tools
    from hydra.utils import instantiate
    from navsim.agents.abstract_agent import AbstractAgent
    from omegaconf import OmegaConf

    agent = instantiate(OmegaConf.load(Path(job["agent"], "agent", "latentvla_agent.yaml")))
    agent.initialize()
    tools = Tools({**job, "counts": [], "plans": {}})
    scenes, plans, scores, calls_s = loader(job, agent), {}, {}, []
    for token in job["tokens"]:
        seen = scenes.get_agent_input_from_token(token)
        began = time.perf_counter()
        plan = agent.compute_trajectory(seen)
        calls_s.append(time.perf_counter() - began)
        plans[token] = plan.poses.tolist()
        scores[token] = tools.score(tools.cache(token), plan.poses)
    done = {"version": tools.version, "plans": plans, "scores": scores, "calls_s": calls_s}
    done["is_agent"] = isinstance(agent, AbstractAgent)
    Path(result).write_text(json.dumps(done))


def loader(job, agent):
    """The devkit's scene loader with the sensors that the agent asks for."""
    from navsim.common.dataclasses import SceneFilter
    from navsim.common.dataloader import SceneLoader

    chosen = SceneFilter(
        num_history_frames=4, num_future_frames=10, frame_interval=1, tokens=job["tokens"]
    )
    known = inspect.signature(SceneLoader).parameters
    blobs = [name for name in ("sensor_blobs_path", "original_sensor_path") if name in known]
    return SceneLoader(
        data_path=Path(job["logs"]),
        scene_filter=chosen,
        sensor_config=agent.get_sensor_config(),
        **dict.fromkeys(blobs, Path(job["blobs"])),
    )


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        main(json.load(file), sys.argv[2])
