"""What a log is about: the ego's start and route, its style, the traffic around it, and one event
that matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import Literal

import numpy as np

from latentvla_core.types import ObjectClass
from latentvla_core.world.actors.driving import (
    CYCLIST,
    STYLES,
    Driver,
    Style,
    extend_chain,
    size_of_ego,
)
from latentvla_core.world.actors.walkers import Walker, make_crosser, make_walkers
from latentvla_core.world.streets.lights import SignalCycle, make_cycles
from latentvla_core.world.streets.network import LanePath, RoadNetwork

Kind = Literal[
    "follow", "red_light", "turn_left", "turn_right", "merge", "crossing", "curve", "parked"
]
KINDS: tuple[Kind, ...] = (
    "red_light",
    "turn_left",
    "follow",
    "crossing",
    "turn_right",
    "curve",
    "merge",
    "parked",
)
BODIES = ((4.4, 1.8, 1.5), (4.8, 1.9, 1.65), (5.3, 2.0, 1.9), (6.8, 2.2, 2.7), (10.5, 2.5, 3.2))
BODY_SHARES = (0.4, 0.32, 0.16, 0.08, 0.04)
PAINTS = (
    (200, 30, 30),
    (30, 60, 160),
    (235, 235, 235),
    (25, 25, 28),
    (140, 145, 150),
    (190, 160, 60),
    (40, 110, 70),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrafficConfig:
    """How full the town is."""

    vehicles: int = 34
    bicycles: int = 5
    crossers_per_crosswalk: float = 0.8
    strollers: int = 14


@dataclass(slots=True)
class Scenario:
    """Everything a `Simulation` starts from."""

    kind: Kind
    network: RoadNetwork
    cycles: dict[str, SignalCycle]
    ego: Driver
    route: tuple[str, ...]
    """Blocks of the ego's chain, in order."""
    drivers: list[Driver]
    walkers: list[Walker]


def make_scenario(
    network: RoadNetwork,
    kind: Kind,
    style: str,
    rng: np.random.Generator,
    config: TrafficConfig,
    warm_up_s: float,
) -> Scenario:
    """A scenario whose event comes about 6 to 11 s after the warm-up."""
    target, kind = _target(network, kind, rng)
    lead_in = float(rng.uniform(5.0, 9.0) + warm_up_s) * 8.0
    chain = _chain_through(network, target, rng)
    start, s = _back_from(network, chain, chain.index(target), lead_in)
    ego = Driver(
        "ego", ObjectClass.EGO, size_of_ego(), (240, 240, 240), STYLES[style], chain[start:], 0, s
    )
    cycles = make_cycles(network, rng)
    drivers = [ego, *_populate(network, rng, config, ego)]
    walkers = make_walkers(network, rng, config.crossers_per_crosswalk, config.strollers)
    _stage(kind, network, target, ego, cycles, drivers, walkers, rng, warm_up_s)
    ego.speed_mps = 0.5 * network.lanes[ego.chain[0]].speed_limit_mps
    route = tuple(network.lanes[i].block_id for i in ego.chain)
    return Scenario(kind, network, cycles, ego, route, drivers, walkers)


def _target(network: RoadNetwork, kind: Kind, rng: np.random.Generator) -> tuple[str, Kind]:
    """A lane or connector where the kind can happen; another kind when this town has no such place."""
    start = KINDS.index(kind)
    for candidate in KINDS[start:] + KINDS[:start]:
        fit = [lane.id for lane in network.lanes.values() if _fits(network, lane, candidate)]
        if fit:
            return fit[int(rng.integers(len(fit)))], candidate
    raise ValueError(f"town {network.location} has no place for any of {KINDS}")


