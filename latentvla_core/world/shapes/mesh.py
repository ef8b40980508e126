"""Faces: convex polygons with a colour and a way to shade them, the only thing the rasteriser
draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from latentvla_core.types import Array

MAX_CORNERS = 8


class Shader(IntEnum):
    """How a face gets its colour."""

    FLAT = 0
    FACADE = 1
    """Rows of windows; first edge runs along the foot of the wall."""
    FOLIAGE = 2
    """Round bunch of leaves; a disc that faces the camera, inscribed in the face."""
    GLASS = 3
    LAMP = 4
    """Shines by itself: neither light nor dusk changes it."""


@dataclass(frozen=True, slots=True)
class Mesh:
    """F faces; corners counter-clockwise seen from outside, the first repeated behind the last used
    one.
    """

    corners_m: Array
    """(F, MAX_CORNERS, 3)"""
    normals: Array
    """(F, 3) outward unit normals."""
    counts: Array
    """(F,) int64 corners in use."""
    rgb: Array
    """(F, 3) float64 albedo, 0-255 (may exceed it for lamps)."""
    shader: Array
    """(F,) int64 `Shader`."""
    seed: Array
    """(F,) int64 for patterns."""

    def __len__(self) -> int:
        return len(self.counts)

    def placed(self, pose: Array) -> Mesh:
        """The same faces turned by pose (x, y, yaw) and moved there."""
        c, s = np.cos(pose[2]), np.sin(pose[2])
        turn = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
        shift = np.array([pose[0], pose[1], 0.0])
        corners, normals = self.corners_m @ turn + shift, self.normals @ turn
        return Mesh(corners, normals, self.counts, self.rgb, self.shader, self.seed)

    def take(self, index: Array) -> Mesh:
        """Faces by index."""
        return Mesh(
            self.corners_m[index],
            self.normals[index],
            self.counts[index],
            self.rgb[index],
            self.shader[index],
            self.seed[index],
        )

    @staticmethod
    def join(parts: Sequence[Mesh]) -> Mesh:
        """All faces of all parts, in order."""
        if not parts:
            none = np.zeros(0, np.int64)
            return Mesh(
                np.zeros((0, MAX_CORNERS, 3)), np.zeros((0, 3)), none, np.zeros((0, 3)), none, none
            )
        return Mesh(
            np.concatenate([p.corners_m for p in parts]),
            np.concatenate([p.normals for p in parts]),
            np.concatenate([p.counts for p in parts]),
            np.concatenate([p.rgb for p in parts]),
            np.concatenate([p.shader for p in parts]),
            np.concatenate([p.seed for p in parts]),
        )


class Builder:
    """Collects faces, then makes a `Mesh`."""

    def __init__(self) -> None:
        self._corners: list[Array] = []
        self._counts: list[int] = []
        self._rgb: list[Sequence[float]] = []
        self._shader: list[int] = []
        self._seed: list[int] = []

    def face(
        self,
        corners: Sequence[Sequence[float]] | Sequence[Array] | Array,
        rgb: Sequence[float],
        shader: Shader = Shader.FLAT,
        seed: int = 0,
    ) -> None:
        """One convex polygon, counter-clockwise seen from outside."""
        points = np.asarray(corners, float)
        padded = np.concatenate([points, np.repeat(points[:1], MAX_CORNERS - len(points), axis=0)])
        self._corners.append(padded)
        self._counts.append(len(points))
        self._rgb.append(rgb)
        self._shader.append(int(shader))
        self._seed.append(seed)

    def box(
        self,
        low: Sequence[float],
        high: Sequence[float],
        rgb: Sequence[float],
        *,
        bottom: bool = False,
    ) -> None:
        """Axis-aligned block."""
        self.tapered(low, high, (1.0, 1.0), rgb, bottom=bottom)

    def tapered(
        self,
        low: Sequence[float],
        high: Sequence[float],
        top_share: tuple[float, float],
        rgb: Sequence[float],
        *,
        bottom: bool = False,
        shader: Shader = Shader.FLAT,
        seed: int = 0,
        roof_rgb: Sequence[float] | None = None,
    ) -> None:
        """Block whose top is `top_share` (x, y) of its bottom; only the walls get the shader."""
        cx, cy = (low[0] + high[0]) / 2, (low[1] + high[1]) / 2
        hx, hy = (high[0] - low[0]) / 2, (high[1] - low[1]) / 2
        ring = ((1, 1), (-1, 1), (-1, -1), (1, -1))
        foot = [(cx + a * hx, cy + b * hy, low[2]) for a, b in ring]
        top = [(cx + a * hx * top_share[0], cy + b * hy * top_share[1], high[2]) for a, b in ring]
        for k in range(4):
            j = (k + 1) % 4
            self.face([foot[k], foot[j], top[j], top[k]], rgb, shader, seed + k)
        self.face(top, roof_rgb if roof_rgb is not None else rgb)
        if bottom:
            self.face(foot[::-1], rgb)

    def bar(
        self, start: Sequence[float], end: Sequence[float], thickness_m: float, rgb: Sequence[float]
    ) -> None:
        """Thin prism between two points, seen from all sides (ends open)."""
        a, b = np.asarray(start, float), np.asarray(end, float)
        axis = (b - a) / max(float(np.linalg.norm(b - a)), 1e-9)
        side = np.cross(axis, [0.0, 0.0, 1.0] if abs(axis[2]) < 0.9 else [1.0, 0.0, 0.0])
        side = side / np.linalg.norm(side) * thickness_m / 2
        other = np.cross(axis, side)
        ring = [side + other, -side + other, -side - other, side - other]
        for k in range(4):
            p, q = ring[k], ring[(k + 1) % 4]
            self.face([a + p, a + q, b + q, b + p], rgb)

    def disc(
        self,
        centre: Sequence[float],
        normal: Sequence[float],
        radius_m: float,
        rgb: Sequence[float],
        shader: Shader = Shader.FLAT,
    ) -> None:
        """Octagon facing `normal` (horizontal)."""
        n = np.asarray(normal, float) / np.linalg.norm(normal)
        side = np.array([-n[1], n[0], 0.0])
        angle = np.arange(8) * (np.pi / 4) + np.pi / 8
        ring = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * np.array([0.0, 0.0, 1.0])
        self.face(np.asarray(centre, float) + radius_m * ring, rgb, shader)

    def mesh(self) -> Mesh:
        """Everything collected so far."""
        if not self._counts:
            return Mesh.join([])
        corners = np.array(self._corners)
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 1])
        return Mesh(
            corners,
            normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12),
            np.array(self._counts, np.int64),
            np.array(self._rgb, float),
            np.array(self._shader, np.int64),
            np.array(self._seed, np.int64),
        )
