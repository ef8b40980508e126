"""Where and how the ego drove on the road: DAC, DDC, SL, off-route metres, red lights, stop signs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from latentvla_core.closed_loop.scores.drive import Drive, StopLine, Value
from latentvla_core.geometry import wrap
from latentvla_core.pdms.state import State
from latentvla_core.types import Array, Vehicle

FRONT_M = Vehicle.LENGTH_M - Vehicle.REAR_AXLE_TO_REAR_M
WRONG_WAY_STEPS, WRONG_WAY_HALF_M, WRONG_WAY_ZERO_M = 10, 2.0, 6.0
SPEEDING_FREE_MPS = 2.23
LINE_HALF_M = 1.8
STOP_ZONE_M, STOPPED_MPS = 6.0, 0.5


def off_road(drive: Drive) -> Array:
    """(T,) bool: a corner is more than 0.3 m outside the drivable area."""
    xy = drive.points[:, :4].reshape(-1, 2)
    inside = shapely.contains_xy(drive.ground.forgiving, xy[:, 0], xy[:, 1])
    return np.asarray(~np.asarray(inside).reshape(-1, 4).all(axis=1), bool)


def drivable_area(off: Array, last: int) -> Value:
    """DAC over steps 0 … last."""
    return Value(float(not off[: last + 1].any()))


def against_flow_m(drive: Drive) -> Array:
    """(T,) metres driven against the flow of the lane in the second up to each step.

    Where lanes overlap, in a junction, the one that agrees best with the ego's heading is meant.
    """
    against = np.zeros(len(drive.states))
    for step in range(1, len(against)):
        rows = drive.flow_rows[step]
        if rows and drive.moved_m[step] > 1e-3:
            moved = drive.center[step] - drive.center[step - 1]
            against[step] = max(0.0, -max(_along(drive, r, step, moved) for r in rows))
    total = np.cumsum(against)
    before = np.concatenate([np.zeros(WRONG_WAY_STEPS), total[:-WRONG_WAY_STEPS]])
    return total - before[: len(total)]


def _along(drive: Drive, row: int, step: int, moved: Array) -> float:
    path = drive.ground.flows[row].path
    yaw = path.pose_at(path.project(drive.center[step]))[2]
    return float(moved @ np.array([np.cos(yaw), np.sin(yaw)]))


def driving_direction(against_m: Array, last: int) -> Value:
    """DDC over steps 0 … last: 1 | ½ | 0 for < 2 | 2–6 | > 6 m."""
    most = float(against_m[: last + 1].max())
    return Value(1.0 if most < WRONG_WAY_HALF_M else 0.5 if most <= WRONG_WAY_ZERO_M else 0.0)


def limits_mps(drive: Drive) -> Array:
    """(T,) speed limit where the ego is; off all lanes the last one holds, before any it is inf."""
    out, known = np.full(len(drive.states), np.inf), np.inf
    for step, rows in enumerate(drive.flow_rows):
        limits = [drive.ground.flows[r].limit_mps for r in rows]
        known = max((v for v in limits if np.isfinite(v)), default=known)
        out[step] = known
    return out


def speed_limit(speed_mps: Array, limit_mps: Array, last: int) -> Value:
    """SL over steps 0 … last: the speed above the limit, integrated, as a share of 2.23 m/s · T."""
    over = np.maximum(speed_mps[1 : last + 1] - limit_mps[1 : last + 1], 0.0)
    seconds = max(last, 1) * 0.1
    return Value(max(0.0, 1.0 - float(over.sum()) * 0.1 / (SPEEDING_FREE_MPS * seconds)))


def off_route_m(drive: Drive) -> Array:
    """(T,) metres driven up to each step with the centre in no lane of the route."""
    lanes = frozenset(drive.ground.route.lane_ids)
    ids = [{drive.ground.flows[r].id for r in rows} for rows in drive.flow_rows]
    outside = np.array([not (here & lanes) for here in ids], bool)
    return np.cumsum(np.where(outside, drive.moved_m, 0.0))


@dataclass(frozen=True, slots=True)
class Crossing:
    """The front bumper passed a stop line."""

    step: int
    line: StopLine
    stood: bool
    """It stood within 6 m before the line."""


def crossings(drive: Drive) -> list[Crossing]:
    """Stop lines passed in the direction of their lane, in order of time."""
    lines = drive.ground.stop_lines
    if not lines:
        return []
    xy = np.array([line.xy_m for line in lines])
    yaw = np.array([line.yaw_rad for line in lines])
    u = np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    heading = drive.states[:, State.YAW]
    ahead = np.stack([np.cos(heading), np.sin(heading)], axis=1)
    gap = (drive.states[:, None, :2] + FRONT_M * ahead[:, None]) - xy  # (T, S, 2)
    along = np.einsum("tsi,si->ts", gap, u)
    aside = np.abs(gap[..., 0] * u[:, 1] - gap[..., 1] * u[:, 0])
    turned = np.abs(wrap(heading[:, None] - yaw))
    passed = (along[:-1] <= 0) & (along[1:] > 0)
    passed &= (aside[1:] <= LINE_HALF_M) & (turned[1:] < np.pi / 2)
    found = []
    for step, k in zip(*np.nonzero(passed), strict=True):
        zone = (along[: step + 1, k] > -STOP_ZONE_M) & (aside[: step + 1, k] < 2 * LINE_HALF_M)
        slow = np.abs(drive.states[: step + 1, State.VX]) < STOPPED_MPS
        found.append(Crossing(int(step) + 1, lines[int(k)], bool((zone & slow).any())))
    return found


def red_light_runs(drive: Drive, found: list[Crossing]) -> list[Crossing]:
    """Crossings at red."""
    return [
        c for c in found if any(drive.lights[c.step].get(i) == "red" for i in c.line.connector_ids)
    ]


def stop_sign_runs(found: list[Crossing]) -> list[Crossing]:
    """Crossings at a stop sign without having stood."""
    return [c for c in found if c.line.control == "stop" and not c.stood]
