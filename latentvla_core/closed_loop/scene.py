"""A scene to drive: which town, which situation, which luck. Everything follows from its spec."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any
from zlib import crc32

import numpy as np

from latentvla_core.closed_loop.route import Route
from latentvla_core.closed_loop.town import Town, open_town
from latentvla_core.errors import DataError
from latentvla_core.world.actors.driving import STEP_S
from latentvla_core.world.actors.ego import EgoState
from latentvla_core.world.scenario import Kind, TrafficConfig, make_scenario
from latentvla_core.world.simulate import Simulation
from latentvla_core.world.streets.layout import LayoutConfig
from latentvla_core.world.streets.town import parked_actors

STEPS_PER_PLAN = 5
HISTORY_STEPS = 16
"""1.5 s at 10 Hz, and now."""
FIRST_US = 1_700_000_000_000_000
Script = Callable[[Simulation], None]
"""What a staged scene does to the world before each step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneSpec:
    """Names one scene: the same spec is the same scene, on any machine."""

    situation: str
    """A name of `situations.SITUATIONS`."""
    world_seed: int
    """Of the towns."""
    location: str
    style: str = "normal"
    """Of the human."""
    seed: int = 0
    """Of everything that is drawn in the scene."""
    warm_up_s: float = 5.0
    """The human drives so long before the episode begins."""
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    traffic: TrafficConfig = field(default_factory=TrafficConfig)

    @property
    def token(self) -> str:
        """A readable name, and a key of tables."""
        return f"{self.situation}-{self.location}-{self.world_seed}-{self.seed}-{self.style}"

    def to_row(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Staged:
    """What a stager has done to a scenario."""

    chain: list[str]
    """Lanes that are the route."""
    script: Script | None = None
    met: str = ""
    """Token of an actor that the human must have passed or followed, or the scene is void."""


class Streams:
    """One stream of random numbers per actor, keyed by seed and token."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._made: dict[str, np.random.Generator] = {}

    def __call__(self, token: str) -> np.random.Generator:
        if token not in self._made:
            self._made[token] = np.random.default_rng([self.seed, 7, crc32(token.encode())])
        return self._made[token]


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
    """The world of a spec after its warm-up. Raises DataError where a town has no such place."""
    from latentvla_core.closed_loop.situations import situation

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
