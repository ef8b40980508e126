"""How many times real time an episode runs on one core, and where its time goes:
`python -m benchmarks.closed_loop`.

CPU seconds of one process, so that neighbours on the machine do not count. Ratios side by side in
one run: without pictures in both kinds of traffic, with three cameras at 448 x 252.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import time
from dataclasses import dataclass
from itertools import islice

import numpy as np

from latentvla_core.closed_loop.driver import Observation
from latentvla_core.closed_loop.drivers.baselines import floor
from latentvla_core.closed_loop.episode import Scene, Traffic, run_episode
from latentvla_core.closed_loop.scenes.sets import candidates, judged
from latentvla_core.closed_loop.scores.score import score_run
from latentvla_core.types import Array

CAMERAS = ("CAM_F0", "CAM_L0", "CAM_R0")
PARTS = {
    "rendering": ("/sensors/", "/shapes/"),
    "traffic and people": ("/actors/", "/streets/", "simulate.py", "state.py"),
    "tracker": ("/motion/",),
    "episode": ("/closed_loop/",),
}


@dataclass
class Recorded:
    """Drives as another driver did, and looks at pictures it does not need."""

    plans: dict[float, Array]
    cameras: tuple[str, ...]
    name: str = "recorded"
    is_privileged: bool = False

    def start(self, seed: int) -> None: ...

    def drive(self, seen: Observation) -> Array:
        return self.plans.get(round(seen.time_s, 1), np.zeros((8, 3)))


def times_real(scene: Scene, driver: Recorded, traffic: Traffic) -> float:
    """Seconds of the world per CPU second."""
    start = time.process_time()
    run = run_episode(driver, scene, traffic=traffic)
    return run.steps * 0.1 / (time.process_time() - start)


def shares(scene: Scene, driver: Recorded) -> dict[str, float]:
    """Share of own time by part of the code; NumPy's own functions count for nobody."""
    profile = cProfile.Profile()
    profile.runcall(run_episode, driver, scene)
    spent = dict.fromkeys([*PARTS, "NumPy and others"], 0.0)
    for (file, _, _), (_, _, own, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        name = next((n for n, marks in PARTS.items() if any(m in file for m in marks)), None)
        spent[name or "NumPy and others"] += own
    total = sum(spent.values())
    return {name: seconds / total for name, seconds in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=4)
    args = parser.parse_args()
    found = []
    for name in ("merge", "red_light", "bend", "unprotected_turn"):
        specs = islice(candidates(name, 0), 40)
        found += [p for s in specs if (p := judged(s, 20.0)[1])][: -(-args.scenes // 4)]
    rates: dict[str, list[float]] = {}
    for scene, ground in found:
        # PDM-Closed keeps to the road: what a good planner meets. Its own thinking is not counted.
        run = run_episode(floor("pdm_closed"), scene)
        plans = {round(k * 0.1, 1): plan for k, plan in run.plans.items()}
        blind, seeing = Recorded(plans, ()), Recorded(plans, CAMERAS)
        times_real(scene, seeing, "log")  # compiles, and paints the ground on the way
        measured: tuple[tuple[str, Recorded, Traffic], ...] = (
            ("no pictures, reactive traffic", blind, "reactive"),
            ("no pictures, log replay", blind, "log"),
            ("three cameras, reactive traffic", seeing, "reactive"),
        )
        for label, driver, traffic in measured:
            rates.setdefault(label, []).append(times_real(scene, driver, traffic))
        start = time.process_time()
        score_run(run, scene, ground)
        rates.setdefault("scoring a run, all terms", []).append(
            run.steps * 0.1 / (time.process_time() - start)
        )
    for label, values in rates.items():
        print(f"{label:34s} {np.median(values):7.0f} x real time per core")
    scene = found[0][0]
    for label, cameras in (("no pictures", ()), ("three cameras", CAMERAS)):
        text = ", ".join(f"{n} {s:.0%}" for n, s in shares(scene, Recorded(plans, cameras)).items())
        print(f"shares of time, {label}: {text}")


if __name__ == "__main__":
    main()
