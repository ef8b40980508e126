"""Unrolling of the reference planner's proposals: an intelligent-driver model along a path (pdms.md
§13.3, §13.5).

Legend: L paths, P policies per path (B = L · P proposals), K steps of 0.1 s, A objects, R red
lights, N forecast maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import shapely

from latentvla_core.geometry import box_corners, wrap
from latentvla_core.pdms import backend
from latentvla_core.pdms.contacts.quads import quad_distances
from latentvla_core.pdms.observation import exterior_rings
from latentvla_core.pdms.pdm_closed.forecast import STEPS_PER_MAP, Forecast
from latentvla_core.pdms.pdm_closed.idm_kernels import advance_numba
from latentvla_core.pdms.pdm_closed.path import Path
from latentvla_core.pdms.roads.route import center_pose
from latentvla_core.pdms.state import DT_S, HALF_LENGTH_M, HALF_WIDTH_M, NUM_STEPS, State
from latentvla_core.types import Array, Pose, Vehicle

LATERAL_M = (0.0, -1.0, 1.0)
SPEED_FRACTIONS = (0.2, 0.4, 0.6, 0.8, 1.0)
TRAJECTORY_STEPS = 50
MIN_GAP_M = 1.0
HEADWAY_S = 1.5
MAX_ACCELERATION_MPS2 = 1.5
MAX_DECELERATION_MPS2 = 3.0
EXPONENT = 10


class Lead(IntEnum):
    """Columns of a leading object."""

    PROGRESS = 0
    SPEED = 1
    REAR = 2
    """Its length towards the ego, metres."""


@dataclass(frozen=True, slots=True)
class Corridor:
    """A path and what stands or moves in it."""

    path: Path
    inside: Array
    """(N, A) bool: the object's polygon meets the corridor."""
    progress_m: Array
    """(N, A) arc length of the polygon's centroid; NaN outside the corridor."""
    lights: Array
    """(R',) which red lights meet the corridor."""
    light_progress_m: Array
    """(R',)"""
    area: Any
    """shapely polygon."""


@dataclass(frozen=True, slots=True)
class Unrolled:
    """Proposals over time."""

    progress_m: Array
    """(B, K + 1)"""
    speed_mps: Array
    """(B, K + 1) may be negative."""
    lead: Array
    """(B, K + 1, 3) `Lead`."""
    poses: Array
    """(B, K + 1, 3)"""
    targets_mps: Array
    """(B,)"""
    corridors: tuple[Corridor, ...]
    """(L)"""
    forecast: Forecast


def unroll(
    paths: Sequence[Path], speed_limit_mps: float, ego_state: Array, expected: Forecast
) -> Unrolled:
    """41 steps of all proposals; they start on their path beside the ego, at its forward speed."""
    targets = np.array(SPEED_FRACTIONS) * speed_limit_mps
    starts = [float(path.project(ego_state[:2])) for path in paths]
    reach = targets.max() * TRAJECTORY_STEPS * DT_S
    corridors = tuple(
        corridor(path, s, reach, expected) for path, s in zip(paths, starts, strict=True)
    )
    runs = []
    for lane, start in zip(corridors, starts, strict=True):
        run = _start(
            lane.path, start, float(ego_state[State.VX]), targets, NUM_STEPS, expected, lane
        )
        _advance(run, 1, NUM_STEPS)
        runs.append(run)
    return Unrolled(
        progress_m=np.concatenate([run.progress_m for run in runs]),
        speed_mps=np.concatenate([run.speed_mps for run in runs]),
        lead=np.concatenate([run.lead for run in runs]),
        poses=np.concatenate([run.poses for run in runs]),
        targets_mps=np.tile(targets, len(paths)),
        corridors=corridors,
        forecast=expected,
    )


