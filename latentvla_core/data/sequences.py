"""Descriptions of frames-and-poses sequences: where the camera sits, what the poses refer to, how
to sample.

A sequence is a folder with `frames/NAME.jpg` and `poses.csv` (frame,timestamp_s,x,y,heading). What
a folder cannot say about itself stands in a `sequence.yaml` beside them (keys: the fields below),
or here for public excerpts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.data.fields import near_miss
from latentvla_core.data.yaml_file import read_yaml
from latentvla_core.errors import DataError, SetupError

DESCRIPTION_FILE = "sequence.yaml"
_LARGEST_KNOWN_B = 100_000
SWITCHES = ("heading_checked", "pictures_checked")


@dataclass(frozen=True, kw_only=True, slots=True)
class SequenceConfig:
    """One sequence. All distances along the vehicle, metres."""

    name: str = ""
    """Name of the logs made of it; empty: the folder's name."""
    pose_ahead_of_rear_axle_m: float = 0.0
    """Where the point that poses.csv follows sits, ahead of the rear axle (a camera, a lidar …)."""
    camera_ahead_of_rear_axle_m: float = 1.7
    """Front camera, ahead of the rear axle."""
    camera_height_m: float = 1.5
    """Front camera, above the ground."""
    focal_px: tuple[float, float] | None = None
    """fx, fy of the stored pictures; None: unknown, the intrinsics are NaN."""
    center_px: tuple[float, float] | None = None
    """cx, cy of the stored pictures."""
    picture_tolerance_s: float = 0.06
    """A key frame takes the picture nearest in time, if it is as near as this; otherwise it has
    none.
    """
    max_pose_gap_s: float = 1.0
    """Poses are interpolated; a longer gap between two of them is refused."""
    smoothing_s: float = 0.5
    """Velocities and accelerations come from parabolas through the poses within ± this time (at
    least 3).
    """

    heading_checked: bool = True
    """False: a heading that does not fit the motion is taken as it is (a drive in reverse)."""
    pictures_checked: bool = True
    """False: poses and calibration are not held against the pictures (a car that stands in traffic,
    a crop far off the camera's axis).
    """

    def __post_init__(self) -> None:
        for name in (f.name for f in fields(self)):
            values = np.ravel(np.array(getattr(self, name) or 0.0, dtype=object))
            if any(isinstance(v, float) and not math.isfinite(v) for v in values):
                raise SetupError(f"{name} is {getattr(self, name)}; it must be a finite number")
        if (self.focal_px is None) != (self.center_px is None):
            raise SetupError("focal_px and center_px belong together; give both or neither")
        for name in ("picture_tolerance_s", "max_pose_gap_s", "smoothing_s"):
            if not getattr(self, name) > 0:
                raise SetupError(f"{name} is {getattr(self, name)}; it must be positive")


_KITTI_CAMERA_M, _KITTI_LIDAR_M = (
    1.03,
    0.76,
)  # ahead of the rear axle: sensor set-up figure of Geiger et al., IJRR 2013
_KITTI: dict[str, Any] = {"camera_ahead_of_rear_axle_m": _KITTI_CAMERA_M, "camera_height_m": 1.65}
_NAVSIM = SequenceConfig(
    camera_ahead_of_rear_axle_m=1.66,
    camera_height_m=1.51,
    focal_px=(313.0, 313.0),
    center_px=(194.0, 113.0),
)
KNOWN: dict[str, SequenceConfig] = {
    # kitti_01_gray
    "26acc2e8c240358a": SequenceConfig(
        pose_ahead_of_rear_axle_m=_KITTI_CAMERA_M,
        focal_px=(370.73, 370.90),
        center_px=(313.14, 95.56),
        **_KITTI,
    ),
    # kitti_02_color
    "4e6dec4c13997c3b": SequenceConfig(
        pose_ahead_of_rear_axle_m=_KITTI_CAMERA_M,
        focal_px=(370.73, 370.90),
        center_px=(313.14, 95.56),
        **_KITTI,
    ),
    # kitti_city_stop_color
    "51c3c6a02c805ca5": SequenceConfig(
        pose_ahead_of_rear_axle_m=_KITTI_LIDAR_M,
        focal_px=(371.81, 371.35),
        center_px=(314.10, 88.96),
        **_KITTI,
    ),
    # nuscenes_0103_front
    "d338205ed90ed885": SequenceConfig(
        camera_ahead_of_rear_axle_m=1.70,
        camera_height_m=1.51,
        focal_px=(275.6, 275.6),
        center_px=(181.9, 53.4),
    ),
    # scene_hotel_loop
    "57598af6633153d1": _NAVSIM,
    # scene_75fb2c6cfcd3562a
    "e0d1a54e3bba62fc": _NAVSIM,
}
"""Public excerpts that have no description of their own, by the hash of their poses: a folder's
mere name brings nothing.
"""


def describe(folder: str | Path) -> SequenceConfig:
    """The description of a folder: its `sequence.yaml`, else that of a public excerpt with these
    poses, else the defaults. Raises DataError naming file and field.
    """
    path = Path(folder) / DESCRIPTION_FILE
    if path.is_file():
        try:
            return _from_yaml(path)
        except SetupError as error:
            raise DataError(str(error), file=str(path)) from error
    poses = Path(folder) / "poses.csv"
    if not poses.is_file() or poses.stat().st_size > _LARGEST_KNOWN_B:
        return SequenceConfig()
    return KNOWN.get(hashlib.sha256(poses.read_bytes()).hexdigest()[:16], SequenceConfig())


def _from_yaml(path: Path) -> SequenceConfig:
    raw = read_yaml(path)
    known = [field.name for field in fields(SequenceConfig)]
    if not isinstance(raw, Mapping):
        raise SetupError(
            f"holds a {type(raw).__name__}; a mapping with keys of {', '.join(known)} is expected"
        )
    if unknown := [str(key) for key in raw if key not in known]:
        raise SetupError(
            f"{unknown[0][:60]!r} is not one of {', '.join(known)}{near_miss(unknown[0], known)}"
        )
    return SequenceConfig(**{key: _value(key, value) for key, value in raw.items()})


def _value(key: str, value: Any) -> Any:
    numbers = value if isinstance(value, list) else [value]
    if key == "name" and isinstance(value, str):
        return value
    if key in SWITCHES and isinstance(value, bool):
        return value
    sound = [v for v in numbers if isinstance(v, (int, float)) and not isinstance(v, bool)]
    wanted = 2 if key in ("focal_px", "center_px") else 1
    if key not in ("name", *SWITCHES) and len(sound) == len(numbers) == wanted:
        return tuple(float(v) for v in numbers) if wanted == 2 else float(numbers[0])
    raise SetupError(
        f"{key} is {value!r:.60}{_as_yaml_writes_it(value)}; see SequenceConfig.{key} for what it"
        " means"
    )


def _as_yaml_writes_it(value: Any) -> str:
    """YAML takes 1e9 for a text: a number with an exponent needs a point and a sign."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return ""
    mantissa, _, exponent = f"{number:.6e}".partition("e")
    digits = mantissa.rstrip("0")
    digits += "0" if digits.endswith(".") else ""
    return f", a text to YAML; write {digits}e{int(exponent):+d}"
