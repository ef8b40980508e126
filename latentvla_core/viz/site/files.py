"""Values as files a page can load from disk, and numbers packed so that 10 000 scenes are small."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from latentvla_core.types import Array

CM_PER_M = 100.0


def write_data(site: Path, key: str, value: Any) -> Path:
    """`data/<key>.js`, which calls `LV.put(key, value)` in the page that loads it."""
    path = site / "data" / f"{key}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # U+2028 and U+2029 end a line of JavaScript in old browsers
    safe = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    path.write_text(f"LV.put({json.dumps(key)},{safe})\n", encoding="utf-8")
    return path


def read_data(path: Path) -> Any:
    """The value of a file that `write_data` wrote; for tests and for tools that mend a site."""
    text = path.read_text(encoding="utf-8")
    return json.loads(text[text.index(",") + 1 : text.rstrip().rindex(")")])


def packed(values: Any, dtype: str) -> str:
    """Base64 of little-endian numbers; `dtype` as numpy writes it: u1, u2, i2, f4."""
    return base64.b64encode(np.ascontiguousarray(values, f"<{dtype}").tobytes()).decode()


def unpacked(text: str, dtype: str) -> Array:
    """(n,) inverse of `packed`."""
    return np.frombuffer(base64.b64decode(text), f"<{dtype}")


def centimetres(points_m: Array | list[Any]) -> list[int]:
    """Any shape of metres → flat whole centimetres; callers take care of NaN."""
    return np.rint(np.asarray(points_m, float) * CM_PER_M).astype(np.int64).ravel().tolist()


def milliradians(angle_rad: Array) -> list[int]:
    """Radians → flat whole milliradians."""
    return np.rint(np.asarray(angle_rad, float) * 1e3).astype(np.int64).ravel().tolist()


def figure(value: float, digits: int = 3) -> float | None:
    """A rounded number, None for what is not finite: JSON knows no NaN."""
    value = float(value)
    return round(value, digits) if math.isfinite(value) else None


def figures(values: Any, digits: int = 3) -> list[float | None]:
    """`figure` of each of (n,) numbers."""
    return [figure(value, digits) for value in np.asarray(values, float).ravel()]


def file_name(name: str) -> str:
    """A log or scene name as the name of a file: one to one, and safe on every file system."""
    safe = quote(name, safe="@+=,").replace("~", "%7E").replace("%", "~")
    return f"~{safe}" if safe.startswith(".") or not safe else safe
