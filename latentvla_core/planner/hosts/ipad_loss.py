"""Losses of iPad: nearest proposal, simulated scores, areas and colliding agents (latentvla.md
§4.3).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from latentvla_core.planner.hosts.ipad import IpadConfig
from latentvla_core.planner.hosts.proposal_targets import Simulate


def ipad_loss(
    config: IpadConfig, out: dict[str, Tensor], batch: dict[str, Any], simulate: Simulate | None
) -> tuple[Tensor, dict[str, float]]:
    """Weighted sum of the host's losses, and each of them; without `simulate` the proposals' loss
    alone.
    """
    loss, nearest = proposal_loss(out["proposals"], batch["targets"]["trajectory"], config.discount)
    parts = {"nearest_l1": float(nearest)}
    if simulate is None:
        return loss, parts
    plans = out["proposals"][-1].detach()
    targets = simulate(
        batch["index"].tolist(), plans.double().cpu().numpy(), config.collision_steps
    )
    scores, areas, collisions, valid = (
        torch.from_numpy(x).to(plans.device)
        for x in (targets.scores, targets.areas, targets.collisions, targets.valid)
    )
    if not bool(valid.any()):
        return loss, parts
    more = {
        "score_bce": config.score_weight
        * F.binary_cross_entropy_with_logits(_total(out, valid), scores[valid][:, -1]),
        "area_bce": config.area_weight
        * F.binary_cross_entropy_with_logits(out["areas"][valid], areas[valid]),
        "collision": collision_loss(config, out["collisions"][valid], collisions[valid]),
    }
    if config.sub_score_weight:
        sub = F.binary_cross_entropy_with_logits(
            out["scores"][valid][:, :-1], scores[valid][:, :-1]
        )
        more["sub_score_bce"] = config.sub_score_weight * sub
    parts |= {name: float(value.detach()) for name, value in more.items()}
    parts["proposal_score"] = float(scores[valid][:, -1].mean())
    return loss + sum(more.values()), parts


def _total(out: dict[str, Tensor], valid: Tensor) -> Tensor:
    """(n,) logits of the total score."""
    return out["scores"][valid][:, -1]


def proposal_loss(proposals: Tensor, trajectory: Tensor, discount: float) -> tuple[Tensor, Tensor]:
    """Proposals (K, B, N, 8, 3), logged future (B, 8, 3) → the loss, and its last iteration's part
    (no gradient).

    Per iteration: the proposal that is nearest to the log, in mean over poses of |dx| + |dy| +
    |dyaw|; earlier iterations count `discount` times the next.
    """
    distance = (proposals - trajectory[None, :, None]).abs().sum(-1).mean(-1)  # (K, B, N)
    nearest = distance.amin(-1).mean(-1)  # (K,)
    last = len(nearest) - 1
    weights = nearest.new_tensor([discount ** (last - k) for k in range(last + 1)])
    return (weights * nearest).sum(), nearest[-1].detach()


def collision_loss(config: IpadConfig, predicted: Tensor, truth: Tensor) -> Tensor:
    """Boxes and validity of (n, S, 2, 9) predictions; corners count where there is an agent."""
    there = truth[..., 8:]
    validity = F.binary_cross_entropy_with_logits(predicted[..., 8:], there)
    distance = ((predicted[..., :8] - truth[..., :8]).abs() * there).sum() / (
        8 * there.sum()
    ).clamp(min=1.0)
    return config.collision_box_weight * distance + config.collision_weight * validity
