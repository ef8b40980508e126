"""One recorded drive: a scenario is simulated, warmed up, and looked at twice a second."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from latentvla_core.geometry import box_corners
from latentvla_core.types import Array, Vehicle
from latentvla_core.world.actors.driving import STEP_S
from latentvla_core.world.log_writer import COMMAND_REACH_M, LIGHT_RANGE_M, Moment, yaw_rate
from latentvla_core.world.scenario import Kind, TrafficConfig, make_scenario
from latentvla_core.world.simulate import Simulation
from latentvla_core.world.state import Snapshot
from latentvla_core.world.streets.network import RoadNetwork
from latentvla_core.world.streets.town import parked_actors

STEPS_PER_FRAME = 5
ATTEMPTS = 12
LEAST_DRIVE_M = 30.0


@dataclass(frozen=True, slots=True)
class Recording:
    """The key frames of one drive."""

    network: RoadNetwork
    kind: Kind
    route: tuple[str, ...]
    """Blocks from the one at the first frame to well beyond the last."""
    moments: list[Moment]


def record(
    network: RoadNetwork,
    kind: Kind,
    style: str,
    traffic: TrafficConfig,
    seeds: list[int],
    warm_up_s: float,
    frames: int,
) -> Recording:
    """The first good drive of a deterministic series of attempts: the ego moves, hits nobody and
    keeps to its route.
    """
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([*seeds, attempt])
        recording = _drive(network, kind, style, traffic, rng, warm_up_s, frames)
        if recording is not None:
            return recording
    raise RuntimeError(
        f"no good {kind} drive in {network.location} in {ATTEMPTS} attempts; try another seed or less traffic"
    )


def _drive(
    network: RoadNetwork,
    kind: Kind,
    style: str,
    traffic: TrafficConfig,
    rng: np.random.Generator,
    warm_up_s: float,
    frames: int,
) -> Recording | None:
    scenario = make_scenario(network, kind, style, rng, traffic, warm_up_s)
    simulation = Simulation(scenario, rng, parked_actors(network, rng))
    for _ in range(round(warm_up_s / STEP_S)):
        simulation.step(look=False)
    simulation.seen = simulation.snapshot()
    route = simulation.route_ahead()
    moments = [_moment(simulation)]
    for _ in range(frames - 1):
        for step in range(STEPS_PER_FRAME):
            simulation.step(look=step == STEPS_PER_FRAME - 1)
        if _overlaps(simulation.seen):
            return None
        moments.append(_moment(simulation))
    poses = np.array([m.snapshot.ego_pose for m in moments])
    driven = float(np.linalg.norm(np.diff(poses[:, :2], axis=0), axis=1).sum())
    rest = simulation.route_ahead()
    left = sum(network.lanes[network.blocks[b].lane_ids[0]].length_m for b in rest[1:])
    on_route = simulation.driver.lane(network).block_id in route
    return (
        Recording(network, kind, route, moments)
        if driven > LEAST_DRIVE_M and left > 60.0 and on_route
        else None
    )


def _moment(simulation: Simulation) -> Moment:
    ego = simulation.ego
    return Moment(
        simulation.seen,
        ego.dynamics(),
        yaw_rate(ego.speed_mps, ego.steering_rad),
        simulation.lane_points_ahead((0.0, COMMAND_REACH_M)),
        _visible_lights(simulation),
    )


def _visible_lights(simulation: Simulation) -> tuple[str, ...]:
    network, at = simulation.network, simulation.ego.pose[:2]
    near = [
        j for j in network.junctions.values() if np.linalg.norm(j.center_m - at) < LIGHT_RANGE_M
    ]
    return tuple(c for j in near if j.control == "signal" for c in j.connector_ids)


def _overlaps(snapshot: Snapshot) -> bool:
    """Whether the ego touches anything."""
    if not snapshot.actors:
        return False
    ego = shapely.Polygon(ego_corners(snapshot.ego_pose))
    sizes = np.array([a.size_m for a in snapshot.actors])
    corners = box_corners(np.array([a.pose for a in snapshot.actors]), sizes[:, 0], sizes[:, 1])
    return bool(shapely.intersects(shapely.polygons(corners), ego).any())


def ego_corners(rear_pose: Array) -> Array:
    """(4, 2) corners of the ego's box from its rear axle pose."""
    yaw = rear_pose[2]
    center = rear_pose[:2] + Vehicle.REAR_AXLE_TO_CENTER_M * np.array([np.cos(yaw), np.sin(yaw)])
    return box_corners(np.array([[*center, yaw]]), Vehicle.LENGTH_M, Vehicle.WIDTH_M)[0]
