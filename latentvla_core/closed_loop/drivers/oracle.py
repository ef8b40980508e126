"""What PDM-Closed may know: true objects, true lights, the map. Privileged by declaration."""

from __future__ import annotations

import numpy as np
import shapely

from latentvla_core.closed_loop.scenes.scene import Opened
from latentvla_core.closed_loop.steps import Moment
from latentvla_core.pdms.observation import Detections
from latentvla_core.pdms.pdm_closed.reference import PlannerScene
from latentvla_core.pdms.state import State
from latentvla_core.types import Array, Vehicle
from latentvla_core.world.state import Actor

BACK_M, REACH_M = 20.0, 160.0
FRONT_M = Vehicle.LENGTH_M - Vehicle.REAR_AXLE_TO_REAR_M
YELLOW_MPS2 = 3.2


def planner_scene(opened: Opened, state: Array, moment: Moment, at_m: float) -> PlannerScene:
    """The reference planner's scene at one step: ego `state` (11,) at `at_m` of the route."""
    network, lanes = opened.town.network, frozenset(opened.route.lane_ids)
    origin, roads = opened.town.polygons_near(state[:2], lanes)
    red = {
        i: shapely.Polygon(network.lanes[i].outline_m)
        for i, colour in moment.lights.items()
        if i in lanes and _must_stop(colour, opened, network.lanes[i].path_m[0], state, at_m)
    }
    near = [network.lanes[i] for i in opened.route.lane_ids]
    limit = min(near, key=lambda lane: abs(lane.project(state[:2])[1])).speed_limit_mps
    return PlannerScene(
        ego_state=state,
        origin_m=origin,
        objects=detections(moment.actors),
        centerline=opened.route.ahead(at_m, BACK_M, REACH_M),
        speed_limit_mps=limit,
        red_lights=red,
        roads=roads,
    )


def _must_stop(colour: str, opened: Opened, line_m: Array, state: Array, at_m: float) -> bool:
    """Red, or yellow where braking as the world's people do still stops before the line."""
    if colour != "yellow":
        return colour == "red"
    gap = opened.route.project(line_m) - at_m - FRONT_M
    return gap > 0 and state[State.VX] ** 2 / (2 * max(gap - 0.5, 0.1)) < YELLOW_MPS2


def detections(actors: tuple[Actor, ...]) -> Detections:
    """Actors as the scorer's objects, in the frame they are given in."""
    return Detections(
        tokens=tuple(a.token for a in actors),
        classes=np.array([a.cls for a in actors], np.int8),
        poses=np.array([a.pose for a in actors], float).reshape(-1, 3),
        sizes_m=np.array([a.size_m[:2] for a in actors], float).reshape(-1, 2),
        velocities_mps=np.array([a.velocity_mps for a in actors], float).reshape(-1, 2),
    )
