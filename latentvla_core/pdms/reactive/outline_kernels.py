"""Outlines of roads as wide as a car, and whether two outlines meet: compiled, without shapely
(pdms.md §14.2).

An outline is a ring (n, 2) that does not repeat its first vertex. It may cross itself: inside is
what it goes around, however often. GEOS draws buffers of lines this way: offset both sides, cut
inner corners, round outer ones with QUAD_SEGMENTS pieces per quarter turn, drop what is nearer than
a ten-thousandth of the width to the vertex before.
"""

from __future__ import annotations

import math

import numpy as np

from latentvla_core.pdms.backend import kernel

NO, YES, UNSURE = 0, 1, 2
SURE_M = 3e-5  # nearer than this, the simplification by 1e-5 m of what is compared could decide
# pieces of a quarter turn: what shapely's `buffer` method does unless asked, and so the devkit
QUAD_SEGMENTS = 16
QUANTUM = math.pi / 2 / QUAD_SEGMENTS
NEAR, SEPARATE, SHALLOW = (
    1e-4,
    1e-3,
    1e-2,
)  # in parts of the half width: one vertex, a flat corner, a piece too short
CUT = 80  # parts of the way from an inner corner to its sides


@kernel
def outline(line, half_width, ring):
    """Write the outline of a line (n, 2), flat at its ends, into ring; returns its number of
    vertices, or -1.

    -1: it is not drawn here, since a piece is too short for its width, the line turns on the spot,
    or the ring is full.
    """
    if not _is_plain(line, half_width):
        return -1
    count = _side(line, 1, half_width, ring, 0)
    count = _side(line, -1, half_width, ring, count) if count > 0 else -1
    if count == ring.shape[0]:
        return -1
    if (
        count > 1
        and math.hypot(ring[0, 0] - ring[count - 1, 0], ring[0, 1] - ring[count - 1, 1]) == 0.0
    ):
        count -= 1
    return count


@kernel
def _is_plain(line, half_width):
    """No piece is so short that the line would be simplified first, or its direction be noise."""
    n = line.shape[0]
    for v in range(n - 1):
        length = math.hypot(line[v + 1, 0] - line[v, 0], line[v + 1, 1] - line[v, 1])
        if length < (1e-6 if v == 0 or v == n - 2 else SHALLOW * half_width):
            return False
    return True


@kernel
def _side(line, sign, half_width, ring, count):
    """Left side of the line in its direction (sign 1) or against it (-1), from `count` on; ends
    with the corner of the cap.
    """
    n = line.shape[0]
    for v in range(1, n):
        a, b = (v - 1, v) if sign > 0 else (n - v, n - 1 - v)
        ux, uy = _across(line, a, b, half_width)
        end_x, end_y = line[b, 0] - uy, line[b, 1] + ux
        if v == 1:  # the cap before: its second corner
            count = _put(ring, count, line[a, 0] - uy, line[a, 1] + ux, half_width)
        if v == n - 1:
            return _put(ring, count, end_x, end_y, half_width)
        c = v + 1 if sign > 0 else n - 2 - v
        count = _corner(line, a, b, c, half_width, ring, count)
        if count < 0:
            return -1
    return count


@kernel
def _across(line, a, b, half_width):
    """The direction from vertex a to b, as long as half the width."""
    dx, dy = line[b, 0] - line[a, 0], line[b, 1] - line[a, 1]
    length = math.sqrt(dx * dx + dy * dy)
    return half_width * dx / length, half_width * dy / length


@kernel
def _put(ring, count, x, y, half_width):
    """One more vertex, unless it is next to the last one."""
    if count == ring.shape[0] or (count and _is_next_to(ring[count - 1], x, y, NEAR * half_width)):
        return count
    ring[count, 0], ring[count, 1] = x, y
    return count + 1


@kernel
def _is_next_to(point, x, y, near_m):
    return math.hypot(x - point[0], y - point[1]) < near_m