def _fits(network: RoadNetwork, lane: LanePath, kind: Kind) -> bool:
    control = network.junctions[lane.junction_id].control if lane.is_connector else ""
    if kind == "red_light":
        return control == "signal" and lane.turn == "straight"
    if kind in ("turn_left", "turn_right"):
        return control in ("signal", "priority") and lane.turn == kind.removeprefix("turn_")
    if kind == "merge":
        return (
            control == "merge"
            and sum(o.to_lane == lane.to_lane for o in network.lanes.values()) > 1
            and lane.rank > 0
        )
    if kind == "crossing":
        return control == "crossing"
    if lane.is_connector or lane.length_m < 60.0:
        return False
    if kind == "curve":
        return float(np.abs(lane.curvature_per_m).max()) > 0.012
    if kind == "parked":
        return lane.shoulder_m > 2.0
    return kind == "follow"


def _chain_through(network: RoadNetwork, target: str, rng: np.random.Generator) -> list[str]:
    """A chain with about 250 m before the target and 450 m after it that enters no block twice and
    few junctions twice.
    """
    before = {c: [] for c in network.lanes}
    for lane_id, options in network.successors.items():
        for option in options:
            before[option].append(lane_id)
    best: list[str] = []
    for _ in range(40):
        back = _walk(network, target, {k: tuple(v) for k, v in before.items()}, 250.0, rng, set())
        seen = {network.lanes[i].block_id for i in back} | {
            network.lanes[i].junction_id for i in back
        }
        forward = _walk(network, target, network.successors, 450.0, rng, seen)
        chain = [*back[::-1], *forward[1:]]
        if sum(network.lanes[i].length_m for i in chain) > sum(
            network.lanes[i].length_m for i in best
        ):
            best = chain
    return best


def _walk(
    network: RoadNetwork,
    start: str,
    links: dict[str, tuple[str, ...]],
    reach_m: float,
    rng: np.random.Generator,
    seen: set[str],
) -> list[str]:
    """Random walk over links from a lane, entering no block and no junction twice; may end early."""
    path, length = [start], 0.0
    seen = seen | {network.lanes[start].block_id, network.lanes[start].junction_id}
    while length < reach_m:
        options = [
            o
            for o in links[path[-1]]
            if not {network.lanes[o].block_id, network.lanes[o].junction_id or "-"} & seen
        ]
        if not options:
            break
        choice = network.lanes[options[int(rng.integers(len(options)))]]
        path.append(choice.id)
        seen |= {choice.block_id, choice.junction_id or "-"} - {"-"}
        length += choice.length_m
    while len(path) > 1 and network.lanes[path[-1]].is_connector:
        path.pop()
    return path


def _back_from(
    network: RoadNetwork, chain: list[str], index: int, distance_m: float
) -> tuple[int, float]:
    """(index, s) of the point on a lane about `distance_m` before the start of chain[index]."""
    left = distance_m
    for k in range(index - 1, -1, -1):
        lane = network.lanes[chain[k]]
        if lane.length_m > left or k == 0:
            s = max(lane.length_m - left, 8.0)
            return (k, s) if not lane.is_connector else (k + 1, 4.0)
        left -= lane.length_m
    return 0, min(8.0, network.lanes[chain[0]].length_m / 2)


def _populate(
    network: RoadNetwork, rng: np.random.Generator, config: TrafficConfig, ego: Driver
) -> list[Driver]:
    """Vehicles and bicycles on random lanes, at rest gaps from each other and from the ego; denser
    near the route.
    """
    near = set(ego.chain)
    blocks = {network.lanes[i].block_id for i in near}
    taken: dict[str, list[float]] = {ego.chain[0]: [ego.s_m]}
    lanes = network.drive_lanes
    weights = np.array(
        [
            network.lanes[i].length_m * (2.5 if network.lanes[i].block_id in blocks else 1.0)
            for i in lanes
        ]
    )
    drivers: list[Driver] = []
    for n in range(6 * (config.vehicles + config.bicycles)):
        if len(drivers) == config.vehicles + config.bicycles:
            break
        lane = network.lanes[lanes[int(rng.choice(len(lanes), p=weights / weights.sum()))]]
        s = float(rng.uniform(8.0, max(lane.length_m - 8.0, 9.0)))
        if lane.length_m < 20.0 or any(abs(s - other) < 19.0 for other in taken.get(lane.id, ())):
            continue
        bicycle = len(drivers) < config.bicycles
        if bicycle and lane.shoulder_m == 0.0:
            continue
        taken.setdefault(lane.id, []).append(s)
        drivers.append(_driver(f"v{n}", lane, s, bicycle, network, rng))
    return drivers


