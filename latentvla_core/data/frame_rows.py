"""`Frame` ↔ a row of table `frames`, without loss: scoring from the lake equals scoring from the
log pickles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from latentvla_core.types import CAMERA_NAMES, Camera, Command, Frame, Objects


def row_from_frame(frame: Frame, log_index: int, sensor_root: str) -> dict[str, Any]:
    """Columns of table `frames` except split, shard and made_by; `log_index` is the position in the
    log file.
    """
    objects = frame.objects if frame.objects is not None else Objects.empty()
    cameras = [(name, frame.cameras[name]) for name in CAMERA_NAMES if name in frame.cameras]
    return {
        "log_name": frame.log_name,
        "token": frame.token,
        "timestamp_us": frame.timestamp_us,
        "log_index": log_index,
        "frame_idx": frame.frame_idx,
        "drive_token": frame.scene_token,
        "map_location": frame.map_location,
        "sensor_root": sensor_root,
        "ego_pose": frame.ego_pose,
        "ego_translation_m": frame.ego_translation_m,
        "ego_rotation_wxyz": frame.ego_rotation_wxyz,
        "ego_velocity_mps": frame.ego_velocity_mps,
        "ego_acceleration_mps2": frame.ego_acceleration_mps2,
        "command": int(frame.command),
        "roadblock_ids": frame.roadblock_ids,
        "light_ids": [light for light, _ in frame.traffic_lights],
        "light_is_red": [red for _, red in frame.traffic_lights],
        "has_objects": frame.objects is not None,
        "object_boxes": objects.boxes,
        "object_classes": objects.classes,
        "object_velocities_mps": objects.velocities_mps,
        "track_tokens": objects.track_tokens,
        "instance_tokens": objects.instance_tokens,
        "camera_names": [name for name, _ in cameras],
        "camera_paths": [camera.path for _, camera in cameras],
        "camera_rotations": np.reshape([c.rotation for _, c in cameras], (-1, 3, 3)),
        "camera_translations_m": np.reshape([c.translation_m for _, c in cameras], (-1, 3)),
        "camera_intrinsics_px": np.reshape([c.intrinsics_px for _, c in cameras], (-1, 3, 3)),
        "camera_distortion": np.reshape([c.distortion for _, c in cameras], (-1, 5)),
        "lidar_path": frame.lidar_path,
    }


def frame_from_row(row: Mapping[str, Any]) -> Frame:
    """Inverse of `row_from_frame`."""
    objects = Objects(
        row["object_boxes"],
        row["object_classes"],
        row["object_velocities_mps"],
        tuple(row["track_tokens"]),
        tuple(row["instance_tokens"]),
    )
    cameras = zip(
        row["camera_names"],
        row["camera_paths"],
        row["camera_rotations"],
        row["camera_translations_m"],
        row["camera_intrinsics_px"],
        row["camera_distortion"],
        strict=True,
    )
    return Frame(
        token=row["token"],
        timestamp_us=row["timestamp_us"],
        frame_idx=row["frame_idx"],
        log_name=row["log_name"],
        scene_token=row["drive_token"],
        map_location=row["map_location"],
        ego_pose=row["ego_pose"],
        ego_translation_m=row["ego_translation_m"],
        ego_rotation_wxyz=row["ego_rotation_wxyz"],
        ego_velocity_mps=row["ego_velocity_mps"],
        ego_acceleration_mps2=row["ego_acceleration_mps2"],
        command=Command(row["command"]),
        roadblock_ids=tuple(row["roadblock_ids"]),
        traffic_lights=tuple(
            (i, bool(red)) for i, red in zip(row["light_ids"], row["light_is_red"], strict=True)
        ),
        objects=objects if row["has_objects"] else None,
        cameras={name: Camera(*values) for name, *values in cameras},
        lidar_path=row["lidar_path"],
    )
