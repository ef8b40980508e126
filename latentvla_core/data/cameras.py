"""Camera pictures by reference: find, decode at the size asked for, and the TransFuser panorama.

Decoding is Pillow's scaled JPEG decode (`draft`) and a bicubic resize: 72 pictures/s of 1920 x 1080
per core against 16 for full decode and resize, and 0.7 grey levels away from it on average
(stack.md §8). Changing it changes inputs of trained models.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from latentvla_core.data.files import join, read_bytes
from latentvla_core.errors import DataError
from latentvla_core.types import Array

if TYPE_CHECKING:
    from PIL.Image import Image

PANORAMA_CAMERAS = ("CAM_L0", "CAM_F0", "CAM_R0")
PANORAMA_STEP_PX = 16  # heights in this step make every part a whole number of pixels wide
_CROP_Y = (
    28 / 1080
)  # TransFuser's crop of each picture: [28:-28], of the side pictures also [416:-416]
_CROP_SIDE_X = 416 / 1920
_REMEDY = "download the sensor blobs of this log, or leave the log out"


def load_image(root: str, path: str, size_wh: tuple[int, int] | None = None) -> Array:
    """(H, W, 3) uint8 RGB of a picture below `root` (folder or s3://…), stretched to `size_wh`
    where given.

    Raises DataError naming the file when it is missing, truncated or no picture.
    """
    return decode_image(_bytes(root, path), size_wh, name=join(root, path))


def decode_image(data: bytes, size_wh: tuple[int, int] | None = None, *, name: str = "") -> Array:
    """As `load_image`, of a picture in memory."""
    return np.asarray(_decode(data, size_wh, (0.0, 0.0), name))


def image_size(root: str, path: str) -> tuple[int, int]:
    """(width, height) in pixels, from the header."""
    return _open(_bytes(root, path), join(root, path)).size


def load_panorama(root: str, paths: Sequence[str], height_px: int = 256) -> Array:
    """(h, 4h, 3) uint8: left, front and right camera side by side, as TransFuser sees them (4096 x
    1024 scaled down).

    `paths` are those of PANORAMA_CAMERAS; "" (no such camera) gives black. The crop is in
    proportion to 1920 x 1080, so pictures of other sizes work.
    """
    if height_px % PANORAMA_STEP_PX or height_px <= 0:
        raise ValueError(
            f"panorama height is {height_px} px; it must be a positive multiple of {PANORAMA_STEP_PX}"
        )
    side, front = height_px * 1088 // 1024, height_px * 1920 // 1024
    parts = ((side, _CROP_SIDE_X), (front, 0.0), (side, _CROP_SIDE_X))
    pieces = [
        _piece(root, path, (w, height_px), (x, _CROP_Y))
        for path, (w, x) in zip(paths, parts, strict=True)
    ]
    return np.concatenate(pieces, axis=1)


def _piece(root: str, path: str, size_wh: tuple[int, int], crop_xy: tuple[float, float]) -> Array:
    if not path:
        return np.zeros((size_wh[1], size_wh[0], 3), np.uint8)
    return np.asarray(_decode(_bytes(root, path), size_wh, crop_xy, join(root, path)))


def _bytes(root: str, path: str) -> bytes:
    if not path:
        raise DataError("the frame has no picture of this camera (empty path)", file=root)
    return read_bytes(join(root, path), remedy=_REMEDY)


def _open(data: bytes, name: str) -> Image:
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(io.BytesIO(data))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        # Pillow's own words for "unidentified" hold a memory address, which would make equal rows
        # differ
        why = "of no known format" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(
            f"no readable picture ({len(data):,} bytes, {why}); {_REMEDY}", file=name
        ) from error


def _decode(
    data: bytes, size_wh: tuple[int, int] | None, crop_xy: tuple[float, float], name: str
) -> Image:
    """The picture without `crop_xy` (share of the width and height taken off each side), stretched
    to `size_wh`.
    """
    from PIL import Image

    image = _open(data, name)
    try:
        if size_wh is not None:
            share = 1 - 2 * np.array(crop_xy)
            image.draft("RGB", tuple(np.ceil(np.array(size_wh) / share).astype(int).tolist()))
        image = image.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"the picture is damaged ({error}); {_REMEDY}", file=name) from error
    if size_wh is None or (image.size == size_wh and crop_xy == (0.0, 0.0)):
        return image
    dx, dy = crop_xy[0] * image.width, crop_xy[1] * image.height
    return image.resize(
        size_wh, Image.Resampling.BICUBIC, box=(dx, dy, image.width - dx, image.height - dy)
    )
