"""Compiled kernels of `progress.py`: the nearest point of a polyline, skipping blocks of segments
that are too far.
"""

from __future__ import annotations

import math

import numpy as np

from latentvla_core.pdms.backend import kernel

BLOCK = 8  # segments per block


@kernel
def block_ranges(line):
    """(blocks, 4) x_min, y_min, x_max, y_max of every BLOCK consecutive segments of a polyline (C,
    2).
    """
    segments = line.shape[0] - 1
    out = np.empty(((segments + BLOCK - 1) // BLOCK, 4))
    for b in range(out.shape[0]):
        part = line[b * BLOCK : min((b + 1) * BLOCK, segments) + 1]
        out[b, 0], out[b, 1] = part[:, 0].min(), part[:, 1].min()
        out[b, 2], out[b, 3] = part[:, 0].max(), part[:, 1].max()
    return out


@kernel
def _nearest(x, y, line, blocks, hint):
    """Squared distance, segment and share of it of the nearest point (first on ties). hint: a
    segment to try first.
    """
    best, where, share = np.inf, 0, 0.0
    bound = (
        _from_segment(x, y, line, hint)[0] * (1.0 + 1e-9) + 1e-12
    )  # nothing farther can be the nearest
    for b in range(blocks.shape[0]):
        dx = max(blocks[b, 0] - x, 0.0, x - blocks[b, 2])
        dy = max(blocks[b, 1] - y, 0.0, y - blocks[b, 3])
        if dx * dx + dy * dy > min(best, bound):
            continue
        for s in range(b * BLOCK, min((b + 1) * BLOCK, line.shape[0] - 1)):
            squared, part = _from_segment(x, y, line, s)
            if squared < best:
                best, where, share = squared, s, part
    return best, where, share


@kernel
def _from_segment(x, y, line, s):
    """Squared distance to segment s and the share of its length at which the nearest point lies."""
    ax, ay = line[s, 0], line[s, 1]
    dx, dy = line[s + 1, 0] - ax, line[s + 1, 1] - ay
    length = dx * dx + dy * dy
    share = 0.0
    if length > 0.0:
        share = min(max(((x - ax) * dx + (y - ay) * dy) / length, 0.0), 1.0)
    ex, ey = x - ax - share * dx, y - ay - share * dy
    return ex * ex + ey * ey, share


@kernel
def project_numba(points, line, progress, blocks):
    """(n,) arc length of the nearest point of the line, for points (n, 2)."""
    out, hint = np.empty(points.shape[0]), 0
    for i in range(points.shape[0]):
        _, hint, share = _nearest(points[i, 0], points[i, 1], line, blocks, hint)
        out[i] = progress[hint] + share * (progress[hint + 1] - progress[hint])
    return out


@kernel
def distances_numba(points, line, blocks):
    """(n,) distance to the line."""
    out, hint = np.empty(points.shape[0]), 0
    for i in range(points.shape[0]):
        squared, hint, _ = _nearest(points[i, 0], points[i, 1], line, blocks, hint)
        out[i] = math.sqrt(squared)
    return out
