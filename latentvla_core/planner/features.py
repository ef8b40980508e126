"""What the hosts see, from scene records: pictures with calibration, lidar histogram, ego status.
Nothing of the future.

Legend: N records, B batch, C cameras, R lidar cells per side. Pictures are uint8 (…, height, width,
3).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latentvla_core.data.cameras import PANORAMA_CAMERAS, load_image, load_panorama
from latentvla_core.data.files import exists, is_remote
from latentvla_core.data.guards.places import place_below
from latentvla_core.data.lidar import read_pcd
from latentvla_core.data.projections import picture_of
from latentvla_core.errors import DataError
from latentvla_core.training.images import MISSING, ImageCache
from latentvla_core.types import Array, Box, Command, ObjectClass, SceneRecord

SEPARATOR = "\n"  # cannot be part of a path in a log


def ego_status(records: Sequence[SceneRecord]) -> Array:
    """(N, 8) float32: command one-hot (left, forward, right, unknown), velocity x, y m/s,
    acceleration x, y m/s².
    """
    commands = np.eye(len(Command))[[r.command for r in records]].reshape(-1, len(Command))
    return np.concatenate(
        [commands, _rows(records, "ego_velocity_mps"), _rows(records, "ego_acceleration_mps2")],
        axis=1,
    ).astype(np.float32)


def ipad_ego(records: Sequence[SceneRecord]) -> Array:
    """(N, 11) float32: current relative pose (always 0), velocity, acceleration, command one-hot
    (latentvla.md §4.3).
    """
    status = ego_status(records)
    return np.concatenate(
        [np.zeros((len(records), 3), np.float32), status[:, 4:], status[:, :4]], axis=1
    )


def _rows(records: Sequence[SceneRecord], field: str) -> Array:
    return np.array([getattr(r, field) for r in records], np.float64).reshape(-1, 2)


class Pictures:
    """Decoded current pictures of some cameras for all records; a missing picture is black and
    flagged.
    """

    def __init__(
        self,
        records: Sequence[SceneRecord],
        cameras: Sequence[str],
        size_wh: tuple[int, int],
        file: str | None = None,
    ) -> None:
        self.cache = ImageCache(size_wh, load=load_image, file=file)
        wanted = [picture_of(record, name) for record in records for name in cameras]
        self.rows = self.cache.indices(wanted).reshape(len(records), len(cameras))  # (N, C)
        broken = np.array([self.cache.faults.get(path, "") for _, path in wanted], object).reshape(
            self.rows.shape
        )
        named = np.array([path != "" for _, path in wanted]).reshape(self.rows.shape)
        blind = no_picture(cameras)
        self.faults = tuple(
            next(filter(None, row), "" if there.any() else blind)
            for row, there in zip(broken, named, strict=True)
        )
        """Per record: which of its pictures cannot be read and why, that there is none at all, or
        "".
        """

    def present(self, indices: Array) -> Array:
        """(B,) → (B, C) bool"""
        return self.rows[indices] != MISSING

    def take(self, indices: Array) -> Array:
        """(B,) → (B, C, H, W, 3)"""
        rows = self.rows[indices]
        out = np.zeros((*rows.shape, *self.cache.shape), np.uint8)
        out[rows != MISSING] = self.cache.images[rows[rows != MISSING]]
        return out


def no_picture(cameras: Sequence[str]) -> str:
    """Why a planner that sees only these cameras cannot plan a scene that has none of them."""
    return f"the scene has no picture of {', '.join(cameras)}; check camera names and sensor blobs of the log"


class Panoramas:
    """Left, front and right picture as NAVSIM's Transfuser sees them, side by side at 4:1."""

    def __init__(
        self, records: Sequence[SceneRecord], size_wh: tuple[int, int], file: str | None = None
    ) -> None:
        self.cache = ImageCache(size_wh, load=_load_panorama, file=file)
        wanted = [(r.sensor_root, _joined(r)) for r in records]
        self.rows = self.cache.indices(wanted)  # (N,)
        blind = no_picture(PANORAMA_CAMERAS)
        self.faults = tuple(
            self.cache.faults.get(joined, "") if joined else blind for _, joined in wanted
        )
        """Per record: which of its pictures cannot be read and why, that there is none at all, or
        "".
        """

    def take(self, indices: Array) -> Array:
        """(B,) → (B, H, W, 3); a camera that is missing is black."""
        rows = self.rows[indices]
        out = np.zeros((len(rows), *self.cache.shape), np.uint8)
        out[rows != MISSING] = self.cache.images[rows[rows != MISSING]]
        return out


