"""Depth-tested fill of convex polygons on a grid A times finer than the picture; leaves have ragged
edges and holes.

Legend: F faces, H x W picture, A samples per pixel side.
"""

from __future__ import annotations

import numpy as np

from latentvla_core.world.noise import formula, kernel
from latentvla_core.world.sensors.shading import leaf_place
from latentvla_core.world.shapes.mesh import Shader

_FOLIAGE = int(Shader.FOLIAGE)  # a plain int for the compiler
SOLID = 0.25  # squared share of a disc of leaves without holes
MIN_RAGGED_PX = 7  # smaller discs are drawn plain


@formula
def _outwards(u, v, width):
    """Squared distance from the centre of a disc, 1 at its rim."""
    right, high = 2.0 * u / width - 1.0, 2.0 * v / width - 1.0
    return right * right + high * high


@kernel
def fill_numba(
    polygon, counts, geometry, shader, seed, order, leaves, focal, samples, inverse_depth, face
):
    """Fill inverse_depth and face (H A, W A) at sample centres; `face` gets the nearest face and
    keeps -1 elsewhere.

    Args:
        polygon, counts, geometry, shader, seed, order: see `Projected`; leaves: `leaf_texture`;
        focal: (4,) fx, fy, cx, cy.
    """
    rows, columns = face.shape
    per_sample, lens_x, lens_y = 1.0 / samples, 1.0 / focal[0], 1.0 / focal[1]
    left, right = np.empty(rows), np.empty(rows)
    for f in order:
        n = counts[f]
        if n < 3:
            continue
        top, bottom = 1e9, -1e9
        for k in range(n):
            y = polygon[f, k, 1] * samples
            top, bottom = min(top, y), max(bottom, y)
        r0, r1 = int(max(np.ceil(top - 0.5), 0.0)), int(min(np.ceil(bottom - 0.5), float(rows)))
        for r in range(r0, r1):
            left[r], right[r] = 1e9, -1e9
        for k in range(n):
            j = k + 1 if k + 1 < n else 0
            x0, y0 = polygon[f, k, 0] * samples, polygon[f, k, 1] * samples
            x1, y1 = polygon[f, j, 0] * samples, polygon[f, j, 1] * samples
            if y0 > y1:
                x0, y0, x1, y1 = x1, y1, x0, y0
            slope = (x1 - x0) / max(y1 - y0, 1e-12)
            for r in range(
                int(max(np.ceil(y0 - 0.5), 0.0)), int(min(np.ceil(y1 - 0.5), float(rows)))
            ):
                x = x0 + (r + 0.5 - y0) * slope
                left[r], right[r] = min(left[r], x), max(right[r], x)
        step = geometry[f, 0] / samples
        is_ragged = shader[f] == _FOLIAGE and bottom - top > MIN_RAGGED_PX * samples
        along, up = (0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0)
        depth = 0.0
        if is_ragged:
            along = (geometry[f, 3], geometry[f, 4], geometry[f, 5], geometry[f, 6])
            up = (geometry[f, 7], geometry[f, 8], geometry[f, 9], geometry[f, 10])
            x, y = (
                0.5 * (polygon[f, 0, 0] + polygon[f, 4, 0]),
                0.5 * (polygon[f, 0, 1] + polygon[f, 4, 1]),
            )
            depth = 1.0 / (geometry[f, 0] * x + geometry[f, 1] * y + geometry[f, 2])
        for r in range(r0, r1):
            c0, c1 = (
                int(max(np.ceil(left[r] - 0.5), 0.0)),
                int(min(np.ceil(right[r] - 0.5), float(columns))),
            )
            start = geometry[f, 1] * (r + 0.5) / samples + geometry[f, 2]
            for c in range(c0, c1):
                near = np.float32(start + step * (c + 0.5))
                if near <= inverse_depth[r, c]:
                    continue
                if is_ragged:
                    x, y = (
                        ((c + 0.5) * per_sample - focal[2]) * lens_x,
                        ((r + 0.5) * per_sample - focal[3]) * lens_y,
                    )
                    u, v, i, j = leaf_place(x, y, depth, along, up, seed[f])
                    out = _outwards(u, v, geometry[f, 11])
                    if out > SOLID and out > 0.62 + 0.5 * leaves[i, j, 0] + 0.75 * leaves[i, j, 1]:
                        continue
                inverse_depth[r, c], face[r, c] = near, f


def fill_numpy(
    polygon, counts, geometry, shader, seed, order, leaves, focal, samples, inverse_depth, face
) -> None:
    """Twin of `fill_numba`: one face at a time, all its rows at once."""
    rows, columns = face.shape
    for f in order[counts[order] >= 3]:
        p = polygon[f, : counts[f]] * samples
        r0, r1 = (
            int(max(np.ceil(p[:, 1].min() - 0.5), 0)),
            int(min(np.ceil(p[:, 1].max() - 0.5), rows)),
        )
        c0, c1 = (
            int(max(np.ceil(p[:, 0].min() - 0.5), 0)),
            int(min(np.ceil(p[:, 0].max() - 0.5), columns)),
        )
        if r1 <= r0 or c1 <= c0:
            continue
        y = np.arange(r0, r1) + 0.5
        left, right = np.full(len(y), 1e9), np.full(len(y), -1e9)
        for a, b in zip(p, np.roll(p, -1, axis=0), strict=True):
            a, b = (a, b) if a[1] <= b[1] else (b, a)
            hit = (y >= a[1]) & (y < b[1])
            x = a[0] + (y - a[1]) * ((b[0] - a[0]) / max(b[1] - a[1], 1e-12))
            left, right = (
                np.where(hit, np.minimum(left, x), left),
                np.where(hit, np.maximum(right, x), right),
            )
        x = np.arange(c0, c1) + 0.5
        near = (geometry[f, 1] * y / samples + geometry[f, 2])[:, None] + geometry[
            f, 0
        ] / samples * x
        near = near.astype(np.float32)
        window = (slice(r0, r1), slice(c0, c1))
        wins = (x >= left[:, None]) & (x < right[:, None]) & (near > inverse_depth[window])
        if shader[f] == _FOLIAGE and p[:, 1].max() - p[:, 1].min() > MIN_RAGGED_PX * samples:
            ray = (
                (x / samples - focal[2]) / focal[0],
                ((y / samples - focal[3]) / focal[1])[:, None],
            )
            middle = (polygon[f, 0] + polygon[f, 4]) / 2
            depth = 1.0 / (geometry[f, :2] @ middle + geometry[f, 2])
            u, v, i, j = leaf_place(*ray, depth, geometry[f, 3:7], geometry[f, 7:11], seed[f])
            out = _outwards(u, v, geometry[f, 11])
            wins &= (out <= SOLID) | (out <= 0.62 + 0.5 * leaves[i, j, 0] + 0.75 * leaves[i, j, 1])
        inverse_depth[window] = np.where(wins, near, inverse_depth[window])
        face[window] = np.where(wins, f, face[window])
