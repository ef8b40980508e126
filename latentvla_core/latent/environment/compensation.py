"""Ego-motion compensation: the first frame as it would look from where the ego is at the second
one.

Stage 1 is told the trajectory. A network must first learn what that means for pictures, and the
environment codes carry ego motion until it has. Here geometry says it: on flat ground, with a
backdrop in the distance, in a world that stands still. What is different in the second frame is
what others do, and what stands above the ground.

B batch, (H, W) picture or grid of patches. Projections are those of `data.projections`: (3, 4), ego
→ parts of the picture.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from latentvla_core.latent.features import FeatureConfig, from_map, to_map

BACKDROP_M = 40.0
"""Depth of everything that the flat road does not hide: facades and trees of a street, not the
horizon.
"""


def compensated(x: Tensor, projection: Tensor, motion: Tensor, config: FeatureConfig) -> Tensor:
    """First frames' features (B, P, D), (B, 3, 4), ego motion (B, 3) to the second frame → (B, P,
    D) as seen from there.

    What was outside the first picture repeats its edge. A frame whose camera is not `calibrated`
    stays as it is.
    """
    known = calibrated(projection)
    where = sampled_at(
        projection[known].double(), motion[known].double(), to_map(x[:1], config).shape[-2:]
    )
    moved = functional.grid_sample(
        to_map(x[known], config),
        where.to(x.dtype),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    return x.index_copy(0, torch.nonzero(known)[:, 0], from_map(moved, config))


def calibrated(projection: Tensor) -> Tensor:
    """(B, 3, 4) → (B,) bool: known, invertible, and above the road."""
    known = torch.isfinite(projection).flatten(1).all(1)
    matrix = torch.where(known[:, None, None], projection, torch.zeros_like(projection)).double()
    possible = known & (torch.linalg.det(matrix[:, :, :3]).abs() > 1e-9)
    inverted = torch.where(possible[:, None, None], matrix[:, :, :3], torch.eye(3).to(matrix))
    height_m = -torch.linalg.solve(inverted, matrix[:, :, 3:])[:, 2, 0]
    return possible & (height_m > 0)


def sampled_at(projection: Tensor, motion: Tensor, size_hw: tuple[int, int] | torch.Size) -> Tensor:
    """(B, 3, 4), (B, 3) → (B, H, W, 2) in −1 … 1: where in the first frame to look for each pixel
    of the second.
    """
    points = _points(projection, size_hw)  # (B, H, W, 3), ego frame of the second frame
    cos, sin = motion[:, 2].cos()[:, None, None], motion[:, 2].sin()[:, None, None]
    x_m = cos * points[..., 0] - sin * points[..., 1] + motion[:, 0, None, None]
    y_m = sin * points[..., 0] + cos * points[..., 1] + motion[:, 1, None, None]
    earlier = torch.stack([x_m, y_m, points[..., 2], torch.ones_like(x_m)], dim=-1)
    seen = torch.einsum("bij,bhwj->bhwi", projection, earlier)
    return 2 * seen[..., :2] / seen[..., 2:].clamp_min(0.1) - 1


def _points(projection: Tensor, size_hw: tuple[int, int] | torch.Size) -> Tensor:
    """(B, H, W, 3) the point that each pixel shows: on the ground z = 0 where it looks down on it
    nearer than the backdrop.
    """
    rows, columns = (
        torch.arange(n, dtype=projection.dtype, device=projection.device) for n in size_hw
    )
    v, u = torch.meshgrid((rows + 0.5) / size_hw[0], (columns + 0.5) / size_hw[1], indexing="ij")
    back = torch.linalg.inv(projection[:, :, :3])
    camera_m = -(back @ projection[:, :, 3:])[..., 0]  # (B, 3)
    ray = torch.einsum(
        "bij,hwj->bhwi", back, torch.stack([u, v, torch.ones_like(u)], dim=-1)
    )  # depth 1 m
    down = ray[..., 2] < -1e-6
    depth_m = torch.where(
        down, -camera_m[:, None, None, 2] / torch.where(down, ray[..., 2], -1.0), BACKDROP_M
    )
    return camera_m[:, None, None] + depth_m.clamp(max=BACKDROP_M)[..., None] * ray
