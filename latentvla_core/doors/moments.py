"""One moment as a message: what a simulator knows now, as plain JSON. Nothing of the future.

    {"pictures": {"CAM_F0": "<base64 of a JPEG, a PNG or a .npy file>"},
     "cameras": {"CAM_F0": {"intrinsics_px": 3x3, "rotation": 3x3, "translation_m": [x, y, z]}},
     "velocity_mps": [x, y], "acceleration_mps2": [x, y],
     "history_poses": [[x, y, yaw], ...], "command": "forward"}

Frames are the ego's of now: rear axle, x forward, y left; rotations are camera → ego, of optical
axes. Without history the car is taken to have kept its speed. Each picture needs its camera.
"""

from __future__ import annotations

import base64
import binascii
import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latentvla_core.closed_loop.driver import HISTORY_FRAMES, PLAN_PERIOD_S, Observation
from latentvla_core.errors import DataError
from latentvla_core.types import CAMERA_NAMES, Array, Camera, Command

NPY = b"\x93NUMPY"
KNOWN = (
    "token", "timestamp_us", "pictures", "cameras", "velocity_mps", "acceleration_mps2",
    "history_poses", "history_velocities_mps", "history_accelerations_mps2", "command",
)  # fmt: skip
MOST_SIDE_PX = 10_000


@dataclass(frozen=True, slots=True)
class Moment:
    """A message that was understood."""

    seen: Observation
    """Without pictures."""
    pictures: Mapping[str, bytes]
    """Camera → the picture's bytes as they came (JPEG, PNG or .npy)."""

    def with_pictures(self) -> Observation:
        """The observation with its pictures decoded, for drivers that look at arrays."""
        return replace(self.seen, pictures={n: decoded(p, n) for n, p in self.pictures.items()})


class _Reader:
    """Fields of a message; faults are gathered, so that one answer names them all."""

    def __init__(self, message: Mapping[str, Any]) -> None:
        self.message, self.faults = message, list[str]()

    def array(self, name: str, shape: tuple[int, ...], default: Array) -> Array:
        """A table of finite numbers; a first dimension of -1 is free. The default where absent."""
        if self.message.get(name) is None:
            return default
        return self.numbers(name, self.message[name], shape, default)

    def numbers(self, name: str, value: Any, shape: tuple[int, ...], default: Array) -> Array:
        try:
            found = np.asarray(value, np.float64)
        except (TypeError, ValueError):
            found = np.full((0,), np.nan)
        fits = found.ndim == len(shape) and all(
            want in (-1, have) for want, have in zip(shape, found.shape, strict=False)
        )
        if not fits or not np.isfinite(found).all():
            self.faults.append(f"{name} has to be finite numbers of shape {shape}")
            return default
        return found


def moment_of(message: Any) -> Moment:
    """A message → the moment. Raises DataError that names every fault."""
    if not isinstance(message, Mapping):
        raise DataError(
            f"the message is a {type(message).__name__}; it has to be an object with velocity_mps, "
            "command and pictures"
        )
    read = _Reader(message)
    if unknown := sorted(set(map(str, message)) - set(KNOWN)):
        read.faults.append(f"field {unknown[0]!r} is unknown; the fields are {', '.join(KNOWN)}")
    velocity = read.array("velocity_mps", (2,), np.full(2, np.nan))
    if message.get("velocity_mps") is None:
        read.faults.append("velocity_mps is missing; give [x, y] in the ego frame, m/s")
    acceleration = read.array("acceleration_mps2", (2,), np.zeros(2))
    pictures = _pictures(read)
    cameras = _cameras(read)
    if lost := [name for name in pictures if name not in cameras]:
        read.faults.append(f"cameras says nothing of {lost[0]}; give its calibration")
    command = _command(read)
    history = _history(read, velocity, acceleration)
    stamp = _whole(read, "timestamp_us")
    if read.faults:
        raise DataError("; ".join(read.faults))
    seen = Observation(
        token=str(message.get("token") or "now"),
        time_s=stamp * 1e-6,
        timestamp_us=stamp,
        cameras=cameras,
        velocity_mps=velocity,
        acceleration_mps2=acceleration,
        command=command,
        **history,
    )
    return Moment(seen, pictures)


def _whole(read: _Reader, name: str) -> int:
    value = read.message.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int):
        read.faults.append(f"{name} is {value!r}; it has to be a whole number")
        return 0
    return value


