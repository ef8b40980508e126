"""What lies behind all objects: inverse perspective sampling of the ground, and the sky panorama.

Legend: H x W picture, G ground pixels, S sky pixels. The rig is fixed and the road flat, so
everything that depends on the camera alone (rays, footprints, haze) is computed once per camera.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentvla_core.types import Array, Camera
from latentvla_core.world.noise import formula, kernel
from latentvla_core.world.sensors.ground import BASE_TEXEL_M, LEVELS, GroundTexture
from latentvla_core.world.sensors.paint import SIDE, TILE
from latentvla_core.world.sensors.sky import BOTTOM_RAD, PANORAMA_COLUMNS, PANORAMA_ROWS, TOP_RAD

if SIDE != TILE + 2 or TILE != 128:
    raise AssertionError("the samplers shift by 7 bits and mask with 127")
MAX_SAMPLES = 6  # look-ups along the long axis of a pixel's footprint
FAR_M = 350.0  # beyond, the far tree line of the panorama hides the ground


@dataclass(frozen=True, slots=True)
class View:
    """Everything one camera knows about its pixels."""

    rays: Array
    """(H, W, 3) pixel rays in the ego frame, camera depth 1."""
    ground_index: Array
    """(G,) int32 flat pixel index."""
    ground_xy_m: Array
    """(G, 2) float32 ego frame; the small types keep the samplers inside the cache."""
    footprint_m: Array
    """(G, 2) long axis of the pixel on the ground, ego frame."""
    level: Array
    """(G,) int8 pyramid level."""
    samples: Array
    """(G,) int8 look-ups along the footprint."""
    distance_m: Array
    """(G,) along the ray to the ground; the panorama is hazed already."""
    field_xy_m: Array
    """(H, W, 2) ground point of each pixel, far away for sky."""
    sky_index: Array
    """(S,) int64"""
    sky_azimuth: Array
    """(S,) panorama columns in the ego frame."""
    sky_row: Array
    """(S,) panorama row."""
    head_lamps: Array
    """(G,) how much the ego's own head lamps add to the ground's light."""
    half_angle_rad: float
    """Of the cone around the optical axis that holds the whole picture."""
    cells: tuple[tuple[int, Array, float], ...]
    """(level, (n, 2) ego points, reach in metres): where tiles of a level are needed."""


def make_view(camera: Camera, size_wh: tuple[int, int]) -> View:
    """Precompute a camera for pictures of `size_wh`."""
    width, height = size_wh
    rays = pixel_rays(camera, np.arange(width) + 0.5, np.arange(height) + 0.5)
    hit, distance = _ground_hit(rays, camera)
    right, _ = _ground_hit(
        pixel_rays(camera, np.arange(width) + 1.5, np.arange(height) + 0.5), camera
    )
    down, _ = _ground_hit(
        pixel_rays(camera, np.arange(width) + 0.5, np.arange(height) + 1.5), camera
    )
    is_ground = distance < FAR_M
    ground, sky = np.flatnonzero(is_ground), np.flatnonzero(~is_ground)
    long_axis, short_m = _footprint(
        (right - hit).reshape(-1, 2)[ground], (down - hit).reshape(-1, 2)[ground]
    )
    long_m = np.linalg.norm(long_axis, axis=1)
    level = np.round(
        np.log2(np.maximum(np.maximum(short_m, long_m / MAX_SAMPLES) / BASE_TEXEL_M, 1e-6))
    )
    level = np.clip(level, 0, LEVELS - 1).astype(np.int64)
    samples = np.clip(np.ceil(long_m / (BASE_TEXEL_M * 2.0**level)), 1, MAX_SAMPLES).astype(
        np.int64
    )
    sky_rays = rays.reshape(-1, 3)[sky]
    elevation = np.arctan2(sky_rays[:, 2], np.hypot(sky_rays[:, 0], sky_rays[:, 1]))
    axis = camera.rotation[:, 2]
    corners = rays[[0, 0, -1, -1], [0, -1, 0, -1]]
    return View(
        rays=rays,
        ground_index=ground.astype(np.int32),
        ground_xy_m=hit.reshape(-1, 2)[ground].astype(np.float32),
        footprint_m=long_axis.astype(np.float32),
        level=level.astype(np.int8),
        samples=samples.astype(np.int8),
        distance_m=distance.reshape(-1)[ground],
        field_xy_m=np.where(is_ground[..., None], hit, 1e6),
        sky_index=sky,
        sky_azimuth=np.arctan2(sky_rays[:, 1], sky_rays[:, 0]) * (PANORAMA_COLUMNS / (2 * np.pi))
        - 0.5,
        sky_row=np.clip(
            (TOP_RAD - elevation) / (TOP_RAD - BOTTOM_RAD) * (PANORAMA_ROWS - 1),
            0,
            PANORAMA_ROWS - 1.001,
        ),
        head_lamps=_head_lamps(hit.reshape(-1, 2)[ground]),
        half_angle_rad=float(np.arccos((corners @ axis / np.linalg.norm(corners, axis=1)).min()))
        + 0.01,
        cells=_cells(hit.reshape(-1, 2)[ground], long_m, level),
    )


def pixel_rays(camera: Camera, u: Array, v: Array) -> Array:
    """(len(v), len(u), 3) rays through picture points, ego axes, with camera depth 1."""
    k = camera.intrinsics_px
    x, y = np.meshgrid((u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1])
    return np.stack([x, y, np.ones_like(x)], axis=-1) @ camera.rotation.T


def _ground_hit(rays: Array, camera: Camera) -> tuple[Array, Array]:
    """(H, W, 2) where rays meet z = 0 and (H, W) distance along the ray; infinite for rays that
    rise.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = np.where(rays[..., 2] < -1e-6, -camera.translation_m[2] / rays[..., 2], np.inf)
        hit = np.where(
            np.isfinite(depth)[..., None],
            camera.translation_m[:2] + depth[..., None] * rays[..., :2],
            1e6,
        )
    return hit, depth * np.linalg.norm(rays, axis=-1)


