"""SE(2) on arrays with any leading dimensions `(...)`. Poses are (x_m, y_m, yaw_rad), see
`types.Pose`.
"""

from __future__ import annotations

import numpy as np

from latentvla_core.types import Array, Pose


def wrap(angle_rad: Array | float) -> Array:
    """Angle in (-pi, pi], as atan2(sin, cos) (the devkit's convention for relative headings)."""
    return np.arctan2(np.sin(angle_rad), np.cos(angle_rad))


def principal(angle_rad: Array | float) -> Array:
    """Angle in [-pi, pi) by modulo (the devkit's convention for simulated and interpolated
    headings).
    """
    return (np.asarray(angle_rad) + np.pi) % (2 * np.pi) - np.pi


def rotate(xy_m: Array, yaw_rad: Array | float) -> Array:
    """(..., 2) vectors rotated counter-clockwise by yaw (...)."""
    c, s = np.cos(yaw_rad), np.sin(yaw_rad)
    x, y = xy_m[..., 0], xy_m[..., 1]
    return np.stack([c * x - s * y, s * x + c * y], axis=-1)


def to_global(origin: Array, poses: Array) -> Array:
    """(..., 3) poses relative to origin (..., 3) → the frame origin is given in: origin ∘ poses."""
    xy = rotate(poses[..., :2], origin[..., Pose.YAW]) + origin[..., :2]
    return np.concatenate(
        [xy, wrap(poses[..., Pose.YAW] + origin[..., Pose.YAW])[..., None]], axis=-1
    )


def to_local(origin: Array, poses: Array) -> Array:
    """(..., 3) poses → the frame of origin (..., 3): origin⁻¹ ∘ poses."""
    xy = rotate(poses[..., :2] - origin[..., :2], -np.asarray(origin[..., Pose.YAW]))
    return np.concatenate(
        [xy, wrap(poses[..., Pose.YAW] - origin[..., Pose.YAW])[..., None]], axis=-1
    )


def box_corners(centers: Array, length_m: Array | float, width_m: Array | float) -> Array:
    """(..., 4, 2) corners of boxes with centre poses (..., 3): front-left, rear-left, rear-right,
    front-right.
    """
    signs = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) / 2.0
    half = (
        np.stack(np.broadcast_arrays(length_m, width_m), axis=-1)[..., None, :] * signs
    )  # (..., 4, 2)
    yaw = centers[..., Pose.YAW][..., None]
    return rotate(half, yaw) + centers[..., None, :2]


def yaw_from_quaternion(wxyz: Array) -> Array:
    """(...,) yaw of quaternions (..., 4), by the devkit's formula, which has `w z - x y`
    (navsim_format.md §5.1).
    """
    q = wxyz / np.linalg.norm(wxyz, axis=-1, keepdims=True)
    w, x, y, z = (q[..., i] for i in range(4))
    return np.arctan2(2 * (w * z - x * y), 1 - 2 * (y**2 + z**2))


def arc_length(xy_m: Array) -> Array:
    """(n,) cumulative length along the polyline (n, 2), starting at 0."""
    steps = np.linalg.norm(np.diff(xy_m, axis=0), axis=-1)
    return np.concatenate([[0.0], np.cumsum(steps)])
