"""Point clouds: the `.pcd` dialect of OpenScene's MergedPointCloud (navsim_format.md §6.1), read
and written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from latentvla_core.data.files import read_bytes
from latentvla_core.data.guards.places import LARGEST_B, check_file
from latentvla_core.errors import DataError
from latentvla_core.types import Array

FIELDS = ("x", "y", "z", "intensity", "ring", "lidar_info")
_KEYWORDS = (
    "VERSION",
    "FIELDS",
    "SIZE",
    "TYPE",
    "COUNT",
    "WIDTH",
    "HEIGHT",
    "VIEWPOINT",
    "POINTS",
    "DATA",
)
_COUNT, _MOST_FIELDS = re.compile(r"\d{1,12}"), 64
_KINDS = {"F": "f", "U": "u", "I": "i"}
_REMEDY = "download the point clouds of this log, or leave the lidar out"


def read_pcd(path: str | Path) -> Array:
    """float32 (6, n): x, y, z in metres in the vehicle frame, intensity, ring, lidar id.

    Raises DataError naming the file and the line or length at fault.
    """
    check_file(path, largest_b=LARGEST_B)
    data = read_bytes(path, remedy=_REMEDY)
    header, start = _header(data, str(path))
    try:
        record, count = _record(header), int(header["POINTS"][0])
    except (KeyError, ValueError, TypeError, IndexError, OverflowError, MemoryError) as error:
        raise DataError(f"header not understood ({error}); {_REMEDY}", file=str(path)) from error
    if len(data) - start < count * record.itemsize:
        have = (len(data) - start) // record.itemsize
        raise DataError(
            f"ends early: {have:,} of {count:,} points; {_REMEDY}", file=str(path), field="POINTS"
        )
    points = np.frombuffer(data, record, count, start)
    with np.errstate(over="ignore", invalid="ignore"):
        found = np.stack([points[name].astype(np.float32) for name in FIELDS])
    if not np.isfinite(found[:3]).all():
        at = int(np.flatnonzero(~np.isfinite(found[:3]).all(axis=0))[0])
        raise DataError(
            f"point {at} has a position that is no number; {_REMEDY}", file=str(path), field="x y z"
        )
    return found


def _header(data: bytes, file: str) -> tuple[dict[str, list[str]], int]:
    """{keyword: values} and where the payload starts."""
    header: dict[str, list[str]] = {}
    start = 0
    while "DATA" not in header:
        end = data.find(b"\n", start, start + 4096)
        if end < 0:
            raise DataError(f"no PCD header with a DATA line; {_REMEDY}", file=file)
        words = data[start:end].decode("ascii", "replace").split()
        start = end + 1
        if words and not words[0].startswith("#"):
            header[words[0]] = words[1:]
    if missing := [word for word in _KEYWORDS if word not in header]:
        raise DataError(
            f"the header lacks {', '.join(missing)}; {_REMEDY}", file=file, field=missing[0]
        )
    if header["DATA"] != ["binary"]:
        message = f"DATA is {' '.join(header['DATA'])!r}; only binary is read, convert the file"
        raise DataError(message, file=file, field="DATA")
    if absent := [name for name in FIELDS if name not in header["FIELDS"]]:
        message = f"no field {', '.join(absent)} (it has {' '.join(header['FIELDS'])}); write all of {' '.join(FIELDS)}"
        raise DataError(message, file=file, field="FIELDS")
    return header, start


def _record(header: Mapping[str, list[str]]) -> np.dtype:
    """Packed record of one point."""
    if any(count != "1" for count in header["COUNT"]):
        raise ValueError(f"COUNT {' '.join(header['COUNT'])}, only 1 is read")
    if not _COUNT.fullmatch(header["POINTS"][0]):
        raise ValueError(f"POINTS {header['POINTS'][0][:40]}")
    if not set(header["SIZE"]) <= {"1", "2", "4", "8"} or len(header["FIELDS"]) > _MOST_FIELDS:
        raise ValueError(f"SIZE {' '.join(header['SIZE'])[:80]}")
    columns = zip(header["FIELDS"], header["TYPE"], header["SIZE"], strict=True)
    return np.dtype([(name, f"<{_KINDS[kind]}{int(size)}") for name, kind, size in columns])


def write_pcd(path: str | Path, points: Array) -> None:
    """Writes (6, n) points as float32 positions and uint8 intensity, ring and lidar id, which the
    devkit reads.
    """
    if points.ndim != 2 or points.shape[0] != len(FIELDS):
        raise ValueError(
            f"points have shape {points.shape}; (6, n) is expected: {', '.join(FIELDS)}"
        )
    if points.shape[1] and not ((points[3:] >= 0) & (points[3:] <= 255)).all():
        raise ValueError("intensity, ring and lidar id must lie in 0 … 255 to be stored in a byte")
    count = points.shape[1]
    records = np.empty(count, [(name, "<f4" if i < 3 else "u1") for i, name in enumerate(FIELDS)])
    for name, row in zip(FIELDS, points, strict=True):
        records[name] = row if records.dtype[name].kind == "f" else np.rint(row)
    lines = (
        *(
            "# .PCD v0.7 - Point Cloud Data file format",
            "VERSION 0.7",
            f"FIELDS {' '.join(FIELDS)}",
        ),
        *(
            "SIZE 4 4 4 1 1 1",
            "TYPE F F F U U U",
            "COUNT 1 1 1 1 1 1",
            f"WIDTH {count}",
            "HEIGHT 1",
        ),
        *("VIEWPOINT 0 0 0 1 0 0 0", f"POINTS {count}", "DATA binary"),
    )
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(
        "".join(line + "\n" for line in lines).encode("ascii") + records.tobytes()
    )
