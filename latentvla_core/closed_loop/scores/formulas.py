"""From terms to scores: CLS, DS, A, N. Plain formulas (docs/design, closed loop §2)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

WEIGHTS = {"time_to_collision": 5.0, "ego_progress": 5.0, "speed_limit": 4.0, "comfort": 2.0}
FACTORS = (
    "no_at_fault_collisions",
    "drivable_area",
    "driving_direction",
    "making_progress",
)
LEAST_PROGRESS = 0.2
COSTS = {
    "collision_person": 1.0,
    "collision_vehicle": 0.7,
    "collision_static": 0.6,
    "red_light": 0.4,
    "stop_sign": 0.25,
    "timeout": 0.4,
}
ENOUGH_PROGRESS, SHORT_ROUTE_M = 0.8, 5.0
NO_CRASH = 5.0


def ego_progress(driven_m: float, reference_m: float) -> float:
    """EP."""
    return min(1.0, max(driven_m, 0.1) / max(reference_m, 0.1))


def cls(terms: Mapping[str, float]) -> float:
    """nuPlan's closed-loop score: factors times the weighted mean."""
    mean = sum(w * terms[name] for name, w in WEIGHTS.items()) / sum(WEIGHTS.values())
    return math.prod(terms[name] for name in FACTORS) * mean


def route_completion(driven_m: float, goal_m: float, outside: float) -> float:
    """RC: share of the route times the share of metres on the route's lanes."""
    return min(1.0, max(driven_m, 0.0) / max(goal_m, 1e-6)) * (1.0 - outside)


def driving_score(completion: float, infractions: Iterable[str]) -> float:
    """DS, 0 … 100, of completion and the kinds of all infractions (CARLA 2.1)."""
    count = Counter(infractions)
    penalty = sum(cost * count[kind] for kind, cost in COSTS.items())
    return 100.0 * completion / (1.0 + penalty)


def alpasim(driven_m: float, reference_m: float, at_fault: bool, off_road: bool) -> float:
    """A."""
    if at_fault or off_road:
        return 0.0
    if reference_m < SHORT_ROUTE_M:
        return 1.0
    return min(1.0, max(driven_m, 0.0) / reference_m / ENOUGH_PROGRESS)


def neuro_ncap(impact_mps: float, reference_mps: float) -> float:
    """N, 0 … 5: `impact_mps` NaN = no crash; reference: the impact of who does not react."""
    if math.isnan(impact_mps):
        return NO_CRASH
    return 4.0 * max(0.0, 1.0 - impact_mps / max(reference_mps, 1e-6))
