"""OpenScene / NAVSIM log pickles → `Frame`s, without the devkit (navsim_format.md §4, §5).

A log is a list of frame dicts, nominally at 2 Hz. Meaning follows the devkit exactly where the
score depends on it: yaw formula, float32 ego motion, light ids as text. Frames whose data breaks
the format are never repaired: the strict reader raises with all faults of the file, the tolerant
one leaves a hole (`None`) and says why.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.data import DataFormat
from latentvla_core.data.fields import Fields, near_miss
from latentvla_core.data.files import read_bytes
from latentvla_core.data.unpickle import PickleKind, loads
from latentvla_core.errors import DataError, DataFaults
from latentvla_core.types import (
    CAMERA_NAMES,
    MAP_LOCATIONS,
    Array,
    Camera,
    Command,
    Frame,
    ObjectClass,
    Objects,
)

CLASS_OF_NAME = {
    "vehicle": ObjectClass.VEHICLE,
    "pedestrian": ObjectClass.PEDESTRIAN,
    "bicycle": ObjectClass.BICYCLE,
    "traffic_cone": ObjectClass.TRAFFIC_CONE,
    "barrier": ObjectClass.BARRIER,
    "czone_sign": ObjectClass.CZONE_SIGN,
    "generic_object": ObjectClass.GENERIC_OBJECT,
    "ego": ObjectClass.EGO,
}
_CODE_OF_NAME = {name: int(c) for name, c in CLASS_OF_NAME.items()}
Calibrations = dict[tuple[bytes, ...], tuple[Array, ...]]
_CALIBRATION = (
    ("sensor2lidar_rotation", (3, 3)),
    ("sensor2lidar_translation", (3,)),
    ("cam_intrinsic", (3, 3)),
    ("distortion", (5,)),
)
_REMEDY = "check the path, or download the log again"


def read_log(path: str | Path) -> list[Frame]:
    """All frames of a log, in file order.

    Raises DataError when the file cannot be read at all, DataFaults with every fault of every frame
    otherwise.
    """
    with _collector_paused():
        slots, faults = parse_log(load_log(path), file=str(path))
    if faults:
        raise DataFaults(faults)
    return [frame for frame in slots if frame is not None]


def read_log_slots(path: str | Path) -> tuple[list[Frame | None], list[DataError]]:
    """One slot per frame of the file; `None` where the frame is quarantined for the faults that
    come along.

    A file that cannot be read at all gives no slot and one fault. `filters.scenes_of_log` takes
    slots, so that no window is laid across a hole.
    """
    try:
        with _collector_paused():
            return parse_log(load_log(path), file=str(path))
    except DataError as fault:
        return [], [fault]


def read_log_tolerant(path: str | Path) -> tuple[list[Frame], list[DataError]]:
    """The usable frames and the faults of the others. For windows use `read_log_slots`: holes do
    not show here.
    """
    slots, faults = read_log_slots(path)
    return [frame for frame in slots if frame is not None], faults


@contextmanager
def _collector_paused() -> Iterator[None]:
    """No cyclic garbage collection meanwhile: a log makes many objects and no cycles, and scanning
    them costs a quarter.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def load_log(path: str | Path) -> list[Any]:
    """The raw list of frame dicts, through the allow-list."""
    raw = loads(read_bytes(path, remedy=_REMEDY), PickleKind.LOG, file=str(path))
    if not isinstance(raw, list):
        raise DataError(
            f"holds a {type(raw).__name__}; a log is a list of frames. The log folder must hold nothing but logs",
            file=str(path),
        )
    return raw


def parse_log(raw: Sequence[Any], *, file: str) -> tuple[list[Frame | None], list[DataError]]:
    """Frame dicts → slots and faults, see `read_log_slots`."""
    slots: list[Frame | None] = []
    faults: list[DataError] = []
    memo: Calibrations = {}
    for index, entry in enumerate(raw):
        found = len(faults)
        frame = _frame(entry, index, file, faults, memo)
        slots.append(frame if len(faults) == found else None)
    return slots, faults


