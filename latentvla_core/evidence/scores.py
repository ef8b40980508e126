"""Scores of whole menus: every proposal of every scene once, so that an arm is a choice of columns.

Legend: N scenes, P plans (a menu and its floors). v1 is PDMS; v2 is EPDMS, whose two-frame comfort
compares a plan with the one that the same arm chose in the scene before, so pairs are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentvla_core.evidence.situations import SUB_SCORES
from latentvla_core.pdms import aggregate
from latentvla_core.pdms.measure import SceneScore, score_scene_v1, score_scene_v2
from latentvla_core.pdms.motion.comfort import MAX_FRAME_GAP_S, two_frame_comfort
from latentvla_core.pdms.world import World
from latentvla_core.types import Array

V2_COLUMNS = (*aggregate.MULTIPLIERS_V2, *aggregate.WEIGHTS_V2)
PAIRED = "two_frame_extended_comfort"
NO_SCENE = -1


@dataclass(frozen=True, slots=True)
class MenuScores:
    """Scores of all plans; NaN where a plan or a scene cannot be scored."""

    sub_scores: Array
    """(N, P, 5) float32 of v1, columns `SUB_SCORES`."""
    pdms: Array
    """(N, P) float32."""
    v2: Array
    """(N, P, 9) float32, columns `V2_COLUMNS` (two-frame comfort NaN); NaN where not asked for."""
    pairs: Array
    """(N, P, P) int8: two-frame comfort of [plan before, plan now]; -1 where there is none."""
    before: Array
    """(N,) row of the scene 0.5 s before, or -1."""

    def epdms(self, chosen: Array) -> Array:
        """(N,) EPDMS of the plans with these indices (N,)."""
        rows = np.arange(len(chosen))
        columns = dict(zip(V2_COLUMNS, self.v2[rows, chosen].T.astype(np.float64), strict=True))
        earlier = chosen[np.maximum(self.before, 0)]
        pair = self.pairs[rows, earlier, chosen].astype(np.float64)
        columns[PAIRED] = np.where((self.before >= 0) & (pair >= 0), pair, np.nan)
        return aggregate.epdms(columns)


def score_menu(worlds: Sequence[World], plans: Array, with_v2: Array) -> MenuScores:
    """(N) worlds, (N, P, 8, 3) plans, (N,) bool which scenes EPDMS is computed for."""
    count, width = plans.shape[:2]
    out = MenuScores(
        np.full((count, width, len(SUB_SCORES)), np.nan, np.float32),
        np.full((count, width), np.nan, np.float32),
        np.full((count, width, len(V2_COLUMNS)), np.nan, np.float32),
        np.full((count, width, width), -1, np.int8),
        earlier_scenes(worlds, with_v2),
    )
    states: dict[int, Array] = {}
    for row, world in enumerate(worlds):
        one = np.asarray(plans[row], np.float64)
        _write_v1(out, row, score_scene_v1(world, one))
        if with_v2[row]:
            states[row] = _write_v2(out, row, score_scene_v2(world, one))
            _write_pairs(out, row, worlds, states)
            states.pop(int(out.before[row]), None)
    return out


def earlier_scenes(worlds: Sequence[World], wanted: Array) -> Array:
    """(N,) row of each wanted scene's predecessor among the wanted ones, which stands before it."""
    place = {world.scene_token: row for row, world in enumerate(worlds) if wanted[row]}
    found = [place.get(w.previous_token, NO_SCENE) if w.previous_token else -1 for w in worlds]
    return np.array([b if wanted[i] and b < i else NO_SCENE for i, b in enumerate(found)])


def _write_v1(out: MenuScores, row: int, scored: SceneScore) -> None:
    if scored.valid.any():
        out.sub_scores[row] = np.stack([scored.columns[name] for name in SUB_SCORES], -1)
        out.pdms[row] = scored.columns["score"]


def _write_v2(out: MenuScores, row: int, scored: SceneScore) -> Array:
    """Sub-scores behind the human filter; returns the driven states (P, 41, 11)."""
    scored.columns.setdefault(PAIRED, np.full(len(scored.valid), np.nan))
    scored.lift_where_the_human_fails()
    nothing = np.full(len(scored.valid), np.nan)
    out.v2[row] = np.stack([scored.columns.get(name, nothing) for name in V2_COLUMNS], -1)
    return scored.states


def _write_pairs(
    out: MenuScores, row: int, worlds: Sequence[World], states: dict[int, Array]
) -> None:
    before = int(out.before[row])
    if before < 0 or before not in states:
        return
    gap_s = (worlds[row].timestamp_us - worlds[before].timestamp_us) * 1e-6
    if not 0 < gap_s < MAX_FRAME_GAP_S:
        return
    then, now = states[before], states[row]
    if np.isfinite(then).all() and np.isfinite(now).all():
        value, _ = two_frame_comfort(then[:, None], now[None], gap_s)
        out.pairs[row] = value.astype(np.int8)
