"""Little drives on disk: pictures and poses as people write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SPEED_MPS, YAW_RATE_RADPS = 8.0, 0.12
HEADER = "frame,timestamp_s,x,y,heading"


def arc(seconds: float = 4.0, rate_hz: float = 10.0) -> np.ndarray:
    """(P, 4) time, x, y, heading of a left-hand bend at even speed."""
    t = np.arange(0, seconds + 1e-9, 1 / rate_hz)
    yaw, radius = YAW_RATE_RADPS * t, SPEED_MPS / YAW_RATE_RADPS
    return np.stack([t, radius * np.sin(yaw), radius * (1 - np.cos(yaw)), yaw], axis=1)


def write_drive(
    folder: Path,
    rows: np.ndarray | None = None,
    *,
    names: Callable[[int], str] = "{:06d}".format,
    files: Callable[[int], str] | None = "{:06d}.jpg".format,
    header: str = HEADER,
) -> Path:
    """A drive with a little picture per pose (`files` None: an empty folder of pictures)."""
    rows = arc() if rows is None else rows
    (folder / "frames").mkdir(parents=True)
    lines = [f"{names(i)}," + ",".join(repr(float(v)) for v in row) for i, row in enumerate(rows)]
    (folder / "poses.csv").write_text("\n".join([header, *lines]) + "\n")
    grey = np.arange(36 * 64 * 3, dtype=np.uint8).reshape(36, 64, 3)
    for i in range(len(rows) if files else 0):
        Image.fromarray(np.roll(grey, i, 1)).save(folder / "frames" / files(i))  # type: ignore[misc]
    return folder
