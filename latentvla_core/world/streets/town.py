"""The four towns of a world, one per nuPlan location, from a seed; and what stands in them."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from latentvla_core.geometry import arc_length
from latentvla_core.types import MAP_LOCATIONS, Array, ObjectClass
from latentvla_core.world.map_writer import ORIGINS_M
from latentvla_core.world.scenario import BODIES, BODY_SHARES, PAINTS
from latentvla_core.world.shapes.scenery import make_props
from latentvla_core.world.state import Actor, Prop
from latentvla_core.world.streets.assemble import SHOULDER_M, Assembler
from latentvla_core.world.streets.layout import LayoutConfig, make_layout
from latentvla_core.world.streets.network import LANE_WIDTH_M, Block, RoadNetwork, offset_path


@lru_cache(maxsize=8)
def make_town(seed: int, location: str, config: LayoutConfig) -> RoadNetwork:
    """The road network of a location; every second town is one column larger."""
    number = MAP_LOCATIONS.index(location)
    rng = np.random.default_rng([seed, 1, number])
    layout = make_layout(rng, replace(config, columns=config.columns + number % 2))
    assembler = Assembler(
        layout, location, np.array(ORIGINS_M[location]), first_id=1000 + 50_000 * number
    )
    return assembler.build(rng)


@lru_cache(maxsize=8)
def town_props(seed: int, location: str, config: LayoutConfig) -> tuple[Prop, ...]:
    """Buildings, trees and signs of a town."""
    rng = np.random.default_rng([seed, 4, MAP_LOCATIONS.index(location)])
    return make_props(make_town(seed, location, config), rng)


def parked_actors(network: RoadNetwork, rng: np.random.Generator) -> tuple[Actor, ...]:
    """Parked cars in strips and car parks, and the cones of roadworks."""
    poses = [
        p
        for block in network.blocks.values()
        if block.parking_m
        for p in _strip(network, block, rng)
    ]
    poses += [p for park in network.carparks for p in park.bays]
    cars = [_parked(f"p{k}", pose, rng) for k, pose in enumerate(poses)]
    cones = [_cone(f"c{k}", p) for k, p in enumerate(p for row in network.cones_m for p in row)]
    return (*cars, *cones)


def _strip(network: RoadNetwork, block: Block, rng: np.random.Generator) -> list[Array]:
    """Poses in the parking strip right of a lane group, away from its ends."""
    lane = network.lanes[block.lane_ids[-1]]
    line = offset_path(lane.path_m, -(LANE_WIDTH_M / 2 + SHOULDER_M + block.parking_m / 2 - 0.25))
    s = arc_length(line)
    at = np.arange(14.0, s[-1] - 16.0, 6.6)
    bend = np.abs(np.interp(at, lane.s_m, lane.curvature_per_m))
    at = at[(rng.random(len(at)) < 0.6) & (bend < 0.008)]
    yaw = np.interp(at, s, lane.yaw_rad)
    return list(np.stack([np.interp(at, s, line[:, 0]), np.interp(at, s, line[:, 1]), yaw], axis=1))


def _parked(token: str, pose: Array, rng: np.random.Generator) -> Actor:
    size = BODIES[int(rng.choice(3, p=np.array(BODY_SHARES[:3]) / sum(BODY_SHARES[:3])))]
    paint = PAINTS[int(rng.integers(len(PAINTS)))]
    return Actor(token, ObjectClass.VEHICLE, pose, size, np.zeros(2), False, "off", paint)


def _cone(token: str, pose: Array) -> Actor:
    size = (0.4, 0.4, 0.75)
    return Actor(
        token, ObjectClass.TRAFFIC_CONE, pose, size, np.zeros(2), False, "off", (240, 100, 20)
    )
