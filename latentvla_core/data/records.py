"""`Scene` → `SceneRecord`, the row that training and planning read, and the row's way through a
table.

Poses become relative to the current rear axle (navsim_format.md §8.1) in float64; the devkit rounds
its agents' history to float32 here, this project leaves rounding to the models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

from latentvla_core.geometry import to_local
from latentvla_core.types import (
    CAMERA_NAMES,
    FRONT_CAMERA,
    Array,
    Camera,
    Frame,
    Objects,
    Scene,
    SceneRecord,
)

_TUPLES = ("front_paths", "camera_names", "camera_paths", "roadblock_ids")


def scene_record(scene: Scene, sensor_root: str, made_by: str = "") -> SceneRecord:
    """The record of one scene. Blind scenes have no future, unannotated ones no objects
    (`has_objects` says which).
    """
    now = scene.current
    cameras = [
        (name, now.cameras[name])
        for name in CAMERA_NAMES
        if name in now.cameras and now.cameras[name].path
    ]
    objects = now.objects if now.objects is not None else Objects.empty()
    return SceneRecord(
        scene_token=now.token,
        log_name=now.log_name,
        split=scene.split,
        map_location=now.map_location,
        timestamp_us=now.timestamp_us,
        sensor_root=sensor_root,
        ego_pose=now.ego_pose,
        ego_velocity_mps=now.ego_velocity_mps,
        ego_acceleration_mps2=now.ego_acceleration_mps2,
        command=int(now.command),
        history_poses=relative_poses(scene.history, now),
        history_velocities_mps=_stack([frame.ego_velocity_mps for frame in scene.history], (2,)),
        history_accelerations_mps2=_stack(
            [frame.ego_acceleration_mps2 for frame in scene.history], (2,)
        ),
        future_poses=relative_poses(scene.future, now),
        front_paths=tuple(_front_path(frame) for frame in scene.frames),
        camera_names=tuple(name for name, _ in cameras),
        camera_paths=tuple(camera.path for _, camera in cameras),
        **_calibration([camera for _, camera in cameras]),
        lidar_path=now.lidar_path,
        object_boxes=objects.boxes,
        object_classes=objects.classes,
        object_velocities_mps=objects.velocities_mps[:, :2],
        roadblock_ids=now.roadblock_ids,
        has_objects=now.objects is not None,
        made_by=made_by,
    )


def relative_poses(frames: Sequence[Frame], now: Frame) -> Array:
    """(n, 3) rear-axle poses of the frames in the ego frame of `now`."""
    return to_local(now.ego_pose, _stack([frame.ego_pose for frame in frames], (3,)))


def _stack(rows: Sequence[Array], shape: tuple[int, ...]) -> Array:
    return np.reshape(np.array(rows, np.float64), (-1, *shape))


def _front_path(frame: Frame) -> str:
    camera = frame.cameras.get(FRONT_CAMERA)
    return camera.path if camera is not None else ""


def _calibration(cameras: Sequence[Camera]) -> dict[str, Array]:
    return {
        "camera_intrinsics_px": _stack([camera.intrinsics_px for camera in cameras], (3, 3)),
        "camera_rotations": _stack([camera.rotation for camera in cameras], (3, 3)),
        "camera_translations_m": _stack([camera.translation_m for camera in cameras], (3,)),
    }


def row_from_record(record: SceneRecord) -> dict[str, Any]:
    """{column: value} of table `scenes` (partition columns that are not in the record excepted)."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def record_from_row(row: Mapping[str, Any]) -> SceneRecord:
    """Inverse of `row_from_record`; columns that are not in the record are ignored."""
    values: dict[str, Any] = {field.name: row[field.name] for field in fields(SceneRecord)}
    values |= {name: tuple(values[name]) for name in _TUPLES}
    return SceneRecord(**values)
