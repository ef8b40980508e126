"""The seam to the PDM score: what a simulation of iPad's proposals says about each of them
(latentvla.md §4.3).

Legend: B scenes, N proposals, T = 8 poses, S reported steps, 2 agents (first at-fault contact,
first likely collision).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields

import numpy as np

from latentvla_core.geometry import rotate
from latentvla_core.pdms.measure import SceneScore, road_polygons, score_scene_v1
from latentvla_core.pdms.roads import road
from latentvla_core.pdms.state import State
from latentvla_core.pdms.world import World
from latentvla_core.planner.hosts.ipad import SCORES, SUB_STEPS
from latentvla_core.types import PLAN_STEPS, Array

SIMULATED_STEPS = PLAN_STEPS * SUB_STEPS


@dataclass(frozen=True, slots=True)
class ProposalTargets:
    """Rows of scenes that cannot be scored are zero and not `valid`."""

    scores: Array
    """(B, N, 6) float32 in [0, 1], columns `SCORES`: PDMS v1.1 and its parts."""
    areas: Array
    """(B, N, 8, 5, 2) float32 0/1: off the road, off the route, at the steps up to each pose."""
    collisions: Array
    """(B, N, S, 2, 9) float32: four corners (x, y) of the agent in the ego frame of now, metres,
    and 1 if it is there.
    """
    valid: Array
    """(B, N) bool."""


Simulate = Callable[[Sequence[int], Array, int], ProposalTargets]


class Simulator:
    """Scores proposals in the worlds of the training records; with processes, scenes are shared out
    among them.

    The same evaluator gives the benchmark's score, which the planner thus trains on: say so in
    comparisons.
    """

    def __init__(self, worlds: Sequence[World | None], processes: int = 0) -> None:
        self.worlds = worlds
        self.pool = (
            ProcessPoolExecutor(processes, initializer=_remember, initargs=(worlds,))
            if processes > 1
            else None
        )

    def __call__(self, indices: Sequence[int], poses: Array, steps: int) -> ProposalTargets:
        """World indices (B), poses (B, N, 8, 3) → targets with S = steps."""
        if self.pool is None:
            rows = [
                scene_targets(self.worlds[i], plans, steps)
                for i, plans in zip(indices, poses, strict=True)
            ]
        else:
            rows = list(self.pool.map(_remembered, indices, poses, [steps] * len(poses)))
        return ProposalTargets(
            *(np.stack([getattr(row, f.name) for row in rows]) for f in fields(ProposalTargets))
        )


_worlds: Sequence[World | None] = ()  # of a worker process


def _remember(worlds: Sequence[World | None]) -> None:
    global _worlds
    _worlds = worlds


def _remembered(index: int, plans: Array, steps: int) -> ProposalTargets:
    return scene_targets(_worlds[index], plans, steps)


def scene_targets(world: World | None, plans: Array, steps: int) -> ProposalTargets:
    """Targets of plans (N, 8, 3) in one world, without the leading B."""
    count = len(plans)
    out = ProposalTargets(
        np.zeros((count, len(SCORES)), np.float32),
        np.zeros((count, PLAN_STEPS, SUB_STEPS, 2), np.float32),
        np.zeros((count, steps, 2, 9), np.float32),
        np.zeros(count, bool),
    )
    if world is None or not world.valid:
        return out
    scored = score_scene_v1(world, np.asarray(plans, np.float64))
    keep = scored.valid
    if keep.any():
        out.valid[keep] = True
        out.scores[keep] = np.stack([scored.columns[name] for name in SCORES], axis=-1)[keep]
        out.areas[keep] = _areas(world, scored.states[keep])
        out.collisions[keep] = _collisions(world, scored, steps)[keep]
    return out


def _areas(world: World, states: Array) -> Array:
    """(n, 8, 5, 2) flags of driven states (n, 41, 11), now left out."""
    flags = road.ego_areas(states, road.index_roads(road_polygons(world)))
    both = np.stack([flags.non_drivable, flags.oncoming], axis=-1)[:, 1 : SIMULATED_STEPS + 1]
    return both.reshape(len(states), PLAN_STEPS, SUB_STEPS, 2).astype(np.float32)


def _collisions(world: World, scored: SceneScore, steps: int) -> Array:
    """(N, S, 2, 9) boxes of the agents that each proposal hits, or nearly hits, first: until then,
    since a replayed agent drives on through whoever hit it.
    """
    found = scored.details
    chosen = np.stack([found["collision_object"], found["ttc_object"]], axis=-1)  # (N, 2)
    until = np.stack([found["collision_step"], found["ttc_step"]], axis=-1)  # (N, 2)
    out = np.zeros((*chosen.shape, steps, 9), np.float32)
    at = np.arange(1, steps + 1) * (SIMULATED_STEPS // steps)  # simulated steps that are reported
    ego = world.ego_state
    for n, agent in zip(*np.nonzero(chosen >= 0), strict=True):
        column = chosen[n, agent]
        there = world.object_valid[at, column] & (at <= until[n, agent])
        corners = rotate(
            world.object_corners[at, column] - ego[[State.X, State.Y]], -ego[State.YAW]
        )  # (S, 4, 2)
        out[n, agent, there, :8] = corners[there].reshape(-1, 8)
        out[n, agent, there, 8] = 1.0
    return out.swapaxes(1, 2)
