"""NumPy twins of `road_kernels.py`; the red-light test is left to shapely."""

from __future__ import annotations

import numpy as np
import shapely

from latentvla_core.pdms.state import Motion, motion_points
from latentvla_core.types import Array


def inside_numpy(points: Array, edges: Array) -> Array:
    """(n,) bool: points (n, 2) strictly inside the polygon of edges (E, 4), even-odd over all
    rings.
    """
    x1, y1, x2, y2 = edges.T
    low, high = np.minimum(y1, y2), np.maximum(y1, y2)
    y = points[:, 1:]
    p, e = np.nonzero(
        (y >= low) & (y <= high)
    )  # a point meets few edges: all else is done for those pairs alone
    x, y = points[p].T
    x1, y1, x2, y2 = edges[e].T
    side = (x2 - x1) * (y - y1) - (x - x1) * (y2 - y1)
    between = (x >= np.minimum(x1, x2)) & (x <= np.maximum(x1, x2))
    on_edge = (side == 0.0) & ((y1 != y2) | between)
    crossed = (y < high[e]) & ((side > 0.0) == (y2 > y1))
    odd = np.bincount(p[crossed], minlength=len(points)) % 2 == 1
    odd[p[on_edge]] = False
    return odd


def ring_edges_numpy(vertices: Array, rings: Array, owners: Array) -> tuple[Array, Array, Array]:
    """Twin of `ring_edges`: edges (E, 4), their first per polygon (P + 1,), bounding boxes (P, 4)."""
    edges = np.concatenate([vertices, np.roll(vertices, -1, axis=0)], axis=1)
    edges[rings[1:] - 1, 2:] = vertices[
        rings[:-1]
    ]  # the last vertex of each ring leads back to its first
    offsets = rings[owners]
    if len(offsets) < 2:
        return edges, offsets, np.zeros((0, 4))
    low = np.minimum.reduceat(vertices, offsets[:-1], axis=0)
    high = np.maximum.reduceat(vertices, offsets[:-1], axis=0)
    return edges, offsets, np.concatenate([low, high], axis=1)


def areas_numpy(
    motion: Array, ranges: Array, kinds: Array, edges: Array, edge_offsets: Array
) -> Array:
    """Twin of `areas_numba`: (B, T, 5) flags from `Motion` columns (B, T, 7)."""
    points = np.concatenate([motion_points(motion), motion[..., None, : Motion.CENTER_X]], axis=-2)
    flat = points.reshape(-1, 6, 2)  # corners, centre, rear axle
    steps = len(flat)
    covered, lanes, whole = (
        np.zeros((steps, 4), bool),
        np.zeros(steps, np.int64),
        np.zeros(steps, bool),
    )
    on_route, crossing = np.zeros(steps, bool), np.zeros((steps, 2), bool)
    low, high = flat.min(axis=1), flat.max(axis=1)
    for p, box in enumerate(ranges):
        near = np.flatnonzero((low <= box[2:]).all(axis=1) & (high >= box[:2]).all(axis=1))
        if not near.size:
            continue
        own = edges[edge_offsets[p] : edge_offsets[p + 1]]
        held = inside_numpy(flat[near].reshape(-1, 2), own).reshape(-1, 6)
        if kinds[p] in (1, 2):
            lanes[near] += held[:, :4].any(axis=1)
            whole[near] |= held[:, :4].all(axis=1)
            on_route[near] |= held[:, 4] & (kinds[p] == 2)
        else:
            covered[near] |= held[:, :4]
            crossing[near] |= held[:, 4:] & (kinds[p] == 3)
    flags = [(lanes > 1) & ~whole, ~covered.all(axis=1), ~on_route, crossing[:, 0], crossing[:, 1]]
    return np.stack(flags, axis=-1).reshape(*points.shape[:2], 5)


def lights_numpy(corners: Array, vertices: Array, offsets: Array, active: Array) -> Array:
    """Twin of `lights_numba`."""
    boxes = np.asarray(shapely.polygons(corners))  # (B, T)
    out = np.zeros(len(corners), bool)
    for r in range(active.shape[1]):
        red = shapely.Polygon(vertices[offsets[r] : offsets[r + 1]])
        out |= shapely.intersects(boxes[:, active[:, r]], red).any(axis=1)
    return out
