"""How good the plans of a run were (B): EPDMS without progress of every plan against what happened."""

from __future__ import annotations

import numpy as np

from latentvla_core.closed_loop.scenes.spec import FIRST_US
from latentvla_core.closed_loop.scores.drive import Drive
from latentvla_core.pdms import aggregate
from latentvla_core.pdms.contacts.collisions import (
    TTC_LAST_STEP_V2,
    no_at_fault_collisions,
    time_to_collision,
)
from latentvla_core.pdms.motion.comfort import comfort_v2, two_frame_comfort
from latentvla_core.pdms.motion.tracker import reference_states, simulate
from latentvla_core.pdms.roads import progress, road
from latentvla_core.pdms.state import NUM_STEPS, Motion, Obstacles, RedLights, ego_motion
from latentvla_core.types import Array

WEIGHTS = {k: w for k, w in aggregate.WEIGHTS_V2.items() if k != "ego_progress"}
FAR_M = 90.0
HISTORY = 15


def plan_scores(drive: Drive, plans: dict[int, Array], last: int) -> tuple[Array, Array]:
    """(P,) steps of plan times with 4 s of run after them, (P,) EPDMS without EP of their plans."""
    steps = np.array(sorted(k for k in plans if k + NUM_STEPS <= last), np.int64)
    if not len(steps):
        return steps, np.zeros(0)
    driven = np.stack([_driven(drive.states[k], plans[k], k) for k in steps])
    motion = ego_motion(driven)
    index = road.index_roads(drive.ground.roads, motion=motion)
    areas = road.ego_areas(driven, index, motion=motion)
    center = motion[..., Motion.CENTER_X : Motion.COS]
    path = np.column_stack([drive.ground.route.xy_m, drive.ground.route.yaw_rad])
    off_center = progress.distances(center, path) > road.LANE_DISTANCE_M
    crossing = areas.center_in_intersection
    columns = {
        "drivable_area_compliance": road.drivable_area_compliance(areas),
        "driving_direction_compliance": road.driving_direction_compliance(
            driven, areas.oncoming, crossing, motion=motion
        )[0],
        "lane_keeping": road.lane_keeping(off_center, crossing),
        **_per_plan(drive, steps, driven, motion, areas),
    }
    return steps, aggregate.combine(columns, aggregate.MULTIPLIERS_V2, WEIGHTS)


def _driven(state: Array, plan: Array, step: int) -> Array:
    """(41, 11)"""
    return simulate(reference_states(plan, state, FIRST_US + step * 100_000), state)


def _per_plan(
    drive: Drive, steps: Array, driven: Array, motion: Array, areas: road.Areas
) -> dict[str, Array]:
    """Terms that need the traffic, the lights or the history of each plan's own time."""
    risky = areas.risky | areas.rear_in_intersection
    nc, ttc, tlc, hc = (np.ones(len(steps)) for _ in range(4))
    ec = np.full(len(steps), np.nan)
    for i, step in enumerate(steps):
        one = slice(i, i + 1)
        around = _obstacles(drive, int(step))
        nc[i] = no_at_fault_collisions(driven[one], areas.risky[one], around).value[0]
        ttc[i] = time_to_collision(
            driven[one], risky[one], around, last_step=TTC_LAST_STEP_V2, motion=motion[one]
        ).value[0]
        tlc[i] = road.traffic_light_compliance(driven[one], _red_lights(drive, int(step)))[0]
        past = drive.states[max(0, step - HISTORY) : max(0, step - 1)]
        hc[i] = comfort_v2(driven[i], past).value
        if i and steps[i] - steps[i - 1] == 5:
            ec[i] = two_frame_comfort(driven[i - 1], driven[i], 0.5)[0]
    return {
        "no_at_fault_collisions": nc,
        "time_to_collision_within_bound": ttc,
        "traffic_light_compliance": tlc,
        "history_comfort": hc,
        "two_frame_extended_comfort": ec,
    }


def _obstacles(drive: Drive, step: int) -> Obstacles:
    """What was within 90 m over the 4 s after a plan time, without what touched the ego then."""
    actors, window = drive.actors, slice(step, step + NUM_STEPS + 1)
    present = actors.present[window]
    gap = np.linalg.norm(actors.poses[step, :, :2] - drive.center[step], axis=-1)
    seen = present.any(axis=0) & ~(gap > FAR_M)
    who = np.flatnonzero(seen & ~(gap < 1.0))
    first = present[:, who].argmax(axis=0)
    speed = actors.speed_mps[window][:, who][first, np.arange(len(who))]
    corners = actors.corners[window][:, who]
    return Obstacles.of(corners, present[:, who], actors.classes[who], speed)


def _red_lights(drive: Drive, step: int) -> RedLights:
    """Connectors of the route that are red within the plan's 4 s."""
    rows = [
        (k, flow.id)
        for k, flow in enumerate(drive.ground.flows)
        if flow.id in drive.lights[step] and flow.id in drive.ground.route.lane_ids
    ]
    import shapely

    window = drive.lights[step : step + NUM_STEPS + 1]
    active = np.array([[light[i] == "red" for _, i in rows] for light in window], bool)
    active = active.reshape(len(window), len(rows))
    rings = [shapely.get_coordinates(drive.ground.flow_shapes[k])[:-1] for k, _ in rows]
    offsets = np.concatenate([[0], np.cumsum([len(r) for r in rings])]).astype(np.int64)
    return RedLights(np.concatenate([*rings, np.zeros((0, 2))]), offsets, active)
