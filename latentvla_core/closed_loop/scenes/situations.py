"""The situations that matter, and how a scene of each is staged.

A stager changes the scenario before anybody moves, and may return a script: what happens at every
step. Scripts look at the ego's place and act when it comes near, whoever drives.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from latentvla_core.closed_loop.scenes.scripts import (
    END_ROOM_M,
    CutIn,
    HardBrake,
    StepOut,
    has_side,
    insert_driver,
    leads_along,
)
from latentvla_core.closed_loop.scenes.spec import Staged
from latentvla_core.errors import DataError, SetupError
from latentvla_core.types import ObjectClass
from latentvla_core.world.actors.driving import Driver, Style, extend_chain
from latentvla_core.world.actors.traffic import chain_along
from latentvla_core.world.scenario import BODIES, PAINTS, Kind, Scenario

Stager = Callable[[Scenario, np.random.Generator, float], Staged]
"""(scenario, its luck, warm-up s) → the chain that is the route, and a script if there is one."""
AHEAD_MPS = 8.0
"""About the speed of town traffic: seconds ahead become metres ahead."""


@dataclass(frozen=True, slots=True)
class Situation:
    """What a set of scenes is about."""

    name: str
    kind: Kind
    """The world's own scenario it grows from."""
    stage: Stager | None = None
    warm_up_s: float = 5.0
    is_dangerous: bool = False
    """Staged so that not reacting means a crash: for N alone."""


def stage_cut_in(scenario: Scenario, rng: np.random.Generator, warm_up_s: float) -> Staged:
    """A car beside the ego, a little ahead, that will come over and slow down."""
    return _cut_in(scenario, rng, warm_up_s, gap_m=(8.0, 20.0), slow_to=0.7, decel_mps2=2.0)


def stage_dangerous_cut_in(
    scenario: Scenario, rng: np.random.Generator, warm_up_s: float
) -> Staged:
    """The same, close in front, and it brakes to a stop."""
    return _cut_in(scenario, rng, warm_up_s, gap_m=(4.0, 11.0), slow_to=0.0, decel_mps2=4.0)


def _cut_in(
    scenario: Scenario,
    rng: np.random.Generator,
    warm_up_s: float,
    gap_m: tuple[float, float],
    slow_to: float,
    decel_mps2: float,
) -> Staged:
    network, ego = scenario.network, scenario.ego
    _start_beside(scenario, warm_up_s)
    lane = network.lanes[ego.chain[0]]
    beside = [i for i in network.neighbours(lane.id) if i]
    other = beside[int(rng.integers(len(beside)))]
    chain_of_other = chain_along(network, other, scenario.route) or [other]
    cutter = _car("cutter", rng, Style(speed_factor=1.0), chain_of_other)
    cutter.s_m, cutter.speed_mps = ego.s_m + float(rng.uniform(9.0, 15.0)), ego.speed_mps
    cutter.calm_s = 1e9
    insert_driver(scenario, cutter, clear_m=18.0)
    at = warm_up_s + float(rng.uniform(0.5, 3.0))
    return Staged(list(ego.chain), CutIn(at, gap_m, slow_to, decel_mps2))


def _start_beside(scenario: Scenario, warm_up_s: float) -> None:
    """The ego starts where its road has a second lane and room for what follows: where it is, or
    further along its route. Raises DataError where the route has no such lane.
    """
    network, ego = scenario.network, scenario.ego
    room_m = (warm_up_s + 3.0) * AHEAD_MPS + END_ROOM_M
    for k, lane_id in enumerate(ego.chain):
        lane, start_m = network.lanes[lane_id], ego.s_m if k == 0 else 8.0
        wide = not lane.is_connector and any(network.neighbours(lane_id))
        if wide and lane.length_m - start_m >= room_m:
            ego.chain, ego.at, ego.s_m = ego.chain[k:], 0, start_m
            scenario.route = scenario.route[k:]
            return
    raise DataError("no road of the route has a second lane that is long enough for a cut-in")


def stage_parked(scenario: Scenario, rng: np.random.Generator, warm_up_s: float) -> Staged:
    """A car stands in the ego's lane; another lane leads on."""
    network, chain = scenario.network, list(scenario.ego.chain)
    least = (warm_up_s + float(rng.uniform(4.0, 8.0))) * AHEAD_MPS
    start = -scenario.ego.s_m
    for k, lane_id in enumerate(chain):
        lane = network.lanes[lane_id]
        room = max(least - start, 40.0)
        rest = scenario.route[k:]
        if (
            start + lane.length_m > least
            and has_side(network, lane_id, rest)
            and room < lane.length_m - 35.0
        ):
            return _stand(scenario, rng, chain, k, room)
        start += lane.length_m
        if start > 170.0:
            break
    raise DataError("no lane of the route has room for a parked car and a way around it")


