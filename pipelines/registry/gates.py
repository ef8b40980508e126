"""The promotion gate: who may hold the alias `champion`.

Candidate and champion are compared scene by scene on the same scenes by the same metric version,
and whole logs are drawn again for the interval, since scenes of one log are not independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentvla_core.pdms.metrics import short
from latentvla_core.statistics import Interval, paired_difference

CHAMPION = "champion"
DEPLOYED = "deployed"
"""Alias of the one planner that is to be driven with: the best of the champions."""
SAFETY = (
    "no_at_fault_collisions",
    "drivable_area_compliance",
    "time_to_collision_within_bound",
)
PROMOTED, KEPT, REFUSED, ROLLED_BACK = "promoted", "kept", "refused", "rolled back"


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What a candidate must show."""

    margin: float = 0.0
    """The low end of the interval of the difference must be above it."""
    safety_tolerance: float = 0.01
    """No mean of NC, DAC or TTC may fall by more."""
    latency_budget_ms: float = 0.0
    """A scene may take as long, on the machine that registered it; 0: nobody set a budget."""
    fewest_logs: int = 3
    """Logs without which there is no interval: of one log it is a point, which is above any margin."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A candidate beside the champion."""

    scored: int
    expected: int
    score: float
    champion_score: float
    """NaN where there is no champion."""
    difference: Interval | None
    """Candidate − champion, by log; None where there is nothing to compare."""
    safety: Mapping[str, float]
    """Sub-score → candidate − champion."""


LARGEST = 1 + 1e-6
"""No score of any metric that a gate compares is larger, or below its negative."""


def compare(
    candidate: Sequence[Mapping[str, Any]],
    champion: Sequence[Mapping[str, Any]] | None,
    expected: int,
    safety: Sequence[str] = SAFETY,
) -> Comparison:
    """Rows with scene_token, log_name, valid, score and the sub-scores `safety`, as of `pdm_scores`
    of one metric and split. A row with a number that is no score counts as not scored: no
    comparison with NaN is ever true, so a fall of safety would pass. Raises ValueError when the
    champion was not scored on the very scenes of the candidate.
    """

    def scored(rows: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
        kept = (row for row in rows if row["valid"])
        return {r["scene_token"]: r for r in kept if _is_score(r, ("score", *safety))}

    ours = scored(candidate)
    score = float(np.mean([row["score"] for row in ours.values()])) if ours else math.nan
    if champion is None or not ours or len(ours) < expected:
        return Comparison(len(ours), expected, score, math.nan, None, {})
    theirs = scored(champion)
    if missing := sorted(set(ours) ^ set(theirs)):
        raise ValueError(
            f"{len(missing)} scenes (first {missing[0]}) were scored of one of candidate and"
            " champion alone; score both on the same scenes"
        )
    tokens = sorted(ours)

    def column(rows: Mapping[str, Mapping[str, Any]], name: str) -> np.ndarray:
        return np.array([rows[token][name] for token in tokens], np.float64)

    logs = np.array([ours[token]["log_name"] for token in tokens])
    changes = {n: float(np.mean(column(ours, n) - column(theirs, n))) for n in safety}
    before = column(theirs, "score")
    difference = paired_difference(column(ours, "score"), before, logs)
    return Comparison(len(ours), expected, score, float(before.mean()), difference, changes)


def _is_score(row: Mapping[str, Any], names: Sequence[str]) -> bool:
    """NaN is in no range."""
    return all(row[name] is not None and abs(row[name]) <= LARGEST for name in names)


def decide(
    found: Comparison, rules: Rules, *, same: bool = False, latency_ms: float = math.nan
) -> tuple[str, str]:
    """(decision, the rule that decided).

    Args:
        same: the candidate's weights are the champion's.
        latency_ms: what the candidate takes for a scene; NaN: nobody measured it.
    """
    if not 0 < found.expected == found.scored or not math.isfinite(found.score):
        return REFUSED, (
            f"scored {found.scored} of {found.expected} scenes; a mean over an incomplete split"
            " proves nothing"
        )
    if same:
        return KEPT, "its weights are those of the champion"
    if slow := _too_slow(latency_ms, rules.latency_budget_ms):
        return REFUSED, slow
    if found.difference is None:
        return PROMOTED, "there was no champion"
    if found.difference.groups < rules.fewest_logs:
        return REFUSED, (
            f"{found.difference.groups} held-out logs give no interval; a comparison needs"
            f" {rules.fewest_logs}"
        )
    told = f"difference {found.difference.mean:+.4f}, 95 % by log"
    told += f" {found.difference.low:+.4f} to {found.difference.high:+.4f}"
    fallen = {n: d for n, d in found.safety.items() if d < -rules.safety_tolerance}
    if fallen:
        named = ", ".join(f"{short(name)} {by:+.3f}" for name, by in fallen.items())
        return REFUSED, f"{named}: falls by more than {rules.safety_tolerance:g}; {told}"
    if found.difference.low > rules.margin:
        return PROMOTED, f"{told}, all above {rules.margin:g}"
    return REFUSED, f"{told}, not all above {rules.margin:g}"


def _too_slow(latency_ms: float, budget_ms: float) -> str:
    """Why a latency is not within its budget; "" when it is, or nobody set one."""
    if not budget_ms or latency_ms <= budget_ms:
        return ""
    if math.isnan(latency_ms):
        return f"its latency was not measured; the budget is {budget_ms:g} ms a scene"
    return f"it takes {latency_ms:.0f} ms a scene; the budget is {budget_ms:g} ms"


def best_champion(scores: Mapping[str, float]) -> str:
    """Planner whose champion scores most; "" when none has a score. Equal scores: the first name."""
    known = {name: score for name, score in scores.items() if math.isfinite(score)}
    return min(known, key=lambda name: (-known[name], name)) if known else ""


def champion_before(rows: Sequence[Mapping[str, Any]], now: str) -> str:
    """Version that held the alias before `now`, by the rows of `releases` of one model; "" if
    none. Versions that were rolled back are passed over.
    """
    ordered = sorted(rows, key=lambda row: row["decided_us"])
    held = [row["champion"] for row in ordered if row["champion"]]
    bad = {row["version"] for row in ordered if row["decision"] == ROLLED_BACK} | {now}
    return next((version for version in reversed(held) if version not in bad), "")
