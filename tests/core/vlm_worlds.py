"""Little driving scenes for the language model and its student: records with drawn pictures and
codes that mean something.

Code positions are time-major, 3 transitions × 4. Codes 0 and 2 of a transition follow the speed,
code 1 the yaw rate, code 3 what the front picture shows (a bright block, left, middle or right).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from latentvla_core.types import Array, SceneRecord

CAMERAS = ("CAM_F0", "CAM_L0", "CAM_R0")
HISTORY, FUTURE = 4, 8


def record(
    token: str, root: Path | str, *, speed_mps: float, yaw_rate_radps: float = 0.0, command: int = 1
) -> SceneRecord:
    """A car that drives a circle arc; pictures are `<token>/<camera>.jpg`, whether they exist or
    not.
    """
    times = 0.5 * np.arange(-HISTORY + 1, FUTURE + 1)
    poses = np.stack(
        [speed_mps * times, 0.5 * speed_mps * yaw_rate_radps * times**2, yaw_rate_radps * times], 1
    )
    return SceneRecord(
        scene_token=token,
        log_name=f"log_{token}",
        split="train",
        map_location="",
        timestamp_us=0,
        sensor_root=str(root),
        ego_pose=np.zeros(3),
        ego_velocity_mps=np.array([speed_mps, 0.0]),
        ego_acceleration_mps2=np.array([0.1, speed_mps * yaw_rate_radps]),
        command=command,
        history_poses=poses[:HISTORY],
        history_velocities_mps=np.tile([speed_mps, 0.0], (HISTORY, 1)),
        history_accelerations_mps2=np.zeros((HISTORY, 2)),
        future_poses=poses[HISTORY:],
        front_paths=("",) * (HISTORY + FUTURE),
        camera_names=CAMERAS,
        camera_paths=tuple(f"{token}/{name}.jpg" for name in CAMERAS),
        camera_intrinsics_px=np.tile(np.eye(3), (3, 1, 1)),
        camera_rotations=np.tile(np.eye(3), (3, 1, 1)),
        camera_translations_m=np.zeros((3, 3)),
        lidar_path="",
        object_boxes=np.zeros((0, 7)),
        object_classes=np.zeros(0, np.int8),
        object_velocities_mps=np.zeros((0, 2)),
        roadblock_ids=(),
        has_objects=False,
    )


def scenes(
    count: int, root: Path, *, seed: int = 0, size_wh: tuple[int, int] = (112, 56)
) -> tuple[list[SceneRecord], Array]:
    """`count` records with pictures on disk, and their (N, 12) codes."""
    rng = np.random.default_rng(seed)
    made, codes = [], np.zeros((count, 12), np.int8)
    for i in range(count):
        speed, yaw_rate, block = (
            float(rng.uniform(0, 15.9)),
            float(rng.uniform(-0.3, 0.3)),
            int(rng.integers(3)),
        )
        made.append(
            record(
                f"s{seed}_{i}",
                root,
                speed_mps=speed,
                yaw_rate_radps=yaw_rate,
                command=int(rng.integers(4)),
            )
        )
        _draw(root, made[-1], block, size_wh, rng)
        turn = int(np.clip((yaw_rate + 0.3) / 0.6 * 8, 0, 7))
        codes[i] = [
            c for k in range(3) for c in (int(speed), turn + k, int(speed) // 2, 5 * block + k)
        ]
    return made, codes


def without_pictures(source: SceneRecord, cameras: tuple[str, ...]) -> SceneRecord:
    """The record when its log has only these cameras."""
    kept = [i for i, name in enumerate(source.camera_names) if name in cameras]
    paths = tuple(source.camera_paths[i] for i in kept)
    return replace(
        source, camera_names=tuple(source.camera_names[i] for i in kept), camera_paths=paths
    )


def _draw(
    root: Path, scene: SceneRecord, block: int, size_wh: tuple[int, int], rng: np.random.Generator
) -> None:
    (root / scene.scene_token).mkdir(parents=True, exist_ok=True)
    width, height = size_wh
    for name, path in zip(scene.camera_names, scene.camera_paths, strict=True):
        picture = rng.integers(60, 100, (height, width, 3)).astype(np.uint8)
        picture[height // 2 :] //= 2
        if name == "CAM_F0":
            third = width // 3
            picture[height // 4 : height * 3 // 4, block * third : (block + 1) * third] = 230
        Image.fromarray(picture).save(root / path, quality=92)
