"""A scene to drive: everything follows from its spec."""

from __future__ import annotations

from collections import deque
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from zlib import crc32

import numpy as np

from latentvla_core.closed_loop.scenes.route import Route
from latentvla_core.closed_loop.scenes.situations import situation
from latentvla_core.closed_loop.scenes.spec import SceneSpec, Staged, Streams
from latentvla_core.closed_loop.scenes.town import Town, open_town
from latentvla_core.errors import DataError
from latentvla_core.world.actors.driving import STEP_S
from latentvla_core.world.actors.ego import EgoState
from latentvla_core.world.scenario import Kind, make_scenario
from latentvla_core.world.simulate import Simulation
from latentvla_core.world.streets.town import parked_actors

HISTORY_STEPS = 16
"""1.5 s at 10 Hz, and now."""


@dataclass(slots=True)
class Opened:
    """A scene at its first moment, ready to be driven once."""

    spec: SceneSpec
    town: Town
    simulation: Simulation
    route: Route
    staged: Staged
    past: list[EgoState]
    """The 16 states up to now, 0.1 s apart, now last."""


def open_scene(spec: SceneSpec) -> Opened:
    """The world of a spec after its warm-up, to be driven once. Raises DataError where a town has
    no such place.
    """
    kept = _warm(spec)
    shared = (kept.town, kept.route, kept.town.network, *kept.town.network.lanes.values())
    memo: dict[int, Any] = {id(thing): thing for thing in (*shared, kept.simulation.traffic.zebras)}
    memo |= {id(actor): actor for actor in kept.simulation.still}
    memo[id(kept.simulation.still)] = kept.simulation.still
    return deepcopy(kept, memo)


@lru_cache(maxsize=2)
def _warm(spec: SceneSpec) -> Opened:
    """Warmed up once; copies are driven."""
    town = open_town(spec.world_seed, spec.location, spec.layout)
    chosen = situation(spec.situation)
    rng = np.random.default_rng([spec.world_seed, 5, spec.seed, crc32(spec.situation.encode())])
    kind: Kind = chosen.kind
    scenario = make_scenario(
        town.network, kind, spec.style, rng, spec.traffic, warm_up_s=spec.warm_up_s
    )
    if scenario.kind != kind:
        raise DataError(f"town {spec.location} of seed {spec.world_seed} has no place for {kind}")
    staged = Staged(list(scenario.ego.chain))
    if chosen.stage:
        staged = chosen.stage(scenario, rng, spec.warm_up_s)
    route = Route.along(town.network, staged.chain)
    still = parked_actors(town.network, rng)
    simulation = Simulation(scenario, rng, still, luck=Streams(crc32(spec.token.encode())))
    simulation.human.keeps_lane_until_s = spec.warm_up_s + 1.0
    past = deque([simulation.ego], maxlen=HISTORY_STEPS)
    for _ in range(round(spec.warm_up_s / STEP_S)):
        if staged.script:
            staged.script(simulation)
        simulation.step(look=False)
        past.append(copied(simulation.ego))
    return Opened(spec, town, simulation, route, staged, list(past))


def copied(ego: EgoState) -> EgoState:
    """A state that later steps do not change."""
    return EgoState(ego.pose.copy(), ego.speed_mps, ego.accel_mps2, ego.steering_rad)
