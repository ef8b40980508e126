"""One pass of iPad over its proposals: where they look, what they read there, and the heads that
answer.

Legend: B batch, C cameras, N proposals, T = 8 poses, Q = N·T queries, A anchors, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from latentvla_core.planner.attention import Mlp
from latentvla_core.planner.fusion import Fusion, Memory
from latentvla_core.planner.hosts.deformable import (
    PictureCrossAttention,
    QuerySelfAttention,
    project,
)
from latentvla_core.planner.hosts.ipad_config import IpadConfig
from latentvla_core.types import PLAN_STEPS, Vehicle

HALF_LENGTH_M = Vehicle.LENGTH_M / 2 + 0.25
HALF_WIDTH_M = Vehicle.WIDTH_M / 2 + 0.10
RANGE_M = 32.0  # predicted (x, y) of ± this span the self-attention's map


def head(config: IpadConfig, out: int) -> nn.Module:
    """(..., D) → (..., out): a score, area or collision head."""
    if config.published:
        return deep_head(config, out, normed=True)
    return Mlp(config.width, config.hidden_width, out)


def deep_head(config: IpadConfig, out: int, normed: bool) -> nn.Sequential:
    """Three layers; with LayerNorm as in iPad's code."""
    hidden = config.hidden_width
    layers: list[nn.Module] = []
    for width in (config.width, hidden):
        layers += [nn.Linear(width, hidden), *([nn.LayerNorm(hidden)] if normed else []), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(hidden, out))


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
    def of(
        poses: Tensor,
        projection: Tensor,
        has_image: Tensor,
        heights: int,
        by_query: bool = False,
    ) -> Anchors:
        """From detached poses (B, N, T, 3).

        Args:
            by_query: a camera that sees one anchor of a query is read at all of them, as in iPad's
            code.
        """
        flat = poses.flatten(1, 2)  # (B, Q, 3)
        points = box_points(flat, heights)  # (B, Q, A, 3)
        uv, seen = project(points.flatten(1, 2), projection)
        shape = points.shape[1:3]
        seen = (seen & has_image[..., None]).unflatten(2, shape)
        if by_query:
            seen = seen.any(-1, keepdim=True).expand_as(seen)
        return Anchors((flat[..., :2] + RANGE_M) / (2 * RANGE_M), uv.unflatten(2, shape), seen)


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look at the pictures leaves for a refinement."""

    features: Tensor
    """(B, C, D, H, W)"""
    projection: Tensor
    has_image: Tensor
    memory: Memory | None
    """The VLM's, for fused planners."""
    queries: Tensor
    """(B, Q, D) before the last refinement."""
    proposals: Tensor
    """(K, B, N, T, 3) what was said so far; the last are those of `queries`."""


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
        self.self_attention = QuerySelfAttention(
            config.width, config.heads, 1, config.self_points, queues=2 if config.published else 1
        )
        self.position = LearnedPosition(self.shape, config.width) if config.published else None
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
        position = None if self.position is None else self.position()
        mixed = self.self_attention(queries, anchors.on_map, self.shape, position)
        queries = self.self_norm(queries + mixed)
        read = self.picture_attention(queries, features, anchors.on_pictures, anchors.seen)
        queries = self.picture_norm(queries + read)
        if fusion is not None and memory is not None:
            queries = fusion(queries, memory)
        return self.ffn_norm(queries + self.ffn(queries))


class LearnedPosition(nn.Module):
    """Where a query stands among the proposals and in time: half of the channels each."""

    def __init__(self, shape: tuple[int, int], width: int) -> None:
        super().__init__()
        proposals, steps = shape
        self.of_step = nn.Parameter(torch.rand(steps, width // 2))
        self.of_proposal = nn.Parameter(torch.rand(proposals, width - width // 2))

    def forward(self) -> Tensor:
        """→ (Q, D)"""
        steps = self.of_step.repeat(len(self.of_proposal), 1)
        return torch.cat([steps, self.of_proposal.repeat_interleave(len(self.of_step), 0)], -1)
