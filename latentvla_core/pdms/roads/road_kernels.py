"""Compiled kernels of `road.py`: points in polygons, and the ego box against red-light polygons."""

from __future__ import annotations

import numpy as np

from latentvla_core.pdms.backend import kernel
from latentvla_core.pdms.state import HALF_LENGTH_M, HALF_WIDTH_M

SLAB_M = 1.0
MAX_SLABS = 256
SLACK_M = 1e-8
CORNERS, CENTER, REAR = 0b1111, 0b10000, 0b100000  # bits of the six points of a step


@kernel
def slab_of(y, low, high, count):
    """Number of the slab that height y falls into."""
    if high <= low:
        return 0
    return min(max(int((y - low) * (count / (high - low))), 0), count - 1)


@kernel
def ring_edges(vertices, rings, owners):
    """Edges (E, 4) x1, y1, x2, y2 of all rings, their first per polygon (P + 1,), bounding boxes
    (P, 4).
    """
    edges, offsets = np.empty((vertices.shape[0], 4)), np.empty(owners.shape[0], np.int64)
    ranges = np.empty((owners.shape[0] - 1, 4))
    ranges[:, :2], ranges[:, 2:] = np.inf, -np.inf
    for p in range(ranges.shape[0]):
        for r in range(owners[p], owners[p + 1]):
            for e in range(rings[r], rings[r + 1]):
                f = (
                    e + 1 if e + 1 < rings[r + 1] else rings[r]
                )  # the last vertex leads back to the first
                edges[e, 0], edges[e, 1] = vertices[e, 0], vertices[e, 1]
                edges[e, 2], edges[e, 3] = vertices[f, 0], vertices[f, 1]
                ranges[p, 0], ranges[p, 2] = (
                    min(ranges[p, 0], edges[e, 0]),
                    max(ranges[p, 2], edges[e, 0]),
                )
                ranges[p, 1], ranges[p, 3] = (
                    min(ranges[p, 1], edges[e, 1]),
                    max(ranges[p, 3], edges[e, 1]),
                )
    for p in range(owners.shape[0]):
        offsets[p] = rings[owners[p]]
    return edges, offsets, ranges


@kernel
def slab_edges(edges, offsets, ranges, region):
    """Edges by slabs of equal height: slab_offsets (P + 1,), starts (slabs + 1,), spans (slabs, 2),
    edges (n, 4).

    Polygons that do not meet the region (x_min, y_min, x_max, y_max) get no slabs.
    """
    count = ranges.shape[0]
    slab_offsets = np.zeros(count + 1, np.int64)
    for p in range(count):
        wanted = min(int(max(ranges[p, 3] - ranges[p, 1], 0.0) / SLAB_M) + 1, MAX_SLABS)
        if (
            region[0] > ranges[p, 2]
            or region[2] < ranges[p, 0]
            or region[1] > ranges[p, 3]
            or region[3] < ranges[p, 1]
        ):
            wanted = 0
        slab_offsets[p + 1] = slab_offsets[p] + wanted
    slabs_of_edges = np.empty((edges.shape[0], 2), np.int64)
    starts = np.zeros(slab_offsets[count] + 1, np.int64)
    for p in range(count):
        first, slabs = slab_offsets[p], slab_offsets[p + 1] - slab_offsets[p]
        if slabs == 0:
            continue
        for e in range(offsets[p], offsets[p + 1]):
            a = first + slab_of(min(edges[e, 1], edges[e, 3]), ranges[p, 1], ranges[p, 3], slabs)
            b = first + slab_of(max(edges[e, 1], edges[e, 3]), ranges[p, 1], ranges[p, 3], slabs)
            slabs_of_edges[e, 0], slabs_of_edges[e, 1] = a, b
            for s in range(a, b + 1):
                starts[s + 1] += 1
    starts = np.cumsum(starts)
    spans, sorted_edges = np.empty((slab_offsets[count], 2)), np.empty((starts[-1], 4))
    spans[:, 0], spans[:, 1] = np.inf, -np.inf
    cursor = starts.copy()
    for p in range(count):
        if slab_offsets[p + 1] == slab_offsets[p]:
            continue
        height = (ranges[p, 3] - ranges[p, 1]) / (slab_offsets[p + 1] - slab_offsets[p])
        for e in range(offsets[p], offsets[p + 1]):
            x1, y1, x2, y2 = edges[e, 0], edges[e, 1], edges[e, 2], edges[e, 3]
            run = (x2 - x1) / (y2 - y1) if y1 != y2 else 0.0
            for s in range(slabs_of_edges[e, 0], slabs_of_edges[e, 1] + 1):
                k = cursor[s]
                cursor[s] = k + 1
                sorted_edges[k, 0], sorted_edges[k, 1], sorted_edges[k, 2], sorted_edges[k, 3] = (
                    x1,
                    y1,
                    x2,
                    y2,
                )
                start, end = x1, x2
                if run != 0.0:  # only the part of the edge inside the slab
                    low = ranges[p, 1] + (s - slab_offsets[p]) * height - SLACK_M
                    high = low + height + 2 * SLACK_M
                    start = x1 + run * (max(low, min(y1, y2)) - y1)
                    end = x1 + run * (min(high, max(y1, y2)) - y1)
                spans[s, 0] = min(spans[s, 0], min(start, end) - SLACK_M)
                spans[s, 1] = max(spans[s, 1], max(start, end) + SLACK_M)
    return slab_offsets, starts, spans, sorted_edges