def _head_lamps(xy_m: Array) -> Array:
    """Light cone on the road ahead: brightest at 10 m, 30 degrees to either side."""
    ahead, aside = xy_m[..., 0] - 3.7, np.abs(xy_m[..., 1])
    reach = np.clip(ahead / 6.0, 0, 1) * np.exp(-np.clip(ahead, 0, None) / 22.0)
    return 2.2 * reach * np.clip(1.6 - aside / np.maximum(0.32 * ahead + 1.5, 1.0), 0, 1)


def _footprint(across: Array, down: Array) -> tuple[Array, Array]:
    """(G, 2) longer side of the pixel's ground patch and (G,) the width perpendicular to it."""
    long_axis = np.where(
        (np.linalg.norm(across, axis=1) > np.linalg.norm(down, axis=1))[:, None], across, down
    )
    area = np.abs(across[:, 0] * down[:, 1] - across[:, 1] * down[:, 0])
    return long_axis, area / np.maximum(np.linalg.norm(long_axis, axis=1), 1e-9)


def _cells(points: Array, long_m: Array, level: Array) -> tuple[tuple[int, Array, float], ...]:
    """Coarse cells that cover all look-ups of each level: centres in the ego frame and a radius
    that is surely enough.
    """
    result = []
    for k in range(LEVELS):
        mine = level == k
        if mine.any():
            cell = BASE_TEXEL_M * 2.0**k * TILE / 3
            centres = (
                np.unique(np.floor(points[mine] / cell).astype(np.int64), axis=0) + 0.5
            ) * cell
            result.append(
                (
                    k,
                    centres,
                    cell * 0.7072 + float(long_m[mine].max()) / 2 + 2 * BASE_TEXEL_M * 2.0**k,
                )
            )
    return tuple(result)