def _pictures(read: _Reader) -> dict[str, bytes]:
    given = read.message.get("pictures") or {}
    if not isinstance(given, Mapping):
        read.faults.append("pictures has to be an object: camera → base64")
        return {}
    out = {}
    for name, text in given.items():
        if name not in CAMERA_NAMES:
            read.faults.append(f"camera {name!r} is unknown; use {', '.join(CAMERA_NAMES)}")
            continue
        try:
            out[str(name)] = base64.b64decode(text, validate=True)
        except (TypeError, ValueError, binascii.Error):
            read.faults.append(f"pictures.{name} is not base64")
    return out


def _cameras(read: _Reader) -> dict[str, Camera]:
    given = read.message.get("cameras") or {}
    if not isinstance(given, Mapping) or not all(isinstance(c, Mapping) for c in given.values()):
        read.faults.append(
            "cameras has to be an object: camera → intrinsics_px, rotation, translation_m"
        )
        return {}
    if unknown := [name for name in given if name not in CAMERA_NAMES]:
        read.faults.append(f"camera {unknown[0]!r} is unknown; use {', '.join(CAMERA_NAMES)}")
    known = [name for name in CAMERA_NAMES if name in given]  # the order that records have
    return {name: _camera(read, name, given[name]) for name in known}


def _camera(read: _Reader, name: str, rig: Mapping[str, Any]) -> Camera:
    shapes = {"intrinsics_px": (3, 3), "rotation": (3, 3), "translation_m": (3,)}
    found = {
        field: read.numbers(f"cameras.{name}.{field}", rig.get(field), shape, np.zeros(shape))
        for field, shape in shapes.items()
    }
    return Camera(path="", distortion=np.zeros(5), **found)


def _command(read: _Reader) -> Command:
    """By name, by number, or one-hot as NAVSIM has it; absent is unknown."""
    value = read.message.get("command")
    if value is None:
        return Command.UNKNOWN
    names = {command.name.lower(): command for command in Command}
    if isinstance(value, str) and value.lower() in names:
        return names[value.lower()]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(Command):
        return Command(value)
    if isinstance(value, list) and len(value) == len(Command) and sorted(value) == [0, 0, 0, 1]:
        return Command(value.index(1))
    read.faults.append(
        f"command is {value!r}; use {', '.join(names)}, its number, or NAVSIM's one-hot"
    )
    return Command.UNKNOWN


def _history(read: _Reader, velocity: Array, acceleration: Array) -> dict[str, Any]:
    """The four plan times up to now, the last ones where more are given, filled with the first
    where fewer are.
    """
    before = np.arange(1 - HISTORY_FRAMES, 1) * PLAN_PERIOD_S
    kept = np.column_stack([before[:, None] * velocity, np.zeros(HISTORY_FRAMES)])
    return {
        "history_poses": _last(read.array("history_poses", (-1, 3), kept)),
        "history_velocities_mps": _last(
            read.array("history_velocities_mps", (-1, 2), np.tile(velocity, (HISTORY_FRAMES, 1)))
        ),
        "history_accelerations_mps2": _last(
            read.array(
                "history_accelerations_mps2", (-1, 2), np.tile(acceleration, (HISTORY_FRAMES, 1))
            )
        ),
    }


def _last(rows: Array) -> Array:
    if not len(rows):
        return np.zeros((HISTORY_FRAMES, *rows.shape[1:]))
    missing = max(0, HISTORY_FRAMES - len(rows))
    return np.concatenate([np.repeat(rows[:1], missing, axis=0), rows])[-HISTORY_FRAMES:]


def decoded(data: bytes, name: str) -> Array:
    """(H, W, 3) uint8 of a JPEG, PNG or .npy. Raises DataError that names the camera."""
    if not data.startswith(NPY):
        from latentvla_core.data.cameras import decode_image

        return decode_image(data, name=f"pictures.{name}")
    try:
        picture = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"the .npy cannot be read ({error})", field=f"pictures.{name}") from error
    wrong = picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3
    if wrong or not 0 < max(picture.shape) <= MOST_SIDE_PX:
        raise DataError(
            f"the .npy holds {picture.dtype} {picture.shape}; a picture is uint8 (H, W, 3)",
            field=f"pictures.{name}",
        )
    return picture
