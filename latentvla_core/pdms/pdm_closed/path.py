"""A drivable path: the polyline a centre line is, asked by arc length (pdms.md §13.2, the path
object).
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import shapely

from latentvla_core.geometry import arc_length, wrap
from latentvla_core.types import Array, Pose

MIN_PROGRESS_M = 1e-5  # lower clip of interpolation, as the devkit's


class Path:
    """Poses (C, 3) joined by straight lines. Repeated vertices (where lanes meet) are allowed."""

    def __init__(self, poses: Array) -> None:
        self.poses = np.array(poses, np.float64)
        self.poses[:, Pose.YAW] = np.unwrap(self.poses[:, Pose.YAW])
        self.progress_m = arc_length(self.poses[:, :2])  # (C,)

    @property
    def length_m(self) -> float:
        return float(self.progress_m[-1])

    @cached_property
    def line(self) -> Any:
        """shapely line string of the vertices."""
        line = shapely.LineString(self.poses[:, :2])
        shapely.prepare(line)
        return line

    def project(self, xy: Array) -> Array:
        """(...,) arc length of the point of the path nearest to points (..., 2), metres."""
        return shapely.line_locate_point(self.line, shapely.points(xy))

    def at(self, progress_m: Array) -> Array:
        """(..., 3) poses at arc lengths (...,), clipped to the path; a vertex belongs to the piece
        before it.
        """
        query = np.clip(progress_m, MIN_PROGRESS_M, self.length_m)
        high = np.clip(
            np.searchsorted(self.progress_m, query, side="left"), 1, len(self.progress_m) - 1
        )
        low = high - 1
        span = (self.progress_m[high] - self.progress_m[low])[..., None]
        with np.errstate(invalid="ignore", divide="ignore"):
            slope = (self.poses[high] - self.poses[low]) / span
            out = slope * (query - self.progress_m[low])[..., None] + self.poses[low]
        out[..., Pose.YAW] = wrap(out[..., Pose.YAW])
        return np.nan_to_num(
            out, nan=0.0, posinf=0.0, neginf=0.0
        )  # a zero-length piece hit exactly: devkit gives 0

    def shifted(self, left_m: float) -> Path:
        """The path with every vertex moved to the left of its heading; headings stay."""
        normal = self.poses[:, Pose.YAW] + np.pi / 2
        moved = self.poses.copy()
        moved[:, 0] += left_m * np.cos(normal)
        moved[:, 1] += left_m * np.sin(normal)
        moved[:, Pose.YAW] = wrap(moved[:, Pose.YAW])
        return Path(moved)

    def piece(self, start_m: float, end_m: float) -> Any:
        """shapely line of the vertices with progress in [start, end], or the exact sub-line if
        fewer than two.
        """
        start, end = np.clip([start_m, end_m], 0.0, self.length_m)
        inside = (self.progress_m >= start) & (self.progress_m <= end)
        if inside.sum() > 1:
            return shapely.LineString(self.poses[inside, :2])
        ends = self.at(np.array([start, end]))
        return shapely.LineString(ends[:, :2])
