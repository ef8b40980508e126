"""`poses.csv` of a drive: read as people write it, and held against itself.

P rows: frame name, time stamp in seconds, x and y in metres, heading in radians, counter-clockwise
from the x axis. Excel's and pandas' dialects are read (byte order mark, UTF-16, semicolons or tabs,
decimal commas, blanks and capitals in the header). What cannot be true is refused with the likely
reason: units of time and length, a heading that does not fit the motion, jumps.
"""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

from latentvla_core.data.fields import near_miss
from latentvla_core.errors import DataError, DataFaults
from latentvla_core.types import Array, Pose

COLUMNS = ("frame", "timestamp_s", "x", "y", "heading")
POSES_FILE = "poses.csv"
LARGEST_B = 256_000_000
STEP_RANGE_S = (0.001, 20.0)
"""Steps between poses that somebody may have meant; others are a unit of time."""
TIME_UNITS = {"nanoseconds": 1e-9, "microseconds": 1e-6, "milliseconds": 1e-3}
LENGTH_UNITS = {"millimetres": 1e-3, "centimetres": 1e-2, "feet": 0.3048}
FASTEST_MPS = 90.0
"""Faster than any road car; a whole drive above it is a unit of length, one step a jump."""
MOVING_MPS = 2.0
"""Below it, noise of positions turns the direction of motion."""
HEADING_TOLERANCE_RAD = 0.6
"""Usual difference of heading and motion: a point ahead of the axle in a tight bend has 0.2."""
TURN_OVER_M, TURN_RAD, MIRRORED = 3.0, 0.3, -0.5
"""Turns are compared over this way; who turns less in all is not judged; 1 is a heading that follows
the positions, -1 one that mirrors them.
"""
_HINTS = {
    "qw": "heading = atan2(2 (qw qz + qx qy), 1 - 2 (qy² + qz²))",
    "yaw": "rename yaw to heading (radians, counter-clockwise from x)",
    "timestamp": "rename it to timestamp_s and write seconds",
}


class Poses(NamedTuple):
    """The rows of a file, as it has them."""

    names: list[str]
    times_s: Array
    """(P,) float64"""
    poses: Array
    """(P, 3) float64: x_m, y_m, yaw_rad."""


def read_poses(path: Path) -> Poses:
    """Rows of a file in its order. Raises DataError or DataFaults (all rows at once)."""
    header, rows = _table(_text(path), str(path))
    places = [_place(column, header, str(path)) for column in COLUMNS]
    faults: list[DataError] = []
    values = np.array(
        [[_number(row, i, at, header[at], path, faults) for at in places[1:]]
         for i, row in enumerate(rows)]
    ).reshape(-1, 4)  # fmt: skip
    if faults:
        raise DataFaults(faults)
    names = [row[places[0]].strip() if places[0] < len(row) else "" for row in rows]
    return Poses(names, values[:, 0], values[:, 1:])


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST_B:
            raise DataError(f"larger than {LARGEST_B:,} bytes; split the drive", file=str(path))
        data = path.read_bytes()
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff")
        return data.decode("utf-16" if wide else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"not a readable CSV ({error})", file=str(path)) from error


def _table(text: str, file: str) -> tuple[list[str], list[list[str]]]:
    """The header in lower case without blanks, and the rows; decimal commas become points."""
    first = text.split("\n", 1)[0]
    mark = max((",", ";", "\t"), key=first.count)
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=mark) if any(row)]
    except csv.Error as error:
        raise DataError(f"not a readable CSV ({error})", file=file) from error
    if not rows:
        return [], []
    if mark != ",":
        rows[1:] = [[value.replace(",", ".") for value in row] for row in rows[1:]]
    return [name.strip().lower() for name in rows[0]], rows[1:]


def _place(column: str, header: list[str], file: str) -> int:
    if column in header:
        return header.index(column)
    have = ", ".join(repr(name)[1:-1] for name in header) or "no rows"
    hint = next((f"; {told}" for sign, told in _HINTS.items() if sign in header), "")
    raise DataError(
        f"no column {column!r} (it has {have:.300}){near_miss(column, header) or hint}", file=file
    )


def _number(
    row: list[str], index: int, at: int, column: str, path: Path, faults: list[DataError]
) -> float:
    text = row[at] if at < len(row) else ""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        where = f"{row[0]:.40} (line {index + 2})"
        rule = f"{text[:60]!r} is not a finite number"
        faults.append(DataError(rule, file=str(path), frame=where, field=column))
    return value


# ---- is it possible? -----------------------------------------------------------------------------


def check_times(times_s: Array, max_gap_s: float, file: str) -> None:
    """Raises when there are too few poses, when time stands still or runs in another unit, or when
    a gap is longer than `max_gap_s`.
    """
    if len(times_s) < 3:
        raise DataError(f"{len(times_s)} pose(s); at least 3 are needed for velocities", file=file)
    steps = np.diff(times_s)
    _check_unit_of_time(steps, file)
    faults = [
        DataError(
            f"{steps[i]:.3f} s after the row before; time must increase",
            file=file, frame=f"line {i + 3}",
        )
        for i in np.flatnonzero(steps <= 0)
    ]  # fmt: skip
    faults += [
        DataError(
            f"{steps[i]:.2f} s without a pose; at most {max_gap_s} s are interpolated. Split the"
            " sequence there, or raise max_pose_gap_s in sequence.yaml",
            file=file, frame=f"line {i + 3}",
        )
        for i in np.flatnonzero(steps > max_gap_s)
    ]  # fmt: skip
    if faults:
        raise DataFaults(faults)


