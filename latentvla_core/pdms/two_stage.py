"""Two-stage aggregation of v2.2 (navhard): the synthetic follow-up scenes count the more, the
nearer they start to where the plan of the first stage ended. Source: pdms.md §12.3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from latentvla_core.errors import DataError
from latentvla_core.geometry import to_global
from latentvla_core.pdms import aggregate
from latentvla_core.pdms.measure import Reaction, score_scene_v2
from latentvla_core.pdms.metrics import SUB_SCORES
from latentvla_core.pdms.motion.comfort import two_frame_comfort
from latentvla_core.pdms.world import World
from latentvla_core.types import Array

KERNEL_VARIANCE_M2 = 0.1
TINY_WEIGHT = 1e-8
COLUMNS = (*SUB_SCORES["epdms"], "score")


@dataclass(frozen=True, slots=True)
class StageScene:
    """What two-stage aggregation needs of one scored scene."""

    columns: Mapping[str, float]
    """Sub-scores of v2.2 without two-frame comfort."""
    start_m: Array
    """(2,) global position of the rear axle now."""
    end_m: Array
    """(2,) global position of the plan's last pose as predicted, not as driven."""
    timestamp_us: int
    states: Array
    """(41, 11) driven states."""


@dataclass(frozen=True, slots=True)
class StageGroup:
    """One entry of the two-stage mapping."""

    now: str
    previous: str
    """The scene 0.5 s before `now`."""
    followers: tuple[tuple[str, str], ...]
    """Synthetic scenes (now, 0.5 s before) that continue them 4 s later."""


@dataclass(frozen=True, slots=True)
class TwoStageScore:
    """Means over all groups, one value per column of v2.2."""

    combined: dict[str, float]
    stage_one: dict[str, float]
    stage_two: dict[str, float]
    scenes: dict[str, dict[str, float]]
    """Token → sub-scores with two-frame comfort, and score."""
    weights: dict[str, float]
    """Token → its weight in its group."""


def stage_scene(world: World, poses: Array, reaction: Reaction) -> StageScene:
    """Score one plan (8, 3) in reactive traffic, as both stages do; the human filter of original
    scenes is applied.

    Raises:
        DataError: the plan cannot be scored; the message says why.
    """
    plans = np.asarray(poses, np.float64)[None]
    scored = score_scene_v2(world, plans, reaction=reaction)
    if not scored.valid[0]:
        raise DataError(scored.reasons[0])
    scored.lift_where_the_human_fails()
    start = world.ego_state[:2] + world.origin_m
    end = to_global(world.ego_state[:3], plans[0, -1])[:2] + world.origin_m
    columns = {name: float(value[0]) for name, value in scored.columns.items()}
    return StageScene(columns, start, end, world.timestamp_us, scored.states[0])


def two_stage_score(
    scenes: Mapping[str, StageScene], groups: Sequence[StageGroup]
) -> TwoStageScore:
    """Aggregate scored scenes by the groups of a two-stage split.

    Raises:
        DataError: a scene of a group is missing; like the devkit, there is no result with a hole in
        it.
    """
    _check(scenes, groups)
    rows: dict[str, dict[str, float]] = {}
    weights: dict[str, float] = {}
    first, second, combined = [], [], []
    for group in groups:
        for now, before in ((group.now, group.previous), *group.followers):
            _score_pair(scenes, now, before, rows)
        one = [rows[group.now], rows[group.previous]]
        two = []
        for lead, side in ((group.now, 0), (group.previous, 1)):
            tokens = [pair[side] for pair in group.followers]
            share = follow_up_weights(
                scenes[lead].end_m, np.stack([scenes[token].start_m for token in tokens])
            )
            weights |= {lead: 1.0, **dict(zip(tokens, share.tolist(), strict=True))}
            two.append(
                {name: float(share @ [rows[token][name] for token in tokens]) for name in COLUMNS}
            )
        first += one
        second += two
        combined.append(
            {
                name: sum(a[name] * b[name] for a, b in zip(one, two, strict=True)) / 2
                for name in COLUMNS
            }
        )
    return TwoStageScore(_means(combined), _means(first), _means(second), rows, weights)


def follow_up_weights(end_m: Array, starts_m: Array) -> Array:
    """(n,) weights that sum to 1 of follow-up scenes starting at (n, 2), for a plan that ends at
    (2,).
    """
    squared = ((starts_m - end_m) ** 2).sum(-1)
    weight = np.exp(-squared / (2 * KERNEL_VARIANCE_M2))
    total = weight.sum()
    if not np.isfinite(total) or abs(total) <= TINY_WEIGHT:
        return np.full(len(weight), 1.0 / len(weight))
    return weight / total


def _check(scenes: Mapping[str, StageScene], groups: Sequence[StageGroup]) -> None:
    if not groups:
        raise DataError(
            "the two-stage mapping has no entry; take a split with `reactive_all_mapping`"
        )
    for group in groups:
        if not group.followers:
            raise DataError(
                "a group of the two-stage mapping has no follow-up scenes", frame=group.now
            )
    needed = {
        token
        for g in groups
        for token in (g.now, g.previous, *(t for pair in g.followers for t in pair))
    }
    absent = sorted(needed - set(scenes))
    if absent:
        text = f"{len(absent)} of {len(needed)} scenes of the mapping are not scored ({', '.join(absent[:5])})"
        raise DataError(f"{text}; a two-stage score needs all of them")


def _score_pair(
    scenes: Mapping[str, StageScene], now: str, before: str, rows: dict[str, dict[str, float]]
) -> None:
    """Two-frame comfort of a pair, given to both scenes, and their scores."""
    gap_s = (scenes[now].timestamp_us - scenes[before].timestamp_us) * 1e-6
    value, _ = two_frame_comfort(scenes[before].states, scenes[now].states, gap_s)
    for token in (now, before):
        columns = {**scenes[token].columns, "two_frame_extended_comfort": float(value)}
        columns["score"] = float(
            aggregate.epdms({name: np.asarray(x) for name, x in columns.items()})
        )
        rows[token] = columns


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in COLUMNS}
