"""The promotion gate's second question, if the recipe asks it: does the candidate fall at the
wheel? Plans that score higher drive worse often enough (docs/design/closed_loop.md §3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from latentvla_core.statistics import Interval, paired_difference

if TYPE_CHECKING:
    from latentvla_core.closed_loop.config import ClosedLoopGate
    from latentvla_core.closed_loop.stored import Seat
    from pipelines.steps.context import StageContext

Rows = Sequence[Mapping[str, Any]]
RANGES = {"ds": 100.0, "ncap": 5.0}
"""Scores that do not end at 1."""


@dataclass(frozen=True, slots=True)
class Fall:
    """One score of candidate and champion over the same drives."""

    score: str
    candidate: float
    champion: float
    difference: Interval
    """Candidate − champion, by scene."""

    @property
    def share(self) -> float:
        """The difference as a part of the score's range."""
        return self.difference.mean / RANGES.get(self.score, 1.0)

    def __str__(self) -> str:
        d = self.difference
        digits = 1 if self.score in RANGES else 3
        return (
            f"{self.score.upper()} {self.candidate:.{digits}f} after {self.champion:.{digits}f}"
            f" ({d.mean:+.{digits}f}, 95 % by scene {d.low:+.{digits}f} to {d.high:+.{digits}f},"
            f" {d.groups} scenes)"
        )


def compare_drives(candidate: Rows, champion: Rows, scores: Sequence[str]) -> list[Fall]:
    """Both drivers' rows of `closed_loop_scores` → each score over T. Raises ValueError when they
    have not driven the same scenes in the same traffic.
    """
    ours, theirs = _over_t(candidate), _over_t(champion)
    if not ours or (missing := sorted(set(ours) ^ set(theirs))):
        first = f", first {missing[0]}" if ours else ""
        raise ValueError(
            f"candidate and champion drove {len(ours)} and {len(theirs)} runs that do not match"
            f"{first}; drive both in the same scenes (job closed_loop)"
        )
    found = []
    for name in scores:
        both = [
            (float(ours[key][name]), float(theirs[key][name]), key[0])
            for key in sorted(ours)
            if math.isfinite(ours[key][name]) and math.isfinite(theirs[key][name])
        ]
        if both:
            a, b, scenes = (np.array(column) for column in zip(*both, strict=True))
            means = float(a.mean()), float(b.mean())
            found.append(Fall(name, *means, paired_difference(a, b, scenes)))
    return found


def _over_t(rows: Rows) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    longest = max((row["prefix_s"] for row in rows), default=0.0)
    return {
        (row["scene"], row["traffic"], row["seed"]): row
        for row in rows
        if row["prefix_s"] == longest
    }


def fallen(found: Sequence[Fall], gate: ClosedLoopGate) -> list[Fall]:
    """The scores that fall by more than the gate allows."""
    return [fall for fall in found if fall.share < -gate.tolerance]


def refusal(candidate: Rows, champion: Rows, gate: ClosedLoopGate, told: str) -> str:
    """Why a candidate whose plans score higher (`told` says by how much) is not promoted; "" if
    nothing falls.
    """
    falls = fallen(compare_drives(candidate, champion, gate.scores), gate)
    if not falls:
        return ""
    named = "; ".join(str(fall) for fall in falls)
    return f"closed loop falls by more than {gate.tolerance:g} of its range: {named}; plans: {told}"


def drives_against(context: StageContext, candidate: Seat, champion: Seat, told: str) -> str:
    """`refusal` for two versions of a planner, which drive the lake's set if they have not."""
    return refusal(
        driven_scores(context, candidate),
        driven_scores(context, champion),
        context.recipe.closed_loop_gate,
        told,
    )


def driven_scores(context: StageContext, seat: Seat) -> list[dict[str, Any]]:
    """Rows of `closed_loop_scores` of one version: those of the lake, or of drives that are done
    now. Raises SetupError where there is no set to drive.
    """
    from latentvla_core.closed_loop.scores.score import METRIC_VERSION
    from latentvla_core.closed_loop.stored import driven_scenes, score_scenes
    from latentvla_core.errors import SetupError
    from pipelines.steps.drives import SCENES, drives_of

    config = context.recipe.closed_loop
    scenes = driven_scenes(context.lake.rows(SCENES))
    if not scenes:
        raise SetupError(
            "the gate asks for closed loop (recipe closed_loop_gate.required) and the lake has no"
            f" scenes to drive; materialise asset {SCENES}, or job closed_loop"
        )
    where = {"driver": seat.name, "model_version": seat.model_version}
    stored = context.lake.rows("closed_loop_scores", {**where, "metric_version": METRIC_VERSION})
    driven = {(row["scene"], row["traffic"]) for row in stored}
    if driven == {(row["scene"], kind) for row in scenes for kind in config.traffic}:
        return stored
    work = zip(scenes, drives_of(context, seat), strict=True)
    return [row for judged in score_scenes(work, config.seconds, 1) for row in judged.scores]
