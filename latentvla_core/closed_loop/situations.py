"""The situations that matter, and how a scene of each is staged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from latentvla_core.closed_loop.scene import Script
from latentvla_core.errors import SetupError
from latentvla_core.world.scenario import Kind, Scenario

Stager = Callable[[Scenario, np.random.Generator, float], Script | None]
"""(scenario, its luck, warm-up s) → what happens at every step, if anything does."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a set of scenes is about."""

    name: str
    kind: Kind
    """The world's own scenario it grows from."""
    stage: Stager | None = None
    is_dangerous: bool = False
    """Staged so that not reacting means a crash: for N alone."""


SITUATIONS = {
    s.name: s
    for s in (
        Situation("lead_brakes", "follow"),
        Situation("merge", "merge"),
        Situation("unprotected_turn", "turn_left"),
        Situation("red_light", "red_light"),
        Situation("crossing_pedestrian", "crossing"),
        Situation("bend", "curve"),
    )
}


def situation(name: str) -> Situation:
    """The situation of a name."""
    if name not in SITUATIONS:
        raise SetupError(f"situation {name!r} is unknown; choose one of {', '.join(SITUATIONS)}")
    return SITUATIONS[name]
