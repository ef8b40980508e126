"""The way the ego is to take, as one path: progress, command, and the centre line ahead."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentvla_core.geometry import arc_length, rotate
from latentvla_core.types import Array, Command
from latentvla_core.world.log_writer import COMMAND_REACH_M, COMMAND_SIDE_M
from latentvla_core.world.streets.network import RoadNetwork

BACK_M, AHEAD_M = 6.0, 12.0
"""A step moves the projection at most so far: a route that comes near itself is no short cut."""


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """A path to follow."""

    xy_m: Array
    """(n, 2)"""
    s_m: Array
    """(n,) arc length."""
    yaw_rad: Array
    """(n,) unwrapped."""
    lane_ids: tuple[str, ...]
    """Lanes and connectors that may be driven on: all lanes of the route's blocks."""

    @staticmethod
    def along(network: RoadNetwork, chain: list[str]) -> Route:
        """The centre lines of a chain of lanes, one after the other."""
        pieces = [network.lanes[i].path_m for i in chain]
        xy = np.concatenate(pieces)
        fresh = np.concatenate([[True], np.linalg.norm(np.diff(xy, axis=0), axis=1) > 1e-3])
        blocks = dict.fromkeys(network.lanes[i].block_id for i in chain)
        lanes = tuple(i for b in blocks for i in network.blocks[b].lane_ids)
        return Route.of(xy[fresh], lanes)

    @staticmethod
    def of(xy_m: Array, lane_ids: tuple[str, ...] = ()) -> Route:
        """A path through points (n, 2)."""
        s = arc_length(xy_m)
        tangent = np.gradient(xy_m, s, axis=0)
        yaw = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
        return Route(xy_m, s, yaw, lane_ids)

    @property
    def length_m(self) -> float:
        return float(self.s_m[-1])

    def project(self, xy_m: Array, near_m: float | None = None) -> float:
        """Arc length of the nearest point to (2,); given `near_m`, only a little around it."""
        first, last = 0, len(self.s_m) - 1
        if near_m is not None:
            first = max(int(np.searchsorted(self.s_m, near_m - BACK_M)) - 1, 0)
            last = min(int(np.searchsorted(self.s_m, near_m + AHEAD_M)) + 1, last)
        start, step = self.xy_m[first:last], np.diff(self.xy_m[first : last + 1], axis=0)
        length = self.s_m[first + 1 : last + 1] - self.s_m[first:last]
        t = np.clip(((xy_m - start) * step).sum(1) / length, 0.0, length)
        gap = ((start + step * (t / length)[:, None] - xy_m) ** 2).sum(1)
        i = int(gap.argmin())
        return float(self.s_m[first + i] + t[i])

    def positions(self, xy_m: Array) -> Array:
        """(T,) arc lengths of a driven path (T, 2), each near the one before."""
        out = np.empty(len(xy_m))
        at: float | None = None
        for k, point in enumerate(xy_m):
            at = self.project(point, at)
            out[k] = at
        return out

    def pose_at(self, s_m: Array | float) -> Array:
        """(..., 3) poses at arc lengths (...,)."""
        columns = (self.xy_m[:, 0], self.xy_m[:, 1], self.yaw_rad)
        return np.stack([np.interp(s_m, self.s_m, c) for c in columns], axis=-1)

    def command_at(self, s_m: float) -> Command:
        """Left, forward or right by where the path is 20 m ahead, as logs are labelled."""
        here, there = self.pose_at(np.array([s_m, s_m + COMMAND_REACH_M]))
        aside = float(rotate(there[:2] - here[:2], -here[2])[1])
        if aside >= COMMAND_SIDE_M:
            return Command.LEFT
        return Command.RIGHT if aside <= -COMMAND_SIDE_M else Command.FORWARD

    def ahead(self, s_m: float, back_m: float, reach_m: float) -> Array:
        """(C, 3) poses of the path around an arc length."""
        inside = (self.s_m >= s_m - back_m) & (self.s_m <= s_m + reach_m)
        return np.column_stack([self.xy_m[inside], self.yaw_rad[inside]])