@kernel
def crossing(x, y, x1, y1, x2, y2):
    """1 if the ray to the right of the point crosses the edge, 0 if not, 2 if the point lies on the
    edge.
    """
    if (y1 > y) == (y2 > y):  # a vertex at the point's height counts as below
        if y1 == y and y2 == y:
            return 2 if min(x1, x2) <= x <= max(x1, x2) else 0
        return 2 if (y1 == y and x1 == x) or (y2 == y and x2 == x) else 0
    if x < x1 and x < x2:
        return 1
    if x > x1 and x > x2:
        return 0
    side = (x2 - x1) * (y - y1) - (x - x1) * (y2 - y1)
    if side == 0.0:
        return 2
    return 1 if (side > 0.0) == (y2 > y1) else 0


@kernel
def _place_points(motion, xs, ys):
    """Front-left, rear-left, rear-right, front-right corner, centre and rear axle per step: motion
    (T, 7) → (T, 6).
    """
    for t in range(motion.shape[0]):
        ahead_x, ahead_y = HALF_LENGTH_M * motion[t, 4], HALF_LENGTH_M * motion[t, 5]
        left_x, left_y = -HALF_WIDTH_M * motion[t, 5], HALF_WIDTH_M * motion[t, 4]
        x, y = motion[t, 2], motion[t, 3]
        xs[t, 0], ys[t, 0] = x + ahead_x + left_x, y + ahead_y + left_y
        xs[t, 1], ys[t, 1] = x - ahead_x + left_x, y - ahead_y + left_y
        xs[t, 2], ys[t, 2] = x - ahead_x - left_x, y - ahead_y - left_y
        xs[t, 3], ys[t, 3] = x + ahead_x - left_x, y + ahead_y - left_y
        xs[t, 4], ys[t, 4] = x, y
        xs[t, 5], ys[t, 5] = motion[t, 0], motion[t, 1]


@kernel
def _points_inside(xs, ys, done, box, first, slabs, starts, spans, edges, held):
    """Bit c of held[t]: point c of step t is strictly inside one polygon (even-odd over its rings;
    edges are outside).

    Points whose bit is set in done[t] are not looked at.
    """
    left, low, right, high = box
    per_m = slabs / (high - low) if high > low else 0.0
    for t in range(xs.shape[0]):
        held[t] = 0
        for c in range(6):
            x, y = xs[t, c], ys[t, c]
            if done[t] & (1 << c) or not (left < x < right and low < y < high):  # NaN is nowhere
                continue
            s = first + min(int((y - low) * per_m), slabs - 1)
            if x < spans[s, 0] or x > spans[s, 1]:
                continue
            odd = 0
            for e in range(starts[s], starts[s + 1]):
                hit = crossing(x, y, edges[e, 0], edges[e, 1], edges[e, 2], edges[e, 3])
                if hit == 2:
                    odd = 0
                    break
                odd ^= hit
            held[t] |= odd << c


@kernel
def _count(kind, held, covered, lanes, flags):
    """Add what one polygon of a kind holds at one step: flags are whole, on the route, centre and
    rear crossing.
    """
    corners = held & CORNERS
    if kind == 1 or kind == 2:
        flags[0] |= corners == CORNERS
        flags[1] |= kind == 2 and held & CENTER != 0
        return covered, lanes + (corners != 0)
    if kind == 3:
        flags[2] |= held & CENTER != 0
        flags[3] |= held & REAR != 0
    return covered | corners, lanes


