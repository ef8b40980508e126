"""A road network: lanes, connectors, blocks, junctions, crossings. What the map files, the traffic
and the pictures share.

All coordinates are metres in the *world* frame of one town (the map's global frame minus
`RoadNetwork.origin_m`). A *block* is a lane group or a lane group connector of nuPlan
(navsim_format.md §7). Traffic keeps right.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from math import cos, sin
from typing import Any, Literal

import numpy as np

from latentvla_core.geometry import arc_length
from latentvla_core.types import Array

Turn = Literal["left", "straight", "right"]
Control = Literal["signal", "stop", "priority", "merge", "crossing"]
LANE_WIDTH_M = 3.6


@dataclass(frozen=True, slots=True, eq=False)
class LanePath:
    """One lane, or one connector through a junction, as a path to drive on."""

    id: str
    block_id: str
    index: int
    """Position inside its block, increasing left → right."""
    path_m: Array
    """(n, 2) centre line, about 1-2 m between vertices."""
    s_m: Array
    """(n,) arc length."""
    yaw_rad: Array
    """(n,) unwrapped direction of travel."""
    curvature_per_m: Array
    """(n,) smoothed; positive turns left."""
    outline_m: Array
    """(k, 2) polygon."""
    speed_limit_mps: float
    shoulder_m: float
    """Paved width right of the lane: 0 unless it is the rightmost one."""
    junction_id: str = ""
    """"" for a lane between junctions."""
    turn: Turn = "straight"
    from_lane: str = ""
    to_lane: str = ""
    rank: int = 0
    """Right of way inside its junction: a lower rank goes first."""
    length_m: float = field(init=False)
    middle_m: tuple[float, float] = field(init=False)
    """Of a circle around the path, and its radius: who is far away is known at once."""
    radius_m: float = field(init=False)
    is_connector: bool = field(init=False)
    _columns: tuple[list[float], ...] = field(init=False)
    """s, x, y, yaw as plain numbers: a look-up of one place is many times faster in them."""
    kept: dict[object, Any] = field(init=False)
    """What others have derived from this lane, by what it depends on."""
    peak_curvature_per_m: float = field(init=False)

    def __post_init__(self) -> None:
        """Scalars that every step asks for many times."""
        object.__setattr__(self, "length_m", float(self.s_m[-1]))
        middle = (self.path_m.min(axis=0) + self.path_m.max(axis=0)) / 2
        object.__setattr__(self, "middle_m", (float(middle[0]), float(middle[1])))
        radius = float(np.linalg.norm(self.path_m - middle, axis=1).max())
        object.__setattr__(self, "radius_m", radius)
        columns = (self.s_m, self.path_m[:, 0], self.path_m[:, 1], self.yaw_rad)
        object.__setattr__(self, "_columns", tuple(c.tolist() for c in columns))
        object.__setattr__(self, "kept", {})
        object.__setattr__(self, "is_connector", bool(self.junction_id))
        object.__setattr__(
            self, "peak_curvature_per_m", max(float(np.abs(self.curvature_per_m).max()), 1e-4)
        )

    def pose_at(self, s_m: float) -> tuple[float, float, float]:
        """(x, y, yaw) at arc length s; beyond the ends it goes on straight."""
        s, xs, ys, yaws = self._columns
        if s_m < 0 or s_m > s[-1]:
            end = 0 if s_m < 0 else -1
            over, yaw = s_m - s[end], yaws[end]
            return xs[end] + over * cos(yaw), ys[end] + over * sin(yaw), yaw
        k = bisect_right(s, s_m) - 1
        if k == len(s) - 1:
            return xs[-1], ys[-1], yaws[-1]
        t, span = s_m - s[k], s[k + 1] - s[k]
        return (  # np.interp, operation by operation
            (xs[k + 1] - xs[k]) / span * t + xs[k],
            (ys[k + 1] - ys[k]) / span * t + ys[k],
            (yaws[k + 1] - yaws[k]) / span * t + yaws[k],
        )

    @property
    def vertices_m(self) -> list[float]:
        """(n,) arc lengths as plain numbers."""
        return self._columns[0]

    def vertices_within(self, from_m: float, to_m: float) -> tuple[int, int]:
        """(first, last) of the vertices with from_m ≤ s < to_m, last excluded."""
        s = self._columns[0]
        return bisect_left(s, from_m), bisect_left(s, to_m)

    def _steps(self) -> tuple[Array, Array]:
        """(n - 1, 2) from vertex to vertex, and (n - 1,) how far; made once."""
        found = self.kept.get("steps")
        if found is None:
            step = np.diff(self.path_m, axis=0)
            found = (step, np.maximum(np.linalg.norm(step, axis=1), 1e-9))
            self.kept["steps"] = found
        return found

    def project(self, xy_m: Array) -> tuple[float, float]:
        """(arc length, signed lateral offset, left positive) of the nearest point of the centre
        line to (2,).
        """
        start, (step, length) = self.path_m[:-1], self._steps()
        along = np.einsum("ij,ij->i", xy_m - start, step) / length
        t = np.clip(along, 0.0, length)
        gap = xy_m - (start + step * (t / length)[:, None])
        i = int(np.argmin(np.einsum("ij,ij->i", gap, gap)))
        side = step[i, 0] * (xy_m[1] - start[i, 1]) - step[i, 1] * (xy_m[0] - start[i, 0])
        return float(self.s_m[i] + t[i]), float(np.copysign(np.linalg.norm(gap[i]), side))


@dataclass(frozen=True, slots=True)
class Block:
    """Parallel lanes (a lane group), or the connectors between two lane groups."""

    id: str
    lane_ids: tuple[str, ...]
    outline_m: Array
    from_block: str = ""
    """For a connector block: the group it leaves; "" for a lane group."""
    to_block: str = ""
    junction_id: str = ""
    """For a lane group: the junction at its end."""
    parking_m: float = 0.0
    """Width of the parking strip at its right side."""

    @property
    def is_connector(self) -> bool:
        return bool(self.from_block)


@dataclass(frozen=True, slots=True)
class Crosswalk:
    """A marked crossing. `path_m` runs from kerb to kerb."""

    id: str
    junction_id: str
    outline_m: Array
    path_m: Array
    """(2, 2)"""
    approach_m: Array
    """(2, 2) a point on the walkway before the first and after the second kerb."""
    group: int
    """Signal group of the traffic that it crosses; people walk when that is red. -1 = no signal."""


@dataclass(frozen=True, slots=True)
class Junction:
    """Where blocks meet: an intersection, a merge of lanes, or a crossing in the middle of a road."""

    id: str
    control: Control
    center_m: Array
    outline_m: Array
    kerbs_m: tuple[Array, ...]
    """(k, 2) each: corner kerbs from one arm to the next."""
    connector_ids: tuple[str, ...]
    group_of_block: dict[str, int]
    """Signal group (0 or 1) per incoming lane group."""
    stop_lines: dict[str, tuple[str, Array]]
    """Incoming lane group → (stop polygon id, (4, 2) outline)."""


@dataclass(frozen=True, slots=True)
class CarPark:
    """Paved area with bays beside a road."""

    id: str
    outline_m: Array
    bays: Array
    """(n, 3) poses of parked cars' centres."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """A painted line or a kerb."""

    id: str
    path_m: Array
    kind: Literal["lane", "centre", "edge"]


