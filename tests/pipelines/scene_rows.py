"""Scenes without pictures, as records and as rows."""

from __future__ import annotations

from typing import Any

import numpy as np

from latentvla_core.data.records import row_from_record
from latentvla_core.types import SceneRecord


def record(token: str, speed_mps: float) -> SceneRecord:
    """A car that drives straight on."""
    poses = np.zeros((12, 3))
    poses[:, 0] = 0.5 * speed_mps * np.arange(-3, 9)
    return SceneRecord(
        scene_token=token, log_name=f"log_{token}", split="train", map_location="",
        timestamp_us=0, sensor_root="/", ego_pose=np.zeros(3),
        ego_velocity_mps=np.array([speed_mps, 0.0]), ego_acceleration_mps2=np.zeros(2), command=1,
        history_poses=poses[:4], history_velocities_mps=np.tile([speed_mps, 0.0], (4, 1)),
        history_accelerations_mps2=np.zeros((4, 2)), future_poses=poses[4:],
        front_paths=("",) * 12, camera_names=(), camera_paths=(),
        camera_intrinsics_px=np.zeros((0, 3, 3)), camera_rotations=np.zeros((0, 3, 3)),
        camera_translations_m=np.zeros((0, 3)), lidar_path="", object_boxes=np.zeros((0, 7)),
        object_classes=np.zeros(0, np.int8), object_velocities_mps=np.zeros((0, 2)),
        roadblock_ids=(), has_objects=False,
    )  # fmt: skip


def scene_row(token: str, speed_mps: float) -> dict[str, Any]:
    return row_from_record(record(token, speed_mps))
