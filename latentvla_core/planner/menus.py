"""What planners chose, and from what: proposals beside the best and the nearest of them.

Legend: K proposals of one scene, S scenes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentvla_core.pdms.measure import score_scene_v1
from latentvla_core.pdms.world import World
from latentvla_core.statistics import Interval, grouped_mean
from latentvla_core.types import PLAN_STEPS, Array

LIVING_SHARE = 0.01
"""A proposal lives if it is the best, or the nearest, of at least this part of the scenes."""
NO_WORLD = "the scene has no world to score in; see table scene_worlds"


def choice_of(
    world: World | None, proposals: Array, chosen: int, future_poses: Array
) -> dict[str, Any]:
    """One scene's columns of table `choices` that a simulation and the log tell.

    Args:
        proposals: (K, 8, 3) poses in the ego frame.
        future_poses: (n, 3) the logged drive; fewer than 8 poses leave displacements NaN.
    """
    gaps = np.full(len(proposals), np.nan)
    if len(future_poses) >= PLAN_STEPS:
        truth = np.asarray(future_poses)[None, :PLAN_STEPS, :2]
        gaps = np.linalg.norm(proposals[..., :2] - truth, axis=-1).mean(-1)
    known = bool(np.isfinite(gaps).all())
    near = int(gaps.argmin()) if known else -1
    row = {
        "proposals": len(proposals), "chosen": chosen, "nearest": near,
        "chosen_ade_m": float(gaps[chosen]),
        "nearest_ade_m": float(gaps[near]) if known else np.nan,
    }  # fmt: skip
    return row | _scored(world, proposals, chosen)


def _scored(world: World | None, proposals: Array, chosen: int) -> dict[str, Any]:
    nothing = {"best": -1, "best_score": np.nan, "chosen_score": np.nan, "valid": False}
    if world is None or not world.valid:
        return {**nothing, "reason": (world.reason if world else "") or NO_WORLD}
    found = score_scene_v1(world, np.asarray(proposals, np.float64))
    if not found.valid.all():
        broken = int(np.flatnonzero(~found.valid)[0])
        return {**nothing, "reason": f"proposal {broken}: {found.reasons[broken]}"}
    scores = found.columns["score"]
    best = int(scores.argmax())
    told = {"best": best, "best_score": float(scores[best]), "chosen_score": float(scores[chosen])}
    return {**told, "valid": True, "reason": ""}


@dataclass(frozen=True, slots=True)
class Menu:
    """One planner's choices on one split."""

    split: str
    planner: str
    proposals: int
    """K"""
    living: int
    """Proposals that score most in at least 1 % of the scenes."""
    near_living: int
    """Proposals that are nearest to the logged drive in at least 1 % of the scenes."""
    chosen: Interval
    """PDMS of the plans; intervals draw whole logs."""
    oracle: Interval
    """PDMS of the best proposals, chosen with the answer known."""
    regret: Interval
    """Oracle − chosen, scene by scene."""
    chosen_ade_m: float
    nearest_ade_m: float
    """Min-over-K."""


def menus(rows: Iterable[Mapping[str, Any]]) -> list[Menu]:
    """Rows of `choices` → one Menu per split and planner; scenes without a score are left out."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["valid"]:
            groups[row["split"], row["trajectory_id"]].append(row)
    return [_menu(*key, found) for key, found in sorted(groups.items())]


def _menu(split: str, planner: str, rows: list[Mapping[str, Any]]) -> Menu:
    def column(name: str) -> Array:
        return np.array([row[name] for row in rows], np.float64)

    logs = np.array([row["log_name"] for row in rows])
    chosen, best = column("chosen_score"), column("best_score")
    count = int(column("proposals").max())
    return Menu(
        split, planner, count, living(column("best"), count), living(column("nearest"), count),
        grouped_mean(chosen, logs), grouped_mean(best, logs), grouped_mean(best - chosen, logs),
        _mean(column("chosen_ade_m")), _mean(column("nearest_ade_m")),
    )  # fmt: skip


def living(winners: Array, count: int) -> int:
    """(S,) number of the winning proposal, -1 = none → how many of `count` win often enough."""
    known = np.asarray(winners, np.int64)
    known = known[known >= 0]
    shares = np.bincount(known, minlength=count) / max(len(known), 1)
    return int((shares >= LIVING_SHARE).sum())


def _mean(values: Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")
