"""From outlines and stripes to anti-aliased ground tiles: exact area coverage at any texel size, so
far tiles need no blur.

A tile is a square of TILE texels with an apron of one texel, so that bilinear look-ups stay inside
one tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentvla_core.types import Array
from latentvla_core.world.noise import hash01, kernel, value_noise

TILE = 128
SIDE = TILE + 2
ALBEDO_LAYERS = 5  # red, green, blue, fine grain, coarse patches


@dataclass(frozen=True, slots=True)
class Paints:
    """Polygons in painting order."""

    vertices_m: Array
    """(V, 2) world."""
    offsets: Array
    """(P + 1,) int64 into the vertices."""
    bounds_m: Array
    """(P, 4) x0, y0, x1, y1."""
    values: Array
    """(P, 5) float32 albedo 0-255, grain and patch amplitude."""
    opacity: Array
    """(P,) float32; worn paint lets the road shine through."""
    is_shadow: Array
    """(P,) bool: darkens the sun light instead of changing the albedo."""


@kernel
def coverage_numba(vertices, width, height, cover, window):
    """Fill cover (height, width + 2) with the share of each texel inside the polygon (n, 2), given
    in texels.

    Signed areas of every edge are accumulated and summed along the row (the method of font
    rasterisers). Only the rows and columns of `window` (r0, r1, c0, c1), which must hold the
    polygon, are written.
    """
    n = len(vertices)
    r0, r1, c0, c1 = window
    cover[r0:r1, c0 : c1 + 2] = 0.0
    for i in range(n):
        x0, y0 = vertices[i, 0], vertices[i, 1]
        j = i + 1 if i + 1 < n else 0
        x1, y1 = vertices[j, 0], vertices[j, 1]
        if y0 == y1:
            continue
        sign = 1.0
        if y0 > y1:
            x0, y0, x1, y1, sign = x1, y1, x0, y0, -1.0
        slope = (x1 - x0) / (y1 - y0)
        top, bottom = max(y0, 0.0), min(y1, float(height))
        row = int(np.floor(top))
        while row < bottom:
            ya, yb = max(top, float(row)), min(bottom, row + 1.0)
            xa = min(max(x0 + (ya - y0) * slope, 0.0), float(width))
            xb = min(max(x0 + (yb - y0) * slope, 0.0), float(width))
            _cells(cover, row, min(xa, xb), max(xa, xb), sign * (yb - ya))
            row += 1
    for row in range(r0, r1):
        total = 0.0
        for column in range(c0, c1):
            total += cover[row, column]
            cover[row, column] = min(abs(total), 1.0)


@kernel
def _cells(cover, row, left, right, rise):
    """Spread one edge piece (inside one row) over the cells it crosses."""
    first, last = int(left), int(right)
    if first == last:
        middle = 0.5 * (left + right) - first
        cover[row, first] += rise * (1.0 - middle)
        cover[row, first + 1] += rise * middle
        return
    per_x = rise / (right - left)
    for column in range(first, last + 1):
        a, b = max(left, float(column)), min(right, column + 1.0)
        part, middle = per_x * (b - a), 0.5 * (a + b) - column
        cover[row, column] += part * (1.0 - middle)
        cover[row, column + 1] += part * middle


def coverage_numpy(vertices: Array, width: int, height: int, cover: Array) -> None:
    """Twin of `coverage_numba`: edges are cut at every texel border, then summed with `np.add.at`."""
    cover[:] = 0.0
    for start, end in zip(vertices, np.roll(vertices, -1, axis=0), strict=True):
        if start[1] == end[1]:
            continue
        cuts = np.unique(
            np.concatenate(
                [[0.0, 1.0], _crossings(start, end, 1, height), _crossings(start, end, 0, width)]
            )
        )
        x = np.clip(start[0] + cuts * (end[0] - start[0]), 0, width)
        y = np.clip(start[1] + cuts * (end[1] - start[1]), 0, height)
        row = np.clip(np.floor((y[1:] + y[:-1]) / 2).astype(int), 0, height - 1)
        middle = (x[1:] + x[:-1]) / 2
        column = np.clip(np.floor(middle).astype(int), 0, width)
        rise = np.diff(y)
        np.add.at(cover, (row, column), rise * (1 - (middle - column)))
        np.add.at(cover, (row, column + 1), rise * (middle - column))
    cover[:, :width] = np.minimum(np.abs(np.cumsum(cover[:, :width], axis=1)), 1.0)


def _crossings(start: Array, end: Array, axis: int, limit: int) -> Array:
    """Parameters in (0, 1) where the edge crosses whole numbers 0 ... limit of one axis."""
    span = end[axis] - start[axis]
    if span == 0:
        return np.zeros(0)
    low, high = sorted((start[axis], end[axis]))
    whole = np.arange(max(np.ceil(low), 0), min(np.floor(high), limit) + 1)
    t = (whole - start[axis]) / span
    return t[(t > 0) & (t < 1)]


@kernel
def paint_numba(
    tile, light, vertices, offsets, chosen, values, opacity, is_shadow, origin_x, origin_y, texel
):
    """Blend the chosen polygons into tile (S, S, 5) and light (S, S)."""
    side = tile.shape[0]
    cover = np.zeros((side, side + 2))
    for p in chosen:
        polygon = np.empty((offsets[p + 1] - offsets[p], 2))
        for k in range(len(polygon)):
            polygon[k, 0] = (vertices[offsets[p] + k, 0] - origin_x) / texel
            polygon[k, 1] = (vertices[offsets[p] + k, 1] - origin_y) / texel
        r0, r1, c0, c1 = side, 0, side, 0
        for k in range(len(polygon)):
            r0, r1 = min(r0, int(np.floor(polygon[k, 1]))), max(r1, int(np.ceil(polygon[k, 1])))
            c0, c1 = min(c0, int(np.floor(polygon[k, 0]))), max(c1, int(np.ceil(polygon[k, 0])))
        r0, r1, c0, c1 = max(r0, 0), min(r1, side), max(c0, 0), min(c1, side)
        if r0 >= r1 or c0 >= c1:
            continue
        coverage_numba(polygon, side, side, cover, (r0, r1, c0, c1))
        for row in range(r0, r1):
            for column in range(c0, c1):
                share = cover[row, column] * opacity[p]
                if share > 0.0:
                    if is_shadow[p]:
                        light[row, column] *= 1.0 - share
                    else:
                        for layer in range(5):
                            tile[row, column, layer] += (
                                values[p, layer] - tile[row, column, layer]
                            ) * share


def paint_numpy(
    tile, light, vertices, offsets, chosen, values, opacity, is_shadow, origin_x, origin_y, texel
) -> None:
    """Twin of `paint_numba`."""
    side = tile.shape[0]
    cover = np.zeros((side, side + 2))
    for p in chosen:
        polygon = (vertices[offsets[p] : offsets[p + 1]] - (origin_x, origin_y)) / texel
        coverage_numpy(polygon, side, side, cover)
        share = cover[:, :side] * opacity[p]
        if is_shadow[p]:
            light *= 1.0 - share
        else:
            tile += (values[p] - tile) * share[..., None]


@kernel
def finish_numba(packed, tile, sun, start, level, texel, ambient_gain, sun_gain):
    """Texture and light: write packed (S, S) from albedo layers (S, S, 5) and the sun's share (S,
    S).

    Fine grain is one hash per texel; coarse patches are smooth noise. Both fade where texels
    outgrow their wavelength.
    """
    side = tile.shape[0]
    coarse = np.zeros((side, side))
    for octave in range(3):
        wavelength = 0.45 if octave == 0 else 2.3 if octave == 1 else 13.0
        strength = (0.5 + 0.25 * octave) * min(max(wavelength / texel * 0.5 - 0.5, 0.0), 1.0)
        if strength > 0.0:
            _add_noise(coarse, start, texel / wavelength, strength, octave)
    fade = 0.5**level
    for row in range(side):
        for column in range(side):
            fine = (hash01(start[0] + column, start[1] + row, 71 + level) - 0.5) * fade
            texture = 1.0 + fine * tile[row, column, 3] + coarse[row, column] * tile[row, column, 4]
            value = 0
            for d in range(3):
                lit = (
                    tile[row, column, d]
                    * texture
                    * (ambient_gain[d] + sun_gain[d] * sun[row, column])
                )
                value |= int(min(max(lit + 0.5, 0.0), 255.0)) << (8 * d)
            packed[row, column] = value


@kernel
def _add_noise(coarse, start, scale, strength, seed):
    """Add smooth noise around 0, hashing every lattice point once."""
    side = coarse.shape[0]
    x0, y0 = int(np.floor(start[0] * scale)), int(np.floor(start[1] * scale))
    size = int(side * scale) + 3
    lattice = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            lattice[i, j] = hash01(x0 + j, y0 + i, seed)
    for row in range(side):
        y = (start[1] + row) * scale - y0
        i = int(y)
        ty = y - i
        ty = ty * ty * (3.0 - 2.0 * ty)
        for column in range(side):
            x = (start[0] + column) * scale - x0
            j = int(x)
            tx = x - j
            tx = tx * tx * (3.0 - 2.0 * tx)
            low = lattice[i, j] * (1.0 - tx) + lattice[i, j + 1] * tx
            high = lattice[i + 1, j] * (1.0 - tx) + lattice[i + 1, j + 1] * tx
            coarse[row, column] += strength * (low * (1.0 - ty) + high * ty - 0.5)


def finish_numpy(packed, tile, sun, start, level, texel, ambient_gain, sun_gain) -> None:
    """Twin of `finish_numba`."""
    side = tile.shape[0]
    column = np.arange(side, dtype=np.int64)[None, :] + start[0]
    row = np.arange(side, dtype=np.int64)[:, None] + start[1]
    coarse = np.zeros((side, side))
    for octave, wavelength in enumerate((0.45, 2.3, 13.0)):
        strength = (0.5 + 0.25 * octave) * min(max(wavelength / texel * 0.5 - 0.5, 0.0), 1.0)
        if strength > 0:
            x, y = column * (texel / wavelength) + 0 * row, row * (texel / wavelength) + 0 * column
            coarse += strength * (value_noise(x, y, octave) - 0.5)
    fine = (hash01(column, row, 71 + level) - 0.5) * 0.5**level
    texture = 1.0 + fine * tile[..., 3] + coarse * tile[..., 4]
    lit = tile[..., :3] * texture[..., None] * (ambient_gain + sun_gain * sun[..., None])
    red, green, blue = np.moveaxis(np.clip(lit + 0.5, 0, 255).astype(np.uint32), -1, 0)
    packed[:] = red | (green << 8) | (blue << 16)
