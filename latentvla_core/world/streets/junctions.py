"""Right of way: who may enter which connector. A vehicle enters only with a grant, and conflicting
grants never coexist.
"""

from __future__ import annotations

from dataclasses import dataclass

from latentvla_core.world.actors.driving import STEP_S, Driver
from latentvla_core.world.state import LightColour
from latentvla_core.world.streets.network import LanePath, RoadNetwork

YIELD_S = 5.0
"""A vehicle with right of way that arrives sooner than this is waited for."""
PATIENCE_S = 14.0
"""After waiting so long, a smaller gap is taken."""


@dataclass(slots=True)
class Request:
    """A driver in front of a connector."""

    driver: Driver
    connector: LanePath
    gap_m: float
    """Front bumper to the end of the lane."""

    @property
    def eta_s(self) -> float:
        return max(self.gap_m, 0.0) / max(self.driver.speed_mps, 1.5)


class RightOfWay:
    """Grants connectors to drivers, once per step."""

    def __init__(self, network: RoadNetwork) -> None:
        self.network = network

    def update(
        self,
        drivers: list[Driver],
        colours: dict[str, LightColour],
        last_in_lane: dict[str, Driver],
    ) -> None:
        """Takes back what is used up or forbidden, then grants in order of rank and arrival."""
        requests = [r for d in drivers if (r := self._request(d)) is not None]
        for driver in drivers:
            self._release(driver)
        for request in requests:
            if request.driver.grants:
                self._obey_light(request, colours)
        holders = {c: d for d in drivers for c in d.grants}
        asking = [r for r in requests if self._asks(r, colours)]
        for request in sorted(asking, key=lambda r: (r.connector.rank, r.eta_s, r.driver.token)):
            self._decide(request, requests, holders, colours, last_in_lane)

    def _request(self, driver: Driver) -> Request | None:
        """The driver's next connector, if it is on a lane before one."""
        chain, at, lanes = driver.chain, driver.at, self.network.lanes
        if at + 1 >= len(chain):
            return None
        lane, following = lanes[chain[at]], lanes[chain[at + 1]]
        if lane.is_connector or not following.is_connector:
            return None
        gap = lane.length_m - driver.s_m - driver.half_length_m
        waiting = driver.speed_mps < 0.4 and gap < 6.0
        driver.waited_s = driver.waited_s + STEP_S if waiting else 0.0
        if waiting and gap < 3.0:
            driver.stopped_at = following.id
        return Request(driver, following, gap)

    def _release(self, driver: Driver) -> None:
        """Gives back connectors that lie wholly behind the driver, or that it no longer wants."""
        current = driver.lane(self.network)
        if not driver.grants and not current.is_connector:
            return
        inside = current.id if current.is_connector else ""
        leaving = (
            driver.chain[driver.at - 1]
            if driver.at and driver.s_m - driver.half_length_m < 0.3
            else ""
        )
        coming = driver.chain[driver.at + 1] if driver.at + 1 < len(driver.chain) else ""
        driver.grants &= {inside, leaving, coming}
        if inside:
            driver.grants.add(inside)

    def _obey_light(self, request: Request, colours: dict[str, LightColour]) -> None:
        """A grant is lost to yellow or red when the driver can still stop."""
        driver, colour = request.driver, colours.get(request.connector.id)
        if request.connector.id not in driver.grants or colour in (None, "green"):
            return
        braking = driver.speed_mps**2 / (2 * max(request.gap_m - 0.5, 0.1))
        if request.gap_m > 0.0 and braking < (3.2 if colour == "yellow" else 6.0):
            driver.grants.discard(request.connector.id)

    @staticmethod
    def _asks(request: Request, colours: dict[str, LightColour]) -> bool:
        """Whether a driver is near enough to want a grant that it lacks, and no light forbids it."""
        driver, connector = request.driver, request.connector
        horizon = driver.speed_mps**2 / 3.0 + 2.0 * driver.speed_mps + 8.0
        return (
            request.gap_m <= horizon
            and connector.id not in driver.grants
            and colours.get(connector.id, "green") == "green"
        )

    def _decide(
        self,
        request: Request,
        requests: list[Request],
        holders: dict[str, Driver],
        colours: dict[str, LightColour],
        last_in_lane: dict[str, Driver],
    ) -> None:
        driver, connector = request.driver, request.connector
        rivals = self.network.conflicts[connector.id]
        if any(c in holders and holders[c] is not driver for c in rivals):
            return
        control = self.network.junctions[connector.junction_id].control
        if control == "stop" and driver.stopped_at != connector.id:
            return
        if control != "stop" and any(
            self._goes_first(o, request, colours) for o in requests if o.connector.id in rivals
        ):
            return
        if not self._has_room(driver, connector, last_in_lane):
            return
        driver.grants.add(connector.id)
        for other in [c for c in holders if holders[c] is driver]:
            holders[other] = driver
        holders[connector.id] = driver

    def _goes_first(
        self, other: Request, request: Request, colours: dict[str, LightColour]
    ) -> bool:
        """Whether the other has right of way and comes too soon."""
        if other.connector.rank >= request.connector.rank or other.driver is request.driver:
            return False
        if colours.get(other.connector.id, "green") == "red" or other.driver.waited_s > 3.0:
            return False
        return other.eta_s < (YIELD_S if request.driver.waited_s < PATIENCE_S else 3.0)

    def _has_room(
        self, driver: Driver, connector: LanePath, last_in_lane: dict[str, Driver]
    ) -> bool:
        """Nobody may stop inside the junction: the lane behind it must have space."""
        last = last_in_lane.get(connector.to_lane)
        if last is None or last is driver:
            return True
        free = last.s_m - last.half_length_m + last.speed_mps * 2.0
        return free > 2 * driver.half_length_m + 3.0
