"""Traffic signal cycles: two groups of arms take turns, with yellow and an all-red gap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentvla_core.world.state import LightColour
from latentvla_core.world.streets.network import RoadNetwork

YELLOW_S = 3.0
ALL_RED_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SignalCycle:
    """green(0) · yellow · all red · green(1) · yellow · all red, for ever."""

    green_s: tuple[float, float] = (12.0, 10.0)
    offset_s: float = 0.0
    """Time into the cycle at t = 0."""

    @property
    def period_s(self) -> float:
        return sum(self.green_s) + 2 * (YELLOW_S + ALL_RED_S)

    def _since_green(self, group: int, time_s: float) -> float:
        start = 0.0 if group == 0 else self.green_s[0] + YELLOW_S + ALL_RED_S
        return (time_s + self.offset_s - start) % self.period_s

    def colour(self, group: int, time_s: float) -> LightColour:
        """What drivers of the group see at a time."""
        since = self._since_green(group, time_s)
        if since < self.green_s[group]:
            return "green"
        return "yellow" if since < self.green_s[group] + YELLOW_S else "red"

    def until_green_s(self, group: int, time_s: float) -> float:
        """Seconds until the group's next green begins; 0 while it is green."""
        since = self._since_green(group, time_s)
        return 0.0 if since < self.green_s[group] else self.period_s - since

    def turning_red_at(self, group: int, time_s: float) -> SignalCycle:
        """The same cycle, shifted so that the group's yellow ends (red begins) at the given time."""
        start = 0.0 if group == 0 else self.green_s[0] + YELLOW_S + ALL_RED_S
        red_at = start + self.green_s[group] + YELLOW_S
        return SignalCycle(green_s=self.green_s, offset_s=(red_at - time_s) % self.period_s)


def make_cycles(network: RoadNetwork, rng: np.random.Generator) -> dict[str, SignalCycle]:
    """A random cycle for every signalised junction, by junction id."""
    cycles = {}
    for junction in network.junctions.values():
        if junction.control == "signal":
            green = (float(rng.uniform(9, 14)), float(rng.uniform(8, 12)))
            cycles[junction.id] = SignalCycle(green_s=green, offset_s=float(rng.uniform(0, 35)))
    return cycles


def connector_colours(
    network: RoadNetwork, cycles: dict[str, SignalCycle], time_s: float
) -> dict[str, LightColour]:
    """Colour per lane connector id; connectors without a signal are absent."""
    colours: dict[str, LightColour] = {}
    for junction_id, cycle in cycles.items():
        junction = network.junctions[junction_id]
        shown: list[LightColour] = [cycle.colour(group, time_s) for group in (0, 1)]
        for connector_id in junction.connector_ids:
            block = network.lanes[network.lanes[connector_id].from_lane].block_id
            colours[connector_id] = shown[junction.group_of_block[block]]
    return colours
