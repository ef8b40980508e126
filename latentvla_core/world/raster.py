"""Convex faces to pixels: transform and light in NumPy, depth-tested fill and deferred shading in kernels with twins.

Legend: F faces, H x W picture, A samples per pixel side (the fill works on an A times finer grid). Behind every object is the
backdrop, so objects are blended over it by their coverage.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentvla_core.types import Array, Camera
from latentvla_core.world.mesh import MAX_CORNERS, Mesh, Shader
from latentvla_core.world.noise import kernel
from latentvla_core.world.sky import Light

NEAR_M = 0.2


@dataclass(frozen=True, slots=True)
class Projected:
    """Faces that may be seen, ready to fill and shade."""

    polygon_px: Array
    """(F, MAX_CORNERS + 1, 2) picture coordinates."""
    counts: Array
    """(F,)"""
    plane: Array
    """(3, F) inverse depth = a u + b v + c, u and v in pixels."""
    lit: Array
    """(3, F) final colour before haze (ambient share only for foliage)."""
    extra: Array
    """(3, F) what full sun would add to foliage; glass colour for facades."""
    axes: Array
    """(8, F) first-edge direction (3) and offset, direction up the face (3) and offset; camera frame, metres."""
    size: Array
    """(2, F) width and height of the face along these axes, metres."""
    shader: Array
    """(F,)"""
    seed: Array
    """(F,)"""


def project_faces(mesh: Mesh, camera: Camera, ego_pose: Array, light: Light, size_wh: tuple[int, int]) -> Projected:
    """World faces → the ones in front of the camera, clipped at NEAR_M, lit by sun and sky."""
    rotation, position = world_camera(camera, ego_pose)
    local = (mesh.corners_m - position) @ rotation  # (F, K, 3) camera frame
    first, second = local[:, 1] - local[:, 0], local[:, 2] - local[:, 1]
    normal = np.cross(first, second)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    offset = (normal * local[:, 0]).sum(axis=1)  # n · p on the plane; negative = we see the outside
    seen = (offset < -1e-6) & (local[..., 2].max(axis=1) > NEAR_M) & _in_picture(local, camera, size_wh)
    keep = np.flatnonzero(seen)
    local, normal, offset = local[keep], normal[keep], offset[keep]
    k = camera.intrinsics_px
    a, b = normal[:, 0] / k[0, 0] / offset, normal[:, 1] / k[1, 1] / offset
    plane = np.stack([a, b, normal[:, 2] / offset - a * k[0, 2] - b * k[1, 2]])
    clipped, counts = _clip_near(local, mesh.counts[keep])
    polygon = clipped[..., :2] / clipped[..., 2:] * (k[0, 0], k[1, 1]) + (k[0, 2], k[1, 2])
    lit, extra = _lighting(mesh.rgb[keep], mesh.shader[keep], normal @ rotation.T, light)
    shader = mesh.shader[keep]
    axes, size = _face_axes(local, normal, shader)
    return Projected(
        np.ascontiguousarray(polygon),
        counts,
        plane,
        np.ascontiguousarray(lit.T),
        np.ascontiguousarray(extra.T),
        axes,
        size,
        shader,
        mesh.seed[keep],
    )


def world_camera(camera: Camera, ego_pose: Array) -> tuple[Array, Array]:
    """(3, 3) camera → world rotation and (3,) camera position in the world."""
    c, s = np.cos(ego_pose[2]), np.sin(ego_pose[2])
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return turn @ camera.rotation, turn @ camera.translation_m + np.array([ego_pose[0], ego_pose[1], 0.0])


def picture_window(outline_m: Array, rim_m: float, camera: Camera, size_wh: tuple[int, int]) -> Array:
    """(4,) first and last row and column (r0, r1, c0, c1) that a ground outline (n, 2, ego frame) with a rim may touch."""
    centre = outline_m.mean(axis=0)
    arms = outline_m - centre
    grown = centre + arms * (1 + 1.5 * rim_m / np.maximum(np.linalg.norm(arms, axis=1, keepdims=True), 0.1))
    points = np.concatenate([grown, np.zeros((len(grown), 1))], axis=1)
    local = (points - camera.translation_m) @ camera.rotation
    if local[:, 2].max() < NEAR_M:
        return np.zeros(4, np.int64)
    if local[:, 2].min() < NEAR_M:  # reaches behind the camera: anywhere in the picture
        return np.array([0, size_wh[1], 0, size_wh[0]])
    k = camera.intrinsics_px
    u, v = (local[:, i] / local[:, 2] * k[i, i] + k[i, 2] for i in (0, 1))
    c0, c1 = np.clip([np.floor(u.min()), np.ceil(u.max()) + 1], 0, size_wh[0])
    r0, r1 = np.clip([np.floor(v.min()), np.ceil(v.max()) + 1], 0, size_wh[1])
    return np.array([r0, r1, c0, c1]).astype(np.int64)


def _in_picture(local: Array, camera: Camera, size_wh: tuple[int, int]) -> Array:
    """(F,) False where all corners are beyond one side of the viewing pyramid."""
    k = camera.intrinsics_px
    x, y, z = local[..., 0], local[..., 1], local[..., 2]
    left, right = -k[0, 2] / k[0, 0], (size_wh[0] - k[0, 2]) / k[0, 0]
    top, bottom = -k[1, 2] / k[1, 1], (size_wh[1] - k[1, 2]) / k[1, 1]
    outside = (x < left * z).all(1) | (x > right * z).all(1) | (y < top * z).all(1) | (y > bottom * z).all(1)
    return ~outside


def _clip_near(local: Array, counts: Array) -> tuple[Array, Array]:
    """(F, MAX_CORNERS + 1, 3) polygons cut at z = NEAR_M, padded with their first corner, and their (F,) counts."""
    clipped = np.concatenate([local, local[:, :1]], axis=1)
    counts = counts.copy()
    for f in np.flatnonzero(local[..., 2].min(axis=1) < NEAR_M):
        points = local[f, : counts[f]]
        result = []
        for p, q in zip(points, np.roll(points, -1, axis=0)):
            if p[2] >= NEAR_M:
                result.append(p)
            if (p[2] >= NEAR_M) != (q[2] >= NEAR_M):
                result.append(p + (q - p) * (NEAR_M - p[2]) / (q[2] - p[2]))
        counts[f] = len(result)
        clipped[f] = result[0] if result else (0, 0, NEAR_M)
        clipped[f, : len(result)] = np.array(result).reshape(-1, 3)
    return clipped, counts


def _face_axes(local: Array, normal: Array, shader: Array) -> tuple[Array, Array]:
    """(8, F) axes and (2, F) size, see `Projected`; for foliage, whose face is a disc, of the square around it."""
    edge = local[:, 1] - local[:, 0]
    width = np.maximum(np.linalg.norm(edge, axis=1), 1e-9)
    along = edge / width[:, None]
    up = np.cross(normal, along)
    height = ((local - local[:, :1]) * up[:, None]).sum(axis=2).max(axis=1)
    centre = local.mean(axis=1)
    radius = np.linalg.norm(local[:, 0] - centre, axis=1)
    disc = shader == Shader.FOLIAGE
    origin = np.where(disc[:, None], centre - radius[:, None] * (along + up), local[:, 0])
    axes = np.concatenate([along.T, [(origin * along).sum(axis=1)], up.T, [(origin * up).sum(axis=1)]])
    return axes, np.stack([np.where(disc, 2 * radius, width), np.where(disc, 2 * radius, height)])


def _lighting(rgb: Array, shader: Array, normal: Array, light: Light) -> tuple[Array, Array]:
    """(F, 3) colour under sky and sun, and (F, 3) the extra colour of the shader; normals in world axes."""
    sky = light.ambient_gain * (0.74 + 0.26 * normal[:, 2:])
    facing = np.maximum(normal @ light.sun_direction, 0.0)[:, None]
    lit = rgb * (sky + light.sun_gain * facing)
    mirror = light.horizon_rgb * 0.16 + light.zenith_rgb * (0.06 + 0.30 * np.clip(normal[:, 2:], 0, 1))
    glass = 0.6 * lit + mirror
    lit = np.where((shader == Shader.LAMP)[:, None], rgb, np.where((shader == Shader.GLASS)[:, None], glass, lit))
    lit = np.where((shader == Shader.FOLIAGE)[:, None], rgb * light.ambient_gain, lit)
    pane = (
        np.array([44.0, 52.0, 60.0]) * (light.ambient_gain + 0.3 * light.sun_gain * facing) + light.horizon_rgb * 0.14
    )
    return lit, np.where((shader == Shader.FACADE)[:, None], pane, rgb * light.sun_gain)


@kernel
def fill_numba(polygon, counts, plane, samples, inverse_depth, face):
    """Depth-tested fill of inverse_depth and face (H A, W A) at sample centres; `face` holds the nearest face or -1."""
    rows, columns = face.shape
    left, right = np.empty(rows), np.empty(rows)
    for f in range(len(counts)):
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
            for r in range(int(max(np.ceil(y0 - 0.5), 0.0)), int(min(np.ceil(y1 - 0.5), float(rows)))):
                x = x0 + (r + 0.5 - y0) * slope
                left[r], right[r] = min(left[r], x), max(right[r], x)
        step = plane[0, f] / samples
        for r in range(r0, r1):
            c0, c1 = int(max(np.ceil(left[r] - 0.5), 0.0)), int(min(np.ceil(right[r] - 0.5), float(columns)))
            start = plane[1, f] * (r + 0.5) / samples + plane[2, f]
            for c in range(c0, c1):
                near = np.float32(start + step * (c + 0.5))
                if near > inverse_depth[r, c]:
                    inverse_depth[r, c], face[r, c] = near, f


def fill_numpy(polygon, counts, plane, samples, inverse_depth, face) -> None:
    """Twin of `fill_numba`: one face at a time, all its rows at once."""
    rows, columns = face.shape
    for f in np.flatnonzero(counts >= 3):
        p = polygon[f, : counts[f]] * samples
        r0, r1 = int(max(np.ceil(p[:, 1].min() - 0.5), 0)), int(min(np.ceil(p[:, 1].max() - 0.5), rows))
        c0, c1 = int(max(np.ceil(p[:, 0].min() - 0.5), 0)), int(min(np.ceil(p[:, 0].max() - 0.5), columns))
        if r1 <= r0 or c1 <= c0:
            continue
        y = np.arange(r0, r1) + 0.5
        left, right = np.full(len(y), 1e9), np.full(len(y), -1e9)
        for a, b in zip(p, np.roll(p, -1, axis=0)):
            a, b = (a, b) if a[1] <= b[1] else (b, a)
            hit = (y >= a[1]) & (y < b[1])
            x = a[0] + (y - a[1]) * ((b[0] - a[0]) / max(b[1] - a[1], 1e-12))
            left, right = np.where(hit, np.minimum(left, x), left), np.where(hit, np.maximum(right, x), right)
        x = np.arange(c0, c1) + 0.5
        near = (plane[1, f] * y / samples + plane[2, f])[:, None] + plane[0, f] / samples * x
        near = near.astype(np.float32)
        window = (slice(r0, r1), slice(c0, c1))
        wins = (x >= left[:, None]) & (x < right[:, None]) & (near > inverse_depth[window])
        inverse_depth[window] = np.where(wins, near, inverse_depth[window])
        face[window] = np.where(wins, f, face[window])


assert MAX_CORNERS + 1 == 9, "fill expects room for one corner more after clipping"
