"""Soft shadows of road users on the flat road: contact shadows under them, and the shadows the sun
casts.

The shadow of an upright box is its footprint swept along the sun's direction: six half-planes in
closed form.
Legend: N shadows, H x W picture.
"""

from __future__ import annotations

import numpy as np

from latentvla_core.geometry import rotate
from latentvla_core.types import Array, Camera
from latentvla_core.world.noise import kernel
from latentvla_core.world.sensors.project import NEAR_M
from latentvla_core.world.sensors.sky import Light
from latentvla_core.world.shapes.palette import MAX_SHADOW_M

CONTACT_SOFT_M, CONTACT_GAIN, CAST_SOFT_M, CAST_SHARE = 0.5, 0.42, 0.12, 0.88


def cast_shadows(
    corners: Array, heights: Array, light: Light, ego_yaw_rad: float
) -> tuple[Array, Array, Array, Array]:
    """Shadows of N boxes with footprints (N, 4, 2), counter-clockwise in the ego frame, and heights
    (N,).

    Returns:
        points (2 N, 8, 2) that span each shadow, lines (2 N, 6, 3) outward normals and offsets of
        its half-planes, softness (2 N,) of its rim in metres, gain (2 N, 3) left of the light
        inside. First N: contact; last N: sun.
    """
    sun = rotate(light.sun_direction[:2], -ego_yaw_rad)
    length = np.minimum(
        heights * np.linalg.norm(sun) / max(light.sun_direction[2], 1e-3), MAX_SHADOW_M
    )
    shift = -sun / max(float(np.linalg.norm(sun)), 1e-9) * length[:, None]  # (N, 2)
    still = np.zeros_like(shift)
    lit = light.sun_gain * max(light.sun_direction[2], 0.0)
    in_shadow = 1 - CAST_SHARE * lit / (light.ambient_gain + lit)
    n = len(corners)
    points, lines = _swept(np.concatenate([corners, corners]), np.concatenate([still, shift]))
    softness = np.repeat([CONTACT_SOFT_M, CAST_SOFT_M], n)
    gain = np.concatenate([np.full((n, 3), CONTACT_GAIN), np.tile(in_shadow, (n, 1))])
    count = 2 * n if light.sun_direction[2] > 0.03 else n
    return points[:count], lines[:count], softness[:count], gain[:count]


def _swept(corners: Array, shift: Array) -> tuple[Array, Array]:
    """(N, 8, 2) points and (N, 6, 3) half-planes of rectangles (N, 4, 2) swept along (N, 2)."""
    points = np.concatenate([corners, corners + shift[:, None]], axis=1)
    edge = np.roll(corners, -1, axis=1) - corners
    along = np.where(np.abs(shift).sum(axis=1, keepdims=True) > 1e-6, shift, edge[:, 0])
    direction = np.concatenate([edge, along[:, None], -along[:, None]], axis=1)  # (N, 6, 2)
    normal = np.stack([direction[..., 1], -direction[..., 0]], axis=-1)
    normal = normal / np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
    offset = (normal @ points.transpose(0, 2, 1)).max(axis=-1)
    return points, np.concatenate([normal, offset[..., None]], axis=-1)


def picture_windows(points: Array, rim_m: Array, camera: Camera, size_wh: tuple[int, int]) -> Array:
    """(N, 4) rows and columns (r0, r1, c0, c1) that ground points (N, K, 2) of the ego frame with a
    rim may touch.
    """
    height = np.zeros((*points.shape[:2], 1))
    local = (np.concatenate([points, height], axis=-1) - camera.translation_m) @ camera.rotation
    z = np.maximum(local[..., 2], NEAR_M)
    k = camera.intrinsics_px
    u, v = local[..., 0] / z * k[0, 0] + k[0, 2], local[..., 1] / z * k[1, 1] + k[1, 2]
    rim = rim_m[:, None] * max(k[0, 0], k[1, 1]) / z
    limits = np.stack(
        [(v - rim).min(1), (v + rim).max(1) + 1, (u - rim).min(1), (u + rim).max(1) + 1], axis=1
    )
    behind = (
        local[..., 2].min(axis=1) < NEAR_M
    )  # reaches behind the camera: may be anywhere in the picture
    limits[behind] = (0, size_wh[1], 0, size_wh[0])
    limits[local[..., 2].max(axis=1) < NEAR_M] = 0
    return np.clip(limits, 0, [size_wh[1], size_wh[1], size_wh[0], size_wh[0]]).astype(np.int64)


@kernel
def darken_numba(out, field, windows, lines, softness, gain):
    """Multiply out (H, W, 3) by each shadow's gain inside its half-planes, with a soft rim.

    Args:
        field: (H, W, 2) ground point of each pixel; the others as from `cast_shadows` and
        `picture_windows`.
    """
    for n in range(len(windows)):
        for r in range(windows[n, 0], windows[n, 1]):
            for c in range(windows[n, 2], windows[n, 3]):
                x, y = field[r, c, 0], field[r, c, 1]
                far = -1e9
                for k in range(lines.shape[1]):
                    far = max(far, lines[n, k, 0] * x + lines[n, k, 1] * y - lines[n, k, 2])
                    if far > softness[n]:
                        break
                t = min(max(0.5 - far / softness[n], 0.0), 1.0)
                if t > 0.0:
                    t = t * t * (3.0 - 2.0 * t)
                    for d in range(3):
                        out[r, c, d] *= 1.0 - t * (1.0 - gain[n, d])


def darken_numpy(out, field, windows, lines, softness, gain) -> None:
    """Twin of `darken_numba`."""
    for n in range(len(windows)):
        rows, columns = slice(*windows[n, :2]), slice(*windows[n, 2:])
        far = (field[rows, columns] @ lines[n, :, :2].T - lines[n, :, 2]).max(axis=-1)
        t = np.clip(0.5 - far / softness[n], 0.0, 1.0)
        t = t * t * (3.0 - 2.0 * t)
        out[rows, columns] *= 1.0 - t[..., None] * (1.0 - gain[n])