@kernel
def _corner(line, a, b, c, half_width, ring, count):
    """The left side at vertex b, between pieces a-b and b-c. Returns the new count, -1 where it
    turns on the spot.
    """
    ux, uy = _across(line, a, b, half_width)
    vx, vy = _across(line, b, c, half_width)
    turn = ux * vy - uy * vx
    if turn == 0.0:
        return count if ux * vx + uy * vy > 0 else -1
    x0, y0, x1, y1 = line[b, 0] - uy, line[b, 1] + ux, line[b, 0] - vy, line[b, 1] + vx
    flat = math.hypot(x1 - x0, y1 - y0) < SEPARATE * half_width
    if turn > 0:
        return _inner(line, a, b, c, (ux, uy), (vx, vy), flat, half_width, ring, count)
    if flat:
        return _put(ring, count, x0, y0, half_width)
    return _outer(line[b], (x0, y0), (x1, y1), half_width, ring, count)


@kernel
def _inner(line, a, b, c, u, v, flat, half_width, ring, count):
    """An inner corner: where the offset pieces cross."""
    x0, y0 = line[a, 0] - u[1], line[a, 1] + u[0]
    x1, y1 = line[b, 0] - u[1], line[b, 1] + u[0]
    dx, dy = x1 - x0, y1 - y0
    sx, sy = line[b, 0] - v[1], line[b, 1] + v[0]
    ex, ey = line[c, 0] - line[b, 0], line[c, 1] - line[b, 1]
    across = dx * ey - dy * ex
    along = ((sx - x0) * ey - (sy - y0) * ex) / across
    other = ((sx - x0) * dy - (sy - y0) * dx) / across
    if 0.0 <= along <= 1.0 and 0.0 <= other <= 1.0:
        # from the corner on, where both are near: no digits are lost
        back = 1.0 - along
        return _put(ring, count, x1 - back * dx, y1 - back * dy, half_width)
    count = _put(ring, count, x1, y1, half_width)
    if flat:
        return count
    x, y = (
        line[b, 0],
        line[b, 1],
    )  # they miss each other: a short cut through the inside, which is covered anyway
    count = _put(ring, count, (CUT * x1 + x) / (CUT + 1), (CUT * y1 + y) / (CUT + 1), half_width)
    count = _put(ring, count, (CUT * sx + x) / (CUT + 1), (CUT * sy + y) / (CUT + 1), half_width)
    return _put(ring, count, sx, sy, half_width)


@kernel
def _outer(corner, start, end, half_width, ring, count):
    """An outer corner: pieces of a circle, clockwise."""
    first = math.atan2(start[1] - corner[1], start[0] - corner[0])
    last = math.atan2(end[1] - corner[1], end[0] - corner[0])
    if first <= last:
        first += 2 * math.pi
    total = first - last
    pieces = int(total / QUANTUM + 0.5)
    count = _put(ring, count, start[0], start[1], half_width)
    for i in range(pieces):
        angle = first - i * (total / pieces)
        x, y = corner[0] + half_width * math.cos(angle), corner[1] + half_width * math.sin(angle)
        count = _put(ring, count, x, y, half_width)
    return _put(ring, count, end[0], end[1], half_width)


# ---------------------------------------------------------------- two outlines


@kernel
def relation(first, second, limit):
    """(meet, distance) of two outlines: YES with 0, NO with their distance, or UNSURE where
    hundredths of a mm decide.

    Distances beyond `limit` (more than SURE_M) count as limit.
    """
    least, crossed = limit, False
    x0, y0, x1, y1 = bounds(second)
    for a in range(first.shape[0]):
        b = a + 1 if a + 1 < first.shape[0] else 0
        if _gap_to_box(first[a], first[b], x0, y0, x1, y1) > least:
            continue
        ax0, ay0, ax1, ay1 = _box(first[a], first[b])
        for c in range(second.shape[0]):
            d = c + 1 if c + 1 < second.shape[0] else 0
            if _gap_to_box(second[c], second[d], ax0, ay0, ax1, ay1) > least:
                continue
            how = _cross(first[a], first[b], second[c], second[d])
            if how == YES:
                return YES, 0.0
            crossed = crossed or how == UNSURE
            if not crossed:
                least = min(least, _segments(first[a], first[b], second[c], second[d]))
    if crossed or least < SURE_M:
        deep = _reaches_into(second, first) or _reaches_into(first, second)
        return (YES, 0.0) if deep else (UNSURE, 0.0)
    if winding(first, second[0, 0], second[0, 1]) or winding(second, first[0, 0], first[0, 1]):
        return YES, 0.0
    return NO, least


