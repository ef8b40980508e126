"""Losses of iPad: nearest proposal, simulated scores, areas and colliding agents (latentvla.md
§4.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from latentvla_core.errors import SetupError
from latentvla_core.planner.augment import mirror_corners, unmirrored
from latentvla_core.planner.hosts.ipad import Ipad
from latentvla_core.planner.hosts.ipad_config import IpadConfig
from latentvla_core.planner.hosts.proposal_targets import Simulate, Simulator
from latentvla_core.planner.hosts.registry import Host
from latentvla_core.planner.inputs import IpadInputs, TrajectoryTargets


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
    plans = unmirrored(out["proposals"][-1].detach(), batch)
    targets = simulate(
        batch["index"].tolist(), plans.double().cpu().numpy(), config.collision_steps
    )
    scores, areas, collisions, valid = (
        torch.from_numpy(x).to(plans.device)
        for x in (targets.scores, targets.areas, targets.collisions, targets.valid)
    )
    if not bool(valid.any()):
        return loss, parts
    collisions = mirror_corners(collisions, batch)
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


def simulator_of(worlds: Sequence[Any] | None, processes: int) -> Simulator:
    """What scores the proposals in the worlds of the scenes."""
    if worlds is None or not any(world is not None and world.valid for world in worlds):
        raise SetupError(
            "iPad learns to score its proposals in simulated scenes, and not one valid world is"
            " given; pass worlds=[pdms.world.build(scene, road_map), ...]"
        )
    return Simulator(worlds, processes)


def training_loss(planner: Ipad, simulator: Simulator | None) -> Any:
    """(batch, step) → (loss, parts); the proposals are simulated at every `score_every`-th step."""

    def loss(batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, float]]:
        simulate = simulator if step % planner.config.score_every == 0 else None
        return ipad_loss(planner.config, planner(batch), batch, simulate)

    return loss


def choose(*args: Any, **settings: Any) -> Any:
    """`train_choice`, which needs all hosts and is imported when it is called."""
    from latentvla_core.planner.choosing import train_choice

    return train_choice(*args, **settings)


HOST = Host(
    network=Ipad,
    config=IpadConfig,
    inputs=IpadInputs,
    targets=lambda config, records, maps: TrajectoryTargets(records),
    loss=training_loss,
    simulator=simulator_of,
    last_phase=choose,
)