def extend(proposals: Unrolled, index: int) -> Array:
    """(51, 3) one proposal continued to 5 s, alone."""
    policies = len(SPEED_FRACTIONS)
    lane = proposals.corridors[index // policies]
    more = TRAJECTORY_STEPS - NUM_STEPS
    one = slice(index, index + 1)
    run = Unrolled(
        np.pad(proposals.progress_m[one], [(0, 0), (0, more)]),
        np.pad(proposals.speed_mps[one], [(0, 0), (0, more)]),
        np.pad(proposals.lead[one], [(0, 0), (0, more), (0, 0)]),
        np.pad(proposals.poses[one], [(0, 0), (0, more), (0, 0)]),
        proposals.targets_mps[one],
        (lane,),
        proposals.forecast,
    )
    _advance(run, NUM_STEPS + 1, TRAJECTORY_STEPS)
    return run.poses[0]


def corridor(path: Path, start_m: float, reach_m: float, expected: Forecast) -> Corridor:
    """The stretch of the path that the fastest policy can drive, as wide as the ego, and the
    objects in it.
    """
    line = path.piece(start_m, start_m + reach_m)
    area = shapely.buffer(line, HALF_WIDTH_M, quad_segs=16, cap_style="square")
    shapely.prepare(area)
    inside = _in_area(expected.corners, area) & ~expected.ignored
    along = np.full(inside.shape, np.nan)
    along[inside] = path.project(expected.corners[inside].mean(axis=-2))
    lights = np.flatnonzero(shapely.intersects(area, expected.lights) & ~expected.light_ignored)
    centroids = shapely.get_coordinates(shapely.centroid(expected.lights[lights]))
    return Corridor(path, inside, along, lights, path.project(centroids), area)


def _in_area(corners: Array, area: Any) -> Array:
    """(N, A) bool: boxes (N, A, 4, 2) that touch a prepared polygon; standing objects are tested
    once.
    """
    low, high = corners.min(axis=-2), corners.max(axis=-2)  # (N, A, 2)
    x0, y0, x1, y1 = area.bounds
    near = (low[..., 0] <= x1) & (high[..., 0] >= x0) & (low[..., 1] <= y1) & (high[..., 1] >= y0)
    inside = np.zeros(near.shape, bool)
    inside[near] = shapely.intersects(area, shapely.polygons(corners[near]))
    return inside


def _start(
    path: Path,
    start_m: float,
    speed_mps: float,
    targets: Array,
    steps: int,
    expected: Forecast,
    lane: Corridor,
) -> Unrolled:
    count = len(targets)
    progress = np.zeros((count, steps + 1))
    speed = np.zeros((count, steps + 1))
    progress[:, 0], speed[:, 0] = start_m, speed_mps
    poses = np.zeros((count, steps + 1, 3))
    poses[:, 0] = path.at(progress[:, 0])
    return Unrolled(
        progress, speed, np.zeros((count, steps + 1, 3)), poses, targets, (lane,), expected
    )


def _advance(run: Unrolled, first: int, last: int) -> None:
    """Fill steps first … last of the proposals of one path, in place."""
    while first <= last:
        if backend.active() == "numba":
            first = _advance_compiled(run, first, last)
        stop = first if backend.active() == "numba" else last
        _advance_numpy(run, first, min(stop, last))  # a step with a tie needs the tree
        first = stop + 1


def _advance_compiled(run: Unrolled, first: int, last: int) -> int:
    """`_advance_numpy` compiled. Returns the step to go on from: behind the last, or one where
    leads are equally far.
    """
    lane, expected = run.corridors[0], run.forecast
    rows, who = np.nonzero(lane.inside)
    who = np.ascontiguousarray(who)  # nonzero gives views; one memory layout means one compilation
    offsets = np.searchsorted(rows, np.arange(len(lane.inside) + 1))
    stopped = advance_numba(
        lane.path.poses,
        lane.path.progress_m,
        first,
        last,
        (who, np.ascontiguousarray(lane.progress_m[rows, who]), offsets),
        np.ascontiguousarray(expected.corners),
        np.column_stack([expected.objects.poses[:, Pose.YAW], expected.speed_mps]),
        (lane.light_progress_m, *exterior_rings(expected.lights[lane.lights], np.zeros(2))),
        run.targets_mps,
        (run.progress_m, run.speed_mps, run.lead, run.poses),
    )
    return stopped or last + 1


def _advance_numpy(run: Unrolled, first: int, last: int) -> None:
    path = run.corridors[0].path
    for k in range(first, last + 1):
        # The lead is looked up at even steps; step 1 copies the zeros of step 0 and brakes (pdms.md
        # §17, quirk 19).
        run.lead[:, k] = run.lead[:, k - 1] if k % STEPS_PER_MAP else leads(run, k)
        x, v = run.progress_m[:, k - 1], run.speed_mps[:, k - 1]
        run.progress_m[:, k] = x + DT_S * v
        run.speed_mps[:, k] = v + DT_S * acceleration(x, v, run.lead[:, k], run.targets_mps)
        run.poses[:, k] = path.at(run.progress_m[:, k])


def acceleration(progress_m: Array, speed_mps: Array, lead: Array, target_mps: Array) -> Array:
    """(B,) clipped acceleration of the intelligent-driver model."""
    closing = speed_mps * (speed_mps - lead[..., Lead.SPEED])
    comfort = 2 * np.sqrt(MAX_ACCELERATION_MPS2 * MAX_DECELERATION_MPS2)
    wanted = MIN_GAP_M + HEADWAY_S * speed_mps + closing / comfort
    gap = np.maximum(lead[..., Lead.PROGRESS] - progress_m - lead[..., Lead.REAR], MIN_GAP_M)
    free = (speed_mps / target_mps) ** EXPONENT
    return np.clip(
        MAX_ACCELERATION_MPS2 * (1 - free - (wanted / gap) ** 2),
        -MAX_DECELERATION_MPS2,
        MAX_ACCELERATION_MPS2,
    )


def leads(run: Unrolled, k: int) -> Array:
    """(B, 3) `Lead` of the proposals of one path at step k, seen from step k - 1.

    The devkit keeps one array for all proposals of a path: where one does not write speed (nothing
    or a red light ahead) or rear length (something ahead), it inherits what a proposal before it
    has written.
    """
    lane, expected = run.corridors[0], run.forecast
    who, distance = _ahead(run, k)
    own, num_objects = run.progress_m[:, k - 1], len(expected.speed_mps)
    out = np.zeros((len(own), 3))
    shared = np.zeros(3)
    for p, best in enumerate(distance.min(axis=1, initial=np.inf)):
        if np.isinf(best):
            shared[Lead.PROGRESS], shared[Lead.REAR] = lane.path.length_m, HALF_LENGTH_M
        else:
            shared[Lead.PROGRESS] = own[p] + best
            lead = _first(who[distance[p] == best], lane, expected, k // STEPS_PER_MAP)
            if lead < num_objects:
                turned = wrap(
                    expected.objects.poses[lead, Pose.YAW] - run.poses[p, k - 1, Pose.YAW]
                )
                shared[Lead.SPEED] = expected.speed_mps[lead] * np.cos(turned)
        out[p] = shared
    return out


def _ahead(run: Unrolled, k: int) -> tuple[Array, Array]:
    """What is in the corridor at step k: numbers (C,), lights after the objects, and distances (B,
    C), inf if not ahead.
    """
    lane, expected, index = run.corridors[0], run.forecast, k // STEPS_PER_MAP
    own = run.progress_m[:, k - 1, None]
    boxes = box_corners(
        center_pose(run.poses[:, k - 1]), Vehicle.LENGTH_M, Vehicle.WIDTH_M
    )  # (B, 4, 2)
    members = np.flatnonzero(lane.inside[index])
    objects = quad_distances(
        boxes, expected.corners[index, members], lane.progress_m[index, members] > own
    )
    if not len(lane.lights):
        return members, objects
    lights = shapely.distance(
        np.asarray(shapely.polygons(boxes))[:, None], expected.lights[lane.lights]
    )
    lights = np.where(lane.light_progress_m > own, lights, np.inf)
    return np.append(members, lane.lights + len(expected.speed_mps)), np.concatenate(
        [objects, lights], axis=1
    )


def _first(candidates: Array, lane: Corridor, expected: Forecast, index: int) -> int:
    """Of equally distant objects (they overlap the ego) the one the devkit's spatial tree returns
    first.
    """
    if len(candidates) > 1:
        order = expected.query_order(index, lane.area).tolist()
        candidates = np.array(
            sorted(candidates, key=lambda c: order.index(c) if c in order else len(order))
        )
    return int(candidates[0])
