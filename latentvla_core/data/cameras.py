"""Camera pictures by reference: find, decode at the size asked for, and the TransFuser panorama.

Decoding is Pillow's scaled JPEG decode (`draft`) and a bicubic resize: 72 pictures/s of 1920 x 1080
per core against 16 for full decode and resize, and 0.7 grey levels away from it on average
(stack.md §8). Changing it changes inputs of trained models.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from latentvla_core.data.files import join
from latentvla_core.data.guards.places import read_below
from latentvla_core.errors import DataError
from latentvla_core.types import Array

if TYPE_CHECKING:
    from PIL.Image import Image, Transpose

PANORAMA_CAMERAS = ("CAM_L0", "CAM_F0", "CAM_R0")
PANORAMA_STEP_PX = 16  # heights in this step make every part a whole number of pixels wide
_CROP_Y = (
    28 / 1080
)  # TransFuser's crop of each picture: [28:-28], of the side pictures also [416:-416]
_CROP_SIDE_X = 416 / 1920
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "PPM")
"""Formats whose decoders are asked: Pillow knows others that start programs (EPS)."""
MOST_PIXELS = 100_000_000
_ORIENTATION = 274  # EXIF
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, OverflowError,
            struct.error, zlib.error, RuntimeError, MemoryError)  # fmt: skip
"""What Pillow's decoders raise on broken files."""
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
    """(width, height) in pixels of the upright picture, from the header."""
    image = _open(_bytes(root, path), join(root, path))
    wide, high = image.size
    return (high, wide) if _lies_on_its_side(image) else (wide, high)


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
    return read_below(root, path, remedy=_REMEDY)


def _open(data: bytes, name: str) -> Image:
    """The picture's header. Raises DataError when it is of no format we read, or too large."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError as error:
        # Pillow's own words hold a memory address, which would make equal rows differ.
        known = ", ".join(FORMATS)
        rule = f"no readable picture ({len(data):,} bytes, of no known format; {known} are read)"
        raise DataError(f"{rule}; {_REMEDY}", file=name) from error
    except _DAMAGED as error:
        rule = f"no readable picture ({len(data):,} bytes, {str(error)[:200]}); {_REMEDY}"
        raise DataError(rule, file=name) from error
    if image.width * image.height > MOST_PIXELS:
        rule = f"{image.width} x {image.height} pixels; at most {MOST_PIXELS:,} are decoded"
        raise DataError(f"{rule}: scale the pictures down", file=name)
    return image


def _turn_of(image: Image) -> Transpose | None:
    """How the picture must be turned to stand upright, from its EXIF orientation."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE, 6: Transpose.ROTATE_270, 7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }  # fmt: skip
    try:
        return turns.get(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGED:
        return None  # broken EXIF says nothing about pixels


def _lies_on_its_side(image: Image) -> bool:
    turn = _turn_of(image)
    return turn is not None and turn.name in ("TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90")


def _decode(
    data: bytes, size_wh: tuple[int, int] | None, crop_xy: tuple[float, float], name: str
) -> Image:
    """The upright picture without `crop_xy` (share of the width and height taken off each side),
    stretched to `size_wh`.
    """
    from PIL.Image import Resampling

    image = _open(data, name)
    try:
        turn, side = _turn_of(image), _lies_on_its_side(image)
        if size_wh is not None:
            share = 1 - 2 * np.array(crop_xy)
            wanted = np.ceil(np.array(size_wh) / share).astype(int).tolist()
            image.draft("RGB", tuple(wanted[::-1] if side else wanted))
        image = _as_rgb(image, name)
        image = image if turn is None else image.transpose(turn)
    except _DAMAGED as error:
        rule = f"the picture is damaged ({str(error)[:200]}); {_REMEDY}"
        raise DataError(rule, file=name) from error
    if size_wh is None or (image.size == size_wh and crop_xy == (0.0, 0.0)):
        return image
    dx, dy = crop_xy[0] * image.width, crop_xy[1] * image.height
    return image.resize(
        size_wh, Resampling.BICUBIC, box=(dx, dy, image.width - dx, image.height - dy)
    )


def _as_rgb(image: Image, name: str) -> Image:
    """Eight bits a channel. Grey pictures of more bits are scaled by their depth: that of the
    sensor (10, 12, 14 or 16 bits) which holds the brightest pixel.
    """
    from PIL import Image as images

    if image.mode == "F":
        raise DataError("a picture of floating point numbers; write 8 or 16 bits", file=name)
    if not image.mode.startswith("I"):
        return image.convert("RGB")
    grey = np.asarray(image).astype(np.int64)
    if grey.min() < 0 or grey.max() >= 1 << 16:
        raise DataError(f"grey levels {grey.min()} to {grey.max()}; at most 16 bits", file=name)
    bits = next(bits for bits in (8, 10, 12, 14, 16) if grey.max() < 1 << bits)
    return images.fromarray((grey * 255 // ((1 << bits) - 1)).astype(np.uint8)).convert("RGB")
