"""Deformable attention in plain PyTorch (`grid_sample`), on any device, and the projection of its
anchors.

Legend: B batch, C cameras, Q queries, h heads, A anchors per query, P points per anchor, D width, H
x W value map.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

OUTSIDE = -9.0  # in parts of a picture: offsets do not lead back from there
MIN_DEPTH_M = 0.5  # nearer points, and those behind, are not in the picture


def sample(values: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples.

    Args:
        values: (B, h, D/h, H, W) maps; outside of a map is zero.
        locations: (B, Q, h, S, 2) x, y in parts of the map: 0 left/top edge, 1 right/bottom edge.
        weights: (B, Q, h, S).
    Returns:
        (B, Q, D)
    """
    batch, heads = values.shape[:2]
    grid = (2 * locations - 1).transpose(1, 2).flatten(0, 1)  # (Bh, Q, S, 2)
    picked = F.grid_sample(
        values.flatten(0, 1), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    mixed = (picked * weights.transpose(1, 2).flatten(0, 1)[:, None]).sum(-1)  # (Bh, D/h, Q)
    return mixed.unflatten(0, (batch, heads)).flatten(1, 2).transpose(1, 2)


class DeformableAttention(nn.Module):
    """Queries read a map around given anchors, at learned offsets and with learned weights.

    With two queues (iPad's code: BEVFormer's temporal attention without a past) everything is read
    twice, with offsets and weights of its own that see the query without and with its position; the
    two readings are averaged.
    """

    def __init__(self, width: int, heads: int, anchors: int, points: int, queues: int = 1) -> None:
        super().__init__()
        self.heads, self.anchors, self.points, self.queues = heads, anchors, points, queues
        reads = queues * heads * anchors * points
        self.value = nn.Linear(width, width)
        self.offset = nn.Linear(queues * width, reads * 2)
        self.weight = nn.Linear(queues * width, reads)
        self.out = nn.Linear(width, width)
        self._start_as_star()

    def _start_as_star(self) -> None:
        """Offsets start as one direction per head, point p at p + 1 cells; weights start equal
        (Deformable DETR).
        """
        angles = torch.arange(self.heads) * (2 * torch.pi / self.heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)[
            :, None, None
        ]  # (h, 1, 1, 2)
        steps = torch.arange(1, self.points + 1)[:, None]  # (P, 1)
        start = (directions * steps).expand(-1, self.anchors, -1, -1).repeat(self.queues, 1, 1, 1)
        with torch.no_grad():
            for layer in (self.offset, self.weight):
                layer.weight.zero_()
                layer.bias.zero_()
            self.offset.bias.copy_(start.flatten())

    def values(self, tokens: Tensor, shape: tuple[int, int]) -> Tensor:
        """(B, H·W, D) → (B, h, D/h, H, W)"""
        split = self.value(tokens).unflatten(-1, (self.heads, -1))  # (B, HW, h, D/h)
        return split.permute(0, 2, 3, 1).unflatten(-1, shape)

    def aims(
        self, queries: Tensor, anchors: Tensor, shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Queries (B, Q, queues · D), anchors (B, Q, A, 2) in map parts → locations
        (B, Q, queues · h, A·P, 2), weights (B, Q, queues · h, A·P).
        """
        grid = (self.queues * self.heads, self.anchors, self.points)
        cells = torch.tensor([shape[1], shape[0]], device=queries.device, dtype=queries.dtype)
        offsets = self.offset(queries).unflatten(-1, (*grid, 2)) / cells  # (B, Q, h, A, P, 2)
        locations = anchors[:, :, None, :, None] + offsets
        weights = self.weight(queries).unflatten(-1, (grid[0], -1)).softmax(-1)
        return locations.flatten(3, 4), weights


class QuerySelfAttention(DeformableAttention):
    """Proposal queries read each other: their (N, T) arrangement is the map, anchored at the
    predicted (x, y).
    """

    def forward(
        self,
        queries: Tensor,
        anchors: Tensor,
        shape: tuple[int, int],
        position: Tensor | None = None,
    ) -> Tensor:
        """(B, Q, D) queries, (B, Q, 2) anchors in map parts, shape (N, T) with N·T = Q, (Q, D)
        position that helps asking → (B, Q, D).
        """
        asked = queries if position is None else queries + position
        if self.queues > 1:
            asked = torch.cat([queries, asked], -1)
        locations, weights = self.aims(asked, anchors[:, :, None], shape)
        values = self.values(queries, shape).repeat(1, self.queues, 1, 1, 1)
        read = sample(values, locations, weights).unflatten(-1, (self.queues, -1))
        return self.out(read.mean(2))


class PictureCrossAttention(DeformableAttention):
    """Queries read the pictures where their anchors project to; averaged over the cameras that see
    any of them.
    """

    def forward(self, queries: Tensor, pictures: Tensor, anchors: Tensor, seen: Tensor) -> Tensor:
        """(B, Q, D) queries, (B, C, D, H, W) features, (B, C, Q, A, 2) anchors, bool (B, C, Q, A)
        seen → (B, Q, D).

        Visibility is that of each sample (iPad's code takes sample 0's for the whole batch,
        latentvla.md §4.3).
        """
        batch, cameras, _, *shape = pictures.shape
        shape = (shape[0], shape[1])
        flat = self.values(
            pictures.flatten(0, 1).flatten(2).transpose(1, 2), shape
        )  # (BC, h, D/h, H, W)
        each = queries[:, None].expand(-1, cameras, -1, -1).flatten(0, 1)  # (BC, Q, D)
        locations, weights = self.aims(each, anchors.flatten(0, 1), shape)
        mask = (
            seen.flatten(0, 1)[:, :, None, :, None]
            .expand(-1, -1, self.heads, -1, self.points)
            .flatten(3)
        )
        read = sample(flat, locations, weights * mask).unflatten(
            0, (batch, cameras)
        )  # (B, C, Q, D)
        count = seen.any(-1).sum(1).clamp(min=1)  # (B, Q)
        return self.out(read.sum(1) / count[..., None])


def project(points_m: Tensor, projection: Tensor) -> tuple[Tensor, Tensor]:
    """(B, M, 3) ego points, (B, C, 3, 4) → (B, C, M, 2) u, v in picture parts and bool (B, C, M)
    inside the picture. Points that no picture can hold are far outside of it.
    """
    homogeneous = F.pad(points_m, (0, 1), value=1.0)
    raw = torch.einsum("bcij,bmj->bcmi", projection, homogeneous)  # (B, C, M, 3)
    depth = raw[..., 2]
    in_front = depth > MIN_DEPTH_M
    uv = raw[..., :2] / torch.where(in_front, depth, torch.ones_like(depth))[..., None]
    inside = in_front & (uv >= 0).all(-1) & (uv <= 1).all(-1)
    far = torch.full_like(uv, OUTSIDE)
    return torch.where(in_front[..., None], uv.clamp(OUTSIDE, -OUTSIDE), far), inside
