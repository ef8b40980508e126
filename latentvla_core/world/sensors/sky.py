"""Light of the day, and the sky as a panorama that every camera looks into."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentvla_core.types import Array
from latentvla_core.world.noise import hash01, value_noise

PANORAMA_COLUMNS, PANORAMA_ROWS = 2048, 224
TOP_RAD, BOTTOM_RAD = np.radians(42.0), np.radians(-2.0)
# What the sun's elevation does to the light. Columns: elevation (deg), sun rgb, ambient rgb (gains
# on the albedo), zenith rgb, horizon rgb (0-255). Chosen by eye so that noon asphalt comes out near
# 110.
_DAY = np.array(
    [
        [-10, 0.00, 0.00, 0.00, 0.20, 0.23, 0.32, 22, 30, 58, 78, 78, 100],
        [-3, 0.00, 0.00, 0.00, 0.34, 0.34, 0.42, 54, 72, 118, 190, 142, 120],
        [3, 0.42, 0.26, 0.14, 0.42, 0.41, 0.45, 88, 116, 164, 236, 188, 140],
        [12, 0.66, 0.52, 0.36, 0.47, 0.48, 0.52, 94, 136, 194, 222, 208, 190],
        [35, 0.74, 0.70, 0.62, 0.50, 0.52, 0.55, 92, 146, 210, 204, 216, 226],
        [90, 0.74, 0.72, 0.67, 0.52, 0.53, 0.55, 84, 142, 212, 200, 216, 230],
    ]
)


@dataclass(frozen=True, slots=True)
class Light:
    """Light of one time of day; colours as (3,) float64."""

    sun_direction: Array
    """Unit vector from the ground towards the sun, world axes."""
    sun_gain: Array
    """What a face turned to the sun adds, per unit albedo."""
    ambient_gain: Array
    zenith_rgb: Array
    horizon_rgb: Array
    """Also the colour of haze."""
    night: float
    """0 by day, 1 at dusk when lamps are on."""


def daylight(elevation_rad: float, azimuth_rad: float) -> Light:
    """Light for a sun at this elevation and azimuth (counter-clockwise from east)."""
    row = [np.interp(np.degrees(elevation_rad), _DAY[:, 0], column) for column in _DAY.T[1:]]
    e, a = elevation_rad, azimuth_rad
    return Light(
        sun_direction=np.array([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)]),
        sun_gain=np.array(row[0:3]),
        ambient_gain=np.array(row[3:6]),
        zenith_rgb=np.array(row[6:9]),
        horizon_rgb=np.array(row[9:12]),
        night=float(np.clip((np.radians(4.0) - elevation_rad) / np.radians(6.0), 0.0, 1.0)),
    )


def panorama(light: Light, haze_per_m: float) -> Array:
    """(PANORAMA_ROWS, PANORAMA_COLUMNS, 3) float32 sky: rows from TOP_RAD down to BOTTOM_RAD,
    columns over azimuth.
    """
    elevation = np.linspace(TOP_RAD, BOTTOM_RAD, PANORAMA_ROWS)[:, None]
    azimuth = (np.arange(PANORAMA_COLUMNS) + 0.5)[None, :] * (2 * np.pi / PANORAMA_COLUMNS)
    picture = _gradient(light, elevation) + np.zeros((1, PANORAMA_COLUMNS, 1))
    picture = _clouds(picture, light, elevation, azimuth)
    picture = _sun(picture, light, elevation, azimuth)
    picture = _skyline(picture, light, elevation, azimuth, haze_per_m)
    return np.clip(picture, 0, 255).astype(np.float32)


def _gradient(light: Light, elevation: Array) -> Array:
    """Horizon to zenith; most of the change happens low down."""
    height = 1.0 - np.exp(-np.clip(elevation, 0, None) / np.radians(16.0))[..., None]
    return light.horizon_rgb * (1 - height) + light.zenith_rgb * height


def _fractal(x: Array, y: Array, seed: int, octaves: int) -> Array:
    """Sum of value noise octaves, about [0, 1]."""
    weights = 0.5 ** np.arange(octaves)
    layers = [w * value_noise(x * 2.0**i, y * 2.0**i, seed + i) for i, w in enumerate(weights)]
    return np.sum(layers, axis=0) / weights.sum()


def _clouds(picture: Array, light: Light, elevation: Array, azimuth: Array) -> Array:
    """A flat cloud layer seen in perspective: streaks near the horizon, heaps above."""
    reach = 1.0 / (np.sin(np.clip(elevation, 0.0, None)) + 0.09)
    x, y = reach * np.cos(azimuth), reach * np.sin(azimuth)
    density = np.clip((_fractal(1.4 * x + 40, 1.4 * y + 40, 11, 5) - 0.48) * 4.0, 0, 1)
    density = density * np.clip(elevation / np.radians(5.0), 0, 1) * 0.75
    lit = np.clip(
        light.horizon_rgb * 0.55 + 118 * (light.ambient_gain + 0.35 * light.sun_gain), 0, 250
    )
    return picture * (1 - density[..., None]) + lit * density[..., None]


def _sun(picture: Array, light: Light, elevation: Array, azimuth: Array) -> Array:
    """Disc and glow; below the horizon only the glow is left."""
    direction = np.stack(
        np.broadcast_arrays(
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation),
        ),
        -1,
    )
    angle = np.arccos(np.clip(direction @ light.sun_direction, -1, 1))[..., None]
    warm = np.array([255.0, 236.0, 200.0])
    glow = 0.55 * np.exp(-angle / np.radians(9.0))
    disc = np.clip((np.radians(1.1) - angle) / np.radians(0.5), 0, 1) * (
        light.sun_direction[2] > -0.02
    )
    picture = picture + (warm - picture) * glow
    return picture * (1 - disc) + 255.0 * disc


def _skyline(
    picture: Array, light: Light, elevation: Array, azimuth: Array, haze_per_m: float
) -> Array:
    """Far houses and a tree line, bluish with distance, so that the ground does not end at a knife
    edge.
    """
    degrees = np.degrees(elevation)

    def around(radius, seed):
        return value_noise(radius * np.cos(azimuth), radius * np.sin(azimuth), seed)

    block = np.floor(azimuth * 36).astype(np.int64)
    houses = 0.5 + 2.6 * hash01(block, block * 0 + 3, 5) ** 2 * (around(1.5, 8) > 0.45)
    trees = 0.25 + 1.0 * around(10.0, 21) + 0.35 * around(70.0, 22)
    ambient = light.ambient_gain + 0.4 * light.sun_gain
    for top, rgb, distance_m in ((houses, (120, 122, 128), 900.0), (trees, (62, 78, 52), 420.0)):
        clear = np.exp(-max(haze_per_m, 0.0015) * distance_m)
        colour = np.array(rgb) * ambient * clear + light.horizon_rgb * (1 - clear)
        cover = np.clip((top - degrees) / 0.2 + 0.5, 0, 1)[..., None]
        picture = picture * (1 - cover) + colour * cover
    return picture
