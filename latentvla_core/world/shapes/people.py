"""Pedestrians, riders and movable things as faces; same local frame as `vehicles`."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np

from latentvla_core.types import ObjectClass
from latentvla_core.world.shapes.mesh import Builder, Mesh, Shader
from latentvla_core.world.shapes.vehicles import DARK, RUBBER, Rgb

SKINS: tuple[Rgb, ...] = ((224.0, 182.0, 150.0), (188.0, 140.0, 104.0), (120.0, 84.0, 62.0))
TROUSERS: tuple[Rgb, ...] = (
    (44.0, 50.0, 72.0),
    (40.0, 38.0, 40.0),
    (98.0, 86.0, 70.0),
    (70.0, 74.0, 82.0),
)
ORANGE, WHITE = (240.0, 96.0, 24.0), (232.0, 232.0, 228.0)
PHASES = 12  # drawn positions of a step or a pedal turn


@lru_cache(maxsize=4096)
def pedestrian_mesh(height_m: float, rgb: Rgb, look: int, phase: int, walking: bool) -> Mesh:
    """A person facing +x; `look` varies skin and trousers, `phase` (0 ... PHASES - 1) swings legs
    and arms.
    """
    b, h = Builder(), height_m
    skin, trousers = SKINS[look % 3], TROUSERS[look % 4]
    swing = 0.19 * h * np.sin(2 * np.pi * phase / PHASES) if walking else 0.0
    hip, shoulder = 0.50 * h, 0.82 * h
    for side, sign in ((0.055 * h, 1.0), (-0.055 * h, -1.0)):
        knee = (0.55 * sign * swing + 0.03 * h, side, 0.27 * h)
        foot = (sign * swing, side, 0.03 * h)
        b.bar((0.0, side, hip), knee, 0.115 * h, trousers)
        b.bar(knee, foot, 0.09 * h, trousers)
        b.box(
            (foot[0] - 0.05 * h, side - 0.035 * h, 0.0),
            (foot[0] + 0.10 * h, side + 0.035 * h, 0.05 * h),
            DARK,
        )
        hand = (-0.8 * sign * swing, side * 2.7, 0.47 * h)
        b.bar((0.0, side * 2.3, shoulder - 0.02 * h), hand, 0.06 * h, rgb)
        b.box(
            (hand[0] - 0.02 * h, hand[1] - 0.02 * h, 0.43 * h),
            (hand[0] + 0.02 * h, hand[1] + 0.02 * h, 0.48 * h),
            skin,
        )
    b.tapered((-0.07 * h, -0.105 * h, 0.46 * h), (0.07 * h, 0.105 * h, shoulder), (0.9, 1.15), rgb)
    _head(b, (0.0, 0.0, 0.91 * h), 0.075 * h, skin, DARK if look % 2 else (92.0, 64.0, 40.0))
    return b.mesh()


def _head(
    b: Builder, centre: tuple[float, float, float], radius: float, skin: Rgb, hair: Rgb
) -> None:
    x, y, z = centre
    b.box((x - 0.03, y - 0.03, z - 1.6 * radius), (x + 0.03, y + 0.03, z - radius), skin)
    b.tapered(
        (x - radius * 0.8, y - radius * 0.7, z - radius),
        (x + radius * 0.8, y + radius * 0.7, z + 0.3 * radius),
        (1.1, 1.1),
        skin,
    )
    b.tapered(
        (x - radius, y - radius * 0.85, z + 0.1 * radius),
        (x + radius * 0.75, y + radius * 0.85, z + radius),
        (0.7, 0.7),
        hair,
    )


@lru_cache(maxsize=1024)
def bicycle_mesh(size_m: tuple[float, float, float], rgb: Rgb, look: int, phase: int) -> Mesh:
    """A cyclist riding towards +x; the box includes the rider."""
    b = Builder()
    length, _, height = size_m
    radius = min(0.34, 0.2 * length)
    x_rear, x_front = -length / 2 + radius, length / 2 - radius
    for x in (x_rear, x_front):
        _wheel(b, x, radius)
    crank, saddle, bars = (
        (x_rear + 0.42, 0.0, radius - 0.03),
        (x_rear + 0.28, 0.0, 0.92),
        (x_front - 0.18, 0.0, 1.0),
    )
    for p, q in (
        (crank, saddle),
        (crank, bars),
        (saddle, bars),
        ((x_rear, 0.0, radius), crank),
        ((x_rear, 0.0, radius), saddle),
    ):
        b.bar(p, q, 0.045, rgb)
    b.bar(bars, (x_front, 0.0, radius), 0.045, rgb)
    b.bar((bars[0], -0.26, bars[2] + 0.05), (bars[0], 0.26, bars[2] + 0.05), 0.04, DARK)
    skin, trousers = SKINS[look % 3], TROUSERS[look % 4]
    hip, shoulder = (saddle[0], 0.0, 0.98), (saddle[0] + 0.36, 0.0, max(height - 0.38, 1.25))
    turn = 2 * np.pi * phase / PHASES
    for side, shift in ((0.1, 0.0), (-0.1, np.pi)):
        foot = (
            crank[0] + 0.16 * np.cos(turn + shift),
            side,
            crank[2] + 0.16 * np.sin(turn + shift),
        )
        knee = ((hip[0] + foot[0]) / 2 + 0.22, side, (hip[2] + foot[2]) / 2 + 0.12)
        b.bar((hip[0], side, hip[2]), knee, 0.15, trousers)
        b.bar(knee, foot, 0.11, trousers)
        b.bar(
            (shoulder[0], side * 1.9, shoulder[2]), (bars[0], side * 2.4, bars[2] + 0.08), 0.09, rgb
        )
    for side in (-0.1, 0.0, 0.1):
        b.bar((hip[0], side, hip[2]), (shoulder[0], side * 1.3, shoulder[2] + 0.05), 0.2, rgb)
    _head(b, (shoulder[0] + 0.1, 0.0, height - 0.14), 0.13, skin, rgb)
    b.box((x_rear - 0.03, -0.05, 0.78), (x_rear + 0.02, 0.05, 0.86), (190.0, 20.0, 18.0))
    return b.mesh()


def _wheel(b: Builder, x: float, radius: float) -> None:
    """Thin tyre of eight bars, open between the spokes."""
    angle = np.arange(9) * (np.pi / 4)
    ring = [(x + radius * np.cos(a), 0.0, radius + radius * np.sin(a)) for a in angle]
    for p, q in pairwise(ring):
        b.bar(p, q, 0.055, RUBBER)
    for k in range(4):
        b.bar(ring[k], ring[k + 4], 0.014, (120.0, 120.0, 122.0))


@lru_cache(maxsize=1024)
def thing_mesh(cls: ObjectClass, size_m: tuple[float, float, float], rgb: Rgb) -> Mesh:
    """Cones, barriers, construction signs and everything else that stands around."""
    b = Builder()
    length, width, height = size_m
    x, y = length / 2, width / 2
    if cls == ObjectClass.TRAFFIC_CONE:
        b.box((-x, -y, 0.0), (x, y, 0.05 * height), ORANGE)
        share = ((0.05, 0.45, 0.8, ORANGE), (0.45, 0.68, 0.52, WHITE), (0.68, 1.0, 0.36, ORANGE))
        for z0, z1, foot, colour in share:
            top = max((foot - 0.75 * (z1 - z0)) / foot, 0.3)
            b.tapered(
                (-x * foot, -y * foot, z0 * height),
                (x * foot, y * foot, z1 * height),
                (top, top),
                colour,
            )
    elif cls == ObjectClass.BARRIER:
        parts = max(round(length / 0.5), 2) if length >= width else 1
        for k in range(parts):
            low, high = -x + length * k / parts, -x + length * (k + 1) / parts
            b.tapered((low, -y, 0.0), (high, y, height), (1.0, 0.6), ORANGE if k % 2 else WHITE)
    elif cls == ObjectClass.CZONE_SIGN:
        b.bar((0.0, 0.0, 0.0), (0.0, 0.0, height), 0.07, DARK)
        for sign in (1.0, -1.0):
            b.disc((sign * 0.05, 0.0, 0.72 * height), (sign, 0.0, 0.0), 0.28 * height, ORANGE)
            b.disc(
                (sign * 0.06, 0.0, 0.72 * height),
                (sign, 0.0, 0.0),
                0.16 * height,
                DARK,
                Shader.FLAT,
            )
    else:
        b.tapered((-x, -y, 0.0), (x, y, 0.85 * height), (1.0, 1.0), rgb)
        b.box(
            (-x * 1.03, -y * 1.03, 0.85 * height),
            (x * 1.03, y * 1.03, height),
            (rgb[0] * 0.6, rgb[1] * 0.6, rgb[2] * 0.6),
        )
    return b.mesh()