@dataclass(frozen=True, eq=False)
class RoadNetwork:
    """One town."""

    location: str
    origin_m: Array
    """(2,) integer UTM offset of the world frame."""
    lanes: dict[str, LanePath]
    """Lanes and connectors."""
    blocks: dict[str, Block]
    junctions: dict[str, Junction]
    crosswalks: tuple[Crosswalk, ...]
    walkways: tuple[tuple[str, Array, Array], ...]
    """(id, outline (k, 2), middle line (n, 2))."""
    carparks: tuple[CarPark, ...]
    boundaries: tuple[Boundary, ...]
    cones_m: tuple[Array, ...] = ()
    """(n, 3) poses of the cones of each roadworks."""

    @cached_property
    def successors(self) -> dict[str, tuple[str, ...]]:
        """Lane or connector → what one may drive onto next."""
        out: dict[str, list[str]] = {lane_id: [] for lane_id in self.lanes}
        for lane in self.lanes.values():
            if lane.is_connector:
                out[lane.from_lane].append(lane.id)
                out[lane.id].append(lane.to_lane)
        return {key: tuple(value) for key, value in out.items()}

    @cached_property
    def conflicts(self) -> dict[str, frozenset[str]]:
        """Connector → connectors of its junction that it crosses or merges with (not those from its
        own lane).
        """
        import shapely

        lanes = self.lanes
        shapes = {
            i: shapely.LineString(c.path_m).buffer(1.65, cap_style="flat")
            for i, c in lanes.items()
            if c.is_connector
        }
        found: dict[str, frozenset[str]] = {}
        for junction in self.junctions.values():
            for a in junction.connector_ids:
                rivals = (
                    b for b in junction.connector_ids if lanes[b].from_lane != lanes[a].from_lane
                )
                found[a] = frozenset(b for b in rivals if shapes[a].intersects(shapes[b]))
        return found

    def neighbours(self, lane_id: str) -> tuple[str | None, str | None]:
        """(left, right) lane in the same group."""
        lane = self.lanes[lane_id]
        ids = self.blocks[lane.block_id].lane_ids
        left = ids[lane.index - 1] if lane.index > 0 else None
        right = ids[lane.index + 1] if lane.index + 1 < len(ids) else None
        return (None, None) if lane.is_connector else (left, right)

    @cached_property
    def drive_lanes(self) -> tuple[str, ...]:
        """Ids of lanes that are no connectors."""
        return tuple(lane.id for lane in self.lanes.values() if not lane.is_connector)


def offset_path(path_m: Array, offset_m: float | Array) -> Array:
    """(n, 2) path moved sideways, left positive, vertex by vertex along its normals."""
    tangent = np.gradient(path_m, axis=0)
    tangent = tangent / np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    return path_m + normal * np.broadcast_to(offset_m, len(path_m))[:, None]


def resample(path_m: Array, step_m: float) -> Array:
    """(m, 2) the same polyline with even spacing of about `step_m` and at least 4 vertices."""
    s = arc_length(path_m)
    count = max(4, round(s[-1] / step_m) + 1)
    at = np.linspace(0.0, s[-1], count)
    return np.stack([np.interp(at, s, path_m[:, 0]), np.interp(at, s, path_m[:, 1])], axis=1)


def ribbon(path_m: Array, left_m: float, right_m: float) -> Array:
    """(2n, 2) outline of the strip between two offsets of a path (left positive)."""
    return np.concatenate([offset_path(path_m, left_m), offset_path(path_m, right_m)[::-1]])


def path_shape(path_m: Array) -> tuple[Array, Array, Array]:
    """Arc length, unwrapped yaw and smoothed curvature of a polyline (n, 2), each (n,)."""
    s = arc_length(path_m)
    tangent = np.gradient(path_m, s, axis=0)
    yaw = np.unwrap(np.arctan2(tangent[:, 1], tangent[:, 0]))
    curvature = np.gradient(yaw, s)
    padded = np.pad(curvature, 1, mode="edge")
    return s, yaw, (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
