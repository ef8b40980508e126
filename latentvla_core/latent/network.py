"""Inverse model (what happened between two frames?) and forward model (what will the next frame
be?).

Transformers over patch features: the inverse one alternates space and time, causal over time; the
forward one sees the first frame and the codes only. Legend: latent/__init__.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

TIME, SPACE = 1, 2  # axes of (B, T, S, W)


@dataclass(frozen=True, kw_only=True, slots=True)
class DynamicsConfig:
    """Size of one stage's two transformers."""

    width: int = 64
    """W."""
    heads: int = 4
    """Attention heads; must divide the width."""
    encoder_layers: int = 2
    """Blocks of the inverse model."""
    decoder_layers: int = 2
    """Blocks of the forward model."""
    stem: Literal["linear", "convolution"] = "linear"
    """How the inverse model embeds a patch: one matrix, or convolutions over the whole picture
    (pixels only), which see motion across the borders of patches and learn it from fewer drives.
    """

    def __post_init__(self) -> None:
        if self.width % self.heads or self.width % 4:
            raise ValueError(
                f"width {self.width}: must be divisible by heads ({self.heads}) and by 4 (2-D positions)"
            )


class Attention(nn.Module):
    """Self-attention along the last but one axis; q, k, v without bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.head_dim = width // heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, *, causal: bool = False, keep: int | None = None) -> Tensor:
        """(..., S, W) → same, or only the first `keep` of S, which attend to all."""
        *lead, length, width = x.shape
        asked = length if keep is None else keep
        q = self._split(self.query(x[..., :asked, :]))
        k, v = self._split(self.key_value(x)).chunk(2, dim=1)
        if causal and length == 2:
            y = attend_causal_pair(q, k, v)
        else:
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.out(y.transpose(1, 2).reshape(*lead, asked, width))

    def _split(self, x: Tensor) -> Tensor:
        """(..., S, n · W) → (lead, n · heads, S, W / heads)."""
        return x.reshape(-1, x.shape[-2], x.shape[-1] // self.head_dim, self.head_dim).transpose(
            1, 2
        )


def attend_causal_pair(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention over two positions, (..., 2, h) → same: a softmax of two is a sigmoid of
    their difference.

    Eight times cheaper than the general routine, which is made for long sequences and not for
    thousands of pairs.
    """
    (k0, k1), (v0, v1) = k.unbind(-2), v.unbind(-2)
    weight = torch.sigmoid((q[..., 1, :] * (k1 - k0)).sum(-1, keepdim=True) * q.shape[-1] ** -0.5)
    return torch.stack([v0, v0 + weight * (v1 - v0)], dim=-2)


def feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class SpatialBlock(nn.Module):
    """Pre-norm attention among the tokens of a frame, then feed-forward: 12 W² parameters."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.attention = Attention(width, heads)
        self.forward_part = feed_forward(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norms[0](x))
        return x + self.forward_part(self.norms[1](x))


class SpaceTimeBlock(nn.Module):
    """Attention inside each frame, causal attention of each token over time, feed-forward: 16 W²
    parameters.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.space = Attention(width, heads)
        self.time = Attention(width, heads)
        self.forward_part = feed_forward(width)

    def forward(self, x: Tensor, keep: int | None = None) -> Tensor:
        """(B, T, S, W) → same, or only the first `keep` tokens of each frame; frame t sees frames ≤
        t.
        """
        x = x[:, :, :keep] + self.space(self.norms[0](x), keep=keep)
        x = x + self.time(self.norms[1](x).transpose(TIME, SPACE), causal=True).transpose(
            TIME, SPACE
        )
        return x + self.forward_part(self.norms[2](x))


