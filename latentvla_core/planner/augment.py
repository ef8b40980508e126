"""Training batches seen otherwise: the world mirrored, the light changed.

Mirrored are pictures, calibration, lidar, ego status, command and everything that is aimed at; the
simulator stays as it is, so proposals are mirrored back before it drives them. A fused planner is
never mirrored: its VLM answered the scene as it was.
Legend: B batch, C cameras, A agents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentvla_core.planner.config import AugmentConfig
from latentvla_core.types import Array

MIRRORED = "mirrored"
"""(B,) bool of a batch: which samples are."""
SIDES = (("_L", "_R"), ("_R", "_L"))
LEFT_AND_RIGHT = [2, 1, 0, 3]
"""Commands left, forward, right, unknown in a mirror."""
CORNERS = [3, 2, 1, 0]
"""Corners of a box, front left first and round, in a mirror."""


def augmented(
    batch: dict[str, Any],
    config: AugmentConfig,
    rng: np.random.Generator,
    cameras: Sequence[str] = (),
) -> dict[str, Any]:
    """A batch of inputs, `targets` and `index` as one epoch sees it; `rng` is the loop's, so a
    training that resumes sees the same.
    """
    if config.colour:
        batch = recoloured(batch, config.colour, rng)
    if not config.mirror or "vlm" in batch:
        return batch
    which = torch.from_numpy(rng.random(len(batch["index"])) < config.mirror)
    return mirrored(batch, which, cameras)


def mirrored(batch: dict[str, Any], which: Tensor, cameras: Sequence[str] = ()) -> dict[str, Any]:
    """The samples that (B,) `which` says with left and right exchanged. `cameras` names the C of
    iPad's pictures: a left camera's picture becomes the right one's.
    """
    order = opposite(cameras)
    rules = {
        "images": lambda x: x[:, order].flip(3),
        "has_image": lambda x: x[:, order],
        "projection": lambda x: _seen_in_a_mirror(x[:, order]),
        "ego": _mirrored_ego,
        "camera": lambda x: x.flip(2),
        "lidar": lambda x: x.flip(3),
        "status": lambda x: torch.cat([x[:, LEFT_AND_RIGHT], _across(x[:, 4:], 2)], -1),
    }
    out = {k: _where(which, rules[k](v), v) if k in rules else v for k, v in batch.items()}
    return {**out, "targets": _mirrored_targets(batch["targets"], which), MIRRORED: which}


def opposite(cameras: Sequence[str]) -> list[int]:
    """Camera → number of the one on the other side; itself where there is none."""
    names = list(cameras)
    there = [next((name.replace(a, b) for a, b in SIDES if a in name), name) for name in names]
    return [names.index(other) if other in names else own for own, other in enumerate(there)]


def _mirrored_targets(targets: dict[str, Any], which: Tensor) -> dict[str, Any]:
    rules = {
        "trajectory": mirror_poses,
        "boxes": lambda x: x * x.new_tensor([1.0, -1.0, -1.0, 1.0, 1.0]),
        "semantic": lambda x: x.flip(2),
    }
    return {k: _where(which, rules[k](v), v) if k in rules else v for k, v in targets.items()}


def mirror_poses(poses: Tensor) -> Tensor:
    """(…, 3) x, y, yaw."""
    return poses * poses.new_tensor([1.0, -1.0, -1.0])


def unmirrored(poses: Tensor, batch: dict[str, Any]) -> Tensor:
    """(B, …, 3) poses of a batch in the frame of the scenes as they were."""
    which = batch.get(MIRRORED)
    return poses if which is None else _where(which.to(poses.device), mirror_poses(poses), poses)


def mirror_corners(collisions: Tensor, batch: dict[str, Any]) -> Tensor:
    """(B, N, S, 2, 9) boxes of the simulator in the frame that the batch shows: four corners and
    whether somebody is there.
    """
    which = batch.get(MIRRORED)
    if which is None:
        return collisions
    corners = collisions[..., :8].unflatten(-1, (4, 2))[..., CORNERS, :]
    turned = (corners * corners.new_tensor([1.0, -1.0])).flatten(-2)
    other = torch.cat([turned, collisions[..., 8:]], -1)
    return _where(which.to(collisions.device), other, collisions)


def _seen_in_a_mirror(projection: Tensor) -> Tensor:
    """(B, C, 3, 4) projections into picture parts, of a flipped picture and a mirrored world."""
    flipped = torch.stack(
        [
            projection[..., 2, :] - projection[..., 0, :],
            projection[..., 1, :],
            projection[..., 2, :],
        ],
        dim=-2,
    )
    return flipped * projection.new_tensor([1.0, -1.0, 1.0, 1.0])


def _mirrored_ego(ego: Tensor) -> Tensor:
    """(B, 11) pose, velocity, acceleration, command."""
    moving = torch.cat([mirror_poses(ego[:, :3]), _across(ego[:, 3:7], 2)], -1)
    return torch.cat([moving, ego[:, 7:][:, LEFT_AND_RIGHT]], -1)


def _across(vectors: Tensor, size: int) -> Tensor:
    """(B, n · 2) vectors x, y with y the other way."""
    pairs = vectors.unflatten(-1, (-1, size))
    return (pairs * vectors.new_tensor([1.0, -1.0])).flatten(-2)


def _where(which: Tensor, mirror: Tensor, straight: Tensor) -> Tensor:
    return torch.where(which.view(-1, *[1] * (straight.ndim - 1)), mirror, straight)


def recoloured(batch: dict[str, Any], most: float, rng: np.random.Generator) -> dict[str, Any]:
    """Pictures with another brightness, contrast and saturation, each drawn from 1 ± `most` per
    sample; all cameras of a sample alike, since one sun lights them.
    """
    names = [name for name in ("images", "camera") if name in batch]
    out = dict(batch)
    for name in names:
        factors = 1 + most * (2 * rng.random((len(batch[name]), 3)) - 1)
        out[name] = _recolour(batch[name], factors)
    return out


def _recolour(pictures: Tensor, factors: Array) -> Tensor:
    """uint8 (B, …, H, W, 3), (B, 3) brightness, contrast, saturation → uint8."""
    shape = (-1, *[1] * (pictures.ndim - 1))
    light, contrast, saturation = (
        torch.from_numpy(factors[:, i]).float().view(shape) for i in range(3)
    )
    pixels = pictures.float()
    grey = pixels.mean(-1, keepdim=True)
    pixels = grey + saturation * (pixels - grey)
    middle = pixels.mean(dim=tuple(range(1, pixels.ndim)), keepdim=True)
    pixels = light * (middle + contrast * (pixels - middle))
    return pixels.round().clamp(0, 255).to(torch.uint8)
