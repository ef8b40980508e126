"""Recorded moments of a simulation → a NAVSIM log pickle with every key of navsim_format.md
§4.1-4.3.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from types import BuiltinFunctionType, FunctionType
from typing import Any, ClassVar

import numpy as np

from latentvla_core.geometry import rotate
from latentvla_core.types import CAMERA_NAMES, Array, Camera, Command, ObjectClass, Vehicle
from latentvla_core.world.state import Actor, Snapshot

FRAME_US = 500_000
COMMAND_REACH_M, COMMAND_SIDE_M = 20.0, 2.0  # navsim_format.md §5.5
LIGHT_RANGE_M = 100.0


@dataclass(frozen=True, slots=True)
class Moment:
    """One key frame as the simulation saw it."""

    snapshot: Snapshot
    dynamics: tuple[float, float, float, float]
    """vx, vy, ax, ay in the ego frame."""
    yaw_rate: float
    ahead: Array
    """(2, 3) poses of the route's centre line at the ego's projection and 20 m further."""
    light_ids: tuple[str, ...]
    """Connectors whose lights are near enough to be seen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogHeader:
    """What all frames of a log share."""

    log_name: str
    vehicle: str
    location: str
    origin_m: Array
    start_us: int
    seed: str
    """Text that the log's tokens are hashed from."""
    route: tuple[str, ...]
    cameras: dict[str, Camera]


def token16(*parts: object) -> str:
    """16 hex characters from a hash of the parts."""
    return hashlib.sha256("|".join(map(str, parts)).encode()).hexdigest()[:16]


def frame_token(header: LogHeader, index: int) -> str:
    """Token of a key frame, its lidar sweep."""
    return token16(header.seed, "frame", index)


def picture_path(header: LogHeader, camera: str, index: int) -> str:
    """JPEG path relative to the split's sensor folder."""
    return f"{header.log_name}/{camera}/{token16(header.seed, camera, index)}.jpg"


def sweep_path(header: LogHeader, index: int) -> str:
    """PCD path relative to the split's sensor folder."""
    return f"{header.log_name}/MergedPointCloud/{frame_token(header, index)}.pcd"


def log_frames(header: LogHeader, moments: list[Moment]) -> list[dict[str, Any]]:
    """The list that a log pickle holds."""
    return [_frame(header, moments, index) for index in range(len(moments))]


