"""Deferred shading: each pixel's faces get their colour once, are hazed by distance and blended
over the backdrop.

The formulas take scalars inside the kernel and arrays in its NumPy twin.
"""

from __future__ import annotations

import numpy as np

from latentvla_core.types import Array
from latentvla_core.world.noise import clamp01, formula, hash01, kernel, value_noise
from latentvla_core.world.shapes.mesh import Shader

_FACADE, _FOLIAGE = int(Shader.FACADE), int(Shader.FOLIAGE)  # plain ints for the compiler
STOREY_M, BAY_M, SILL_M, GLASS_UP = 3.3, 3.0, 1.0, 0.52
SHOP_M = 3.1  # the ground floor, where shop windows are
LEAVES, LEAVES_PER_M = 256, 32.0
_WARM = np.array([250.0, 214.0, 150.0])  # a lit window


def leaf_texture() -> Array:
    """(LEAVES, LEAVES, 2) float32: soft patches and single leaves, both around 0."""
    x, y = np.meshgrid(np.arange(LEAVES) / LEAVES_PER_M, np.arange(LEAVES) / LEAVES_PER_M)
    coarse, fine = (
        value_noise(x * 2.4, y * 2.4, 41) - 0.5,
        value_noise(x * 11.0, y * 11.0, 42) - 0.5,
    )
    return np.stack([coarse, fine], axis=-1).astype(np.float32)


def facade_pattern(size: Array, seed: Array) -> Array:
    """(4, F) bays per metre, share of it that is glass, whether the ground floor has shop windows,
    height; size (2, F).
    """
    house = seed // 4
    wanted = BAY_M * (0.75 + 0.7 * hash01(house, house * 0 + 5, 9))
    bay = size[0] / np.maximum(np.floor(size[0] / wanted), 1.0)
    share = np.minimum(0.42 + 0.52 * hash01(house, house * 0 + 7, 3), 0.88)
    return np.stack([1.0 / bay, share, (hash01(house, house * 0 + 9, 4) > 0.4) * 1.0, size[1]])


@formula
def _bars(x, share, width):
    """Length inside bars, covering the first `share` of every unit, of the interval of `width`
    around x.
    """
    a = x - 0.5 * width
    b = a + width
    fa, fb = np.floor(a), np.floor(b)
    return (fb - fa - clamp01((a - fa) / share) + clamp01((b - fb) / share)) * share


@formula
def _depth(px, py, plane):
    """Depth (m) at picture point (px, py) of a face with inverse depth plane (a, b, c)."""
    return 1.0 / np.maximum(plane[0] * px + plane[1] * py + plane[2], 1e-4)


@formula
def _facade(x, y, z, plane, along, up, pattern, focal):
    """Glass share of a facade at the point with depth z on the ray (x, y, 1), averaged over the
    pixel; bay, storey, shop.

    Args:
        plane: (3,) see `Projected`; along, up: (4,) axis of the face in the camera frame and its
        offset;
        pattern: (4,) see `facade_pattern`; focal: (2,) reciprocal focal lengths.
    """
    across, upward = x * along[0] + y * along[1] + along[2], x * up[0] + y * up[1] + up[2]
    u, v = z * across - along[3], z * upward - up[3]
    # How far one pixel right and one pixel down move the point on the wall: derivatives of (ray ·
    # axis) · z.
    a, b = across * z, upward * z
    du = np.abs(along[0] * focal[0] - a * plane[0]) + np.abs(along[1] * focal[1] - a * plane[1])
    dv = np.abs(up[0] * focal[0] - b * plane[0]) + np.abs(up[1] * focal[1] - b * plane[1])
    du, dv = z * du * pattern[0] + 1e-4, z * dv + 1e-3  # bays, metres
    sharp = 1.0 / dv
    bay, storey = u * pattern[0], (v - SILL_M) * (1.0 / STOREY_M)
    # Share of the pixel on the ground floor, where shops have wide and tall panes.
    shop = clamp01((SHOP_M - v) * sharp + 0.5) * pattern[2]
    windows = _bars(bay - (1.0 - pattern[1]) * 0.5, pattern[1], du) * _bars(
        storey, GLASS_UP, dv * (1.0 / STOREY_M)
    )
    panes = _bars(bay - 0.04, 0.92, du) * clamp01((2.4 - v) * sharp + 0.5)
    share = (windows * (1.0 - shop) * (sharp * STOREY_M) + panes * shop) / du
    return share * clamp01((pattern[3] - 0.7 - v) * sharp + 0.5), bay, storey, shop


