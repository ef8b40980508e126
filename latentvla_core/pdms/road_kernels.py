"""Compiled kernels of `road.py`: points in polygons, and the ego box against red-light polygons."""

from __future__ import annotations

import numpy as np

from latentvla_core.pdms.backend import kernel

SLAB_M = 1.0
MAX_SLABS = 256


@kernel
def slab_of(y, low, high, count):
    """Number of the slab that height y falls into."""
    if high <= low:
        return 0
    return min(max(int((y - low) / (high - low) * count), 0), count - 1)


@kernel
def index_edges(edges, offsets, ranges):
    """Edges into slabs of equal height per polygon: slab_offsets (P + 1,), slab_starts, slab_edges (see RoadIndex)."""
    count = ranges.shape[0]
    slab_offsets = np.zeros(count + 1, np.int64)
    for p in range(count):
        wanted = int((ranges[p, 3] - ranges[p, 1]) / SLAB_M) + 1
        slab_offsets[p + 1] = slab_offsets[p] + min(wanted, MAX_SLABS)
    starts = np.zeros(slab_offsets[count] + 1, np.int64)
    for fill in range(2):  # first count the entries of each slab, then write them
        if fill == 1:
            for s in range(len(starts) - 1):
                starts[s + 1] += starts[s]
            entries = np.empty(starts[-1], np.int64)
            cursor = starts[:-1].copy()
        for p in range(count):
            low, high, first = ranges[p, 1], ranges[p, 3], slab_offsets[p]
            slabs = slab_offsets[p + 1] - first
            for e in range(offsets[p], offsets[p + 1]):
                a = slab_of(min(edges[e, 1], edges[e, 3]), low, high, slabs)
                b = slab_of(max(edges[e, 1], edges[e, 3]), low, high, slabs)
                for s in range(first + a, first + b + 1):
                    if fill == 0:
                        starts[s + 1] += 1
                    else:
                        entries[cursor[s]] = e
                        cursor[s] += 1
    return slab_offsets, starts, entries


@kernel
def _crosses(x, y, x1, y1, x2, y2):
    """1 if the ray to the right of the point crosses the edge, 0 if not, 2 if the point lies on the edge."""
    if y1 == y2:
        return 2 if y == y1 and min(x1, x2) <= x <= max(x1, x2) else 0
    if y < min(y1, y2) or y > max(y1, y2):
        return 0
    side = (x2 - x1) * (y - y1) - (x - x1) * (y2 - y1)
    if side == 0.0:
        return 2
    if y == max(y1, y2):  # each vertex belongs to the edge that starts below it
        return 0
    return 1 if (side > 0.0) == (y2 > y1) else 0


@kernel
def inside(x, y, box, edges, first_slab, slabs, starts, entries):
    """Is the point strictly inside the polygon (even-odd over all rings)?"""
    if x <= box[0] or x >= box[2] or y <= box[1] or y >= box[3]:
        return False
    s = first_slab + slab_of(y, box[1], box[3], slabs)
    odd = False
    for k in range(starts[s], starts[s + 1]):
        e = entries[k]
        hit = _crosses(x, y, edges[e, 0], edges[e, 1], edges[e, 2], edges[e, 3])
        if hit == 2:
            return False
        if hit == 1:
            odd = not odd
    return odd


@kernel
def _bounds(points):
    """x_min, y_min, x_max, y_max of points (..., 2) given as (n, 2)."""
    return points[:, 0].min(), points[:, 1].min(), points[:, 0].max(), points[:, 1].max()


@kernel
def _step_flags(points, near, ranges, kinds, edges, slab_offsets, starts, entries, out):
    """The five flags of one step: points (6, 2) are four corners, centre, rear axle; near: polygon numbers."""
    covered = np.zeros(4, np.bool_)
    lanes, whole, on_route, center_cross, rear_cross = 0, False, False, False, False
    low_x, low_y, high_x, high_y = _bounds(points)
    for p in near:
        if low_x > ranges[p, 2] or high_x < ranges[p, 0] or low_y > ranges[p, 3] or high_y < ranges[p, 1]:
            continue
        kind, corners = kinds[p], 0
        first, slabs = slab_offsets[p], slab_offsets[p + 1] - slab_offsets[p]
        for c in range(4):
            if (kind == 0 or kind == 3) and covered[c]:
                continue
            if inside(points[c, 0], points[c, 1], ranges[p], edges, first, slabs, starts, entries):
                corners += 1
                if kind == 0 or kind == 3:
                    covered[c] = True
        if kind == 1 or kind == 2:
            lanes += corners > 0
            whole = whole or corners == 4
        if kind == 2 and not on_route:
            on_route = inside(points[4, 0], points[4, 1], ranges[p], edges, first, slabs, starts, entries)
        if kind == 3:
            center_cross = center_cross or inside(
                points[4, 0], points[4, 1], ranges[p], edges, first, slabs, starts, entries
            )
            rear_cross = rear_cross or inside(
                points[5, 0], points[5, 1], ranges[p], edges, first, slabs, starts, entries
            )
    out[0] = lanes > 1 and not whole
    out[1] = not covered.all()
    out[2] = not on_route
    out[3], out[4] = center_cross, rear_cross


@kernel
def areas_numba(points, ranges, kinds, edges, slab_offsets, starts, entries):
    """(B, T, 5) bool flags in the order of `road.Areas`, from points (B, T, 6, 2)."""
    count, length = points.shape[0], points.shape[1]
    out = np.empty((count, length, 5), np.bool_)
    near = np.empty(ranges.shape[0], np.int64)
    for i in range(count):
        low_x, low_y, high_x, high_y = _bounds(points[i].reshape(-1, 2))
        found = 0
        for p in range(ranges.shape[0]):
            box = ranges[p]
            if not (low_x > box[2] or high_x < box[0] or low_y > box[3] or high_y < box[1]):
                near[found] = p
                found += 1
        for t in range(length):
            _step_flags(points[i, t], near[:found], ranges, kinds, edges, slab_offsets, starts, entries, out[i, t])
    return out


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
        hit = _crosses(corners[0, 0], corners[0, 1], ring[e, 0], ring[e, 1], ring[f, 0], ring[f, 1])
        odd = odd != (hit == 1)
    return odd or _in_box(corners, ring[0, 0], ring[0, 1])


@kernel
def lights_numba(corners, vertices, offsets, active):
    """(B,) bool: box corners (B, T, 4, 2) touch a polygon (rings by offsets) at a step where active (T, R)."""
    out = np.zeros(corners.shape[0], np.bool_)
    for i in range(corners.shape[0]):
        for t in range(corners.shape[1]):
            for r in range(active.shape[1]):
                if active[t, r] and not out[i]:
                    out[i] = box_meets_ring(corners[i, t], vertices[offsets[r] : offsets[r + 1]])
    return out
