"""Deferred shading: each pixel's faces get their colour once, are hazed by distance and blended over the backdrop."""

from __future__ import annotations

import numpy as np

from latentvla_core.world.mesh import Shader
from latentvla_core.world.noise import formula, hash01, kernel, value_noise

_FACADE, _FOLIAGE, _LAMP = int(Shader.FACADE), int(Shader.FOLIAGE), int(Shader.LAMP)  # plain ints for the compiler
STOREY_M, BAY_M = 3.3, 3.0
_WARM = (250.0, 214.0, 150.0)  # a lit window


@formula
def _bars(x, period, share, width):
    """Share of the interval of `width` around x that lies in bars covering the first `share` of every period."""
    a, b = (x - 0.5 * width) / period, (x + 0.5 * width) / period
    low = np.floor(a) * share + np.minimum(a - np.floor(a), share)
    high = np.floor(b) * share + np.minimum(b - np.floor(b), share)
    return (high - low) / (b - a)


@formula
def facade_windows(u, v, du, dv, width, height, seed):
    """Share of window glass at (u, v) metres from the lower corner of a wall, averaged over the footprint (du, dv)."""
    style = hash01(seed, seed // 4, 9)
    bay = BAY_M * (0.8 + 0.6 * style)
    bays = np.maximum(np.floor(width / bay), 1.0)
    bay = width / bays
    share = np.minimum(0.45 + 0.5 * hash01(seed // 4, 7, 3), 0.88)
    across = _bars(u - bay * (1.0 - share) * 0.5, bay, share, du)
    upward = _bars(v - 1.0, STOREY_M, 0.52, dv)
    inside = np.minimum(np.maximum((height - 0.7 - v) / np.maximum(dv, 0.2) + 0.5, 0.0), 1.0)
    return across * upward * inside


@formula
def window_glow(u, v, seed):
    """1 for windows with the light on, by bay and storey."""
    lit = hash01(np.int64(np.floor(u / BAY_M)), np.int64(np.floor((v - 1.0) / STOREY_M)), seed)
    return np.minimum(np.maximum((lit - 0.58) * 1000.0, 0.0), 1.0)


@formula
def leaf_light(u, v, du, seed):
    """Brightness of leaves around 1; the finest detail fades with distance."""
    coarse = value_noise(u * 2.2 + 50.0, v * 2.2 + 50.0, seed)
    fine = value_noise(u * 9.0 + 90.0, v * 9.0 + 90.0, seed + 1)
    detail = np.minimum(np.maximum(1.2 - du * 9.0, 0.0), 1.0)
    return 0.62 + 0.5 * coarse + 0.62 * (fine - 0.5) * detail


@formula
def bulge(u, v, half_w, half_h):
    """Normal of a sphere seen face on, from the position on its disc: (right, up, towards the viewer)."""
    x, y = u / half_w - 1.0, v / half_h - 1.0
    return x, y, np.sqrt(np.maximum(1.0 - x * x - y * y, 0.02))


@formula
def _on_face(x, y, z, axes, f):
    """Coordinates (m) on face f of the point with depth z on the picture ray (x, y, 1)."""
    u = z * (x * axes[0, f] + y * axes[1, f] + axes[2, f]) - axes[3, f]
    v = z * (x * axes[4, f] + y * axes[5, f] + axes[6, f]) - axes[7, f]
    return u, v


@formula
def _depth(px, py, plane, f):
    """Depth (m) of face f at picture point (px, py)."""
    return 1.0 / np.maximum(plane[0, f] * px + plane[1, f] * py + plane[2, f], 1e-4)


@formula
def _facade(px, py, f, plane, axes, size, seed, lens):
    """Glass share and lamp-lit share of facade f at a picture point; lens = (fx, fy, cx, cy)."""
    x, y = (px - lens[2]) / lens[0], (py - lens[3]) / lens[1]
    dx, dy = 1.0 / lens[0], 1.0 / lens[1]
    u, v = _on_face(x, y, _depth(px, py, plane, f), axes, f)
    u1, v1 = _on_face(x + dx, y, _depth(px + 1.0, py, plane, f), axes, f)
    u2, v2 = _on_face(x, y + dy, _depth(px, py + 1.0, plane, f), axes, f)
    du, dv = np.abs(u1 - u) + np.abs(u2 - u) + 1e-4, np.abs(v1 - v) + np.abs(v2 - v) + 1e-4
    share = facade_windows(u, v, np.minimum(du, 50.0), np.minimum(dv, 50.0), size[0, f], size[1, f], seed[f])
    return share, window_glow(u, v, seed[f])


@formula
def _foliage(px, py, f, plane, axes, size, seed, lens, sun):
    """Gains for sky light and sun light of leaves; sun = direction to the sun and the up direction, camera frame (6,)."""
    z = _depth(px, py, plane, f)
    x, y = (px - lens[2]) / lens[0], (py - lens[3]) / lens[1]
    u, v = _on_face(x, y, z, axes, f)
    right, up, out = bulge(u, v, size[0, f] * 0.5, size[1, f] * 0.5)
    nx = right * axes[0, f] + up * axes[4, f]
    ny = right * axes[1, f] + up * axes[5, f]
    nz = right * axes[2, f] + up * axes[6, f] - out
    toward_sun = np.maximum(nx * sun[0] + ny * sun[1] + nz * sun[2], 0.0)
    toward_sky = nx * sun[3] + ny * sun[4] + nz * sun[5]
    leaves = leaf_light(u, v, z / lens[0], seed[f])
    return leaves * (0.70 + 0.30 * toward_sky), leaves * toward_sun


@kernel
def resolve_numba(
    picture,
    backdrop,
    air,
    lamps,
    face,
    samples,
    plane,
    lit,
    extra,
    axes,
    size,
    shader,
    seed,
    lens,
    sun,
    haze,
    haze_rgb,
    night,
):
    """Write picture (H, W, 3) uint8 from the backdrop (H, W, 3) and the face grid (H A, W A).

    Args:
        air, lamps: (H, W) metres of air before the backdrop, and the extra light of our own head lamps on it.
        lens: (4,) fx, fy, cx, cy; sun: (6,) see `_foliage`; haze: extinction per metre; night: share of windows' light.
    """
    height, width = picture.shape[0], picture.shape[1]
    count = samples * samples
    ids = np.empty(count, np.int64)
    total = np.empty(3)
    colour = np.empty(3)
    for r in range(height):
        for c in range(width):
            covered = 0
            for s in range(count):
                ids[s] = face[r * samples + s // samples, c * samples + s % samples]
                if ids[s] >= 0:
                    covered += 1
            total[:] = 0.0
            if covered < count:
                veil = 1.0 - np.exp(-haze * air[r, c])
                for d in range(3):
                    ground = backdrop[r, c, d] * (1.0 + lamps[r, c])
                    total[d] = (ground + (haze_rgb[d] - ground) * veil) * (count - covered)
            for s in range(count):
                f = ids[s]
                if f < 0:
                    continue
                again = 0
                for t in range(s):
                    again += ids[t] == f
                if again:
                    continue
                weight = 0
                for t in range(s, count):
                    weight += ids[t] == f
                px, py = c + (s % samples + 0.5) / samples, r + (s // samples + 0.5) / samples
                if shader[f] == _FACADE:
                    share, glow = _facade(px, py, f, plane, axes, size, seed, lens)
                    for d in range(3):
                        pane = extra[d, f] + night * glow * (_WARM[d] - extra[d, f])
                        colour[d] = lit[d, f] + (pane - lit[d, f]) * share
                elif shader[f] == _FOLIAGE:
                    sky_gain, sun_gain = _foliage(px, py, f, plane, axes, size, seed, lens, sun)
                    for d in range(3):
                        colour[d] = lit[d, f] * sky_gain + extra[d, f] * sun_gain
                else:
                    for d in range(3):
                        colour[d] = lit[d, f]
                veil = _veil(px, py, f, plane, lens, haze)
                if shader[f] == _LAMP:
                    veil *= 0.4
                for d in range(3):
                    total[d] += (colour[d] + (haze_rgb[d] - colour[d]) * veil) * weight
            for d in range(3):
                picture[r, c, d] = np.uint8(min(max(total[d] / count + 0.5, 0.0), 255.0))


@formula
def _veil(px, py, f, plane, lens, haze):
    """Share of haze before face f."""
    x, y = (px - lens[2]) / lens[0], (py - lens[3]) / lens[1]
    return 1.0 - np.exp(-haze * _depth(px, py, plane, f) * np.sqrt(x * x + y * y + 1.0))


def resolve_numpy(
    picture,
    backdrop,
    air,
    lamps,
    face,
    samples,
    plane,
    lit,
    extra,
    axes,
    size,
    shader,
    seed,
    lens,
    sun,
    haze,
    haze_rgb,
    night,
) -> None:
    """Twin of `resolve_numba`."""
    height, width = picture.shape[:2]
    count = samples * samples
    ids = face.reshape(height, samples, width, samples).transpose(0, 2, 1, 3).reshape(height, width, count)
    ground = backdrop * (1.0 + lamps[..., None])
    ground = ground + (haze_rgb - ground) * (1.0 - np.exp(-haze * air))[..., None]
    total = ground * (ids < 0).sum(axis=-1)[..., None]
    for s in range(count):
        first = (ids[..., s] >= 0) & ~(ids[..., :s] == ids[..., s : s + 1]).any(axis=-1)
        r, c = np.nonzero(first)
        f = ids[r, c, s]
        weight = (ids[r, c] == f[:, None]).sum(axis=-1)
        px, py = c + (s % samples + 0.5) / samples, r + (s // samples + 0.5) / samples
        colour = lit[:, f].copy()
        k = np.flatnonzero(shader[f] == _FACADE)
        share, glow = _facade(px[k], py[k], f[k], plane, axes, size, seed, lens)
        pane = extra[:, f[k]] + night * glow * (np.array(_WARM)[:, None] - extra[:, f[k]])
        colour[:, k] += (pane - colour[:, k]) * share
        k = np.flatnonzero(shader[f] == _FOLIAGE)
        sky_gain, sun_gain = _foliage(px[k], py[k], f[k], plane, axes, size, seed, lens, sun)
        colour[:, k] = colour[:, k] * sky_gain + extra[:, f[k]] * sun_gain
        veil = _veil(px, py, f, plane, lens, haze) * np.where(shader[f] == _LAMP, 0.4, 1.0)
        total[r, c] += ((colour + (haze_rgb[:, None] - colour) * veil) * weight).T
    picture[:] = np.clip(total / count + 0.5, 0, 255).astype(np.uint8)
