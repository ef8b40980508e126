"""Distances between convex quadrilaterals (boxes): NumPy and compiled twins. To other polygons:
compiled only.
"""

from __future__ import annotations

import numpy as np

from latentvla_core.pdms import backend
from latentvla_core.pdms.backend import kernel
from latentvla_core.types import Array


def quad_distances(egos: Array, quads: Array, allowed: Array) -> Array:
    """(B, A) distances from convex quadrilaterals egos (B, 4, 2) to quads (A, 4, 2); 0 where they
    touch or overlap.

    allowed (B, A) bool: the pairs that count; inf elsewhere.
    """
    near = egos[0, 0]  # global coordinates are large: take them off before anything is multiplied
    args = (
        np.ascontiguousarray(egos - near),
        np.ascontiguousarray(quads - near),
        np.ascontiguousarray(allowed),
    )
    return _distances_numba(*args) if backend.active() == "numba" else _distances_numpy(*args)


def _distances_numpy(egos: Array, quads: Array, allowed: Array) -> Array:
    distance = np.full(allowed.shape, np.inf)
    b, a = np.nonzero(allowed)
    if len(b):
        distance[b, a] = quad_distance(egos[b], quads[a])
    return distance


def quad_distance(first: Array, second: Array) -> Array:
    """(n,) distance between convex quadrilaterals (n, 4, 2): 0 if they touch, else corner to edge."""
    gap = np.minimum(_corner_to_edge(first, second), _corner_to_edge(second, first))
    apart = _separated(first, second) | _separated(second, first)
    return np.where(apart, np.sqrt(gap), 0.0)


def _corner_to_edge(corners: Array, quads: Array) -> Array:
    """(n,) least squared distance from corners (n, 4, 2) to the edges of quads (n, 4, 2)."""
    start = quads[:, None]
    edge = np.roll(quads, -1, axis=1)[:, None] - start  # (n, 1, 4, 2)
    offset = corners[:, :, None] - start  # (n, 4, 4, 2)
    length = np.maximum((edge * edge).sum(-1), np.finfo(float).tiny)
    share = np.clip((offset * edge).sum(-1) / length, 0.0, 1.0)
    away = offset - share[..., None] * edge
    return (away * away).sum(-1).min(axis=(1, 2))


def _separated(quads: Array, others: Array) -> Array:
    """(n,) bool: some edge of quads has all of others strictly on its outer side."""
    edge = np.roll(quads, -1, axis=1) - quads
    normal = np.stack([edge[..., 1], -edge[..., 0]], axis=-1)  # (n, 4, 2)
    mine = np.einsum("nec,nvc->nev", normal, quads)
    theirs = np.einsum("nec,nvc->nev", normal, others)
    return ((theirs.min(-1) > mine.max(-1)) | (theirs.max(-1) < mine.min(-1))).any(-1)


@kernel
def _distances_numba(egos, quads, allowed):
    out = np.full(allowed.shape, np.inf)
    for b in range(egos.shape[0]):
        for a in range(quads.shape[0]):
            if allowed[b, a]:
                out[b, a] = pair_distance(egos[b], quads[a])
    return out


@kernel
def pair_distance(first, second):
    """Distance of two convex quadrilaterals (4, 2)."""
    if not (_outside(first, second) or _outside(second, first)):
        return 0.0
    return np.sqrt(min(_corners_edges(first, second), _corners_edges(second, first)))


@kernel
def put_back_numba(corners, returns):
    """Boxes (N, V, 4, 2) of step 0 are put into all later steps where `returns` (V,) says so and
    nobody else stands.
    """
    for step in range(1, corners.shape[0]):
        for row in range(corners.shape[1]):
            if (
                returns[row]
                and np.isnan(corners[step, row, 0, 0])
                and _is_free(corners[step], corners[0, row])
            ):
                corners[step, row] = corners[0, row]


@kernel
def _is_free(boxes, box):
    """No box of (V, 4, 2) touches this one; NaN: not there."""
    for other in boxes:  # noqa: SIM110 -- compiled
        if not (np.isnan(other[0, 0]) or _outside(box, other) or _outside(other, box)):
            return False
    return True


@kernel
def _outside(quad, other):
    for e in range(4):
        f = (e + 1) % 4
        nx, ny = quad[f, 1] - quad[e, 1], quad[e, 0] - quad[f, 0]
        low = high = nx * quad[0, 0] + ny * quad[0, 1]
        low_other = high_other = nx * other[0, 0] + ny * other[0, 1]
        for v in range(1, 4):
            mine = nx * quad[v, 0] + ny * quad[v, 1]
            theirs = nx * other[v, 0] + ny * other[v, 1]
            low, high = min(low, mine), max(high, mine)
            low_other, high_other = min(low_other, theirs), max(high_other, theirs)
        if low_other > high or high_other < low:
            return True
    return False


@kernel
def ring_distance(box, ring):
    """Distance of a convex quadrilateral (4, 2) to a simple polygon (n, 2); 0 if they touch or
    overlap.
    """
    if _holds(ring, box[0, 0], box[0, 1]) or _holds(box, ring[0, 0], ring[0, 1]):
        return 0.0
    for v in range(ring.shape[0]):
        w = (v + 1) % ring.shape[0]
        for e in range(4):
            f = (e + 1) % 4
            if _cross(box[e], box[f], ring[v], ring[w]):
                return 0.0
    return np.sqrt(min(_corners_edges(box, ring), _corners_edges(ring, box)))


@kernel
def _holds(ring, x, y):
    """Whether a point is in a ring (even-odd)."""
    inside = False
    for v in range(ring.shape[0]):
        w = (v + 1) % ring.shape[0]
        if (ring[v, 1] > y) != (ring[w, 1] > y):
            share = (y - ring[v, 1]) / (ring[w, 1] - ring[v, 1])
            if x < ring[v, 0] + share * (ring[w, 0] - ring[v, 0]):
                inside = not inside
    return inside


@kernel
def _turn(a, b, c):
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


@kernel
def _cross(a, b, c, d):
    """Whether two segments cross in their inside (a mere touch has distance 0 from corner to edge)."""
    return _turn(a, b, c) * _turn(a, b, d) < 0 and _turn(c, d, a) * _turn(c, d, b) < 0


@kernel
def _corners_edges(corners, ring):
    """Least squared distance from corners (m, 2) to the edges of a ring (n, 2)."""
    best = np.inf
    for v in range(corners.shape[0]):
        for e in range(ring.shape[0]):
            f = (e + 1) % ring.shape[0]
            ex, ey = ring[f, 0] - ring[e, 0], ring[f, 1] - ring[e, 1]
            ox, oy = corners[v, 0] - ring[e, 0], corners[v, 1] - ring[e, 1]
            length = ex * ex + ey * ey
            share = 0.0
            if length > 0.0:
                share = min(max((ox * ex + oy * ey) / length, 0.0), 1.0)
            ax, ay = ox - share * ex, oy - share * ey
            best = min(best, ax * ax + ay * ay)
    return best
