"""What staged scenes do while they run: a car cuts in, a lead brakes, somebody steps out."""

from __future__ import annotations

from dataclasses import dataclass, replace

from latentvla_core.types import Vehicle
from latentvla_core.world.actors.driving import Driver
from latentvla_core.world.actors.traffic import chain_along
from latentvla_core.world.scenario import Scenario
from latentvla_core.world.simulate import Simulation
from latentvla_core.world.streets.network import RoadNetwork

END_ROOM_M, START_ROOM_M = 35.0, 6.0
EGO_HALF_M = Vehicle.LENGTH_M / 2


@dataclass(slots=True)
class CutIn:
    """A car in the neighbouring lane comes over when it is a little ahead of the ego."""

    from_s: float
    gap_m: tuple[float, float]
    """Between its rear and the ego's front."""
    slow_to: float
    """Share of its speed that it slows down to after."""
    decel_mps2: float
    token: str = "cutter"
    fired: bool = False

    def __call__(self, simulation: Simulation) -> None:
        if self.fired:
            return
        cutter, ego = driver_of(simulation, self.token), simulation.driver
        network = simulation.network
        lane, target = cutter.lane(network), ego.lane(network)
        side = _side(network, lane.id, target.id)
        gap = cutter.s_m - ego.s_m - cutter.half_length_m - EGO_HALF_M
        self._keep_beside(simulation, cutter, ego, gap)
        if simulation.time_s < self.from_s:
            return
        room = target.length_m - cutter.s_m > END_ROOM_M and cutter.s_m > START_ROOM_M
        if not (side and room and self.gap_m[0] <= gap <= self.gap_m[1]):
            return
        route = simulation.route_ahead()
        simulation.traffic.change_lane(
            cutter, chain_along(network, target.id, route) or [target.id], side
        )
        cutter.style = replace(cutter.style, decel_mps2=self.decel_mps2)
        goal = self.slow_to * cutter.speed_mps
        cutter.slow_until = [(simulation.time_s + 0.5, simulation.time_s + 4.0, goal)]
        self.fired = True

    def _keep_beside(self, simulation: Simulation, cutter: Driver, ego: Driver, gap: float) -> None:
        """Until it comes over it drives no faster than holds the middle of the gap: alone it would
        be gone, for the ego starts slowly.
        """
        wish = max(ego.speed_mps + 0.8 * (sum(self.gap_m) / 2 - gap), 0.0)
        cutter.slow_until = [(simulation.time_s, simulation.time_s + 0.15, wish)]


@dataclass(slots=True)
class HardBrake:
    """A lead brakes to a stop when the ego is near behind it."""

    from_s: float
    token: str
    gap_m: tuple[float, float]
    decel_mps2: float
    fired: bool = False

    def __call__(self, simulation: Simulation) -> None:
        if self.fired or simulation.time_s < self.from_s:
            return
        lead, ego = driver_of(simulation, self.token), simulation.driver
        gap = lead.s_m - ego.s_m - lead.half_length_m - EGO_HALF_M
        same = lead.chain[lead.at] == ego.chain[ego.at]
        if same and lead.speed_mps > 4.0 and self.gap_m[0] <= gap <= self.gap_m[1]:
            lead.style = replace(lead.style, decel_mps2=self.decel_mps2)
            lead.slow_until = [(simulation.time_s, simulation.time_s + 5.0, 0.0)]
            self.fired = True


@dataclass(slots=True)
class StepOut:
    """Somebody at a kerb of the next crossing steps out, a given time before the ego is there."""

    from_s: float
    ahead_s: float
    fired: bool = False

    def __call__(self, simulation: Simulation) -> None:
        if self.fired or simulation.time_s < self.from_s:
            return
        ego, traffic = simulation.driver, simulation.traffic
        from latentvla_core.world.actors.driving import ahead

        for lane, start in ahead(ego, simulation.network, 55.0):
            for zebra in traffic.zebras.get(lane.id, ()):
                gap = start + zebra.enter_m - EGO_HALF_M
                if not 3.0 < gap <= max(ego.speed_mps, 3.0) * self.ahead_s:
                    continue
                self._send(simulation, zebra.crosswalk)
                if self.fired:
                    return

    def _send(self, simulation: Simulation, crosswalk: int) -> None:
        for walker in simulation.scenario.walkers:
            waiting = walker.phase in ("kerb", "to_kerb")
            if walker.crosswalk == crosswalk and waiting:
                walker.phase, walker.leg, walker.along_m = "crossing", 1, 0.0
                walker.speed_mps = 1.9
                self.fired = True
                return


def driver_of(simulation: Simulation, token: str) -> Driver:
    """The driver of a token."""
    return next(d for d in simulation.traffic.drivers if d.token == token)


def _side(network: RoadNetwork, lane_id: str, target_id: str) -> int:
    """1 where the target is the left neighbour of a lane, -1 the right one, 0 neither."""
    left, right = network.neighbours(lane_id)
    return 1 if target_id == left else -1 if target_id == right else 0


def leads_along(network: RoadNetwork, lane_id: str, route: tuple[str, ...]) -> bool:
    """Whether the next block of a route can be reached from a lane without leaving it."""
    if len(route) < 2:
        return True
    return any(network.lanes[c].block_id == route[1] for c in network.successors[lane_id])


def has_side(network: RoadNetwork, lane_id: str, route: tuple[str, ...]) -> bool:
    """Whether a neighbouring lane leads along the route too."""
    if network.lanes[lane_id].is_connector or len(route) < 3:
        return False
    return any(i and chain_along(network, i, route) for i in network.neighbours(lane_id))


def insert_driver(scenario: Scenario, driver: Driver | None, clear_m: float) -> None:
    """Adds a driver (None: nobody) and takes away who is too near to it or to the ego."""
    keep = [d for d in (scenario.ego, driver) if d is not None]
    scenario.drivers[:] = [
        d
        for d in scenario.drivers
        if d is scenario.ego
        or (
            all(d.chain[d.at] != k.chain[k.at] or abs(d.s_m - k.s_m) > clear_m for k in keep)
            and d.token != "lead"
        )
    ]
    if driver is not None:
        scenario.drivers.append(driver)
