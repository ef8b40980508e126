"""Progress along the centre line, and the distance from it. Source: pdms.md §8.6, §8.9.

C vertices of the centre line, B proposals of one scene.
"""

from __future__ import annotations

import numpy as np

from latentvla_core.geometry import arc_length
from latentvla_core.pdms import backend
from latentvla_core.pdms.roads.progress_kernels import block_ranges, distances_numba, project_numba
from latentvla_core.pdms.state import Motion, ego_motion
from latentvla_core.types import Array

MIN_REFERENCE_M = 5.0
CHUNK = 2_000_000  # point-segment pairs at once in NumPy


def project(points: Array, line: Array) -> Array:
    """(...,) arc length, metres, of the point of the polyline (C, 2) nearest to points (..., 2)."""
    flat = np.ascontiguousarray(points, np.float64).reshape(-1, 2)
    line = np.ascontiguousarray(line[:, :2], np.float64)
    if backend.active() == "numba":
        return project_numba(flat, line, arc_length(line), block_ranges(line)).reshape(
            points.shape[:-1]
        )
    squared, along = _nearest_numpy(flat, line)
    return along.reshape(points.shape[:-1])


def distances(points: Array, line: Array) -> Array:
    """(...,) unsigned distance, metres, from points (..., 2) to the polyline (C, 2)."""
    flat = np.ascontiguousarray(points, np.float64).reshape(-1, 2)
    line = np.ascontiguousarray(line[:, :2], np.float64)
    if backend.active() == "numba":
        return distances_numba(flat, line, block_ranges(line)).reshape(points.shape[:-1])
    squared, along = _nearest_numpy(flat, line)
    return np.sqrt(squared).reshape(points.shape[:-1])


def _nearest_numpy(points: Array, line: Array) -> tuple[Array, Array]:
    """Squared distance (n,) and arc length (n,) of the nearest point of the line, first one on
    ties.
    """
    start, step = line[:-1], np.diff(line, axis=0)
    squared_length = (step * step).sum(-1)
    progress = arc_length(line)
    out = np.empty((2, len(points)))
    size = max(1, CHUNK // len(start))
    for i in range(0, len(points), size):
        gap = points[i : i + size, None] - start  # (n, C - 1, 2)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.nan_to_num(np.clip((gap * step).sum(-1) / squared_length, 0.0, 1.0))
        squared = ((gap - share[..., None] * step) ** 2).sum(-1)
        best = squared.argmin(axis=1)
        row = np.arange(len(best))
        out[0, i : i + size] = squared[row, best]
        out[1, i : i + size] = progress[best] + share[row, best] * np.sqrt(squared_length[best])
    return out[0], out[1]


def raw_progress(states: Array, centerline: Array) -> Array:
    """(B,) metres along the centre line (C, 2+) from first to last box centre of states (B, T, 11),
    at least 0.
    """
    ends = ego_motion(states[:, [0, -1]])[..., Motion.CENTER_X : Motion.COS]
    along = project(ends, centerline)
    return np.maximum(0.0, along[:, 1] - along[:, 0])


def ego_progress_v1(raw_m: Array, product: Array, best_m: Array) -> Array:
    """EP of v1.1: masked progress over the best masked progress; where the best is ≤ 5 m, 1 unless
    masked out.

    Args:
        raw_m: (B,) raw progress; product: (B,) NC · DAC; best_m: (B,) largest raw · product of the
        group that each
            proposal is compared with (the reference and itself).
    """
    masked = raw_m * product
    ratio = masked / np.maximum(best_m, MIN_REFERENCE_M)
    return np.where(best_m > MIN_REFERENCE_M, ratio, np.where(product == 0.0, 0.0, 1.0))


def ego_progress_v2(raw_m: Array, best_m: Array) -> Array:
    """EP of v2.2: raw progress over the best masked progress, clipped to [0, 1]; 1 where the best
    is ≤ 5 m.
    """
    ratio = np.clip(raw_m / np.maximum(best_m, MIN_REFERENCE_M), 0.0, 1.0)
    return np.where(best_m > MIN_REFERENCE_M, ratio, 1.0)