def _frame(
    raw: Any, index: int, file: str, faults: list[DataError], memo: Calibrations
) -> Frame | None:
    if not isinstance(raw, dict):
        faults.append(
            DataError(f"is a {type(raw).__name__}; a frame is a dict", file=file, frame=f"#{index}")
        )
        return None
    token = raw.get("token")
    f = Fields(
        raw,
        file=file,
        frame=f"#{index} ({token})" if isinstance(token, str) else f"#{index}",
        faults=faults,
    )
    rotation = f.array("ego2global_rotation", (4,))
    translation = f.array("ego2global_translation", (3,))
    motion = _motion(f)
    return Frame(
        token=f.text("token"),
        timestamp_us=_timestamp(f),
        frame_idx=f.integer("frame_idx") if "frame_idx" in raw else index,
        log_name=f.text("log_name"),
        scene_token=f.text("scene_token", empty=True) if "scene_token" in raw else "",
        map_location=_location(f),
        ego_pose=np.array([translation[0], translation[1], _yaw(rotation, f)]),
        ego_translation_m=translation,
        ego_rotation_wxyz=rotation,
        ego_velocity_mps=motion[:2],
        ego_acceleration_mps2=motion[2:],
        command=_command(f),
        roadblock_ids=f.texts("roadblock_ids"),
        traffic_lights=traffic_lights(f),
        objects=objects_of(f.inner(f.mapping("anns"), "anns"), "gt_")
        if raw.get("anns") is not None
        else None,
        cameras=_cameras(f, memo),
        lidar_path=f.text("lidar_path", empty=True) if "lidar_path" in raw else "",
    )


def _motion(f: Fields) -> Array:
    """(4,) vx, vy, ax, ay, rounded to float32 as the devkit does."""
    motion = f.array("ego_dynamic_state", (4,))
    if np.abs(motion).max() > np.finfo(np.float32).max:
        f.fault(
            "ego_dynamic_state",
            f"{motion.tolist()} does not fit float32; m/s and m/s2 are expected",
        )
        return np.zeros(4)
    return motion.astype(np.float32).astype(np.float64)


def _timestamp(f: Fields) -> int:
    value = f.integer("timestamp")
    if value < 0:
        f.fault("timestamp", f"{value} is negative; microseconds since 1970 are expected")
    return value


def _location(f: Fields) -> str:
    name = f.text("map_location", empty=True)
    if name and name not in MAP_LOCATIONS:
        f.fault(
            "map_location",
            f"{name!r} is not one of {', '.join(MAP_LOCATIONS)}{near_miss(name, MAP_LOCATIONS)}",
        )
    return name


def _yaw(rotation_wxyz: Array, f: Fields) -> float:
    """`geometry.yaw_from_quaternion` to the last bit of the devkit's, whose library works on
    scalars (so `**` is `pow`) and leaves quaternions alone that have unit length up to 1e-14.
    """
    w, x, y, z = rotation_wxyz.tolist()
    square = w * w + x * x + y * y + z * z
    if not 0.8 < square < 1.2:  # far beyond rounding: not a rotation at all
        f.fault(
            "ego2global_rotation",
            f"quaternion of length {square**0.5:.3g}; a rotation (w, x, y, z) has length 1",
        )
        return 0.0
    if abs(1.0 - square) >= 1e-14:
        w, x, y, z = (part / math.sqrt(square) for part in (w, x, y, z))
    return math.atan2(2 * (w * z - x * y), 1 - 2 * (y**2 + z**2))


def _command(f: Fields) -> Command:
    one_hot = f.array("driving_command", (4,))
    if f.faults and f.faults[-1].field.endswith("driving_command"):
        return Command.UNKNOWN
    if sorted(one_hot.tolist()) != [0, 0, 0, 1]:
        f.fault(
            "driving_command",
            f"{one_hot.tolist()} is not a one-hot of left, forward, right, unknown",
        )
        return Command.UNKNOWN
    return Command(int(one_hot.argmax()))


