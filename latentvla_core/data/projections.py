"""Where a point of the ego frame is in a camera's picture, whatever the size the picture is later
decoded at.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latentvla_core.data.cameras import image_size
from latentvla_core.errors import DataError
from latentvla_core.types import Array, SceneRecord


def picture_of(record: SceneRecord, camera: str) -> tuple[str, str]:
    """(root, path) of a camera's current picture; path "" when there is none."""
    paths = dict(zip(record.camera_names, record.camera_paths, strict=True))
    return record.sensor_root, paths.get(camera, "")


def projections(records: Sequence[SceneRecord], cameras: Sequence[str]) -> Array:
    """(N, C, 3, 4) float64: homogeneous ego point → (u·d, v·d, d), u and v in parts of the full
    picture, d depth in m.

    u = 0 is the left edge, 1 the right edge. NaN where the record lacks the camera, or no current
    picture of any record in its folder can be read. Distortion is not modelled.
    """
    out = np.full((len(records), len(cameras), 3, 4), np.nan)
    sizes = PictureSizes()
    for (
        record
    ) in records:  # all folders first: what a record gets must not depend on which one comes first
        for name in cameras:
            sizes(*picture_of(record, name))
    for i, record in enumerate(records):
        for j, name in enumerate(cameras):
            size_wh = sizes(*picture_of(record, name))
            if size_wh is not None:
                out[i, j] = _projection(record, name, size_wh)
    return out


def _projection(record: SceneRecord, name: str, size_wh: tuple[int, int]) -> Array:
    """(3, 4) ego → picture parts: diag(1/width, 1/height, 1) · K · [Rᵀ | −Rᵀ t]."""
    at = record.camera_names.index(name)
    to_camera = record.camera_rotations[at].T
    extrinsics = np.concatenate(
        [to_camera, -to_camera @ record.camera_translations_m[at][:, None]], axis=1
    )
    return (
        np.diag([1.0 / size_wh[0], 1.0 / size_wh[1], 1.0])
        @ record.camera_intrinsics_px[at]
        @ extrinsics
    )


class PictureSizes:
    """(width, height) of picture files, which intrinsics belong to. One picture is read per folder
    (log and camera).
    """

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], tuple[int, int]] = {}
        self._broken: set[tuple[str, str]] = set()

    def __call__(self, root: str, path: str) -> tuple[int, int] | None:
        """The size; None while no picture of the folder could be read, and where there is none
        (path "").
        """
        folder = (root, path.rpartition("/")[0])
        if path and folder not in self._known and (root, path) not in self._broken:
            try:
                self._known[folder] = image_size(root, path)
            except DataError:
                self._broken.add((root, path))
        return self._known.get(folder) if path else None
