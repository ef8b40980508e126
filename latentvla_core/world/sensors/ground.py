"""The ground as a pyramid of lazily painted tiles. A tile depends on the scenery alone, never on
the order of look-ups.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from latentvla_core.types import Array
from latentvla_core.world.sensors.paint import (
    ALBEDO_LAYERS,
    SIDE,
    TILE,
    finish_numba,
    finish_numpy,
    paint_numba,
    paint_numpy,
)
from latentvla_core.world.sensors.sky import Light
from latentvla_core.world.shapes.palette import GRASS, ground_paints
from latentvla_core.world.state import Scenery

BASE_TEXEL_M = 0.05
LEVELS = 7
MARGIN_M = (
    420.0  # bare grass around the scenery; beyond it every look-up returns the mean grass colour
)
SLOTS = 1200  # tiles kept, 68 kB each


class GroundTexture:
    """Tiles by (level, row, column), painted when first needed and evicted when long unused."""

    def __init__(self, scenery: Scenery, light: Light, *, use_numba: bool) -> None:
        self.paints = ground_paints(scenery, light)
        self._paint: Callable[..., None] = paint_numba if use_numba else paint_numpy
        self._finish: Callable[..., None] = finish_numba if use_numba else finish_numpy
        self._sun = light.sun_gain * max(light.sun_direction[2], 0.0)
        self._ambient = light.ambient_gain
        self.flat_rgb = np.clip(np.array(GRASS[:3]) * (self._ambient + self._sun), 0, 255)
        low, high = _extent(self.paints.bounds_m)
        self.origin_m = low - MARGIN_M
        self.texels_m = BASE_TEXEL_M * 2.0 ** np.arange(LEVELS)
        self.shape = np.ceil(
            (high - low + 2 * MARGIN_M)[None, :] / (self.texels_m[:, None] * TILE)
        ).astype(np.int64)
        self.page_offsets = np.concatenate([[0], np.cumsum(self.shape.prod(axis=1))])
        self.pages = np.full(self.page_offsets[-1], -1, np.int32)
        self.pool = np.empty((SLOTS, SIDE, SIDE), np.uint32)
        self._owner = np.full(SLOTS, -1, np.int64)
        self._last_used = np.full(SLOTS, -1, np.int64)
        self._clock = 0
        self._albedo, self._lit = (
            np.empty((SIDE, SIDE, ALBEDO_LAYERS)),
            np.empty((SIDE, SIDE)),
        )  # work space of `tile`

    def ensure(self, level: int, points_m: Array, reach_m: float) -> None:
        """Paint every tile of `level` within `reach_m` of the points (n, 2), world metres."""
        size = self.texels_m[level] * TILE
        local = points_m - self.origin_m
        corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * reach_m
        cells = np.floor((local[:, None, :] + corners) / size).astype(np.int64).reshape(-1, 2)
        inside = ((cells >= 0) & (cells < self.shape[level])).all(axis=1)
        keys = np.unique(
            self.page_offsets[level] + cells[inside, 1] * self.shape[level, 0] + cells[inside, 0]
        )
        slots = self.pages[keys]
        self._last_used[slots[slots >= 0]] = self._clock
        for key in keys[slots < 0]:
            index = int(key - self.page_offsets[level])
            self._store(
                int(key),
                self.tile(
                    level, index % int(self.shape[level, 0]), index // int(self.shape[level, 0])
                ),
            )

    def tick(self) -> None:
        """Start a new picture: tiles touched from now on must stay until the next tick."""
        self._clock += 1

    def _store(self, key: int, tile: Array) -> None:
        slot = int(np.argmin(self._last_used))
        if self._last_used[slot] == self._clock:
            raise RuntimeError(
                f"one picture needs more than {SLOTS} ground tiles; ask for a smaller picture"
            )
        if self._owner[slot] >= 0:
            self.pages[self._owner[slot]] = -1
        self.pool[slot], self._owner[slot], self._last_used[slot], self.pages[key] = (
            tile,
            key,
            self._clock,
            slot,
        )

    def tile(self, level: int, column: int, row: int) -> Array:
        """(SIDE, SIDE) uint32 lit ground, red in the lowest byte, then green and blue."""
        texel = float(self.texels_m[level])
        start = np.array([column, row]) * TILE - 1
        x0, y0 = self.origin_m + start * texel
        bounds, reach = self.paints.bounds_m, SIDE * texel
        near = (
            (bounds[:, 0] < x0 + reach)
            & (bounds[:, 2] > x0)
            & (bounds[:, 1] < y0 + reach)
            & (bounds[:, 3] > y0)
        )
        tile, sun = self._albedo, self._lit
        tile[:] = GRASS
        sun[:] = 1.0
        p = self.paints
        self._paint(
            tile,
            sun,
            p.vertices_m,
            p.offsets,
            np.flatnonzero(near),
            p.values,
            p.opacity,
            p.is_shadow,
            x0,
            y0,
            texel,
        )
        packed = np.empty((SIDE, SIDE), np.uint32)
        self._finish(packed, tile, sun, start, level, texel, self._ambient, self._sun)
        return packed


def _extent(bounds_m: Array) -> tuple[Array, Array]:
    """(2,) lower and (2,) upper corner of all paints; a scenery without any is a lawn around the
    origin.
    """
    if not len(bounds_m):
        return np.zeros(2), np.zeros(2)
    return bounds_m[:, :2].min(axis=0), bounds_m[:, 2:].max(axis=0)
