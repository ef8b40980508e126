"""What goes wrong when a planner learns from a score, each as a figure (docs/design/rl.md); how
much of it is too much stands in `limits.py`.

Arrays or tensors of any leading dimensions; a share is from 0 to 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latentvla_core.types import FRAME_INTERVAL_S

REVERSING_M = 0.5
"""A step backwards of more than this against the heading is a reversal: 1 m/s. Less is the shaking
of small heads where the car stands.
"""
JUMP_MPS2 = 6.0
"""A change of speed between the last two steps of a plan that no car makes in comfort (4.05) or
nearly: the last pose jumped.
"""
COLLAPSED = 0.05
"""A scene whose every drawn plan is worth less than this."""


def steps_m(plans: Tensor) -> Tensor:
    """(..., 8, 3) poses → (..., 8) metres along the heading that each step starts from."""
    before = torch.cat([torch.zeros_like(plans[..., :1, :]), plans[..., :-1, :]], -2)
    gone = plans[..., :2] - before[..., :2]
    return gone[..., 0] * before[..., 2].cos() + gone[..., 1] * before[..., 2].sin()


def reversing(plans: Tensor) -> Tensor:
    """(...) bool: some step of the plan goes backwards."""
    return (steps_m(plans) < -REVERSING_M).any(-1)


def jumping(plans: Tensor) -> Tensor:
    """(...) bool: the last step is not one that a car could add to the step before it."""
    speeds = steps_m(plans)[..., -2:] / FRAME_INTERVAL_S
    return (speeds[..., 1] - speeds[..., 0]).abs() / FRAME_INTERVAL_S > JUMP_MPS2


def easy_share(rewards: Tensor, advantages: Tensor) -> float:
    """Share of the absolute advantage that falls on the easier half of the scenes; above ½ easy
    scenes are favoured. (B, M) rewards and advantages; NaN where there is no advantage at all.
    """
    weight = advantages.abs().flatten(1).sum(1)
    ease = rewards.nan_to_num(0.0).flatten(1).mean(1)
    order = ease.argsort()
    easier = order[-(len(order) // 2) :] if len(order) > 1 else order
    total = weight.sum()
    return float(weight[easier].sum() / total) if float(total) > 0 else float("nan")


def collapsed(rewards: Tensor) -> float:
    """Share of scenes (B, M) with a reward none of whose plans is worth anything."""
    known = rewards.isfinite().any(1)
    best = rewards.nan_to_num(0.0).amax(1)
    return float((best[known] < COLLAPSED).float().mean()) if bool(known.any()) else float("nan")
