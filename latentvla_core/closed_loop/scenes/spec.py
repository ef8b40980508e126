"""What names a scene, and the luck of everybody in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any
from zlib import crc32

import numpy as np

from latentvla_core.world.scenario import TrafficConfig
from latentvla_core.world.simulate import Simulation
from latentvla_core.world.streets.layout import LayoutConfig

STEPS_PER_PLAN = 5
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
        found = self._made.get(token)
        if found is None:
            found = np.random.default_rng([self.seed, 7, crc32(token.encode())])
            self._made[token] = found
        return found