def _stand(
    scenario: Scenario, rng: np.random.Generator, chain: list[str], at: int, s_m: float
) -> Staged:
    still = Style(accel_mps2=1e-6)  # it never gets anywhere
    car = _car("stopped", rng, still, chain[at:])
    car.s_m, car.calm_s = s_m, 1e9
    insert_driver(scenario, car, clear_m=25.0)
    return Staged(chain, None, met=car.token)


def stage_lane_change(scenario: Scenario, rng: np.random.Generator, warm_up_s: float) -> Staged:
    """The ego starts in a lane that does not lead along its route."""
    network, ego = scenario.network, scenario.ego
    for k, lane_id in enumerate(ego.chain[:-2]):
        lane = network.lanes[lane_id]
        rest = scenario.route[k:]
        if lane.is_connector or lane.length_m < 85.0:
            continue
        wrong = [i for i in network.neighbours(lane_id) if i and not leads_along(network, i, rest)]
        if wrong:
            chain = list(ego.chain[k:])
            ego.chain, ego.at, ego.s_m = [wrong[int(rng.integers(len(wrong)))]], 0, 8.0
            extend_chain(ego, network, rng)
            scenario.route = rest
            insert_driver(scenario, None, clear_m=16.0)
            return Staged(chain, None)
    raise DataError("no lane of the route has a neighbour that leads elsewhere")


def stage_hard_brake(scenario: Scenario, rng: np.random.Generator, warm_up_s: float) -> Staged:
    """The lead brakes as hard as it can."""
    lead = next(d for d in scenario.drivers if d.token == "lead")
    lead.slow_until = []
    at = warm_up_s + float(rng.uniform(1.0, 5.0))
    return Staged(list(scenario.ego.chain), HardBrake(at, "lead", (5.0, 26.0), 5.0))


def stage_step_out(scenario: Scenario, rng: np.random.Generator, warm_up_s: float) -> Staged:
    """Somebody steps onto the crossing although the ego comes."""
    return Staged(list(scenario.ego.chain), StepOut(warm_up_s, float(rng.uniform(2.2, 3.0))))


def _car(token: str, rng: np.random.Generator, style: Style, chain: list[str]) -> Driver:
    size, paint = BODIES[int(rng.integers(3))], PAINTS[int(rng.integers(len(PAINTS)))]
    return Driver(token, ObjectClass.VEHICLE, size, paint, style, list(chain), 0, 0.0)


def stage_lead(scenario: Scenario, rng: np.random.Generator, warm_up_s: float) -> Staged:
    """The world's own lead, which slows down twice for no visible reason."""
    lead = next(d for d in scenario.drivers if d.token == "lead")
    lead.style = replace(lead.style, decel_mps2=2.4)
    return Staged(list(scenario.ego.chain), None, met=lead.token)


SITUATIONS = {
    s.name: s
    for s in (
        Situation("lead_brakes", "follow", stage_lead),
        Situation("cut_in", "follow", stage_cut_in, 3.0),
        Situation("merge", "merge"),
        Situation("unprotected_turn", "turn_left"),
        Situation("red_light", "red_light"),
        Situation("crossing_pedestrian", "crossing"),
        Situation("parked_in_lane", "curve", stage_parked),
        Situation("lane_change", "turn_left", stage_lane_change, 2.0),
        Situation("bend", "curve"),
        Situation("danger_lead", "follow", stage_hard_brake, is_dangerous=True),
        Situation("danger_cut_in", "follow", stage_dangerous_cut_in, 3.0, is_dangerous=True),
        Situation("danger_pedestrian", "crossing", stage_step_out, is_dangerous=True),
    )
}
USUAL = tuple(n for n, s in SITUATIONS.items() if not s.is_dangerous)
DANGEROUS = tuple(n for n, s in SITUATIONS.items() if s.is_dangerous)


def situation(name: str) -> Situation:
    """The situation of a name."""
    if name not in SITUATIONS:
        raise SetupError(f"situation {name!r} is unknown; choose one of {', '.join(SITUATIONS)}")
    return SITUATIONS[name]