def _check_unit_of_time(steps: Array, file: str) -> None:
    usual = float(np.median(np.abs(steps)))
    if not usual or STEP_RANGE_S[0] <= usual <= STEP_RANGE_S[1]:
        return
    fits = [unit for unit, factor in TIME_UNITS.items() if 0.004 <= usual * factor <= 2.0]
    likely = f"looks like {fits[0]}" if fits else "is in another unit"
    remedy = f"; divide by {1 / TIME_UNITS[fits[0]]:.0f}" if fits else "; write seconds"
    rule = f"usual step between poses is {usual:.3g} s: timestamp_s {likely}{remedy}"
    raise DataError(rule, file=file, field="timestamp_s")


def check_motion(times_s: Array, poses: Array, file: str, *, heading: bool = True) -> None:
    """Raises when positions jump or are in another unit, or when the heading does not fit the
    motion (`heading` False: not asked, as for a drive in reverse).
    """
    steps_m = np.hypot(*np.diff(poses[:, :2], axis=0).T)
    speeds = steps_m / np.diff(times_s)
    _check_speeds(speeds, file)
    if heading:
        _check_heading(poses, speeds, steps_m, file)


def _check_speeds(speeds: Array, file: str) -> None:
    moving = speeds[speeds > 0]
    usual = float(np.median(moving)) if len(moving) else 0.0
    if usual > FASTEST_MPS:
        fits = [unit for unit, factor in LENGTH_UNITS.items() if usual * factor <= 45.0]
        likely = f"looks like {fits[-1]}" if fits else "is in another unit"
        rule = f"usual speed is {usual:.0f} m/s: x, y {likely}; write metres"
        raise DataError(rule, file=file, field="x, y")
    jumps = np.flatnonzero(speeds > FASTEST_MPS)
    if len(jumps):
        raise DataFaults([
            DataError(
                f"{speeds[i]:.0f} m/s since the row before: the position jumps; split the sequence"
                " there, or smooth it",
                file=file, frame=f"line {i + 3}", field="x, y",
            )
            for i in jumps
        ])  # fmt: skip


def _check_heading(poses: Array, speeds: Array, steps_m: Array, file: str) -> None:
    """Direction of motion against heading, over the steps of a car that clearly moves."""
    chosen = (speeds > MOVING_MPS) & (steps_m > 0.02)
    if chosen.sum() < 3 or steps_m[chosen].sum() < 5.0:
        return
    moved = np.diff(poses[:, :2], axis=0)[chosen]
    direction = np.arctan2(moved[:, 1], moved[:, 0])
    middle = ((poses[1:] + poses[:-1]) / 2)[chosen, Pose.YAW]
    middle = np.where(  # headings that cross ±180° have no mean
        np.abs(np.diff(poses[:, Pose.YAW])[chosen]) > np.pi, poses[1:][chosen, Pose.YAW], middle
    )
    if _off(direction, middle) <= HEADING_TOLERANCE_RAD:
        _check_turns(direction, middle, steps_m[chosen], file)
        return
    readings = {
        "degrees; write radians": np.radians(middle),
        "compass degrees; write radians(90 - heading)": np.pi / 2 - np.radians(middle),
        "a compass angle; write pi / 2 - heading": np.pi / 2 - middle,
        "clockwise; change its sign": -middle,
        "measured from the y axis; add pi / 2": middle + np.pi / 2,
        "turned by -90 degrees; subtract pi / 2": middle - np.pi / 2,
        "that of a car driving backwards; if it does, set heading_checked: false in sequence.yaml":
            middle + np.pi,
    }  # fmt: skip
    best = min(readings, key=lambda name: _off(direction, readings[name]))
    off = np.degrees(_off(direction, middle))
    likely = (
        f"it looks like {best}" if _off(direction, readings[best]) <= HEADING_TOLERANCE_RAD
        else "check axes (x forward, y left) and units (radians)"
    )  # fmt: skip
    rule = f"heading is {off:.0f} degrees off the direction of motion: {likely}"
    raise DataError(rule, file=file, field="heading")


def _check_turns(direction: Array, heading: Array, steps_m: Array, file: str) -> None:
    """A mirrored axis is near the truth on a road that bends little, but turns the other way."""
    far = np.flatnonzero(np.diff(np.cumsum(steps_m) // TURN_OVER_M, prepend=-1.0))
    one, other = (np.diff(np.unwrap(angles)[far]) for angles in (direction, heading))
    if np.abs(other).sum() < TURN_RAD or (one @ other) / (other @ other) > MIRRORED:
        return
    raise DataError(
        "heading turns right where the positions turn left: it looks clockwise, or y points to the"
        " right; change the sign of heading, or of y",
        file=file, field="heading",
    )  # fmt: skip


def _off(direction: Array, heading: Array) -> float:
    """Usual angle between two directions, radians."""
    return float(np.median(np.abs(np.angle(np.exp(1j * (direction - heading))))))