def _driver(
    token: str,
    lane: LanePath,
    s: float,
    bicycle: bool,
    network: RoadNetwork,
    rng: np.random.Generator,
) -> Driver:
    size = (1.8, 0.6, 1.75) if bicycle else BODIES[int(rng.choice(len(BODIES), p=BODY_SHARES))]
    style = CYCLIST if bicycle else list(STYLES.values())[int(rng.choice(3, p=(0.3, 0.5, 0.2)))]
    cls = ObjectClass.BICYCLE if bicycle else ObjectClass.VEHICLE
    driver = Driver(
        token, cls, size, PAINTS[int(rng.integers(len(PAINTS)))], style, [lane.id], 0, s
    )
    driver.speed_mps = min(
        0.7 * lane.speed_limit_mps,
        style.max_speed_mps,
        sqrt(2.4 * max(lane.length_m - s - 6, 0.1)),
    )
    driver.lateral_m = -1.6 if bicycle else 0.0
    driver.calm_s = float(rng.uniform(0, 8))
    extend_chain(driver, network, rng)
    return driver


def _stage(
    kind: Kind,
    network: RoadNetwork,
    target: str,
    ego: Driver,
    cycles: dict[str, SignalCycle],
    drivers: list[Driver],
    walkers: list[Walker],
    rng: np.random.Generator,
    warm_up_s: float,
) -> None:
    """Makes the event happen: a light that turns red, a lead that brakes, somebody who crosses."""
    lane = network.lanes[target]
    if kind == "red_light" and lane.is_connector:
        group = network.junctions[lane.junction_id].group_of_block[
            network.lanes[lane.from_lane].block_id
        ]
        at = warm_up_s + float(rng.uniform(1.0, 6.5))
        cycles[lane.junction_id] = cycles[lane.junction_id].turning_red_at(group, at)
    if kind == "crossing":
        index = next(
            i for i, c in enumerate(network.crosswalks) if c.junction_id == lane.junction_id
        )
        walkers += [
            make_crosser(network.crosswalks[index], index, rng, f"w{len(walkers) + k}")
            for k in range(3)
        ]
    if kind == "follow":
        _add_lead(network, ego, drivers, rng, warm_up_s)


def _add_lead(
    network: RoadNetwork,
    ego: Driver,
    drivers: list[Driver],
    rng: np.random.Generator,
    warm_up_s: float,
) -> None:
    """A car in front of the ego that takes the same way and slows down twice."""
    lane = network.lanes[ego.chain[0]]
    s = ego.s_m + float(rng.uniform(17.0, 26.0))
    at = 0
    if s > lane.length_m:
        s, at = s - lane.length_m, 1
    ahead_id = ego.chain[at]
    drivers[:] = [
        d for d in drivers if d is ego or d.chain[d.at] != ahead_id or abs(d.s_m - s) > 16.0
    ]
    size, paint = BODIES[int(rng.integers(4))], PAINTS[int(rng.integers(len(PAINTS)))]
    style = Style(speed_factor=0.85, accel_mps2=1.3)
    lead = Driver(
        "lead", ObjectClass.VEHICLE, size, paint, style, list(ego.chain), at, s, 5.0, calm_s=1e9
    )
    first = warm_up_s + float(rng.uniform(3.0, 7.0))
    lead.slow_until = [(first, first + 2.5, 2.0), (first + 9.0, first + 11.0, 3.5)]
    drivers.append(lead)
