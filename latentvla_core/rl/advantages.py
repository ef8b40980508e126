"""What a drawn plan is worth against its group, and which plans are followed.

Legend: B scenes, N proposals, G plans drawn per proposal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from latentvla_core.rl.config import RlConfig
from latentvla_core.rl.reward import Rewards

DEAD_STD = 1e-6
"""A group whose rewards spread less than this teaches nothing."""
SLACK = 1e-6


@dataclass(frozen=True, slots=True)
class Advantages:
    """Per drawn plan how much more of it is wanted."""

    value: Tensor
    """(B, N, G) float32; 0 where there is no reward."""
    raw: Tensor
    """(B, N, G) before plans were left out: positive is better than the group."""
    dead: Tensor
    """(B, groups) bool."""
    positive: Tensor
    """(B,) bool: some plan of the scene is followed."""


def advantages(rewards: Rewards, proposals: int, config: RlConfig) -> Advantages:
    """Rewards of (B, N · G) plans, proposal by proposal → advantages.

    Args:
        rewards: a plan without one joins no mean and gets 0.
    """
    value = _grouped(rewards.value.float(), proposals, config.group)
    valid = value.isfinite()
    count = valid.sum(-1, keepdim=True).clamp(min=1)
    known = value.where(valid, 0.0)
    mean = known.sum(-1, keepdim=True) / count
    away = (known - mean).where(valid, 0.0)
    std = (away.square().sum(-1, keepdim=True) / count).sqrt()
    dead = (std[..., 0] < DEAD_STD) | (valid.sum(-1) < 2)
    raw = away / (std + 1e-4) if config.divide_by_std else away
    raw = raw.masked_fill(dead[..., None], 0.0).reshape(len(value), proposals, -1)
    kept = _only_better(raw, rewards) if config.only_better_than_human else raw
    return Advantages(kept, raw, dead, (kept > 0).flatten(1).any(1))


def _grouped(values: Tensor, proposals: int, group: str) -> Tensor:
    """(B, N · G) → (B, N, G), or (B, 1, N · G) when the scene is the group."""
    return values.unflatten(1, (proposals if group == "proposal" else 1, -1))


def _only_better(raw: Tensor, rewards: Rewards) -> Tensor:
    """Followed only where not below the human; a crash is -1, whatever else happened around it."""
    value = rewards.value.view_as(raw)
    human = rewards.human[:, None, None]
    good = (value > human - SLACK) | ~human.isfinite()
    kept = raw.clamp(min=0.0) * good
    return torch.where(rewards.crashed.view_as(raw), -1.0, kept)