@formula
def _glow(bay, storey, shop, seed):
    """1 for windows with the light on: some rooms, and all shops."""
    room = hash01(np.int64(np.floor(bay)), np.int64(np.floor(storey)), seed)
    return clamp01((room - 0.55) * 1000.0 + shop)


@formula
def leaf_place(x, y, z, along, up, seed):
    """Position on a disc of leaves (m) and its texel in `leaf_texture`."""
    u = z * (x * along[0] + y * along[1] + along[2]) - along[3]
    v = z * (x * up[0] + y * up[1] + up[2]) - up[3]
    row = (np.int64(np.floor(v * LEAVES_PER_M)) + seed * 57) & (LEAVES - 1)
    column = (np.int64(np.floor(u * LEAVES_PER_M)) + seed * 131) & (LEAVES - 1)
    return u, v, row, column


@formula
def _foliage(u, v, z, along, up, width, coarse, fine, focal, sun):
    """Gains of sky light and sun light on a ball of leaves of this width, at a place of its disc."""
    right, high = 2.0 * u / width - 1.0, 2.0 * v / width - 1.0
    out = np.sqrt(clamp01(1.0 - right * right - high * high))
    nx = right * along[0] + high * up[0]
    ny = right * along[1] + high * up[1]
    nz = right * along[2] + high * up[2] - out
    toward_sun = clamp01(nx * sun[0] + ny * sun[1] + nz * sun[2] + 0.15)
    toward_sky = nx * sun[3] + ny * sun[4] + nz * sun[5]
    detail = clamp01(1.3 - z * focal[0] * 9.0)
    gain = 0.92 + 0.65 * coarse + 0.85 * detail * fine
    return gain * (0.86 + 0.34 * toward_sky), gain * toward_sun


@formula
def _clear(x, y, z, haze):
    """Share of light that gets through the haze before the point with depth z on the ray (x, y, 1)."""
    return np.exp(-haze * z * np.sqrt(x * x + y * y + 1.0))


@formula
def _lit(wall, glass, glow, warm, share, haze, clear):
    """One channel of a facade: wall and glass by share, lit windows, then haze."""
    return (wall + (glass + glow * (warm - glass) - wall) * share - haze) * clear + haze


@formula
def _byte(value):
    return np.uint8(min(max(value + 0.5, 0.0), 255.0))


@kernel
def resolve_numba(
    picture, backdrop, face, n, geometry, colours, shader, seed, focal, sun, leaves, haze, haze_rgb,
    night,
):  # fmt: skip
    """Write picture (H, W, 3) uint8 from the finished backdrop (H, W, 3) and the face grid (H n, W
    n), n samples a side.

    Args:
        geometry: (F, 15) see `Projected`; colours: (F, 6) see `Projected`; focal: (4,) fx, fy, cx,
        cy; sun: (6,) direction to the sun and the up direction, camera frame; leaves:
        `leaf_texture`; night: share of the light of lit windows.
    """
    count, step = n * n, 1.0 / n
    # Division is too slow for the inner loop.
    rows, columns = np.arange(count) // n, np.arange(count) % n
    lens = (1.0 / focal[0], 1.0 / focal[1])
    rays = (sun[0], sun[1], sun[2], sun[3], sun[4], sun[5])
    for r in range(picture.shape[0]):
        for c in range(picture.shape[1]):
            top, left = r * n, c * n
            mixed = 0
            for i in range(n):
                for j in range(n):
                    mixed |= face[top + i, left + j] ^ face[top, left]
            red, green, blue, covered = 0.0, 0.0, 0.0, 0
            for s in range(count if mixed else 1):
                row, column = rows[s], columns[s]
                f = face[top + row, left + column]
                if f < 0:
                    continue
                weight, seen = 0, False
                for i in range(n):
                    for j in range(n):
                        if face[top + i, left + j] == f:
                            weight += 1
                            seen |= i < row or (i == row and j < column)
                if seen:
                    continue
                one, two, three = colours[f, 0], colours[f, 1], colours[f, 2]
                kind = shader[f]
                if kind in (_FACADE, _FOLIAGE):
                    px, py = c + (column + 0.5) * step, r + (row + 0.5) * step
                    x, y = (px - focal[2]) * lens[0], (py - focal[3]) * lens[1]
                    plane = (geometry[f, 0], geometry[f, 1], geometry[f, 2])
                    z = _depth(px, py, plane)
                    along = (geometry[f, 3], geometry[f, 4], geometry[f, 5], geometry[f, 6])
                    up = (geometry[f, 7], geometry[f, 8], geometry[f, 9], geometry[f, 10])
                    four, five, six = colours[f, 3], colours[f, 4], colours[f, 5]
                    if kind == _FACADE:
                        bays, glass = geometry[f, 11], geometry[f, 12]
                        pattern = (bays, glass, geometry[f, 13], geometry[f, 14])
                        share, bay, storey, shop = _facade(x, y, z, plane, along, up, pattern, lens)
                        glow = night * _glow(bay, storey, shop, seed[f]) if night > 0.0 else 0.0
                        clear = _clear(x, y, z, haze)
                        one = _lit(one, four, glow, _WARM[0], share, haze_rgb[0], clear)
                        two = _lit(two, five, glow, _WARM[1], share, haze_rgb[1], clear)
                        three = _lit(three, six, glow, _WARM[2], share, haze_rgb[2], clear)
                    else:
                        u, v, i, j = leaf_place(x, y, z, along, up, seed[f])
                        width = geometry[f, 11]
                        sky, day = _foliage(
                            u, v, z, along, up, width, leaves[i, j, 0], leaves[i, j, 1], lens, rays
                        )
                        veil = geometry[f, 12]
                        one = one * sky + four * day + veil * haze_rgb[0]
                        two = two * sky + five * day + veil * haze_rgb[1]
                        three = three * sky + six * day + veil * haze_rgb[2]
                red, green = red + one * weight, green + two * weight
                blue, covered = blue + three * weight, covered + weight
            rest = count - covered
            picture[r, c, 0] = _byte((red + backdrop[r, c, 0] * rest) / count)
            picture[r, c, 1] = _byte((green + backdrop[r, c, 1] * rest) / count)
            picture[r, c, 2] = _byte((blue + backdrop[r, c, 2] * rest) / count)


