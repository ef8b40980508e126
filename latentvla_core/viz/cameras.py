"""What the car saw, with plans drawn on the road."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from latentvla_core.types import Array, SceneRecord
from latentvla_core.viz.canvas import colour_of

ORDER = ("CAM_L0", "CAM_F0", "CAM_R0")
NEAREST_M = 0.5  # points closer to the picture plane are not drawn


def camera_strip(record: SceneRecord, plans: Mapping[str, Array], height_px: int = 252) -> bytes:
    """PNG of front-left, front and front-right side by side; plans {name: (8, 3) ego frame} as
    lines on the ground.

    A picture that cannot be read is a grey tile that says so: looking at a scene must not fail for
    want of one.
    """
    import io

    from PIL import Image

    tiles = [
        _tile(record, record.camera_names.index(name), plans, height_px)
        for name in ORDER
        if name in record.camera_names
    ]
    if not tiles:
        raise ValueError(
            f"scene {record.scene_token}: no front camera picture; there is nothing to draw on"
        )
    strip = Image.new(
        "RGB", (sum(t.width for t in tiles) + 4 * (len(tiles) - 1), height_px), "white"
    )
    left = 0
    for tile in tiles:
        strip.paste(tile, (left, 0))
        left += tile.width + 4
    buffer = io.BytesIO()
    strip.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _tile(record: SceneRecord, camera: int, plans: Mapping[str, Array], height_px: int):
    from PIL import Image, ImageDraw

    from latentvla_core.data.cameras import load_image
    from latentvla_core.errors import DataError

    try:
        picture = Image.fromarray(load_image(record.sensor_root, record.camera_paths[camera]))
    except DataError:
        return _missing(record.camera_names[camera], height_px)
    scale = height_px / picture.height
    tile = picture.resize((round(picture.width * scale), height_px))
    pen = ImageDraw.Draw(tile)
    for name, poses in plans.items():
        ground = np.concatenate([np.zeros((1, 3)), np.asarray(poses)])
        ground[:, 2] = 0.0
        pixels = project(_dense(ground), record, camera) * scale
        points = [(float(x), float(y)) for x, y in pixels if np.isfinite(x)]
        if len(points) > 1:
            pen.line(points, fill=colour_of(name), width=3, joint="curve")
    return tile


def _missing(camera: str, height_px: int):
    from PIL import Image, ImageDraw

    tile = Image.new("RGB", (height_px * 16 // 9, height_px), (150, 150, 150))
    ImageDraw.Draw(tile).text((12, 12), f"{camera}: no readable picture", fill="white")
    return tile


def _dense(points: Array) -> Array:
    """(n, 3) polyline with ten points per leg, so that clipping at the picture plane is smooth."""
    steps = np.linspace(0, len(points) - 1, 10 * (len(points) - 1) + 1)
    return np.stack(
        [np.interp(steps, np.arange(len(points)), points[:, i]) for i in range(3)], axis=-1
    )


def project(points_m: Array, record: SceneRecord, camera: int) -> Array:
    """(n, 3) points in the ego frame → (n, 2) pixels of the full-size picture; NaN behind the
    camera.
    """
    rotation, translation = record.camera_rotations[camera], record.camera_translations_m[camera]
    seen = (points_m - translation) @ rotation  # inverse rotation from the right
    depth = np.where(seen[:, 2] > NEAREST_M, seen[:, 2], np.nan)
    pixels = seen @ record.camera_intrinsics_px[camera].T
    return pixels[:, :2] / depth[:, None]
