"""Host 2: iPad (latentvla.md §4.3): N proposals x T poses that are refined K times by one shared
layer, and a scorer.

Legend: B batch, C cameras, N proposals, T = 8 poses, Q = N·T queries, K iterations, D width, S
simulated steps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentvla_core.pdms.aggregate import MULTIPLIERS_V1, WEIGHTS_V1
from latentvla_core.planner.attention import Mlp
from latentvla_core.planner.fusion import Fusion, FusionConfig, Memory
from latentvla_core.planner.hosts.deformable import (
    PictureCrossAttention,
    QuerySelfAttention,
    project,
)
from latentvla_core.planner.hosts.resnet import (
    ResNetSize,
    check_widths,
    grid_mask,
    normalize,
    resnet,
)
from latentvla_core.training.precision import full_precision
from latentvla_core.types import PLAN_STEPS, Vehicle

HALF_LENGTH_M = Vehicle.LENGTH_M / 2 + 0.25
HALF_WIDTH_M = Vehicle.WIDTH_M / 2 + 0.10
RANGE_M = 32.0  # predicted (x, y) of ± this span the self-attention's map
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


@dataclass(frozen=True, kw_only=True, slots=True)
class IpadConfig:
    """Size of iPad; one schema for every recipe. Defaults are `mini`."""

    cameras: tuple[str, ...] = ("CAM_F0", "CAM_L0", "CAM_R0")
    """Cameras it looks at; one that a scene lacks is masked."""
    camera_width_px: int = 96
    """Width that each picture is resized to."""
    camera_height_px: int = 48
    """Height that each picture is resized to; padded at the bottom to a multiple of the stride."""
    stem_width: int = 8
    """Channels of the ResNet's stem."""
    stage_widths: tuple[int, ...] = (16, 32, 64)
    """Channels of its stages; the stride of the features is 2 to the power of (stages + 1)."""
    stage_depths: tuple[int, ...] = (1, 1, 1)
    """Basic blocks per stage; (3, 4, 6, 3) is ResNet-34."""
    image_weights: str = ""
    """Folder of pretrained ResNet weights (transformers format); "" = from scratch."""
    grid_mask_probability: float = 0.0
    """GridMask augmentation of training pictures (iPad: 0.7)."""
    proposals: int = 8
    """N."""
    iterations: int = 2
    """K, all with the same weights."""
    width: int = 64
    """D."""
    hidden_width: int = 256
    """Hidden width of the pose MLP and the feed-forward block."""
    heads: int = 4
    """Heads of the deformable attentions."""
    self_points: int = 4
    """Points per head of the self-attention."""
    height_anchors: int = 2
    """Heights at each corner of the ego box, from -2 to 6 m."""
    picture_points: int = 1
    """Points per head and anchor of the picture attention."""
    collision_steps: int = 8
    """Steps at which the boxes of colliding agents are predicted (iPad: 40)."""
    pose_scale_m: float = 10.0
    """The pose head's unit for x and y. iPad's is 1 m; a small head that trains for few steps needs
    a coarser one.
    """
    discount: float = 0.1
    """Weight of an iteration's proposal loss over that of the next."""
    score_weight: float = 1.0
    """Weight of the total score's BCE."""
    sub_score_weight: float = 1.0
    """Weight of the other five scores' BCE (iPad: 0)."""
    area_weight: float = 2.0
    """Weight of the off-road and off-route BCE."""
    collision_box_weight: float = 0.1
    """Weight of the colliding boxes' L1 (iPad's code)."""
    collision_weight: float = 1.0
    """Weight of the colliding boxes' validity BCE (iPad's code)."""
    choice: Literal["composed", "total"] = "composed"
    """What the plan is chosen by: the formula over the five sub-scores, or the total's own logit
    (iPad).
    """
    score_every: int = 1
    """Optimiser steps between simulations of the proposals; the other steps train the proposals
    only.
    """

    def __post_init__(self) -> None:
        check_widths((self.stem_width, *self.stage_widths, self.width))
        if len(self.stage_widths) != len(self.stage_depths):
            raise ValueError(
                f"stages {self.stage_widths} x {self.stage_depths}; give one depth per width"
            )
        if self.iterations < 1 or self.proposals < 1 or self.score_every < 1:
            raise ValueError(
                f"proposals {self.proposals}, iterations {self.iterations}, score_every "
                f"{self.score_every}; each needs to be at least 1"
            )
        if 40 % self.collision_steps:
            raise ValueError(
                f"collision_steps is {self.collision_steps}; it must divide the 40 simulated steps"
            )

    @property
    def stride(self) -> int:
        return 2 ** (len(self.stage_widths) + 1)

    @property
    def padded_wh(self) -> tuple[int, int]:
        """(width, height) of a picture after padding."""
        width, height = (
            -(-side // self.stride) * self.stride
            for side in (self.camera_width_px, self.camera_height_px)
        )
        return width, height

    @classmethod
    def debug(cls) -> IpadConfig:
        return cls(
            camera_width_px=64,
            camera_height_px=32,
            stage_widths=(8, 8, 8),
            proposals=3,
            width=16,
            hidden_width=16,
            heads=2,
            self_points=2,
            collision_steps=4,
        )

    @classmethod
    def mini(cls) -> IpadConfig:
        return cls()

    @classmethod
    def single_gpu(cls) -> IpadConfig:
        return replace(cls.paper(), sub_score_weight=1.0, choice="composed")

    @classmethod
    def paper(cls) -> IpadConfig:
        return cls(
            cameras=("CAM_B0", "CAM_F0", "CAM_L0", "CAM_R0"),
            camera_width_px=768,
            camera_height_px=432,
            stem_width=64,
            stage_widths=(64, 128, 256, 512),
            stage_depths=(3, 4, 6, 3),
            grid_mask_probability=0.7,
            proposals=64,
            iterations=4,
            width=256,
            hidden_width=1024,
            heads=8,
            self_points=4,
            height_anchors=4,
            picture_points=1,
            collision_steps=40,
            pose_scale_m=1.0,
            sub_score_weight=0.0,
            choice="total",
        )


class Ipad(nn.Module):
    """Camera pictures and ego vector → N proposals with scores; the best one is the plan."""

    name = "ipad"

    def __init__(
        self, config: IpadConfig, fusion: FusionConfig | None = None, feature_dim: int = 0
    ) -> None:
        super().__init__()
        self.config = config
        width, hidden = config.width, config.hidden_width
        self.pictures = PictureEncoder(config)
        self.ego = nn.Linear(EGO_NUMBERS, width)
        self.query_embedding = nn.Parameter(torch.randn(config.proposals * PLAN_STEPS, width))
        self.pose_head = nn.Sequential(
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, 3),
        )
        self.layer = RefineLayer(config)
        self.scorer = Mlp(width, hidden, len(SCORES))
        self.area_head = Mlp(width, hidden, SUB_STEPS * 2)
        self.collision_head = Mlp(width, hidden, config.collision_steps * 2 * 9)
        self.fusion = None if fusion is None else Fusion(fusion, feature_dim, width, EGO_NUMBERS)

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Batch of `inputs.IpadInputs` → poses (B, 8, 3) of the best proposal, proposals (K, B, N,
        8, 3), scores (B, N, 6) logits, chosen (B,), pooled (B, N, D) queries; in training also
        areas (B, N, 8, 5, 2) logits and collisions (B, N, S, 2, 9).
        """
        features = self.pictures(batch["images"])  # (B, C, D, H, W)
        projection = self._to_padded(batch["projection"])
        memory = None if self.fusion is None else self.fusion.memory(batch["vlm"], batch["ego"])
        queries = self.query_embedding + self.ego(batch["ego"])[:, None]  # (B, Q, D)
        if self.fusion is not None and memory is not None:
            queries = self.fusion(queries, memory)  # the first poses know of the VLM, too
        proposals = []
        for _ in range(self.config.iterations):
            with full_precision(queries):  # metres
                poses = self._poses(queries.float()).unflatten(1, (-1, PLAN_STEPS))  # (B, N, T, 3)
                anchors = Anchors.of(
                    poses.detach(), projection, batch["has_image"], self.config.height_anchors
                )
            proposals.append(poses)
            queries = self.layer(queries, features, anchors, self.fusion, memory)
        grouped = queries.unflatten(1, (-1, PLAN_STEPS))  # (B, N, T, D)
        pooled = grouped.amax(dim=2)  # (B, N, D)
        told = pooled
        if self.fusion is not None and memory is not None:
            pooled = self.fusion.to_scorer(pooled, memory, None)
            told = self.fusion.tell(pooled, batch["vlm"])
        return self._answers(grouped, pooled, told, torch.stack(proposals))

    def _poses(self, queries: Tensor) -> Tensor:
        """(B, Q, D) → (B, Q, 3) metres, metres, radians."""
        scale = self.config.pose_scale_m
        return self.pose_head(queries) * queries.new_tensor([scale, scale, 1.0])

    def choice(self, logits: Tensor) -> Tensor:
        """(B, N, 6) logits → (B, N) what the plan is chosen by; the largest is the plan."""
        if self.config.choice == "total":
            return logits[..., -1]
        p: dict[str, Tensor] = dict(zip(SCORES, logits.float().sigmoid().unbind(-1), strict=True))
        rest = torch.stack([weight * p[name] for name, weight in WEIGHTS_V1.items()]).sum(0)
        product = torch.stack([p[name] for name in MULTIPLIERS_V1]).prod(0)
        return product * rest / sum(WEIGHTS_V1.values())

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


@dataclass(frozen=True, slots=True)
class Anchors:
    """Where the queries of one iteration look."""

    on_map: Tensor
    """(B, Q, 2) predicted (x, y) in parts of ±32 m: x runs along T, y along N."""
    on_pictures: Tensor
    """(B, C, Q, A, 2) u, v"""
    seen: Tensor
    """(B, C, Q, A) bool"""

    @staticmethod
    def of(poses: Tensor, projection: Tensor, has_image: Tensor, heights: int) -> Anchors:
        """From detached poses (B, N, T, 3)."""
        flat = poses.flatten(1, 2)  # (B, Q, 3)
        points = box_points(flat, heights)  # (B, Q, A, 3)
        uv, seen = project(points.flatten(1, 2), projection)
        shape = points.shape[1:3]
        seen = (seen & has_image[..., None]).unflatten(2, shape)
        return Anchors((flat[..., :2] + RANGE_M) / (2 * RANGE_M), uv.unflatten(2, shape), seen)


def box_points(poses: Tensor, heights: int) -> Tensor:
    """(B, Q, 3) rear-axle poses → (B, Q, 4 · heights, 3) corners of the ego box there, at heights
    from -2 to 6 m.
    """
    front = Vehicle.REAR_AXLE_TO_CENTER_M + HALF_LENGTH_M
    rear = Vehicle.REAR_AXLE_TO_CENTER_M - HALF_LENGTH_M
    along = poses.new_tensor([front, rear, rear, front])
    left = poses.new_tensor([HALF_WIDTH_M, HALF_WIDTH_M, -HALF_WIDTH_M, -HALF_WIDTH_M])
    x, y, yaw = (poses[..., i, None] for i in range(3))
    corners = torch.stack(
        [x + yaw.cos() * along - yaw.sin() * left, y + yaw.sin() * along + yaw.cos() * left], dim=-1
    )
    z = torch.linspace(-2.0, 6.0, heights, device=poses.device, dtype=poses.dtype)
    spread = corners[..., None, :].expand(*corners.shape[:-1], heights, 2)  # (B, Q, 4, heights, 2)
    return torch.cat([spread, z[:, None].expand(*spread.shape[:-1], 1)], dim=-1).flatten(2, 3)


class RefineLayer(nn.Module):
    """Self-attention, picture attention (, fusion), feed-forward; each followed by its norm."""

    def __init__(self, config: IpadConfig) -> None:
        super().__init__()
        self.shape = (config.proposals, PLAN_STEPS)
        self.self_attention = QuerySelfAttention(config.width, config.heads, 1, config.self_points)
        self.picture_attention = PictureCrossAttention(
            config.width, config.heads, 4 * config.height_anchors, config.picture_points
        )
        self.ffn = Mlp(config.width, config.hidden_width, config.width)
        self.self_norm, self.picture_norm, self.ffn_norm = (
            nn.LayerNorm(config.width) for _ in range(3)
        )

    def forward(
        self,
        queries: Tensor,
        features: Tensor,
        anchors: Anchors,
        fusion: Fusion | None,
        memory: Memory | None,
    ) -> Tensor:
        """(B, Q, D) → (B, Q, D)"""
        queries = self.self_norm(queries + self.self_attention(queries, anchors.on_map, self.shape))
        read = self.picture_attention(queries, features, anchors.on_pictures, anchors.seen)
        queries = self.picture_norm(queries + read)
        if fusion is not None and memory is not None:
            queries = fusion(queries, memory)
        return self.ffn_norm(queries + self.ffn(queries))
