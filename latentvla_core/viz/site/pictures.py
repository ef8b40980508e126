"""Pictures of a log, scaled down once and shared by all scenes whose windows overlap."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from latentvla_core.data.cameras import FORMATS, decode_image
from latentvla_core.data.files import join
from latentvla_core.data.guards.places import read_below
from latentvla_core.errors import DataError
from latentvla_core.viz.site.files import file_name
from latentvla_core.viz.site.options import ViewOptions
from latentvla_core.viz.site.read import LogRows

QUALITY = 80
REMEDY = "the page shows an empty tile in its place"


def picture_path(log_name: str, camera: str, number: int) -> str:
    """Where the picture of one frame lies, relative to the site."""
    return f"pictures/{file_name(log_name)}/{camera}/{number}.jpg"


def write_pictures(log: LogRows, options: ViewOptions, numbers: set[int]) -> list[str]:
    """Write pictures of the frames with these numbers; returns one line per camera of which some
    could not be read.
    """
    if not options.width_px:
        return []
    failed: dict[str, list[str]] = {}
    for frame in log.frames:
        if frame["log_index"] in numbers:
            for camera, why in _of_frame(log.name, frame, options):
                failed.setdefault(camera, []).append(why)
    return [
        f"{log.name} {camera}: {len(why)} of {len(numbers)} pictures, first {why[0]}"
        for camera, why in sorted(failed.items())
    ]


def _of_frame(log_name: str, frame: dict[str, Any], options: ViewOptions) -> list[tuple[str, str]]:
    """Writes; returns (camera, why) of what could not be read."""
    failed = []
    for camera, path in zip(frame["camera_names"], frame["camera_paths"], strict=True):
        if camera not in options.cameras or not path:
            continue
        target = options.out / picture_path(log_name, camera, frame["log_index"])
        try:
            small = scaled(frame["sensor_root"], path, options.width_px)
        except DataError as error:
            failed.append((camera, str(error)))
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(small)
    return failed


def scaled(root: str, path: str, width_px: int) -> bytes:
    """JPEG at most `width_px` wide; the file's own bytes where it is small enough already.

    Raises DataError naming the file when it cannot be read.
    """
    from PIL import Image

    data = read_below(root, path, remedy=REMEDY)
    with io.BytesIO(data) as stream:
        try:
            with Image.open(stream, formats=FORMATS) as opened:
                size, kind, turned = opened.size, opened.format, opened.getexif().get(274, 1)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"no readable picture; {REMEDY}", file=join(root, path)) from error
    if kind == "JPEG" and size[0] <= width_px and turned == 1:
        return data
    wide = min(width_px, size[0])
    shape = (wide, max(1, round(wide * size[1] / size[0])))
    pixels = decode_image(data, shape if turned == 1 else None, name=join(root, path))
    return as_jpeg(pixels, width_px)


def as_jpeg(pixels: Any, width_px: int) -> bytes:
    """(H, W, 3) uint8 → JPEG at most that wide."""
    from PIL import Image

    image = Image.fromarray(pixels)
    if image.width > width_px:
        image = image.resize((width_px, round(width_px * image.height / image.width)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def camera_sizes(log: LogRows) -> dict[str, tuple[int, int]]:
    """Camera → (width, height) of its full-size pictures, from the first that can be read; cameras
    without any are left out.
    """
    from latentvla_core.data.cameras import image_size

    sizes: dict[str, tuple[int, int]] = {}
    for frame in log.frames:
        for camera, path in zip(frame["camera_names"], frame["camera_paths"], strict=True):
            if camera in sizes or not path:
                continue
            try:
                sizes[camera] = image_size(frame["sensor_root"], path)
            except DataError:
                continue  # told where the picture itself is written
    return sizes


def picture_count(site: Path) -> tuple[int, int]:
    """(pictures, bytes) below a site."""
    found = [path.stat().st_size for path in (site / "pictures").rglob("*.jpg")]
    return len(found), sum(found)