def _frame(header: LogHeader, moments: list[Moment], index: int) -> dict[str, Any]:
    moment, last = moments[index], len(moments) - 1
    x, y, yaw = moment.snapshot.ego_pose
    vx, vy, ax, ay = moment.dynamics
    pose = [
        x + header.origin_m[0],
        y + header.origin_m[1],
        0.0,
        np.cos(yaw / 2),
        0.0,
        0.0,
        np.sin(yaw / 2),
    ]
    can_bus = np.array([*pose, ax, ay, 0.0, vx, vy, 0.0, 0.0, 0.0, moment.yaw_rate, 0.0, 0.0])
    to_global = np.eye(4)
    to_global[:2, :2] = [[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]
    to_global[:3, 3] = can_bus[:3]
    return {
        "token": frame_token(header, index),
        "frame_idx": index,
        "timestamp": header.start_us + index * FRAME_US,
        "log_name": header.log_name,
        "log_token": token16(header.seed, "log"),
        "scene_name": f"log-0001-{token16(header.seed, 'scene-name')}",
        "scene_token": token16(header.seed, "scene"),
        "map_location": header.location,
        "roadblock_ids": list(header.route),
        "vehicle_name": header.vehicle,
        "can_bus": can_bus,
        "lidar_path": sweep_path(header, index),
        "lidar2ego_translation": np.zeros(3),
        "lidar2ego_rotation": [1.0, 0.0, 0.0, 0.0],
        "ego2global_translation": can_bus[:3],
        "ego2global_rotation": can_bus[3:7],
        "ego_dynamic_state": [float(vx), float(vy), float(ax), float(ay)],
        "traffic_lights": _lights(moment),
        "driving_command": _command(moment),
        "cams": {name: _camera(header, name, index) for name in CAMERA_NAMES},
        "sample_prev": frame_token(header, index - 1) if index > 0 else None,
        "sample_next": frame_token(header, index + 1) if index < last else None,
        "ego2global": to_global,
        "lidar2ego": np.eye(4),
        "lidar2global": to_global.copy(),
        "anns": _annotations(header, moment.snapshot, index),
    }


def _lights(moment: Moment) -> list[tuple[int, bool]]:
    colours = moment.snapshot.lights
    return [(int(i), colours[i] == "red") for i in moment.light_ids]


def _command(moment: Moment) -> Array:
    """One-hot left, forward, right, unknown from the route's centre line 20 m ahead."""
    here, there = moment.ahead
    aside = rotate(there[:2] - here[:2], -here[2])[1]
    command = (
        Command.LEFT
        if aside >= COMMAND_SIDE_M
        else Command.RIGHT
        if aside <= -COMMAND_SIDE_M
        else Command.FORWARD
    )
    return np.eye(4, dtype=np.int64)[int(command)]


def _camera(header: LogHeader, name: str, index: int) -> dict[str, Any]:
    camera = header.cameras[name]
    return {
        "data_path": picture_path(header, name, index),
        "sensor2lidar_rotation": camera.rotation.copy(),
        "sensor2lidar_translation": camera.translation_m.copy(),
        "cam_intrinsic": camera.intrinsics_px.copy(),
        "distortion": camera.distortion.copy(),
    }


def _annotations(header: LogHeader, snapshot: Snapshot, index: int) -> dict[str, Any]:
    actors = snapshot.actors
    return {
        "gt_boxes": np.array([_box(a, snapshot.ego_pose) for a in actors]).reshape(-1, 7),
        "gt_names": np.array([ObjectClass(a.cls).name.lower() for a in actors]),
        "gt_velocity_3d": np.array([_velocity(a, snapshot.ego_pose) for a in actors]).reshape(
            -1, 3
        ),
        "instance_tokens": [token16(header.seed, "box", a.token, index) for a in actors],
        "track_tokens": [token16(header.seed, "track", a.token) for a in actors],
    }


def _box(actor: Actor, ego_pose: Array) -> list[float]:
    """Centre, size and yaw in the ego frame; the yaw difference is not wrapped (navsim_format.md
    §5.3).
    """
    x, y = rotate(actor.pose[:2] - ego_pose[:2], -ego_pose[2])
    return [
        float(x),
        float(y),
        actor.size_m[2] / 2,
        *actor.size_m,
        float(actor.pose[2] - ego_pose[2]),
    ]


def _velocity(actor: Actor, ego_pose: Array) -> list[float]:
    return [*rotate(actor.velocity_mps, -ego_pose[2]).tolist(), 0.0]


def yaw_rate(speed_mps: float, steering_rad: float) -> float:
    """Yaw rate of the kinematic bicycle, rad/s."""
    return speed_mps * float(np.tan(steering_rad)) / Vehicle.WHEEL_BASE_M


_PythonPickler: Any = pickle._Pickler  # the C pickler cannot rename what it writes


class _LogPickler(_PythonPickler):
    """Writes numpy's functions under the module names of numpy 1, which old and new numpy both
    import.

    numpy ≥ 2 would write `numpy._core…`, which the devkit's numpy 1.23 does not have.
    """

    dispatch: ClassVar[dict[Any, Any]] = dict(_PythonPickler.dispatch)

    def save_global(self, obj: Any, name: str | None = None) -> None:
        module = getattr(obj, "__module__", "") or ""
        if not module.startswith("numpy._core"):
            super().save_global(obj, name)
            return
        self.save(module.replace("numpy._core", "numpy.core"))
        self.save(name or obj.__qualname__)
        self.write(pickle.STACK_GLOBAL)
        self.memoize(obj)

    def save_picklebuffer(self, obj: pickle.PickleBuffer) -> None:
        """As Python's own, which fails on the second empty array of a log: all empty `bytes` are
        one object, memoised twice.
        """
        with obj.raw() as view:
            data = view.tobytes()
            if view.readonly:
                self.save(data)
            else:
                self.save_bytearray(bytearray(data))

    dispatch[pickle.PickleBuffer] = save_picklebuffer
    dispatch[FunctionType] = save_global
    dispatch[BuiltinFunctionType] = save_global


def write_log(path: Path, frames: list[dict[str, Any]]) -> None:
    """Pickle, protocol 5. The file appears whole or not at all."""
    buffer = io.BytesIO()
    _LogPickler(buffer, protocol=5).dump(frames)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(buffer.getvalue())
    partial.replace(path)
