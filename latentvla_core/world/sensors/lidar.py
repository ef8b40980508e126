"""One merged lidar sweep: rays of several spinning units against the road, boxes and tree crowns;
the nearest hit returns.

Legend: R rings, A azimuth steps, P points. Everything happens in the ego frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentvla_core.geometry import to_local
from latentvla_core.types import Array, ObjectClass
from latentvla_core.world.sensors.staging import token_number
from latentvla_core.world.state import Scenery, Snapshot


@dataclass(frozen=True, kw_only=True, slots=True)
class LidarUnit:
    """One spinning lidar."""

    lidar_id: int
    """0 top, 1 side left, 2 side right (navsim_format.md §6.1)."""
    xyz_m: tuple[float, float, float]
    rings: int
    lowest_deg: float
    highest_deg: float
    azimuth_steps: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LidarConfig:
    """Which units there are, and what the air and the electronics do to the returns."""

    units: tuple[LidarUnit, ...] = (
        LidarUnit(
            lidar_id=0,
            xyz_m=(0.95, 0.0, 1.86),
            rings=32,
            lowest_deg=-24.0,
            highest_deg=8.0,
            azimuth_steps=720,
        ),
        LidarUnit(
            lidar_id=1,
            xyz_m=(0.95, 1.0, 1.2),
            rings=8,
            lowest_deg=-42.0,
            highest_deg=-6.0,
            azimuth_steps=300,
        ),
        LidarUnit(
            lidar_id=2,
            xyz_m=(0.95, -1.0, 1.2),
            rings=8,
            lowest_deg=-42.0,
            highest_deg=-6.0,
            azimuth_steps=300,
        ),
    )
    max_range_m: float = 90.0
    ground_range_m: float = 60.0
    """Grazing rays lose the road beyond this."""
    noise_m: float = 0.015
    """Standard deviation of a range."""
    loss: float = 0.02
    """Share of returns lost at any range; more are lost far away."""


@dataclass(frozen=True, slots=True)
class _Solid:
    """An upright box or a ball in the ego frame."""

    pose: Array
    size_m: tuple[float, float, float]
    base_m: float
    """Height of its foot (box) or of its centre (ball, whose radius is half the first size)."""
    is_ball: bool
    intensity: float


_TOP_FIRST_ECHO_M = 1.5  # nearer returns come from the own roof and are removed


def sweep(
    scenery: Scenery, snapshot: Snapshot, seed: int, config: LidarConfig | None = None
) -> Array:
    """(6, P) float32 points: rows x, y, z (m, ego frame), intensity (0-255), ring, lidar id."""
    config = config or LidarConfig()
    rng = np.random.default_rng(seed)
    solids = _solids(scenery, snapshot, config.max_range_m)
    return np.concatenate(
        [_scan(unit, solids, config, rng) for unit in config.units], axis=1
    ).astype(np.float32)


def _solids(scenery: Scenery, snapshot: Snapshot, range_m: float) -> list[_Solid]:
    """Everything near enough to return a ray."""
    ego = np.asarray(snapshot.ego_pose, float)
    solids = []
    for actor in snapshot.actors:
        pose = to_local(ego, np.asarray(actor.pose, float))
        shiny = 40.0 + token_number(actor.token) % 60 if actor.cls == ObjectClass.VEHICLE else 35.0
        solids.append(_Solid(pose, actor.size_m, 0.0, False, shiny))
    for prop in scenery.props:
        pose = to_local(ego, np.asarray(prop.pose, float))
        length, width, height = prop.size_m
        if np.hypot(pose[0], pose[1]) - np.hypot(length, width) / 2 > range_m:
            continue
        if prop.kind == "tree":
            solids.append(_Solid(pose, (0.3, 0.3, 0.5 * height), 0.0, False, 25.0))
            solids.append(_Solid(pose, (0.95 * length, width, height), 0.66 * height, True, 30.0))
        else:
            thin = prop.kind in ("pole", "sign")
            solids.append(
                _Solid(
                    pose,
                    (max(length, 0.12), max(width, 0.12), height),
                    0.0,
                    False,
                    90.0 if thin else 55.0,
                )
            )
    return [
        s
        for s in solids
        if np.hypot(s.pose[0], s.pose[1]) - np.hypot(s.size_m[0], s.size_m[1]) / 2 < range_m
    ]


def _scan(
    unit: LidarUnit, solids: list[_Solid], config: LidarConfig, rng: np.random.Generator
) -> Array:
    """(6, P) points of one unit."""
    origin = np.array(unit.xyz_m)
    elevation = np.radians(np.linspace(unit.lowest_deg, unit.highest_deg, unit.rings))
    azimuth = (np.arange(unit.azimuth_steps) + 0.5) * (2 * np.pi / unit.azimuth_steps)
    directions = _directions(elevation, azimuth)
    reach, intensity = _road(elevation, origin[2], config, unit.azimuth_steps, rng)
    # A unit that only looks down meets the road before anything farther away.
    farthest = origin[2] / np.sin(-elevation[-1]) if elevation[-1] < 0 else np.inf
    for solid in solids:
        if np.hypot(*(solid.pose[:2] - origin[:2])) - np.hypot(*solid.size_m[:2]) / 2 > farthest:
            continue
        columns = _columns(solid, origin, unit.azimuth_steps)
        if len(columns):
            rays = directions[:, columns]
            hit = (_hit_ball if solid.is_ball else _hit_box)(solid, origin, rays)
            nearer = hit < reach[:, columns]
            reach[:, columns] = np.where(nearer, hit, reach[:, columns])
            intensity[:, columns] = np.where(nearer, solid.intensity, intensity[:, columns])
    return _returns(unit, origin, directions, reach, intensity, config, rng)


def _road(
    elevation: Array, height_m: float, config: LidarConfig, steps: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """(R, A) range to the flat road (infinite where none) and (R, A) its intensity."""
    with np.errstate(divide="ignore"):
        reach = np.where(elevation < -1e-3, height_m / np.maximum(-np.sin(elevation), 1e-9), np.inf)
    reach = np.where(reach < config.ground_range_m, reach, np.inf)
    return np.repeat(reach[:, None], steps, axis=1), rng.uniform(6.0, 22.0, (len(elevation), steps))


def _directions(elevation: Array, azimuth: Array) -> Array:
    """(R, A, 3) unit vectors."""
    e, a = np.meshgrid(elevation, azimuth, indexing="ij")
    return np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], axis=-1)


def _columns(solid: _Solid, origin: Array, steps: int) -> Array:
    """Azimuth steps that can meet the solid."""
    offset = solid.pose[:2] - origin[:2]
    distance, radius = (
        float(np.hypot(*offset)),
        float(np.hypot(solid.size_m[0], solid.size_m[1])) / 2,
    )
    if distance <= radius:
        return np.arange(steps)
    half = np.arcsin(radius / distance)
    middle = np.arctan2(offset[1], offset[0])
    per_rad = steps / (2 * np.pi)
    return (
        np.arange(
            int(np.floor((middle - half) * per_rad)), int(np.ceil((middle + half) * per_rad)) + 1
        )
        % steps
    )


def _hit_box(solid: _Solid, origin: Array, rays: Array) -> Array:
    """(R, A) distance to the first face of an upright box; infinite where missed or when starting
    inside.
    """
    c, s = np.cos(solid.pose[2]), np.sin(solid.pose[2])
    turn = np.array(
        [[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]
    )  # rows times this = rotated by -yaw
    start = (origin - (solid.pose[0], solid.pose[1], solid.base_m + solid.size_m[2] / 2)) @ turn
    local = rays @ turn
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1.0 / local
        half = np.array(solid.size_m) / 2
        one, two = (-half - start) * inverse, (half - start) * inverse
        enter, leave = np.fmin(one, two).max(axis=-1), np.fmax(one, two).min(axis=-1)
    return np.where((enter > 0) & (enter <= leave), enter, np.inf)


def _hit_ball(solid: _Solid, origin: Array, rays: Array) -> Array:
    """(R, A) distance to a ball; infinite where missed."""
    offset = np.array([solid.pose[0], solid.pose[1], solid.base_m]) - origin
    along = rays @ offset
    inside = (solid.size_m[0] / 2) ** 2 - (offset @ offset - along**2)
    near = along - np.sqrt(np.maximum(inside, 0.0))
    return np.where((inside > 0) & (near > 0), near, np.inf)


def _returns(
    unit: LidarUnit,
    origin: Array,
    rays: Array,
    reach: Array,
    intensity: Array,
    config: LidarConfig,
    rng: np.random.Generator,
) -> Array:
    """(6, P) what comes back: range noise, losses, and no echo from the own vehicle."""
    noise, luck = rng.normal(0.0, config.noise_m, reach.shape), rng.random(reach.shape)
    # `inf` marks no echo; far echoes are weaker and get lost more often.
    kept = np.isfinite(reach) & (reach < config.max_range_m) & (reach > _TOP_FIRST_ECHO_M)
    distance = np.where(kept, reach, 0.0)
    kept &= luck > config.loss + 0.3 * np.clip(distance / config.max_range_m, 0, 1) ** 2
    points = origin + rays * (distance + noise)[..., None]
    on_ego = (np.abs(points[..., 0] - 1.461) < 2.7) & (
        np.abs(points[..., 1]) < 1.25
    )  # nuPlan's vehicle box
    kept &= ~on_ego
    ring = np.broadcast_to(np.arange(unit.rings)[:, None], reach.shape)
    strength = np.clip(np.round(intensity * (1.0 - 0.4 * distance / config.max_range_m)), 0, 255)
    columns, rings = np.nonzero(kept.T)  # in the order of the spin
    picked = (rings, columns)
    ids = np.full(len(rings), unit.lidar_id)
    return np.stack([*points[picked].T, strength[picked], ring[picked], ids])