def _joined(record: SceneRecord) -> str:
    """The three paths as one key of the picture cache; "" when there is none at all."""
    paths = [picture_of(record, name)[1] for name in PANORAMA_CAMERAS]
    return SEPARATOR.join(paths) if any(paths) else ""


def _load_panorama(root: str, joined: str, size_wh: tuple[int, int]) -> Array:
    return load_panorama(root, joined.split(SEPARATOR), size_wh[1])


def lidar_histogram(
    points_m: Array, cells: int, range_m: float = 32.0, above_m: float = 0.2, max_hits: int = 5
) -> Array:
    """(3+, n) points in the ego frame → (1, cells, cells) float32 in [0, 1]: hits per cell above
    the ground, capped.

    Row = x (rear to front), column = y (right to left); ±range_m. NAVSIM: 256 cells, 32 m, 0.2 m, 5
    hits, z < 100 m.
    """
    x, y, z = points_m[:3].astype(np.float64)
    high = (z > above_m) & (z < 100.0)
    edges = np.linspace(-range_m, range_m, cells + 1)
    hits = np.histogram2d(x[high], y[high], bins=(edges, edges))[0]
    return (np.minimum(hits, max_hits) / max_hits).astype(np.float32)[None]


def lidar_of(record: SceneRecord, cells: int, range_m: float, max_hits: int) -> Array:
    """(1, cells, cells) histogram of a record's point cloud; zeros when it has none."""
    if not record.lidar_path:
        return np.zeros((1, cells, cells), np.float32)
    points = read_pcd(place_below(record.sensor_root, record.lidar_path))
    return lidar_histogram(points, cells, range_m, max_hits=max_hits)


def lidar_fault(record: SceneRecord) -> str:
    """Why a record's point cloud cannot be there, without reading it; "" when it has none, is
    there, or is remote.
    """
    if not record.lidar_path:
        return ""
    try:
        path = place_below(record.sensor_root, record.lidar_path)
    except DataError as fault:
        return str(fault)
    if is_remote(path) or exists(path):
        return ""
    return f"{path}: the file does not exist; download the point clouds of this log, or leave the lidar out"


def agent_boxes(record: SceneRecord, count: int, range_m: float) -> tuple[Array, Array]:
    """(count, 5) float32 x, y, yaw, length, width of the nearest vehicles within ±range_m; (count,)
    bool which are real.
    """
    boxes = np.zeros((count, 5), np.float32)
    rows = record.object_boxes.reshape(-1, 7)
    inside = (np.abs(rows[:, [Box.X, Box.Y]]) <= range_m).all(axis=1) & (
        record.object_classes == ObjectClass.VEHICLE
    )
    rows = rows[inside]
    nearest = np.argsort(np.hypot(rows[:, Box.X], rows[:, Box.Y]), kind="stable")[:count]
    chosen = rows[nearest][:, [Box.X, Box.Y, Box.YAW, Box.LENGTH, Box.WIDTH]]
    chosen[:, 2] = np.arctan2(
        np.sin(chosen[:, 2]), np.cos(chosen[:, 2])
    )  # the head answers in (-π, π)
    boxes[: len(chosen)] = chosen
    return boxes, np.arange(count) < len(chosen)
