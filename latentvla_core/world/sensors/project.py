"""World faces → what the picture needs of them: clipped outlines in pixels, depth planes, axes,
light and haze.

Legend: F faces, K = MAX_CORNERS.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentvla_core.types import Array, Camera
from latentvla_core.world.noise import kernel
from latentvla_core.world.sensors.shading import facade_pattern
from latentvla_core.world.sensors.sky import Light
from latentvla_core.world.shapes.mesh import MAX_CORNERS, Mesh, Shader

NEAR_M = 0.2
_FOLIAGE = int(Shader.FOLIAGE)  # a plain int for the compiler


@dataclass(frozen=True, slots=True)
class Projected:
    """Faces that may be seen, ready to fill and shade."""

    polygon_px: Array
    """(F, MAX_CORNERS + 1, 2) picture coordinates."""
    counts: Array
    """(F,)"""
    geometry: Array
    """(F, 15), in metres and the camera frame:
    0-2 depth plane, inverse depth = a u + b v + c at pixel (u, v); 3-6 direction of the first edge
    and its offset; 7-10 direction up the face and its offset; 11-14 `facade_pattern`, or of foliage
    the disc's width and share of haze.
    """
    colours: Array
    """(F, 6) lit colour, hazed except for facades (only the sky's light for foliage); what full sun
    adds to foliage, or the glass of a facade.
    """
    shader: Array
    """(F,)"""
    seed: Array
    """(F,)"""
    order: Array
    """(F,) faces from near to far, leaves last: the depth test then rejects most of what is hidden
    before any work.
    """


def project_faces(
    parts: list[tuple[Mesh, Array]],
    camera: Camera,
    ego_pose: Array,
    light: Light,
    haze_per_m: float,
    size_wh: tuple[int, int],
    use_numba: bool,
) -> Projected:
    """World faces (meshes with the indices to look at) → those the camera sees, clipped at NEAR_M,
    lit by sun and sky.
    """
    rotation, position = world_camera(camera, ego_pose)
    k = camera.intrinsics_px
    pyramid = np.array([k[0, 0], k[1, 1], k[0, 2], k[1, 2], size_wh[0], size_wh[1]])
    cut = _cut_numba if use_numba else _cut_numpy
    cuts = [
        cut(m.corners_m, m.normals, m.counts, m.shader, index, rotation, position, pyramid)
        for m, index in parts
    ]
    polygon, counts, geometry, distance = (
        np.concatenate([c[i] for c in cuts]) for i in (1, 2, 3, 4)
    )
    kept = [(mesh, c[0]) for (mesh, _), c in zip(parts, cuts, strict=True)]
    normals = np.concatenate([m.normals[k] for m, k in kept])
    rgb = np.concatenate([m.rgb[k] for m, k in kept])
    shader = np.concatenate([m.shader[k] for m, k in kept])
    seed = np.concatenate([m.seed[k] for m, k in kept])
    colours = _lighting(normals, rgb, shader, light)
    veil = _haze_faces(colours, shader, distance, light, haze_per_m)
    walls, leaves = shader == Shader.FACADE, shader == Shader.FOLIAGE
    geometry[walls, 11:15] = facade_pattern(geometry[walls, 11:13].T, seed[walls]).T
    geometry[leaves, 12] = veil[leaves]
    order = np.argsort(distance + 1e4 * leaves, kind="stable")
    return Projected(polygon, counts, geometry, colours, shader, seed, order)


@kernel
def _cut_numba(corners, normals, counts, shader, index, rotation, position, pyramid):
    """Cull, clip and project: (V,) kept faces, (V, K + 1, 2) outlines in pixels, (V,) counts, (V,
    15) geometry, (V,) metres.

    Args:
        corners, normals, counts, shader: see `Mesh`; index: faces to look at; rotation, position:
        camera → world;
        pyramid: (6,) fx, fy, cx, cy, width, height in pixels.
    """
    faces, most = len(index), corners.shape[1]
    keep = np.empty(faces, np.int64)
    polygon, count = np.zeros((faces, most + 1, 2)), np.empty(faces, np.int64)
    geometry, distance = np.zeros((faces, 15)), np.empty(faces)
    local = np.empty((most, 3))
    fx, fy, cx, cy = pyramid[0], pyramid[1], pyramid[2], pyramid[3]
    left, right = -cx / fx, (pyramid[4] - cx) / fx
    top, bottom = -cy / fy, (pyramid[5] - cy) / fy
    kept = 0
    for f in index:
        facing = 0.0
        for d in range(3):
            facing += normals[f, d] * (corners[f, 0, d] - position[d])
        if facing >= -1e-6:  # we see its back
            continue
        n, sides = counts[f], 15
        for k in range(n):
            for d in range(3):
                local[k, d] = 0.0
                for e in range(3):
                    local[k, d] += (corners[f, k, e] - position[e]) * rotation[e, d]
            x, y, z = local[k, 0], local[k, 1], local[k, 2]
            # A bit stays set as long as every corner so far is beyond that side.
            beyond = (
                (x < left * z)
                | (x > right * z) << 1
                | (y < top * z) << 2
                | (y > bottom * z) << 3
                | (z <= NEAR_M) << 4
            )
            sides = beyond if k == 0 else sides & beyond
        if sides:
            continue
        count[kept] = _clip_numba(local, n, polygon[kept], pyramid)
        _axes_numba(local, n, normals[f], rotation, pyramid, shader[f] == _FOLIAGE, geometry[kept])
        middle = 0.0
        for d in range(3):
            middle += (0.5 * (local[0, d] + local[2, d])) ** 2
        distance[kept] = np.sqrt(middle)
        keep[kept] = f
        kept += 1
    return keep[:kept], polygon[:kept], count[:kept], geometry[:kept], distance[:kept]


@kernel
def _clip_numba(local, n, polygon, pyramid):
    """Write the outline (K + 1, 2) of corners (n, 3) cut at NEAR_M; returns how many corners it
    has.
    """
    m = 0
    for k in range(n):
        j = k + 1 if k + 1 < n else 0
        zk, zj = local[k, 2], local[j, 2]
        if zk >= NEAR_M:
            polygon[m, 0] = local[k, 0] / zk * pyramid[0] + pyramid[2]
            polygon[m, 1] = local[k, 1] / zk * pyramid[1] + pyramid[3]
            m += 1
        if (zk >= NEAR_M) != (zj >= NEAR_M):
            t = (NEAR_M - zk) / (zj - zk)
            polygon[m, 0] = (local[k, 0] + (local[j, 0] - local[k, 0]) * t) / NEAR_M * pyramid[
                0
            ] + pyramid[2]
            polygon[m, 1] = (local[k, 1] + (local[j, 1] - local[k, 1]) * t) / NEAR_M * pyramid[
                1
            ] + pyramid[3]
            m += 1
    return m


@kernel
def _axes_numba(local, n, normal, rotation, pyramid, is_disc, out):
    """Write plane, axes and size of one face into out (15,), see `Projected`."""
    nx = normal[0] * rotation[0, 0] + normal[1] * rotation[1, 0] + normal[2] * rotation[2, 0]
    ny = normal[0] * rotation[0, 1] + normal[1] * rotation[1, 1] + normal[2] * rotation[2, 1]
    nz = normal[0] * rotation[0, 2] + normal[1] * rotation[1, 2] + normal[2] * rotation[2, 2]
    offset = nx * local[0, 0] + ny * local[0, 1] + nz * local[0, 2]
    out[0], out[1] = nx / pyramid[0] / offset, ny / pyramid[1] / offset
    out[2] = nz / offset - out[0] * pyramid[2] - out[1] * pyramid[3]
    ax, ay, az = local[1, 0] - local[0, 0], local[1, 1] - local[0, 1], local[1, 2] - local[0, 2]
    width = max(np.sqrt(ax * ax + ay * ay + az * az), 1e-9)
    ax, ay, az = ax / width, ay / width, az / width
    bx, by, bz = ny * az - nz * ay, nz * ax - nx * az, nx * ay - ny * ax
    ox, oy, oz = local[0, 0], local[0, 1], local[0, 2]
    height = 0.0
    for k in range(n):
        height = max(
            height, (local[k, 0] - ox) * bx + (local[k, 1] - oy) * by + (local[k, 2] - oz) * bz
        )
    if (
        is_disc
    ):  # opposite corners span the diameter; the origin is the corner of the square around the disc
        mx, my, mz = 0.5 * (ox + local[4, 0]), 0.5 * (oy + local[4, 1]), 0.5 * (oz + local[4, 2])
        radius = np.sqrt((ox - mx) ** 2 + (oy - my) ** 2 + (oz - mz) ** 2)
        width = height = 2 * radius
        ox, oy, oz = mx - radius * (ax + bx), my - radius * (ay + by), mz - radius * (az + bz)
    out[3], out[4], out[5], out[6] = ax, ay, az, ox * ax + oy * ay + oz * az
    out[7], out[8], out[9], out[10] = bx, by, bz, ox * bx + oy * by + oz * bz
    out[11], out[12] = width, height


def _cut_numpy(
    corners, normals, counts, shader, index, rotation, position, pyramid
) -> tuple[Array, ...]:
    """Twin of `_cut_numba`."""
    fx, fy, cx, cy, width, height = pyramid
    front = index[((corners[index, 0] - position) * normals[index]).sum(axis=1) < -1e-6]
    local = (corners[front] - position) @ rotation  # (V, K, 3)
    x, y, z = np.moveaxis(local, -1, 0)
    beyond = (
        x < -cx / fx * z,
        x > (width - cx) / fx * z,
        y < -cy / fy * z,
        y > (height - cy) / fy * z,
        z <= NEAR_M,
    )
    inside = ~np.any([side.all(axis=1) for side in beyond], axis=0)
    local, keep = local[inside], front[inside]
    normal = normals[keep] @ rotation
    offset = (normal * local[:, 0]).sum(axis=1)
    a, b = normal[:, 0] / fx / offset, normal[:, 1] / fy / offset
    plane = np.stack([a, b, normal[:, 2] / offset - a * cx - b * cy], axis=1)
    clipped, count = _clip_numpy(local, counts[keep])
    polygon = clipped[..., :2] / clipped[..., 2:] * (fx, fy) + (cx, cy)
    distance = np.linalg.norm((local[:, 0] + local[:, 2]) / 2, axis=1)
    geometry = np.concatenate(
        [plane, _axes_numpy(local, normal, shader[keep]), np.zeros((len(keep), 2))], axis=1
    )
    return keep, polygon, count, geometry, distance


def _clip_numpy(local: Array, counts: Array) -> tuple[Array, Array]:
    """(F, MAX_CORNERS + 1, 3) polygons cut at z = NEAR_M, padded with their first corner, and their
    (F,) counts.
    """
    clipped = np.concatenate([local, local[:, :1]], axis=1)
    counts = counts.copy()
    for f in np.flatnonzero(local[..., 2].min(axis=1) < NEAR_M):
        points = local[f, : counts[f]]
        result = []
        for p, q in zip(points, np.roll(points, -1, axis=0), strict=True):
            if p[2] >= NEAR_M:
                result.append(p)
            if (p[2] >= NEAR_M) != (q[2] >= NEAR_M):
                result.append(p + (q - p) * (NEAR_M - p[2]) / (q[2] - p[2]))
        counts[f] = len(result)
        clipped[f] = result[0] if result else (0, 0, NEAR_M)
        clipped[f, : len(result)] = np.array(result).reshape(-1, 3)
    return clipped, counts


def _axes_numpy(local: Array, normal: Array, shader: Array) -> Array:
    """(V, 10) axes and size of faces with corners (V, K, 3), see `Projected`."""
    edge = local[:, 1] - local[:, 0]
    width = np.maximum(np.linalg.norm(edge, axis=1), 1e-9)
    along = edge / width[:, None]
    up = np.cross(normal, along)
    height = ((local - local[:, :1]) * up[:, None]).sum(axis=2).max(axis=1)
    centre = (local[:, 0] + local[:, 4]) / 2
    radius = np.linalg.norm(local[:, 0] - centre, axis=1)
    disc = shader == Shader.FOLIAGE
    origin = np.where(disc[:, None], centre - radius[:, None] * (along + up), local[:, 0])
    width, height = np.where(disc, 2 * radius, width), np.where(disc, 2 * radius, height)
    offsets = (origin * along).sum(axis=1), (origin * up).sum(axis=1)
    return np.concatenate(
        [along, offsets[0][:, None], up, offsets[1][:, None], width[:, None], height[:, None]],
        axis=1,
    )


def _haze_faces(
    colours: Array, shader: Array, distance_m: Array, light: Light, haze_per_m: float
) -> Array:
    """Mix haze into the colours (F, 6) of all faces but facades, which are long and get it per
    pixel; (F,) its share.
    """
    veil = 1.0 - np.exp(-haze_per_m * distance_m)
    veil = np.where(shader == Shader.LAMP, 0.4 * veil, np.where(shader == Shader.FACADE, 0.0, veil))
    leaves = shader == Shader.FOLIAGE
    colours *= (1.0 - veil)[:, None]
    colours[:, :3] += np.where(leaves, 0.0, veil)[:, None] * light.horizon_rgb
    return veil


def _lighting(normals: Array, rgb: Array, shader: Array, light: Light) -> Array:
    """(F, 6) colour under sky and sun, and the extra colour of the shader."""
    up = normals[:, 2:]
    facing = np.maximum(normals @ light.sun_direction, 0.0)[:, None]
    lit = rgb * (light.ambient_gain * (0.74 + 0.26 * up) + light.sun_gain * facing)
    extra = rgb * light.sun_gain
    shines, panes, walls, leaves = (
        np.flatnonzero(shader == s)
        for s in (Shader.LAMP, Shader.GLASS, Shader.FACADE, Shader.FOLIAGE)
    )
    lit[shines] = rgb[shines]
    mirror = light.horizon_rgb * 0.16 + light.zenith_rgb * (0.06 + 0.30 * np.clip(up[panes], 0, 1))
    lit[panes] = 0.6 * lit[panes] + mirror
    lit[leaves] = rgb[leaves] * light.ambient_gain
    glass = np.array([44.0, 52.0, 60.0]) * (
        light.ambient_gain + 0.3 * light.sun_gain * facing[walls]
    )
    extra[walls] = glass + light.horizon_rgb * 0.14
    return np.concatenate([lit, extra], axis=1)


def world_camera(camera: Camera, ego_pose: Array) -> tuple[Array, Array]:
    """(3, 3) camera → world rotation and (3,) camera position in the world."""
    c, s = np.cos(ego_pose[2]), np.sin(ego_pose[2])
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    return turn @ camera.rotation, turn @ camera.translation_m + np.array(
        [ego_pose[0], ego_pose[1], 0.0]
    )


if MAX_CORNERS != 8:
    raise AssertionError("discs are octagons: the corner opposite to the first is the fifth")