def traffic_lights(f: Fields) -> tuple[tuple[str, bool], ...]:
    """(lane connector id as the map writes it, is red) of each entry."""
    lights = []
    for entry in f.items("traffic_lights"):
        if not (
            isinstance(entry, (tuple, list))
            and len(entry) == 2
            and isinstance(entry[0], (int, str, np.integer))
        ):
            f.fault("traffic_lights", f"{entry!r:.60} is not a pair (lane connector id, is red)")
            return ()
        lights.append((str(entry[0]), bool(entry[1])))
    return tuple(lights)


def objects_of(f: Fields, prefix: str) -> Objects:
    """The annotations of one frame; logs prefix the array names with `gt_`, synthetic scenes do
    not.
    """
    found = len(f.faults)
    boxes = f.array(prefix + "boxes", (-1, 7))
    names = f.texts(prefix + "names")
    velocities = f.array(prefix + "velocity_3d", (-1, 3))
    tracks, instances = f.texts("track_tokens"), f.texts("instance_tokens")
    if len(f.faults) > found:
        return Objects.empty()
    counts = {
        "boxes": len(boxes),
        "names": len(names),
        "velocity_3d": len(velocities),
        "track_tokens": len(tracks),
    }
    counts["instance_tokens"] = len(instances)
    if len(set(counts.values())) > 1:
        f.fault(
            prefix + "boxes",
            f"lists of different length: {', '.join(f'{k} {n}' for k, n in counts.items())}",
        )
        return Objects.empty()
    if len(boxes) and boxes[:, 3:6].min() < 0:
        f.fault(prefix + "boxes", f"a box of negative size ({boxes[:, 3:6].min():.3g} m)")
    return Objects(boxes, _classes(names, f, prefix), velocities, tracks, instances)


def _classes(names: tuple[str, ...], f: Fields, prefix: str) -> Array:
    codes = [_CODE_OF_NAME.get(name, -1) for name in names]
    if -1 in codes:
        unknown = names[codes.index(-1)]
        f.fault(
            prefix + "names",
            f"{unknown!r} is not a class of {', '.join(CLASS_OF_NAME)}{near_miss(unknown, CLASS_OF_NAME)}",
        )
    return np.array(codes, np.int8)


def _cameras(f: Fields, memo: Calibrations) -> dict[str, Camera]:
    cams = f.mapping("cams")
    if unknown := [name for name in cams if name not in CAMERA_NAMES]:
        f.fault("cams", f"{unknown[0]!r} is not a camera{near_miss(str(unknown[0]), CAMERA_NAMES)}")
    return {
        name: camera_of(f.inner(cams[name], f"cams.{name}"), memo)
        for name in CAMERA_NAMES
        if _filled(cams.get(name), f, name)
    }


def _filled(entry: Any, f: Fields, name: str) -> bool:
    """Whether a camera entry says anything; `{}` and None mean: no such picture in this frame."""
    if entry is not None and not isinstance(entry, Mapping):
        f.fault(f"cams.{name}", f"is a {type(entry).__name__}; a dict is expected")
        return False
    return bool(entry)


def camera_of(f: Fields, memo: Calibrations) -> Camera:
    """One camera. A calibration that comes again is the same arrays again: a log repeats it in
    every frame.
    """
    key = tuple(
        value.tobytes()
        for name, shape in _CALIBRATION
        if isinstance(value := f.raw.get(name), np.ndarray)
        and value.dtype == np.float64
        and value.shape == shape
    )
    if len(key) < len(_CALIBRATION) or key not in memo:
        found = len(f.faults)
        arrays = tuple(f.array(name, shape) for name, shape in _CALIBRATION)
        if len(f.faults) > found or len(key) < len(_CALIBRATION):
            return Camera(f.text("data_path", empty=True), *arrays)
        memo[key] = arrays
    return Camera(f.text("data_path", empty=True), *memo[key])


def _find(folder: Path) -> list[tuple[str, Path]]:
    return sorted((path.name.removesuffix(".pkl"), path) for path in folder.glob("*.pkl"))


def _read(path: Path, name: str) -> tuple[list[list[Frame | None]], list[DataError]]:
    slots, faults = read_log_slots(path)
    return [slots], faults


FORMAT = DataFormat(
    what=".pkl file",
    find=_find,
    read=_read,
    file=lambda path: path,
    sensors=lambda path: path.parent,
    name_inside=True,
)