@kernel
def areas_numba(motion, ranges, kinds, slab_offsets, starts, spans, edges):
    """(B, T, 5) bool flags in the order of `road.Areas`, from `Motion` columns (B, T, 7)."""
    count, length = motion.shape[0], motion.shape[1]
    out = np.empty((count, length, 5), np.bool_)
    xs, ys = np.empty((length, 6)), np.empty((length, 6))
    held, covered, lanes = (
        np.empty(length, np.int64),
        np.empty(length, np.int64),
        np.empty(length, np.int64),
    )
    none, flags = np.zeros(length, np.int64), np.empty((length, 4), np.bool_)
    for i in range(count):
        _place_points(motion[i], xs, ys)
        low_x, high_x, low_y, high_y = xs.min(), xs.max(), ys.min(), ys.max()
        covered[:], lanes[:], flags[:] = 0, 0, False
        for p in range(ranges.shape[0]):
            box = (ranges[p, 0], ranges[p, 1], ranges[p, 2], ranges[p, 3])
            if low_x >= box[2] or high_x <= box[0] or low_y >= box[3] or high_y <= box[1]:
                continue
            done = covered if kinds[p] == 0 else none  # only its corners count, and only once
            first = slab_offsets[p]
            _points_inside(
                xs, ys, done, box, first, slab_offsets[p + 1] - first, starts, spans, edges, held
            )
            for t in range(length):
                if held[t] != 0:
                    covered[t], lanes[t] = _count(kinds[p], held[t], covered[t], lanes[t], flags[t])
        for t in range(length):
            out[i, t, 0] = lanes[t] > 1 and not flags[t, 0]
            out[i, t, 1] = covered[t] != CORNERS
            out[i, t, 2] = not flags[t, 1]
            out[i, t, 3], out[i, t, 4] = flags[t, 2], flags[t, 3]
    return out


@kernel
def _bounds(points):
    """x_min, y_min, x_max, y_max of points (n, 2)."""
    return points[:, 0].min(), points[:, 1].min(), points[:, 0].max(), points[:, 1].max()


@kernel
def _side(ax, ay, bx, by, x, y):
    return (bx - ax) * (y - ay) - (by - ay) * (x - ax)


@kernel
def segments_touch(ax, ay, bx, by, cx, cy, dx, dy):
    """Do segments a–b and c–d share a point, end points included?"""
    if max(ax, bx) < min(cx, dx) or max(cx, dx) < min(ax, bx):
        return False
    if max(ay, by) < min(cy, dy) or max(cy, dy) < min(ay, by):
        return False
    c, d = _side(ax, ay, bx, by, cx, cy), _side(ax, ay, bx, by, dx, dy)
    a, b = _side(cx, cy, dx, dy, ax, ay), _side(cx, cy, dx, dy, bx, by)
    return not ((c > 0 and d > 0) or (c < 0 and d < 0) or (a > 0 and b > 0) or (a < 0 and b < 0))


@kernel
def _in_box(corners, x, y):
    """Is the point in the convex box (4, 2), boundary included?"""
    left = right = False
    for k in range(4):
        j = (k + 1) % 4
        side = _side(corners[k, 0], corners[k, 1], corners[j, 0], corners[j, 1], x, y)
        left = left or side > 0
        right = right or side < 0
    return not (left and right)


@kernel
def box_meets_ring(corners, ring):
    """Does the box (4, 2) share a point with the area of a ring (n, 2), closed or not?"""
    low_x, low_y, high_x, high_y = _bounds(corners)
    ring_low_x, ring_low_y, ring_high_x, ring_high_y = _bounds(ring)
    if low_x > ring_high_x or high_x < ring_low_x or low_y > ring_high_y or high_y < ring_low_y:
        return False
    odd = False
    for e in range(ring.shape[0]):
        f = (e + 1) % ring.shape[0]
        for k in range(4):
            j = (k + 1) % 4
            if segments_touch(
                corners[k, 0], corners[k, 1], corners[j, 0], corners[j, 1],
                ring[e, 0], ring[e, 1], ring[f, 0], ring[f, 1],
            ):  # fmt: skip
                return True
        hit = crossing(corners[0, 0], corners[0, 1], ring[e, 0], ring[e, 1], ring[f, 0], ring[f, 1])
        odd = odd != (hit == 1)
    return odd or _in_box(corners, ring[0, 0], ring[0, 1])


@kernel
def lights_numba(corners, vertices, offsets, active):
    """(B,) bool: box corners (B, T, 4, 2) touch a polygon (rings by offsets) at a step where active
    (T, R).
    """
    out = np.zeros(corners.shape[0], np.bool_)
    for i in range(corners.shape[0]):
        for t in range(corners.shape[1]):
            for r in range(active.shape[1]):
                if active[t, r] and not out[i]:
                    out[i] = box_meets_ring(corners[i, t], vertices[offsets[r] : offsets[r + 1]])
    return out
