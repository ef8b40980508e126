"""A drive's poses and calibration held against what its pictures show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latentvla_core.data.cameras import image_size, load_image
from latentvla_core.data.sequences import SequenceConfig
from latentvla_core.errors import DataError
from latentvla_core.types import FRONT_CAMERA, Frame, Pose

LOOKED_AT_WH = (64, 36)
MOST_PAIRS = 12
STANDS_M, MOVES_MPS = 0.5, 2.0
"""A whole drive below: the car stands. Every looked-at step above: it moves."""
CHANGED, SAME = 10.0, 0.5
"""Mean grey levels between pictures half a second to a second apart: of a road driven along, and of
one picture saved twice.
"""
CENTER_SHARE = (0.25, 0.75)
FOCAL_SHARE = (0.1, 6.0)
"""Of the picture's width: a field of view of 157 to 10 degrees."""
OFF = "pictures_checked: false in sequence.yaml takes the drive as it is"


def check_against_pictures(frames: Sequence[Frame], root: str, config: SequenceConfig) -> None:
    """Raises DataError when calibration is of other pictures, when the car stands though pictures
    change, or moves though they do not. `frames`: of one log, paths relative to `root`.
    """
    if not config.pictures_checked:
        return
    shown = [frame for frame in frames if FRONT_CAMERA in frame.cameras]
    if not shown:
        return
    _check_calibration(shown[0].cameras[FRONT_CAMERA].path, root, config)
    _check_motion(shown, root)


def _check_calibration(path: str, root: str, config: SequenceConfig) -> None:
    if config.focal_px is None or config.center_px is None:
        return
    try:
        wide, high = image_size(root, path)
    except DataError:
        return  # a picture that cannot be read is refused where it is used
    (cx, cy), (low, most) = config.center_px, CENTER_SHARE
    rule = ""
    if not low * wide <= cx <= most * wide or not 0 <= cy <= high:
        rule = f"center_px {[cx, cy]} is not near the middle"
    elif not FOCAL_SHARE[0] * wide <= config.focal_px[0] <= FOCAL_SHARE[1] * wide:
        rule = f"focal_px {list(config.focal_px)} is of no usual lens"
    if rule:
        raise DataError(
            f"{rule} of pictures of {wide} x {high} pixels: is the calibration of another size?"
            f" Write it for the pictures as they are stored; {OFF}",
            file=f"{root}/sequence.yaml", field="center_px" if "center" in rule else "focal_px",
        )  # fmt: skip


def _check_motion(frames: Sequence[Frame], root: str) -> None:
    pairs = [(a, b) for a, b in zip(frames, frames[1:], strict=False) if _is_step(a, b)]
    if len(pairs) < 3:
        return
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), MOST_PAIRS)).astype(int))
    looked = [(_speed_mps(a, b), _change(a, b, root)) for a, b in (pairs[int(i)] for i in chosen)]
    seen = np.array([pair for pair in looked if pair[1] is not None], np.float64)
    if len(seen) < 3:
        return
    xy = np.array([frame.ego_pose[: Pose.YAW] for frame in frames])
    reach_m, change = float(np.ptp(xy, axis=0).max()), float(np.median(seen[:, 1]))
    if reach_m < STANDS_M and change > CHANGED:
        raise DataError(
            f"the car stands (it never leaves {reach_m:.2f} m) while pictures change by"
            f" {change:.0f} grey levels: are x, y in metres, and of this drive? {OFF}",
            file=f"{root}/poses.csv", field="x",
        )  # fmt: skip
    if seen[:, 0].min() > MOVES_MPS and seen[:, 1].max() < SAME:
        raise DataError(
            f"the car moves at {np.median(seen[:, 0]):.0f} m/s while pictures stay the same:"
            f" is one picture saved under many names? {OFF}",
            file=f"{root}/frames", field="frame",
        )  # fmt: skip


def _is_step(a: Frame, b: Frame) -> bool:
    return 0.2 < (b.timestamp_us - a.timestamp_us) * 1e-6 < 1.5


def _speed_mps(a: Frame, b: Frame) -> float:
    way_m = float(np.linalg.norm(b.ego_pose[: Pose.YAW] - a.ego_pose[: Pose.YAW]))
    return way_m / ((b.timestamp_us - a.timestamp_us) * 1e-6)


def _change(a: Frame, b: Frame, root: str) -> float | None:
    """Mean difference of two pictures in grey levels; None where one cannot be read."""
    try:
        one, other = (
            load_image(root, frame.cameras[FRONT_CAMERA].path, LOOKED_AT_WH).astype(np.float64)
            for frame in (a, b)
        )
    except DataError:
        return None
    return float(np.abs(one - other).mean())
