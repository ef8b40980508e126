"""Host 2: iPad (latentvla.md §4.3): N proposals x T poses that are refined K times by one shared
layer, and a scorer.

Legend: B batch, C cameras, N proposals, T = 8 poses, Q = N·T queries, K iterations, D width, S
simulated steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentvla_core.pdms.aggregate import MULTIPLIERS_V1, WEIGHTS_V1
from latentvla_core.planner.fusion import Fusion, FusionConfig
from latentvla_core.planner.hosts.ipad_config import IpadConfig
from latentvla_core.planner.hosts.ipad_layer import Anchors, RefineLayer, Sight, deep_head, head
from latentvla_core.planner.hosts.resnet import ResNetSize, grid_mask, normalize, resnet
from latentvla_core.training.precision import full_precision
from latentvla_core.types import PLAN_STEPS

EGO_NUMBERS = 11  # pose 3, velocity 2, acceleration 2, command 4
SUB_STEPS = 5  # simulated steps per pose, 0.1 s each
SCORES = (
    "no_at_fault_collisions",
    "drivable_area_compliance",
    "ego_progress",
    "time_to_collision_within_bound",
    "comfort",
    "score",
)


class Ipad(nn.Module):
    """Camera pictures and ego vector → N proposals with scores; the best one is the plan."""

    name = "ipad"

    def __init__(
        self, config: IpadConfig, fusion: FusionConfig | None = None, feature_dim: int = 0
    ) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.pictures = PictureEncoder(config)
        self.ego = nn.Linear(EGO_NUMBERS, width)
        self.query_embedding = nn.Parameter(torch.randn(config.proposals * PLAN_STEPS, width))
        self.pose_head = deep_head(config, 3, normed=config.published)
        self.layer = RefineLayer(config)
        self.scorer = head(config, len(SCORES))
        self.area_head = head(config, SUB_STEPS * 2)
        self.collision_head = head(config, config.collision_steps * 2 * 9)
        self.fusion = None if fusion is None else Fusion(fusion, feature_dim, width, EGO_NUMBERS)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Batch of `inputs.IpadInputs` → poses (B, 8, 3) of the best proposal, proposals (K, B, N,
        8, 3), scores (B, N, 6) logits, chosen (B,), pooled (B, N, D) queries; in training also
        areas (B, N, 8, 5, 2) logits and collisions (B, N, S, 2, 9).
        """
        sight = self.look(batch)
        queries = self.refined(sight, sight.queries, sight.proposals[-1])
        memory = sight.memory
        grouped = queries.unflatten(1, (-1, PLAN_STEPS))  # (B, N, T, D)
        pooled = grouped.amax(dim=2)  # (B, N, D)
        told = pooled
        if self.fusion is not None and memory is not None:
            pooled = self.fusion.to_scorer(pooled, memory, None)
            told = self.fusion.tell(pooled, batch["vlm"])
        return self._answers(grouped, pooled, told, sight.proposals)

    def look(self, batch: dict[str, Any]) -> Sight:
        """All but the last refinement, which starts from queries that say the last proposals."""
        features = self.pictures(batch["images"])
        projection = self._to_padded(batch["projection"])
        memory = None if self.fusion is None else self.fusion.memory(batch["vlm"], batch["ego"])
        queries = self.query_embedding + self.ego(batch["ego"])[:, None]  # (B, Q, D)
        if self.fusion is not None and memory is not None:
            queries = self.fusion(queries, memory)  # the first poses know of the VLM, too
        proposals = [self.said(queries)]
        sight = Sight(features, projection, batch["has_image"], memory, queries, proposals[0][None])
        for _ in range(self.config.iterations - 1):
            queries = self.refined(sight, queries, proposals[-1])
            proposals.append(self.said(queries))
        return replace(sight, queries=queries, proposals=torch.stack(proposals))

    def said(self, queries: Tensor) -> Tensor:
        """(B, Q, D) → (B, N, T, 3) the poses that queries stand for."""
        with full_precision(queries):  # metres
            return self._poses(queries.float()).unflatten(1, (-1, PLAN_STEPS))

    def refined(self, sight: Sight, queries: Tensor, poses: Tensor) -> Tensor:
        """(B, Q, D) queries after one pass that looks where (B, N, T, 3) poses lie."""
        with full_precision(queries):
            anchors = Anchors.of(
                poses.detach(),
                sight.projection,
                sight.has_image,
                self.config.height_anchors,
                by_query=self.config.published,
            )
        return self.layer(queries, sight.features, anchors, self.fusion, sight.memory)

    def _poses(self, queries: Tensor) -> Tensor:
        """(B, Q, D) → (B, Q, 3) metres, metres, radians."""
        scale = self.config.pose_scale_m
        return self.pose_head(queries) * queries.new_tensor([scale, scale, 1.0])

    def choice(self, logits: Tensor) -> Tensor:
        """(B, N, 6) logits → (B, N) what the plan is chosen by; the largest is the plan."""
        if self.config.choice == "total":
            return logits[..., -1]
        return composed_choice(logits)

    def _answers(
        self, queries: Tensor, pooled: Tensor, told: Tensor, proposals: Tensor
    ) -> dict[str, Tensor]:
        """(B, N, T, D) final queries, (B, N, D) their pools, without and with what the scorer alone
        is told, (K, B, N, T, 3) proposals → the outputs of `forward`.
        """
        scores = self.scorer(told)
        best = self.choice(scores).argmax(dim=1)  # (B,)
        poses = proposals[-1][torch.arange(len(best), device=best.device), best]
        heading = torch.atan2(torch.sin(poses[..., 2:]), torch.cos(poses[..., 2:]))
        out = {
            "poses": torch.cat([poses[..., :2], heading], -1),
            "proposals": proposals,
            "scores": scores,
            "chosen": best,
            "pooled": pooled,
        }
        if not self.training:
            return out
        areas = self.area_head(queries).unflatten(-1, (SUB_STEPS, 2))
        collisions = self.collision_head(pooled).unflatten(-1, (self.config.collision_steps, 2, 9))
        return {**out, "areas": areas, "collisions": collisions}

    def _to_padded(self, projection: Tensor) -> Tensor:
        """Projection into parts of the padded picture, of which the real one is the upper left
        corner.
        """
        width, height = self.config.padded_wh
        parts = [self.config.camera_width_px / width, self.config.camera_height_px / height, 1.0]
        return projection * projection.new_tensor(parts)[:, None]

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Parameters that train at the lower backbone rate: the ResNet."""
        return list(self.pictures.resnet.parameters())


def composed_choice(logits: Tensor) -> Tensor:
    """(..., 6) logits of `SCORES` → (...,) PDMS v1.1 as its formula composes five sub-scores."""
    p: dict[str, Tensor] = dict(zip(SCORES, logits.float().sigmoid().unbind(-1), strict=True))
    rest = torch.stack([weight * p[name] for name, weight in WEIGHTS_V1.items()]).sum(0)
    product = torch.stack([p[name] for name in MULTIPLIERS_V1]).prod(0)
    return product * rest / sum(WEIGHTS_V1.values())


class PictureEncoder(nn.Module):
    """ResNet's last stage → D channels, with an embedding of the camera and of the (single) feature
    level.
    """

    def __init__(self, config: IpadConfig) -> None:
        super().__init__()
        self.config = config
        size = ResNetSize(config.stem_width, config.stage_widths, config.stage_depths)
        self.resnet = resnet(size, channels=3, weights=config.image_weights)
        self.lateral = nn.Conv2d(config.stage_widths[-1], config.width, 1)
        self.refine = nn.Conv2d(config.width, config.width, 3, padding=1)
        self.camera_embedding = nn.Parameter(torch.randn(len(config.cameras), config.width))
        self.level_embedding = nn.Parameter(torch.randn(config.width))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, C, h, w, 3) → (B, C, D, H, W)"""
        pixels = normalize(images.flatten(0, 1))  # (BC, 3, h, w)
        if self.training and self.config.grid_mask_probability:
            pixels = grid_mask(pixels, self.config.grid_mask_probability)
        width, height = self.config.padded_wh
        pixels = F.pad(pixels, (0, width - pixels.shape[-1], 0, height - pixels.shape[-2]))
        maps = self.refine(self.lateral(self.resnet(pixels).feature_maps[-1])).unflatten(
            0, images.shape[:2]
        )
        return maps + (self.camera_embedding + self.level_embedding)[..., None, None]
