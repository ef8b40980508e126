"""The official devkit beside our scorer: same scenes, same plans, same machine, one after the
other.

    python -m benchmarks.devkit --devkit CHECKOUT --devkit-python PYTHON --root TREE --split SPLIT

The devkit needs an environment of its own (numpy 1.23, its pins), so it runs as a subprocess in the
Python given; nothing of it is imported here. It is measured as its scripts use it: one metric cache
per scene, written and read back, and one `pdm_score` per plan. That is all its scripts can do; its
simulator and scorer called on batches are measured beside (`devkit_probe.py` says how). Scores of
v1.1 are compared too; of v2.2 only times, since two-frame comfort is not in its `pdm_score`. CPU
seconds of each process, maps read and code warm on both sides; means over all scenes and plans,
imports not counted. `benchmarks.score --devkit` calls this.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.score import COUNTS, _plans, _scenes
from latentvla_core.data.layout import DataRoot
from latentvla_core.errors import SetupError
from latentvla_core.pdms import World, build, score_trajectories
from latentvla_core.types import Array

PROBE = Path(__file__).with_name("devkit_probe.py")
METRIC_OF = {"v1": "pdms", "v2": "epdms"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--devkit", required=True, help="checkout of the navsim devkit, v1.1 or v2.2"
    )
    parser.add_argument("--devkit-python", required=True, help="python of the devkit's environment")
    parser.add_argument("--root", required=True, help="NAVSIM tree")
    parser.add_argument("--split", default="test")
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument(
        "--counts", type=int, nargs="+", default=list(COUNTS), help="proposals per scene"
    )
    options = parser.parse_args()
    result = side_by_side(
        options.devkit,
        options.devkit_python,
        options.root,
        options.split,
        options.scenes,
        options.counts,
    )
    print(report(result))


def side_by_side(
    devkit: str,
    python: str,
    root: str | Path,
    split: str,
    scenes: int,
    counts: Sequence[int] = COUNTS,
    probe: Path = PROBE,
) -> dict[str, Any]:
    """Times of both in CPU ms per scene and per plan, by number of proposals, and the largest
    difference of the scores.

    Raises:
        SetupError: the subprocess failed; with the last lines of what it said.
    """
    place = DataRoot.find(root)
    found, maps = _scenes(Path(root), split, scenes)
    roads = [maps.get(scene.current.map_location) for scene in found]
    worlds = [
        build(scene, road) for scene, road in zip(found, roads, strict=True)
    ]  # warms indices and kernels
    ours_s = _seconds(
        lambda: [build(scene, road) for scene, road in zip(found, roads, strict=True)]
    )
    worlds = [world for world in worlds if world.valid]
    poses = [plan.astype(np.float32).astype(np.float64) for plan in _plans(worlds, max(counts))]
    job = {
        "devkit": str(Path(devkit).resolve()),
        "logs": f"{place.logs_folder}/{split}",
        "maps": place.maps_root(),
    }
    job |= {"counts": list(counts), "tokens": [world.scene_token for world in worlds]}
    job |= {
        "plans": {
            world.scene_token: plan.tolist() for world, plan in zip(worlds, poses, strict=True)
        }
    }
    theirs = run_probe(python, job, probe)
    metric = METRIC_OF[theirs["version"]]
    return {
        "version": theirs["version"],
        "metric": metric,
        "scenes": len(worlds),
        "packages": theirs["packages"],
        "devkit_prepare_ms": 1e3 * float(np.mean(theirs["prepare_s"])),
        "prepare_ms": 1e3 * ours_s / len(found),
        "devkit_score_ms": 1e3 * float(np.mean(theirs["score_s"])),
        "devkit_many_ms": _each(theirs["many_s"], counts),
        "devkit_core_ms": _each(theirs["core_s"], counts),
        "many_ms": _ours(metric, worlds, poses, counts),
        **_difference(metric, worlds, poses, theirs),
    }


def _each(seconds: list[list[float]], counts: Sequence[int]) -> dict[int, float]:
    """Mean milliseconds per plan by number of proposals, of seconds by scene and number."""
    return {
        count: 1e3 * float(s) / count
        for count, s in zip(counts, np.mean(seconds, axis=0), strict=True)
    }


def run_probe(python: str, job: dict[str, Any], probe: Path = PROBE) -> dict[str, Any]:
    """What the probe measured in the devkit's own Python."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder, "job.json"), Path(folder, "result.json")
        asked.write_text(json.dumps(job | {"cache": str(Path(folder, "cache"))}))
        done = subprocess.run(
            [python, str(probe), str(asked), str(answer)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not answer.is_file():
            last = "\n".join(done.stderr.strip().splitlines()[-5:])
            raise SetupError(
                f"the devkit at {job['devkit']} could not be measured with {python}:\n{last}"
            )
        return json.loads(answer.read_text())


def _ours(
    metric: Any, worlds: list[World], poses: list[Array], counts: Sequence[int]
) -> dict[int, float]:
    """Our milliseconds per plan by number of proposals, one scene at a time like the devkit; mean
    of three rounds.
    """
    out, rounds = {}, 3
    for count in counts:
        jobs = [([w], [plan[:count]]) for w, plan in zip(worlds, poses, strict=True)]
        score_trajectories(*jobs[0], metric=metric)  # warm
        seconds = _seconds(
            lambda j=jobs: [score_trajectories(*one, metric=metric) for one in j * rounds]
        )  # type: ignore[misc]
        out[count] = 1e3 * seconds / (rounds * len(jobs) * count)
    return out


def _difference(
    metric: Any, worlds: list[World], poses: list[Array], theirs: dict[str, Any]
) -> dict[str, float]:
    """The largest difference of the scores; nothing for v2.2."""
    if metric != "pdms":
        return {}
    ours = score_trajectories(worlds, [plan[: theirs["singles"]] for plan in poses], metric=metric)[
        "score"
    ]
    return {
        "largest_difference": float(
            np.abs(ours - np.array([row["score"] for row in theirs["rows"]])).max()
        )
    }


def _seconds(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def report(result: dict[str, Any]) -> str:
    """The measurement in words."""
    packages = ", ".join(f"{name} {version}" for name, version in result["packages"].items())
    lines = [
        f"devkit {result['version']} beside ours ({result['metric']}): {result['scenes']} scenes, CPU ms, one process; {packages}",
        _line("prepare a scene", result["devkit_prepare_ms"], result["prepare_ms"]),
        _line("score one plan, pdm_score", result["devkit_score_ms"], result["many_ms"].get(1)),
    ]
    for count, ours in result["many_ms"].items():
        lines.append(_line(f"each of {count}, from poses", result["devkit_many_ms"][count], ours))
        lines.append(
            _line(f"each of {count}, simulator and scorer", result["devkit_core_ms"][count], ours)
        )
    if "largest_difference" in result:
        lines.append(f"largest difference of the scores {result['largest_difference']:.1e}")
    return "\n".join(lines)


def _line(what: str, devkit_ms: float, ours_ms: float | None) -> str:
    beside = "" if ours_ms is None else f"   ours {ours_ms:9.3f}   ratio {devkit_ms / ours_ms:7.1f}"
    return f"{what:<42} devkit {devkit_ms:9.2f}{beside}"


if __name__ == "__main__":
    main()
