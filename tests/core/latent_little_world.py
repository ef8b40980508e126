"""A tiny driving world for tests: textured ground and skyline in true perspective, one other car,
written as JPEGs.

Speeds and yaw rates wander, so that ego motion is visible, and the other car moves on its own.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from latentvla_core import geometry
from latentvla_core.types import SceneRecord

SIZE_WH = (64, 32)
CAMERA_HEIGHT_M, FOCAL_PX, CENTRE_Y_PX = 1.6, 34.0, 12.0


def drive(rng: np.random.Generator, frames: int) -> np.ndarray:
    """(frames, 3) poses 0.5 s apart: speed 0 … 12 m/s, yaw rate to ±0.4 rad/s, both wandering
    slowly.
    """
    speed, yaw_rate = rng.uniform(1, 11), rng.uniform(-0.3, 0.3)
    poses = np.zeros((frames, 3))
    for i in range(1, frames):
        speed = np.clip(speed + rng.normal(0, 0.8), 0, 12)
        yaw_rate = np.clip(0.9 * yaw_rate + rng.normal(0, 0.1), -0.4, 0.4)
        step = np.array([speed * 0.5, 0.0, yaw_rate * 0.5])
        poses[i] = geometry.to_global(poses[i - 1], step)
    return poses


def render(
    pose: np.ndarray, texture: np.ndarray, skyline: np.ndarray, car: np.ndarray
) -> np.ndarray:
    """(32, 64, 3) uint8 of the ground texture (metres), the skyline (bearing) and a car at (2,)
    global metres.
    """
    width, height = SIZE_WH
    u, v = np.meshgrid(
        (np.arange(width) + 0.5 - width / 2) / FOCAL_PX,
        (np.arange(height) + 0.5 - CENTRE_Y_PX) / FOCAL_PX,
    )
    depth = CAMERA_HEIGHT_M / np.maximum(v, 1e-3)
    ground = geometry.rotate(np.stack([depth, -u * depth], -1), pose[2]) + pose[:2]
    cells = np.floor(ground / 1.5).astype(int) % len(texture)
    picture = (
        texture[cells[..., 0], cells[..., 1]] * np.exp(-depth / 40)[..., None]
        + 0.4 * (1 - np.exp(-depth / 40))[..., None]
    )
    bearing = ((pose[2] - np.arctan(u[0])) / (2 * np.pi) * len(skyline)).astype(int) % len(skyline)
    picture = np.where(v[..., None] > 0, picture, skyline[bearing][None])
    x, y = geometry.rotate(car - pose[:2], -pose[2])
    if x > 3:
        left, right = -y / x - 1.0 / x, -y / x + 1.0 / x
        box = (u > left) & (u < right) & (v > 0.2 / x) & (v < CAMERA_HEIGHT_M / x)
        picture = np.where(box[..., None], np.array([0.9, 0.1, 0.1]), picture)
    return (255 * picture.clip(0, 1)).astype(np.uint8)


def write_log(folder: Path, name: str, seed: int, frames: int) -> tuple[list[str], np.ndarray]:
    """Picture paths and poses of one log."""
    rng = np.random.default_rng(seed)
    poses = drive(rng, frames)
    texture, skyline = rng.random((64, 64, 3)) * [1, 1, 0.6], rng.random((48, 3)) * 0.5 + 0.5
    car, car_velocity = (
        poses[0, :2] + [12, rng.uniform(-4, 4)],
        np.array([rng.uniform(0, 10), rng.normal(0, 0.5)]),
    )
    paths = []
    (folder / name).mkdir(parents=True, exist_ok=True)
    for i, pose in enumerate(poses):
        path = f"{name}/{i:04d}.jpg"
        Image.fromarray(render(pose, texture, skyline, car + i * 0.5 * car_velocity)).save(
            folder / path, quality=92
        )
        paths.append(path)
    return paths, poses


def record_at(
    root: Path, log: str, paths: list[str], poses: np.ndarray, current: int
) -> SceneRecord:
    """A scene of 4 history and 10 future frames (fewer at the end of the log)."""
    window = slice(current - 3, current + 11)
    relative = geometry.to_local(poses[current], poses[window])
    return SceneRecord(
        scene_token=f"{log}-{current}",
        log_name=log,
        split="train",
        map_location="",
        timestamp_us=current * 500_000,
        sensor_root=str(root),
        ego_pose=poses[current],
        ego_velocity_mps=np.zeros(2),
        ego_acceleration_mps2=np.zeros(2),
        command=1,
        history_poses=relative[:4],
        history_velocities_mps=np.zeros((4, 2)),
        history_accelerations_mps2=np.zeros((4, 2)),
        future_poses=relative[4:],
        front_paths=tuple(paths[window]),
        camera_names=("CAM_F0",),
        camera_paths=(paths[current],),
        camera_intrinsics_px=np.array(
            [[[FOCAL_PX, 0.0, SIZE_WH[0] / 2], [0.0, FOCAL_PX, CENTRE_Y_PX], [0.0, 0.0, 1.0]]]
        ),
        camera_rotations=np.array([[[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]]),
        camera_translations_m=np.array([[0.0, 0.0, CAMERA_HEIGHT_M]]),
        lidar_path="",
        object_boxes=np.zeros((0, 7)),
        object_classes=np.zeros(0, np.int8),
        object_velocities_mps=np.zeros((0, 2)),
        roadblock_ids=(),
        has_objects=False,
    )


def little_records(
    root: Path, *, logs: int, frames: int = 24, seed: int = 0, stride: int = 2
) -> list[SceneRecord]:
    """Overlapping scenes of several logs."""
    records = []
    for i in range(logs):
        name = f"log-{seed + i}"
        paths, poses = write_log(root, name, seed + i, frames)
        records += [record_at(root, name, paths, poses, t) for t in range(3, frames - 10, stride)]
    return records
