"""The camera rig: eight pinhole cameras with the geometry of nuPlan's vehicle, for pictures of any
size.

Pixel (column i, row j) covers [i, i + 1) x [j, j + 1); its centre is (i + 0.5, j + 0.5). Scaling a
picture therefore scales the whole intrinsic matrix. Camera axes: x right, y down, z forward;
`p_ego = rotation @ p_camera + translation_m`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentvla_core.types import CAMERA_NAMES, Array, Camera

FULL_SIZE_WH = (1920, 1080)
FOCAL_PX, CENTRE_PX = 1545.0, (960.0, 560.0)  # all eight nuPlan cameras, full-size picture


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a camera sits on the vehicle and where it looks."""

    xyz_m: tuple[float, float, float]
    """In the ego frame; z = 0 is the road."""
    yaw_deg: float
    pitch_deg: float
    """Positive looks up."""
    roll_deg: float


# Rounded from a real NAVSIM frame; the two rear side cameras, which that frame lacks, are placed
# symmetrically between their neighbours.
MOUNTS: dict[str, Mount] = {
    "CAM_F0": Mount((1.659, -0.009, 1.510), -0.2, -2.4, -0.4),
    "CAM_L0": Mount((1.664, 0.174, 1.513), 55.4, -1.7, -1.1),
    "CAM_L1": Mount((1.286, 0.653, 1.397), 111.3, -0.3, -1.0),
    "CAM_L2": Mount((-0.490, 0.510, 1.430), 149.0, -0.8, -0.5),
    "CAM_R0": Mount((1.637, -0.164, 1.510), -55.5, -1.0, 0.7),
    "CAM_R1": Mount((1.268, -0.647, 1.397), -112.0, -1.3, -0.1),
    "CAM_R2": Mount((-0.490, -0.510, 1.430), -149.0, -0.8, 0.5),
    "CAM_B0": Mount((-0.535, 0.029, 1.465), -179.7, -0.1, 0.5),
}


def mount_rotation(mount: Mount) -> Array:
    """(3, 3) camera → ego rotation: columns are the camera's right, down and forward axes in the
    ego frame.
    """
    yaw, pitch, roll = np.radians([mount.yaw_deg, mount.pitch_deg, mount.roll_deg])
    forward = np.array([np.cos(pitch) * np.cos(yaw), np.cos(pitch) * np.sin(yaw), np.sin(pitch)])
    level_right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    level_down = np.cross(forward, level_right)
    right = np.cos(roll) * level_right + np.sin(roll) * level_down
    return np.stack([right, np.cross(forward, right), forward], axis=1)


def scaled_intrinsics(size_wh: tuple[int, int]) -> Array:
    """(3, 3) pinhole matrix of a whole picture resized to `size_wh`, pixels."""
    width, height = size_wh
    if width < 8 or height < 8:
        raise ValueError(f"picture size is {width} x {height}; both sides need at least 8 pixels")
    scale_x, scale_y = width / FULL_SIZE_WH[0], height / FULL_SIZE_WH[1]
    return np.array(
        [
            [FOCAL_PX * scale_x, 0.0, CENTRE_PX[0] * scale_x],
            [0.0, FOCAL_PX * scale_y, CENTRE_PX[1] * scale_y],
            [0, 0, 1.0],
        ]
    )


def camera_rig(size_wh: tuple[int, int] = FULL_SIZE_WH) -> dict[str, Camera]:
    """The eight cameras by name, intrinsics scaled to `size_wh`, no distortion, no picture attached
    (path "").
    """
    intrinsics = scaled_intrinsics(size_wh)
    return {
        name: Camera(
            "",
            mount_rotation(MOUNTS[name]),
            np.array(MOUNTS[name].xyz_m),
            intrinsics.copy(),
            np.zeros(5),
        )
        for name in CAMERA_NAMES
    }


def project(points_m: Array, camera: Camera) -> tuple[Array, Array]:
    """(..., 3) points in the ego frame → (..., 2) pixel coordinates and (...,) depth in metres (> 0
    in front).
    """
    local = (points_m - camera.translation_m) @ camera.rotation  # rows times R = Rᵀ p
    depth = local[..., 2]
    image = local @ camera.intrinsics_px.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return image[..., :2] / depth[..., None], depth
