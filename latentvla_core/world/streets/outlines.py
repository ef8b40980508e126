"""Pieces of outlines: roads cut back at both ends, and rounded kerbs between two roads."""

from __future__ import annotations

import numpy as np

from latentvla_core.geometry import arc_length
from latentvla_core.types import Array
from latentvla_core.world.streets.network import resample


def unit(v: Array) -> Array:
    return v / np.linalg.norm(v)


def between(path_m: Array, cut_start_m: float, cut_end_m: float) -> Array:
    s = arc_length(path_m)
    inside = (s > cut_start_m) & (s < s[-1] - cut_end_m)
    ends = [
        [np.interp(at, s, path_m[:, k]) for k in (0, 1)] for at in (cut_start_m, s[-1] - cut_end_m)
    ]
    return resample(np.concatenate([[ends[0]], path_m[inside], [ends[1]]]), 2.0)


def corner_kerb(a: Array, along_a: Array, b: Array, along_b: Array) -> Array:
    """(k, 2) kerb from a to b, both reached along the given outward directions: a rounded corner,
    or a straight line.
    """
    matrix = np.stack([-along_a, along_b], axis=1)
    if abs(np.linalg.det(matrix)) < 0.2:
        return np.array([a, b])
    t, u = np.linalg.solve(matrix, b - a)
    if t <= 0.2 or u <= 0.2:
        return np.array([a, b])
    middle = a - along_a * t
    w = np.linspace(0, 1, 12)[:, None]
    return (1 - w) ** 2 * a + 2 * w * (1 - w) * middle + w**2 * b