def ensure_tiles(texture: GroundTexture, view: View, ego_pose: Array) -> None:
    """Paint the tiles that this view needs from this pose."""
    texture.tick()
    c, s = np.cos(ego_pose[2]), np.sin(ego_pose[2])
    turn = np.array([[c, s], [-s, c]])
    for level, centres, reach in view.cells:
        texture.ensure(level, centres @ turn + ego_pose[:2], reach)


@kernel
def hidden_numba(face, n):
    """(H * W,) bool: pixels of which objects cover all n x n samples of the face grid (H n, W n)."""
    height, width = face.shape[0] // n, face.shape[1] // n
    out = np.empty(height * width, np.bool_)
    for r in range(height):
        for c in range(width):
            lowest = 0
            for i in range(n):
                for j in range(n):
                    lowest |= face[r * n + i, c * n + j]
            out[r * width + c] = lowest >= 0  # -1 marks open samples and sets the sign
    return out


def hidden_numpy(face, n) -> Array:
    """Twin of `hidden_numba`."""
    height, width = face.shape[0] // n, face.shape[1] // n
    return (face.reshape(height, n, width, n).min(axis=(1, 3)) >= 0).reshape(-1)


@kernel
def sample_ground_numba(
    out,
    hidden,
    index,
    xy,
    footprint,
    level,
    samples,
    pose,
    pages,
    page_offsets,
    shape,
    texels,
    origin,
    pool,
    flat,
):
    """Write ground colours (G,) into out (H * W, 3) where not hidden: mean of bilinear look-ups
    along each footprint.
    """
    c, s = np.cos(pose[2]), np.sin(pose[2])
    for g in range(len(index)):
        if hidden[index[g]]:
            continue
        k, n = level[g], samples[g]
        per_m = 1.0 / texels[k]
        x = (c * xy[g, 0] - s * xy[g, 1] + pose[0] - origin[0]) * per_m
        y = (s * xy[g, 0] + c * xy[g, 1] + pose[1] - origin[1]) * per_m
        fx = (c * footprint[g, 0] - s * footprint[g, 1]) * per_m
        fy = (s * footprint[g, 0] + c * footprint[g, 1]) * per_m
        total, bare = 0, 0
        fx, fy = fx / n, fy / n
        px, py = x - 0.5 - 0.5 * (n + 1) * fx, y - 0.5 - 0.5 * (n + 1) * fy
        offset, across, down = page_offsets[k], shape[k, 0], shape[k, 1]
        for _ in range(n):
            px, py = px + fx, py + fy
            ix, iy = int(np.floor(px)), int(np.floor(py))
            column, row = ix >> 7, iy >> 7
            slot = -1
            if column >= 0 and row >= 0 and column < across and row < down:
                slot = pages[offset + row * across + column]
            if slot < 0:
                bare += 1
                continue
            a, b = int((px - ix) * 16.0), int((py - iy) * 16.0)
            i, m = (iy & 127) + 1, (ix & 127) + 1
            total += (16 - a) * (16 - b) * spread(pool[slot, i, m]) + a * (16 - b) * spread(
                pool[slot, i, m + 1]
            )
            total += (16 - a) * b * spread(pool[slot, i + 1, m]) + a * b * spread(
                pool[slot, i + 1, m + 1]
            )
        for d in range(3):
            out[index[g], d] = (((total >> (21 * d)) & 0x1FFFFF) / 256.0 + bare * flat[d]) / n


@formula
def spread(packed):
    """Red, green, blue bytes → fields of 21 bits, so that one multiplication weighs all three (8 x
    256 x 255 < 2**21).
    """
    p = np.int64(packed)
    return (p & 0xFF) | ((p & 0xFF00) << 13) | ((p & 0xFF0000) << 26)


