"""The official devkit beside our scorer: same scenes, same plans, same machine, one after the other.

    python -m benchmarks.devkit --devkit CHECKOUT --devkit-python PYTHON --root TREE --split SPLIT

The devkit needs an environment of its own (numpy 1.23, its pins), so it runs as a subprocess in the Python given; nothing of
it is imported here. It is measured as its scripts use it: one metric cache per scene, written and read back, and one
`pdm_score` per plan. Scores of v1.1 are compared too; of v2.2 only times, since two-frame comfort is not in its `pdm_score`.
CPU seconds of each process; means over all scenes and plans, imports not counted. `benchmarks.score --devkit` calls this.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.score import _plans, _scenes
from latentvla_core.data.layout import DataRoot
from latentvla_core.errors import SetupError
from latentvla_core.pdms import World, build, score_trajectories
from latentvla_core.types import Array

PROBE = Path(__file__).with_name("devkit_probe.py")
METRIC_OF = {"v1": "pdms", "v2": "epdms"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devkit", required=True, help="checkout of the navsim devkit, v1.1 or v2.2")
    parser.add_argument("--devkit-python", required=True, help="python of the devkit's environment")
    parser.add_argument("--root", required=True, help="NAVSIM tree")
    parser.add_argument("--split", default="test")
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--plans", type=int, default=4, help="plans per scene")
    options = parser.parse_args()
    result = side_by_side(
        options.devkit, options.devkit_python, options.root, options.split, options.scenes, options.plans
    )
    print(report(result))


def side_by_side(
    devkit: str, python: str, root: str | Path, split: str, scenes: int, plans: int, probe: Path = PROBE
) -> dict[str, Any]:
    """Times of both, in ms, and the largest difference of the scores.

    Raises:
        SetupError: the subprocess failed; with the last lines of what it said.
    """
    place = DataRoot.find(root)
    found, maps = _scenes(Path(root), split, scenes)
    roads = [maps.get(scene.current.map_location) for scene in found]
    worlds = [build(scene, road) for scene, road in zip(found, roads, strict=True)]  # warms indices and kernels
    ours_s = _seconds(lambda: [build(scene, road) for scene, road in zip(found, roads, strict=True)])
    worlds = [world for world in worlds if world.valid]
    poses = [plan.astype(np.float32).astype(np.float64) for plan in _plans(worlds, plans)]
    job = {"devkit": str(Path(devkit).resolve()), "logs": f"{place.logs_folder}/{split}", "maps": place.maps_root()}
    job |= {"tokens": [world.scene_token for world in worlds]}
    job |= {"plans": {world.scene_token: plan.tolist() for world, plan in zip(worlds, poses, strict=True)}}
    theirs = run_probe(python, job, probe)
    metric = METRIC_OF[theirs["version"]]
    return {
        "version": theirs["version"], "scenes": len(worlds), "plans": plans,
        "devkit_prepare_ms": 1e3 * float(np.mean(theirs["prepare_s"])),
        "devkit_score_ms": 1e3 * float(np.mean(theirs["score_s"])),
        "prepare_ms": 1e3 * ours_s / len(found), **_ours(metric, worlds, poses, theirs["rows"]),
    }  # fmt: skip


def run_probe(python: str, job: dict[str, Any], probe: Path = PROBE) -> dict[str, Any]:
    """What the probe measured in the devkit's own Python."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder, "job.json"), Path(folder, "result.json")
        asked.write_text(json.dumps(job | {"cache": str(Path(folder, "cache"))}))
        done = subprocess.run(
            [python, str(probe), str(asked), str(answer)], capture_output=True, text=True, check=False
        )
        if done.returncode or not answer.is_file():
            last = "\n".join(done.stderr.strip().splitlines()[-5:])
            raise SetupError(f"the devkit at {job['devkit']} could not be measured with {python}:\n{last}")
        return json.loads(answer.read_text())


def _ours(metric: Any, worlds: list[World], poses: list[Array], rows: list[dict[str, Any]]) -> dict[str, float]:
    """Our times for one plan at a time and for all of a scene, and the difference of the scores (v1.1)."""
    score_trajectories(worlds, poses, metric=metric)  # warm
    count = sum(map(len, poses))
    single_s = _seconds(
        lambda: [
            score_trajectories([w], [plan[k : k + 1]], metric=metric)
            for w, plan in zip(worlds, poses, strict=True)
            for k in range(len(plan))
        ]
    )
    batch_s = _seconds(lambda: score_trajectories(worlds, poses, metric=metric))
    out = {"score_one_ms": 1e3 * single_s / count, "score_batch_ms": 1e3 * batch_s / count}
    if metric == "pdms":
        ours = score_trajectories(worlds, poses, metric=metric)["score"]
        out["largest_difference"] = float(np.abs(ours - np.array([row["score"] for row in rows])).max())
    return out


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def report(result: dict[str, Any]) -> str:
    """The measurement in words."""
    lines = [
        f"devkit {result['version']} beside ours: {result['scenes']} scenes, {result['plans']} plans each, CPU time, one process",
        f"prepare a scene   devkit {result['devkit_prepare_ms']:9.1f} ms   ours {result['prepare_ms']:8.2f} ms",
        f"score one plan    devkit {result['devkit_score_ms']:9.1f} ms   ours {result['score_one_ms']:8.3f} ms",
        f"  in a batch of {result['plans']:<4}                          ours {result['score_batch_ms']:8.3f} ms",
    ]
    if "largest_difference" in result:
        lines.append(f"largest difference of the scores {result['largest_difference']:.1e}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