class ConvolutionStem(nn.Module):
    """Patches of a frame and of its change → tokens, by strided convolutions over the picture they
    make together.
    """

    def __init__(self, feature_dim: int, grid_hw: tuple[int, int], width: int) -> None:
        super().__init__()
        side = math.isqrt(feature_dim // 3)
        if 3 * side**2 != feature_dim or side < 4 or side & (side - 1):
            raise ValueError(
                f"stem 'convolution' needs pixel patches with a side of 4, 8, 16 …; {feature_dim} numbers per patch are none"
            )
        self.grid_hw, self.side = grid_hw, side
        halvings = side.bit_length() - 1
        channels = [6, *(min(24 * (i + 1), width) for i in range(halvings - 1)), width]
        layers = [
            nn.Sequential(
                nn.Conv2d(a, b, 5 if i == 0 else 3, 2, 2 if i == 0 else 1),
                nn.GroupNorm(4, b),
                nn.GELU(),
            )
            for i, (a, b) in enumerate(pairwise(channels))
        ]
        self.layers = nn.Sequential(*layers)
        self.out = nn.Sequential(nn.Linear(width, width), nn.LayerNorm(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, P, 2 · 3 · side²) frame and change → (B, T, P, W)."""
        batch, frames, patches, _ = x.shape
        (rows, columns), side = self.grid_hw, self.side
        x = x.reshape(batch * frames, rows, columns, 2, side, side, 3).permute(0, 3, 6, 1, 4, 2, 5)
        y = self.layers(x.reshape(batch * frames, 6, rows * side, columns * side))
        return self.out(y.flatten(2).transpose(1, 2)).reshape(batch, frames, patches, -1)


class InverseModel(nn.Module):
    """Reads codes out of frame sequences by learned queries that stand among the patches of every
    frame.

    `groups` are (number of queries, code width) per kind of code, in order. With S sectors the
    picture is cut into S upright strips after the embedding; the same queries and blocks read each
    strip by itself, and codes come left to right.
    """

    def __init__(
        self,
        config: DynamicsConfig,
        *,
        feature_dim: int,
        grid_hw: tuple[int, int],
        groups: Sequence[tuple[int, int]],
        sectors: int = 1,
    ) -> None:
        super().__init__()
        width = config.width
        self.grid_hw, self.sectors = grid_hw, sectors
        self.group_sizes = [count for count, _ in groups]
        # Position-specific, distinct from the start: the positions must not all say the same
        # (latentvla.md §2.8).
        self.queries = nn.Parameter(torch.empty(sum(self.group_sizes), width).uniform_(-1, 1))
        # A frame and its change since the frame before: else the first layer that could compare
        # frames is one deep, and small models learn motion from few drives much later
        # (docs/latent-actions.md).
        self.embed = nn.Sequential(
            nn.LayerNorm(2 * feature_dim), nn.Linear(2 * feature_dim, width), nn.LayerNorm(width)
        )
        if config.stem == "convolution":
            self.embed = ConvolutionStem(feature_dim, grid_hw, width)
        self.blocks = nn.ModuleList(
            SpaceTimeBlock(width, config.heads) for _ in range(config.encoder_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.reads = nn.ModuleList(nn.Linear(width, code_dim) for _, code_dim in groups)
        self.time_embedding = nn.Parameter(torch.randn(2, width) * 0.02)
        self.position: Tensor
        self.register_buffer("position", grid_positions(grid_hw, width), persistent=False)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> list[Tensor]:
        """Features (B, T, P, D), condition (B, C, W) → (B, T, S · N, d) per group.

        What is read at frame t depends on frames ≤ t only; the codes of the transition are those of
        the last frame.
        """
        frames, strips = x.shape[1], self.sectors
        change = torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:] - x[:, :-1]], dim=TIME)
        seen = self._strips(
            self.embed(torch.cat([x, change], dim=-1)) + self.position
        )  # (B · S, T, P / S, W)
        tokens = [self.queries.expand(len(seen), frames, -1, -1), seen]
        if condition is not None:
            tokens.append(
                condition.repeat_interleave(strips, dim=0)[:, None].expand(-1, frames, -1, -1)
            )
        h = (
            torch.cat(tokens, dim=SPACE) + self.time_embedding[:frames, None]
        )  # (B, T, Q + P + C, W)
        *blocks, last = self.blocks
        for block in blocks:
            h = block(h)
        h = last(
            h, keep=len(self.queries)
        )  # nothing else is read: a quarter of a small model's work saved
        read = self.norm(h).split(self.group_sizes, dim=SPACE)
        codes = [
            layer(part) for layer, part in zip(self.reads, read, strict=True)
        ]  # (B · S, T, N, d)
        return [z.unflatten(0, (-1, strips)).transpose(1, 2).flatten(2, 3) for z in codes]

    def _strips(self, tokens: Tensor) -> Tensor:
        """(B, T, P, W) → (B · S, T, P / S, W): upright strips of the picture, left to right."""
        (rows, columns), strips = self.grid_hw, self.sectors
        cut = tokens.unflatten(2, (rows, strips, columns // strips)).movedim(
            3, 1
        )  # (B, S, T, rows, columns / S, W)
        return cut.flatten(3, 4).flatten(0, 1)


class ForwardModel(nn.Module):
    """Predicts the next frame's features from this frame's, the codes and (stage 1) the condition.

    The last `local_codes` of the codes belong to upright strips of the picture, left to right: each
    is added to the tokens of its strip only, before every block. The others are about the whole
    picture.
    """

    def __init__(
        self,
        config: DynamicsConfig,
        *,
        feature_dim: int,
        grid_hw: tuple[int, int],
        codes: int,
        code_dim: int,
        conditioned: bool,
        local_codes: int = 0,
    ) -> None:
        super().__init__()
        width, whole = config.width, codes - local_codes
        self.grid_hw, self.local_codes = grid_hw, local_codes
        self.embed = nn.Linear(feature_dim, width)
        if whole:
            self.embed_codes = nn.Linear(code_dim, width)
            self.code_position = nn.Parameter(torch.randn(whole, width) * 0.02)
            self.add_codes = nn.Linear(whole * code_dim, width)
        if local_codes:
            self.add_local = nn.Linear(code_dim, width * config.decoder_layers)
        self.add_condition = nn.Linear(width, width) if conditioned else None
        self.blocks = nn.ModuleList(
            SpatialBlock(width, config.heads) for _ in range(config.decoder_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, feature_dim)
        nn.init.zeros_(self.out.weight)  # begins as the copy baseline
        nn.init.zeros_(self.out.bias)
        self.position: Tensor
        self.register_buffer("position", grid_positions(grid_hw, width), persistent=False)

    def forward(self, x: Tensor, codes: Tensor, condition: Tensor | None = None) -> Tensor:
        """Features (B, P, D), code vectors (B, N, d), condition (B, C, W) → predicted features (B,
        P, D).

        The result is x + f(.): static content costs no capacity.
        """
        return x + self.out(self.hidden(x, codes, condition))

    def hidden(self, x: Tensor, codes: Tensor, condition: Tensor | None = None) -> Tensor:
        """The same → (B, P, W): what the last layer reads.

        Codes and condition also come *added* to every token they are about, because a lone token is
        easy to ignore (latentvla.md §2.5, §2.8).
        """
        whole, local = codes.split([codes.shape[1] - self.local_codes, self.local_codes], dim=1)
        seen, before = self.embed(x) + self.position, []
        if condition is not None and self.add_condition is not None:
            seen = seen + self.add_condition(condition.mean(1))[:, None]
        if whole.shape[1]:
            seen = seen + self.add_codes(whole.flatten(1))[:, None]
            before.append(self.embed_codes(whole) + self.code_position)
        if condition is not None:
            before.append(condition)
        h = torch.cat([seen, *before], dim=1)  # (B, P + N + C, W)
        patches, pushed = x.shape[1], self._pushed(local)
        for block, push in zip(self.blocks, pushed, strict=True):
            h = block(
                h if push is None else torch.cat([h[:, :patches] + push, h[:, patches:]], dim=1)
            )
        return self.norm(h[:, :patches])

    def _pushed(self, local: Tensor) -> Sequence[Tensor | None]:
        """What local codes (B, S, d) add to the patches (B, P, W) of their strips before each
        block.
        """
        if not self.local_codes:
            return [None] * len(self.blocks)
        rows, columns = self.grid_hw
        pushed = self.add_local(local).repeat_interleave(
            columns // self.local_codes, dim=1
        )  # (B, columns, layers · W)
        return (
            pushed[:, None].expand(-1, rows, -1, -1).flatten(1, 2).chunk(len(self.blocks), dim=-1)
        )


class ConditionEncoder(nn.Module):
    """φ(τ, s): one token per waypoint, one for the ego state (latentvla.md §2.5). Inputs arrive
    standardised.
    """

    def __init__(self, width: int, *, waypoint_dim: int, state_dim: int) -> None:
        super().__init__()
        self.waypoint = nn.Sequential(
            nn.Linear(waypoint_dim, width), nn.GELU(), nn.Linear(width, width)
        )
        self.state = nn.Sequential(nn.Linear(state_dim, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, waypoints: Tensor, state: Tensor) -> Tensor:
        """(B, S, waypoint_dim), (B, state_dim) → (B, S + 1, W)."""
        return torch.cat([self.waypoint(waypoints), self.state(state)[:, None]], dim=1)


def grid_positions(grid_hw: tuple[int, int], width: int) -> Tensor:
    """(P, W) fixed sine and cosine of row (first half) and column (second half), patches in
    row-major order.
    """
    rows, columns = grid_hw
    half = [_waves(torch.arange(n), width // 2) for n in (rows, columns)]
    grid = [half[0][:, None].expand(-1, columns, -1), half[1][None].expand(rows, -1, -1)]
    return torch.cat(grid, dim=-1).reshape(rows * columns, width)


def _waves(positions: Tensor, width: int) -> Tensor:
    rates = torch.exp(-math.log(1e4) * torch.arange(0, width, 2) / width)
    angles = positions[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