def sample_ground_numpy(
    out,
    hidden,
    index,
    xy,
    footprint,
    level,
    samples,
    pose,
    pages,
    page_offsets,
    shape,
    texels,
    origin,
    pool,
    flat,
) -> None:
    """Twin of `sample_ground_numba`."""
    seen = ~hidden[index]
    index, xy, footprint, level, samples = (
        index[seen],
        xy[seen],
        footprint[seen],
        level[seen],
        samples[seen],
    )
    c, s = np.cos(pose[2]), np.sin(pose[2])
    turn = np.array([[c, s], [-s, c]])
    per_m = (1.0 / texels[level])[:, None]
    centre = (xy @ turn + pose[:2] - origin) * per_m
    axis = (footprint @ turn) * per_m
    total, bare = np.zeros(len(index), np.int64), np.zeros(len(index))
    for j in range(MAX_SAMPLES):
        use = np.flatnonzero(samples > j)
        k = level[use]
        p = centre[use] + ((j + 0.5) / samples[use] - 0.5)[:, None] * axis[use] - 0.5
        i = np.floor(p).astype(np.int64)
        cell = i >> 7
        inside = ((cell >= 0) & (cell < shape[k])).all(axis=1)
        slot = np.where(
            inside,
            pages[np.where(inside, page_offsets[k] + cell[:, 1] * shape[k, 0] + cell[:, 0], 0)],
            -1,
        )
        a, b = np.floor((p - i) * 16.0).astype(np.int64).T
        column, row = ((i & 127) + 1).T
        near = (16 - a) * spread(pool[slot, row, column]) + a * spread(pool[slot, row, column + 1])
        far = (16 - a) * spread(pool[slot, row + 1, column]) + a * spread(
            pool[slot, row + 1, column + 1]
        )
        total[use] += np.where(slot < 0, 0, near * (16 - b) + far * b)
        bare[use] += slot < 0
    for d in range(3):
        out[index, d] = (((total >> (21 * d)) & 0x1FFFFF) / 256.0 + bare * flat[d]) / samples


@kernel
def sample_sky_numba(out, hidden, index, azimuth, row, turn, sky):
    """Write sky colours (S,) into out (H * W, 3): bilinear in the panorama, turned by `turn`
    columns.
    """
    columns = sky.shape[1]
    for k in range(len(index)):
        if hidden[index[k]]:
            continue
        x = azimuth[k] + turn
        fx = np.floor(x)
        a, left = x - fx, int(fx) % columns
        right = (left + 1) % columns
        top = int(row[k])
        b = row[k] - top
        for d in range(3):
            high = sky[top, left, d] * (1 - a) + sky[top, right, d] * a
            low = sky[top + 1, left, d] * (1 - a) + sky[top + 1, right, d] * a
            out[index[k], d] = high * (1 - b) + low * b


def sample_sky_numpy(out, hidden, index, azimuth, row, turn, sky) -> None:
    """Twin of `sample_sky_numba`."""
    seen = ~hidden[index]
    index, azimuth, row = index[seen], azimuth[seen], row[seen]
    x = azimuth + turn
    left = np.floor(x).astype(np.int64) % sky.shape[1]
    right, top = (left + 1) % sky.shape[1], row.astype(np.int64)
    a, b = (x - np.floor(x))[:, None], (row - top)[:, None]
    high = sky[top, left] * (1 - a) + sky[top, right] * a
    low = sky[top + 1, left] * (1 - a) + sky[top + 1, right] * a
    out[index] = high * (1 - b) + low * b


@kernel
def veil_numba(out, index, veil, gain, haze_rgb):
    """Light the ground pixels (G,) of out (H * W, 3) by `gain` (G,), then mix in `veil` (G,) of
    haze.
    """
    for g in range(len(index)):
        for d in range(3):
            value = out[index[g], d] * gain[g]
            out[index[g], d] = value + (haze_rgb[d] - value) * veil[g]


def veil_numpy(out, index, veil, gain, haze_rgb) -> None:
    """Twin of `veil_numba`."""
    value = out[index] * gain[:, None]
    out[index] = value + (haze_rgb - value) * veil[:, None]