def resolve_numpy(
    picture,
    backdrop,
    face,
    n,
    geometry,
    colours,
    shader,
    seed,
    focal,
    sun,
    leaves,
    haze,
    haze_rgb,
    night,
) -> None:
    """Twin of `resolve_numba`."""
    height, width = picture.shape[:2]
    ids = face.reshape(height, n, width, n).transpose(0, 2, 1, 3).reshape(height, width, n * n)
    total = backdrop * (ids < 0).sum(axis=-1)[..., None]
    for s in range(n * n):
        first = (ids[..., s] >= 0) & ~(ids[..., :s] == ids[..., s : s + 1]).any(axis=-1)
        r, c = np.nonzero(first)
        f = ids[r, c, s]
        weight = (ids[r, c] == f[:, None]).sum(axis=-1)
        px, py = c + (s % n + 0.5) / n, r + (s // n + 0.5) / n
        lens = 1.0 / focal[:2]
        x, y = (px - focal[2]) * lens[0], (py - focal[3]) * lens[1]
        shape = geometry[f].T
        z = _depth(px, py, shape[:3])
        colour, extra = colours[f, :3].T.copy(), colours[f, 3:].T
        k = np.flatnonzero(shader[f] == _FACADE)
        parts = shape[:3, k], shape[3:7, k], shape[7:11, k], shape[11:15, k]
        share, *room = _facade(x[k], y[k], z[k], *parts, lens)
        pane = extra[:, k] + night * _glow(*room, seed[f[k]]) * (_WARM[:, None] - extra[:, k])
        wall = colour[:, k] + (pane - colour[:, k]) * share
        colour[:, k] = (wall - haze_rgb[:, None]) * _clear(x[k], y[k], z[k], haze) + haze_rgb[
            :, None
        ]
        k = np.flatnonzero(shader[f] == _FOLIAGE)
        u, v, i, j = leaf_place(x[k], y[k], z[k], shape[3:7, k], shape[7:11, k], seed[f[k]])
        grain = leaves[i, j, 0], leaves[i, j, 1]
        sky, day = _foliage(
            u, v, z[k], shape[3:7, k], shape[7:11, k], shape[11, k], *grain, lens, sun
        )
        colour[:, k] = colour[:, k] * sky + extra[:, k] * day + shape[12, k] * haze_rgb[:, None]
        total[r, c] += (colour * weight).T
    picture[:] = np.clip(total / (n * n) + 0.5, 0, 255).astype(np.uint8)
