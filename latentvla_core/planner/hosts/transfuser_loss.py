"""Losses of the Transfuser: trajectory L1, agents matched to boxes, semantic cross entropy
(latentvla.md §4.2).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from latentvla_core.planner.hosts.raster import UNKNOWN
from latentvla_core.planner.hosts.registry import Host
from latentvla_core.planner.hosts.transfuser import Transfuser, TransfuserConfig
from latentvla_core.planner.inputs import TransfuserInputs, TransfuserTargets

CAMERA_HALF_ANGLE_RAD = 4 * math.pi / 9  # three front cameras see 80° to either side (NAVSIM)


def transfuser_loss(
    config: TransfuserConfig, out: dict[str, Tensor], targets: dict[str, Any]
) -> tuple[Tensor, dict[str, float]]:
    """Weighted sum of the host's losses, and each of them; parts without any target count zero."""
    trajectory = F.l1_loss(out["poses"], targets["trajectory"])
    label, box = agent_losses(config, out["boxes"], out["box_logits"], targets)
    semantic = semantic_loss(out["semantic_logits"], targets["semantic"])
    loss = (
        config.trajectory_weight * trajectory
        + config.agent_class_weight * label
        + config.agent_box_weight * box
        + config.semantic_weight * semantic
    )
    parts = {
        "trajectory_l1": trajectory,
        "agent_class": label,
        "agent_box": box,
        "semantic": semantic,
    }
    return loss, {name: float(value.detach()) for name, value in parts.items()}


def semantic_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Cross entropy of (B, 7, h, w) logits over pixels whose class is known."""
    known = int((classes != UNKNOWN).sum())
    if not known:
        return logits.sum() * 0.0
    return F.cross_entropy(logits, classes, ignore_index=UNKNOWN)


def agent_losses(
    config: TransfuserConfig, boxes: Tensor, logits: Tensor, targets: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """(B, A, 5) boxes and (B, A) logits against targets in any order → class loss and box loss.

    The matching minimises the weighted sum of class cost and distance, as NAVSIM does; box loss is
    the L1 over the five numbers summed, per real box.
    """
    known = targets["has_boxes"]
    if not bool(known.any()):
        return logits.sum() * 0.0, boxes.sum() * 0.0
    boxes, logits = boxes[known], logits[known]
    true_boxes = targets["boxes"][known]
    real = (targets["is_agent"][known] & in_sight(config, true_boxes)).float()
    order = match(_cost(config, boxes, logits, true_boxes, real))  # (B, A) target of each query
    true_boxes = true_boxes.gather(1, order[..., None].expand(-1, -1, 5))
    real = real.gather(1, order)
    distance = (boxes - true_boxes).abs().sum(-1) * real
    return F.binary_cross_entropy_with_logits(logits, real), distance.sum() / real.sum().clamp(
        min=1.0
    )


def in_sight(config: TransfuserConfig, boxes: Tensor) -> Tensor:
    """(B, A, 5) boxes → (B, A) bool: those that a planner without lidar is asked for."""
    if not (config.published and config.latent):
        return torch.ones_like(boxes[..., 0], dtype=torch.bool)
    return torch.atan2(boxes[..., 1], boxes[..., 0]).abs() <= CAMERA_HALF_ANGLE_RAD


@torch.no_grad()
def _cost(
    config: TransfuserConfig, boxes: Tensor, logits: Tensor, true_boxes: Tensor, real: Tensor
) -> Tensor:
    """(B, query, target) cost: cross entropy of the query's logit with the target's reality, and
    distance of centres.
    """
    logits, wanted = torch.broadcast_tensors(logits[:, :, None], real[:, None, :])
    label = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    distance = (boxes[:, :, None, :2] - true_boxes[:, None, :, :2]).abs().sum(-1) * wanted
    return config.agent_class_weight * label + config.agent_box_weight * distance


def match(cost: Tensor) -> Tensor:
    """(B, A, A) costs → (B, A) target index of every query, the cheapest one-to-one assignment."""
    from scipy.optimize import linear_sum_assignment

    columns = [linear_sum_assignment(c)[1] for c in cost.float().cpu().numpy()]
    return torch.from_numpy(np.stack(columns)).to(cost.device)


def training_loss(planner: Any, simulator: Any) -> Any:
    """(batch, step) → (loss, parts); simulates nothing."""
    return lambda batch, step: transfuser_loss(planner.config, planner(batch), batch["targets"])


HOST = Host(
    network=Transfuser,
    config=TransfuserConfig,
    inputs=TransfuserInputs,
    targets=TransfuserTargets,
    loss=training_loss,
)
