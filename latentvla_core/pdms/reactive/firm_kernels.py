"""Does the distance of two outlines survive that their union is simplified by 1e-5 m? (pdms.md
§14.2), compiled.

Simplifying drops vertices that hardly bend. It moves the nearest points only where such a vertex is
one of them, or where two outlines of the same vehicle run next to each other there.
"""

from __future__ import annotations

import math

import numpy as np

from latentvla_core.pdms.backend import kernel
from latentvla_core.pdms.reactive.outline_kernels import nearest_on, to_segment

EXACT_M = 5e-10  # below it nothing is moved that counts
BESIDE_M = 3e-9  # two outlines as near as this are one; map coordinates are rounded to 1e-9 m
LOOSE_M = 5e-5  # several times what simplifying moves


@kernel
def is_firm(own, own_other, others, others_other, gap):
    """Whether the distance `gap` of outlines own and others stays, each beside another outline of
    its vehicle (or none).
    """
    for a in range(own.shape[0]):
        b = (a + 1) % own.shape[0]
        for c in range(others.shape[0]):
            d = (c + 1) % others.shape[0]
            for k in range(
                4
                # the nearest points of two segments: an end of one, and where it is nearest on the
                # other
            ):
                corner = (a, b, c, d)[k]
                mine = k < 2
                p = own[corner] if mine else others[corner]
                q, away = (
                    nearest_on(p, others[c], others[d]) if mine else nearest_on(p, own[a], own[b])
                )
                if away > gap + EXACT_M:
                    continue
                here, there = (p, q) if mine else (q, p)
                if not (_stays(own, own_other, here) and _stays(others, others_other, there)):
                    return False
    return True


@kernel
def _stays(ring, other, point):
    """Whether the boundary of two outlines together (other may be empty) is the same at a point of
    ring when simplified.
    """
    turn = _least_turn(ring, point, EXACT_M)
    least = np.inf
    for v in range(other.shape[0]):
        least = min(least, to_segment(point, other[v], other[(v + 1) % other.shape[0]]))
    if least < BESIDE_M:  # they run on each other here
        return turn >= 0 and _least_turn(other, point, BESIDE_M) >= 0
    return turn >= 0 and least * turn > LOOSE_M


@kernel
def _least_turn(ring, point, near_m):
    """Sine of the turn of the ring at a point of it, 1 between two vertices; -1 if a vertex there
    may be dropped.
    """
    turn = 1.0
    n = ring.shape[0]
    for v in range(n):
        w = (v + 1) % n
        if to_segment(point, ring[v], ring[w]) > near_m:
            continue
        at_v, at_w = _apart(point, ring[v]) < near_m, _apart(point, ring[w]) < near_m
        if (not at_w and _is_shallow(ring, v)) or (not at_v and _is_shallow(ring, w)):
            return -1.0
        if at_v:
            turn = min(turn, _bend(ring, v))
    return turn


@kernel
def _apart(p, q):
    return math.hypot(p[0] - q[0], p[1] - q[1])


@kernel
def _is_shallow(ring, v):
    """A vertex so near to the line between its neighbours that it may be dropped, and so far that
    it would be missed.
    """
    n = ring.shape[0]
    away = to_segment(ring[v], ring[v - 1], ring[(v + 1) % n])
    return EXACT_M < away < LOOSE_M


@kernel
def _bend(ring, v):
    """Sine of the turn at a vertex."""
    n = ring.shape[0]
    ax, ay = ring[v, 0] - ring[v - 1, 0], ring[v, 1] - ring[v - 1, 1]
    bx, by = ring[(v + 1) % n, 0] - ring[v, 0], ring[(v + 1) % n, 1] - ring[v, 1]
    size = math.hypot(ax, ay) * math.hypot(bx, by)
    return abs(ax * by - ay * bx) / size if ax * bx + ay * by > 0 and size > 0 else 1.0
