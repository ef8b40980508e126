"""PDM-Closed, the rule-based planner that progress is measured against (pdms.md §13.3 to §13.6).

Three paths (the centre line, 1 m to its right, 1 m to its left) × five speed policies give 15
proposals, each unrolled by an intelligent-driver model behind its leading object, driven by the
tracker, and scored against a forecast. The best one is the reference. v1.1 and v2.2 differ in the
scorer that chooses.

Legend: B proposals, index = path · 5 + policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentvla_core.pdms import aggregate
from latentvla_core.pdms.contacts.collisions import (
    TTC_LAST_STEP_V1,
    TTC_LAST_STEP_V2,
    no_at_fault_collisions,
    time_to_collision,
)
from latentvla_core.pdms.motion.comfort import comfort_v1
from latentvla_core.pdms.motion.tracker import simulate
from latentvla_core.pdms.observation import Detections
from latentvla_core.pdms.pdm_closed.forecast import Forecast, forecast
from latentvla_core.pdms.pdm_closed.idm import LATERAL_M, Unrolled, extend, unroll
from latentvla_core.pdms.pdm_closed.path import Path
from latentvla_core.pdms.roads import progress, road
from latentvla_core.pdms.state import Motion, RoadPolygons, ego_motion
from latentvla_core.types import Array

FALLBACK_SPEED_MPS = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerScene:
    """What the planner knows, in global coordinates.

    Several choices of the planner hang on the last bits of global coordinates: policies whose
    progress is the same but for rounding, and the end cap of a corridor that ends on two vertices
    1e-9 m apart (where lanes meet). Local coordinates would be more exact, and choose differently.
    """

    ego_state: Array
    """(11,)"""
    origin_m: Array
    """(2,) what is taken off for the geometry that needs no such care."""
    objects: Detections
    """Of the current frame."""
    centerline: Array
    """(C, 3)"""
    speed_limit_mps: float
    """Of the starting lane; NaN = unknown."""
    red_lights: Mapping[str, Any]
    """Connectors of the corrected route that are red now: id → shapely polygon."""
    roads: RoadPolygons
    """Drivable map, minus origin."""


@dataclass(frozen=True, slots=True)
class Reference:
    """The planner's result, with what led to it."""

    poses_v1: Array
    """(51, 3) the trajectory that the v1.1 scorer chooses."""
    poses_v2: Array
    """(51, 3) the one that the v2.2 scorer chooses."""
    best_v1: int
    best_v2: int
    scores_v1: Array
    """(15,)"""
    scores_v2: Array
    """(15,)"""
    proposals: Unrolled
    """The three paths' proposals, each with 41 steps."""
    states: Array
    """(15, 41, 11) driven."""
    ignored: tuple[str, ...]
    """Tokens that overlap the ego now."""


def plan_reference(scene: PlannerScene) -> Reference:
    """Unroll, drive and score the 15 proposals; continue the best of each metric to 5 s."""
    center = Path(scene.centerline)
    paths = [center if left == 0 else center.shifted(left) for left in LATERAL_M]
    limit = scene.speed_limit_mps if np.isfinite(scene.speed_limit_mps) else FALLBACK_SPEED_MPS
    expected = forecast(scene.ego_state, scene.objects, scene.red_lights)
    proposals = unroll(paths, limit, scene.ego_state, expected)
    states = simulate(proposals.poses, scene.ego_state)
    scores_v1, scores_v2 = _scores(scene, states, expected)
    best_v1, best_v2 = int(np.argmax(scores_v1)), int(np.argmax(scores_v2))
    chosen = {best: extend(proposals, best) for best in {best_v1, best_v2}}
    return Reference(
        poses_v1=chosen[best_v1],
        poses_v2=chosen[best_v2],
        best_v1=best_v1,
        best_v2=best_v2,
        scores_v1=scores_v1,
        scores_v2=scores_v2,
        proposals=proposals,
        states=states,
        ignored=expected.ignored_tokens,
    )


def _scores(scene: PlannerScene, states: Array, expected: Forecast) -> tuple[Array, Array]:
    """(15,) PDMS v1.1 and (15,) EPDMS v2.2 (without two-frame comfort, history comfort 1) of driven
    states.
    """
    driven = progress.raw_progress(states, scene.centerline)
    states = states - np.concatenate([scene.origin_m, np.zeros(states.shape[-1] - 2)])
    centerline = scene.centerline - [*scene.origin_m, 0.0]
    areas = road.ego_areas(states, road.index_roads(scene.roads))
    traffic = expected.obstacles(scene.origin_m)
    contact = no_at_fault_collisions(states, areas.risky, traffic).value
    risky = areas.risky | areas.rear_in_intersection
    inside = road.drivable_area_compliance(areas)
    shared = {"no_at_fault_collisions": contact, "drivable_area_compliance": inside}
    v1 = shared | {
        "ego_progress": progress.ego_progress_v1(
            driven, contact * inside, _best(driven * contact * inside)
        ),
        "time_to_collision_within_bound": time_to_collision(
            states, risky, traffic, last_step=TTC_LAST_STEP_V1
        ).value,
        "comfort": comfort_v1(states).value,
    }
    crossing = areas.center_in_intersection
    middle = ego_motion(states)[..., Motion.CENTER_X : Motion.COS]
    off_center = progress.distances(middle, centerline) > road.LANE_DISTANCE_M
    v2 = shared | {
        "driving_direction_compliance": road.driving_direction_compliance(
            states, areas.oncoming, crossing
        )[0],
        "traffic_light_compliance": road.traffic_light_compliance(
            states, expected.red_lights(scene.origin_m)
        ),
        "time_to_collision_within_bound": time_to_collision(
            states, risky, traffic, last_step=TTC_LAST_STEP_V2
        ).value,
        "lane_keeping": road.lane_keeping(off_center, crossing),
        "history_comfort": np.ones(len(states)),
        "two_frame_extended_comfort": np.full(len(states), np.nan),
    }
    product = np.prod([v2[name] for name in aggregate.MULTIPLIERS_V2], axis=0)
    v2["ego_progress"] = progress.ego_progress_v2(driven, _best(driven * product))
    return aggregate.pdms(v1), aggregate.epdms(v2)


def _best(masked_m: Array) -> Array:
    """(15,) the largest masked progress, once per proposal."""
    return np.full(len(masked_m), masked_m.max())