@kernel
def bounds(points):
    """x0, y0, x1, y1 of points (n, 2)."""
    x0 = y0 = np.inf
    x1 = y1 = -np.inf
    for v in range(points.shape[0]):
        x0, x1 = min(x0, points[v, 0]), max(x1, points[v, 0])
        y0, y1 = min(y0, points[v, 1]), max(y1, points[v, 1])
    return x0, y0, x1, y1


@kernel
def _box(a, b):
    return min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1])


@kernel
def _gap_to_box(a, b, x0, y0, x1, y1):
    """No segment a-b is nearer to anything in the rectangle than this."""
    dx = max(x0 - max(a[0], b[0]), min(a[0], b[0]) - x1, 0.0)
    dy = max(y0 - max(a[1], b[1]), min(a[1], b[1]) - y1, 0.0)
    return math.sqrt(dx * dx + dy * dy)


@kernel
def _turn(a, b, c):
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


@kernel
def _cross(a, b, c, d):
    """Do segments a-b and c-d cross? UNSURE where an end is so near to the other segment's line
    that little decides.
    """
    if max(a[0], b[0]) < min(c[0], d[0]) or max(c[0], d[0]) < min(a[0], b[0]):
        return NO
    if max(a[1], b[1]) < min(c[1], d[1]) or max(c[1], d[1]) < min(a[1], b[1]):
        return NO
    of_c, of_d, of_a, of_b = _turn(a, b, c), _turn(a, b, d), _turn(c, d, a), _turn(c, d, b)
    if of_c * of_d >= 0 or of_a * of_b >= 0:
        return NO
    first, second = math.hypot(b[0] - a[0], b[1] - a[1]), math.hypot(d[0] - c[0], d[1] - c[1])
    sure = (
        min(abs(of_c), abs(of_d)) > SURE_M * first and min(abs(of_a), abs(of_b)) > SURE_M * second
    )
    return YES if sure else UNSURE


@kernel
def foot(p, a, b):
    """x and y of the point of a segment nearest to p."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    length = dx * dx + dy * dy
    share = 0.0
    if length > 0.0:
        share = min(max(((p[0] - a[0]) * dx + (p[1] - a[1]) * dy) / length, 0.0), 1.0)
    return a[0] + share * dx, a[1] + share * dy


@kernel
def nearest_on(p, a, b):
    """The point of a segment nearest to p, and its distance."""
    x, y = foot(p, a, b)
    return np.array((x, y)), math.hypot(x - p[0], y - p[1])


@kernel
def to_segment(p, a, b):
    """Distance of a point from a segment."""
    x, y = foot(p, a, b)
    return math.hypot(x - p[0], y - p[1])


@kernel
def _segments(a, b, c, d):
    """Distance of two segments that do not cross."""
    one = min(to_segment(a, c, d), to_segment(b, c, d))
    return min(one, min(to_segment(c, a, b), to_segment(d, a, b)))


@kernel
def _reaches_into(inner, outer):
    """A vertex of the one, or the middle of an edge, lies surely within the other."""
    for a in range(inner.shape[0]):
        b = a + 1 if a + 1 < inner.shape[0] else 0
        for k in range(2):
            x, y = inner[a, 0], inner[a, 1]
            if k:
                x, y = (x + inner[b, 0]) / 2, (y + inner[b, 1]) / 2
            if winding(outer, x, y) and _depth(outer, x, y) > SURE_M:
                return True
    return False


@kernel
def _depth(ring, x, y):
    """Distance of a point from the vertices and edges of a ring."""
    least = np.inf
    for a in range(ring.shape[0]):
        b = a + 1 if a + 1 < ring.shape[0] else 0
        least = min(least, to_segment((x, y), ring[a], ring[b]))
    return least


@kernel
def winding(ring, x, y):
    """How often a ring goes around a point."""
    count = 0
    for a in range(ring.shape[0]):
        b = a + 1 if a + 1 < ring.shape[0] else 0
        if (ring[a, 1] > y) != (ring[b, 1] > y):
            side = (ring[b, 0] - ring[a, 0]) * (y - ring[a, 1]) - (x - ring[a, 0]) * (
                ring[b, 1] - ring[a, 1]
            )
            if ring[b, 1] > ring[a, 1]:
                count += 1 if side > 0 else 0
            else:
                count -= 1 if side < 0 else 0
    return count
