"""VLM embeddings into a planner's BEV queries: attention pooling and zero-gated cross-attention
(latentvla.md §4.1).

Legend: B batch, P visual tokens, A = 12 action tokens, D VLM width, d pooling width, Q queries, C
host width, S = M_v + 12 key/value tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from latentvla_core.planner.attention import Mlp, MultiHeadAttention, SwiGLU
from latentvla_core.types import CODEBOOK_SIZE, NUM_ACTION_TOKENS, PLAN_STEPS, Array

MOTION_UNITS = (10.0, 3.0, 0.3)
"""Metres, metres, radians: decoded motion is of the order of one in them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionConfig:
    """Size of the fusion module; one schema for every recipe."""

    pool_width: int = 64
    """d, width of the attention pooling."""
    visual_tokens: int = 4
    """M_v, tokens that the visual embeddings are pooled to."""
    layers: int = 1
    """Gated cross-attention layers."""
    heads: int = 4
    """Attention heads, in pooling and in cross-attention."""
    ffn_ratio: int = 2
    """Hidden width of the feed-forward blocks over their width."""
    modality_dropout: float = 0.1
    """Probability that a training sample sees no VLM token at all, so that the planner survives a
    missing VLM.
    """
    decodes_motion: bool = True
    """Whether the scorer is told the mean motion under the VLM's distribution over codes."""
    motion_neck: int = 16
    """Numbers that decoded motion is brought to on its way to the scorer."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.modality_dropout < 1.0:
            raise ValueError(
                f"modality_dropout is {self.modality_dropout}; needs a probability in [0, 1)"
            )

    @classmethod
    def debug(cls) -> FusionConfig:
        return cls(pool_width=16, visual_tokens=2, heads=2)

    @classmethod
    def mini(cls) -> FusionConfig:
        return cls()

    @classmethod
    def single_gpu(cls) -> FusionConfig:
        return cls(pool_width=256, visual_tokens=16, layers=2, heads=8, ffn_ratio=4)

    @classmethod
    def paper(cls) -> FusionConfig:
        """As published: without a path for decoded motion."""
        return replace(cls.single_gpu(), decodes_motion=False)


class VlmTokens(NamedTuple):
    """What a planner batch carries of the VLM; absent parts are zeros with their flag off."""

    visual: Tensor
    """(B, P, D)"""
    action: Tensor
    """(B, 12, D) states at generated tokens, never at labels."""
    has_visual: Tensor
    """(B,) bool"""
    has_action: Tensor
    """(B,) bool"""
    answer: Tensor | None = None
    """(B, 12 · 16) probabilities of the codes; zeros where there is no answer."""


class Memory(NamedTuple):
    """Key/value tokens of one batch, computed once however often the host asks."""

    tokens: Tensor
    """(B, S, C)"""
    usable: Tensor
    """(B, S) bool"""


class AttentionPool(nn.Module):
    """Learned latents that read a token sequence: UniVLA's MAP block."""

    def __init__(self, in_width: int, width: int, latents: int, heads: int, ffn_ratio: int) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(latents, width) * 0.02)
        # States before the LM's last norm have arbitrary scale, hence a norm in front of the
        # projection.
        self.key_value = nn.Sequential(nn.LayerNorm(in_width), nn.Linear(in_width, width))
        self.attention = MultiHeadAttention(width, heads)
        self.attention_norm = nn.RMSNorm(width)
        self.ffn = SwiGLU(width, ffn_ratio * width)
        self.ffn_norm = nn.RMSNorm(width)

    def forward(
        self,
        tokens: Tensor,
        usable: Tensor,
        start: Tensor | None = None,
        position: Tensor | None = None,
    ):
        """(B, P, D) tokens, bool (B, P), start (B, 1, d) added to the latents, position (P, d) →
        (B, M, d).
        """
        keys = self.key_value(tokens)  # (B, P, d)
        keys = keys if position is None else keys + position
        latents = self.latents.expand(len(tokens), -1, -1)  # (B, M, d)
        latents = latents if start is None else latents + start
        latents = self.attention_norm(latents + self.attention(latents, keys, usable))
        return self.ffn_norm(latents + self.ffn(latents))


class GatedCrossAttention(nn.Module):
    """Q + g₁·attention + g₂·FFN with gates that start at zero, so that step 0 is the host itself."""

    def __init__(self, width: int, heads: int, ffn_ratio: int) -> None:
        super().__init__()
        self.query_norm, self.memory_norm, self.ffn_norm = (nn.LayerNorm(width) for _ in range(3))
        self.attention = MultiHeadAttention(width, heads)
        self.ffn = Mlp(width, ffn_ratio * width, width, activation=nn.GELU)
        self.attention_gate = nn.Parameter(torch.zeros(width))
        self.ffn_gate = nn.Parameter(torch.zeros(width))

    def forward(self, queries: Tensor, memory: Memory, position: Tensor | None) -> Tensor:
        asked = (
            queries if position is None else queries + position
        )  # position helps asking, it is not passed on
        read = self.attention(
            self.query_norm(asked), self.memory_norm(memory.tokens), memory.usable
        )
        queries = queries + self.attention_gate * read
        return queries + self.ffn_gate * self.ffn(self.ffn_norm(queries))


class MotionPath(nn.Module):
    """Codes' probabilities → mean motion → what is added to the scorer's input; nothing until it is
    trained.

    No layer has a bias, so a scene without an answer (zeros) is scored as by the host.
    """

    decoder: Tensor

    def __init__(self, config: FusionConfig, width: int) -> None:
        super().__init__()
        codes, numbers = NUM_ACTION_TOKENS * CODEBOOK_SIZE, PLAN_STEPS * 3
        self.register_buffer("decoder", torch.zeros(codes, numbers))
        self.neck = nn.Linear(numbers, config.motion_neck, bias=False)
        self.out = nn.Linear(config.motion_neck, width, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, answer: Tensor) -> Tensor:
        """(B, 12 · 16) → (B, C)"""
        return self.out(torch.tanh(self.neck(answer @ self.decoder)))

    def learn_codes(self, codes: Array, poses: Array, ridge: float = 1.0) -> None:
        """Least squares from (S, 12) codes to (S, 8, 3) driven poses: what each code means."""
        said = np.eye(CODEBOOK_SIZE)[codes].reshape(len(codes), -1)  # (S, 192)
        driven = (np.asarray(poses, np.float64) / MOTION_UNITS).reshape(len(codes), -1)
        normal = said.T @ said + ridge * np.eye(said.shape[1])
        weights = np.linalg.solve(normal, said.T @ (driven - driven.mean(0)))
        self.decoder.copy_(torch.from_numpy(weights))


class Fusion(nn.Module):
    """Pools VLM embeddings to S tokens and lets host queries read them."""

    def __init__(
        self, config: FusionConfig, feature_dim: int, query_width: int, ego_width: int = 0
    ) -> None:
        super().__init__()
        pool = (config.pool_width, config.heads, config.ffn_ratio)
        self.config, self.feature_dim = config, feature_dim
        self.visual_pool = AttentionPool(feature_dim, pool[0], config.visual_tokens, *pool[1:])
        self.action_pool = AttentionPool(feature_dim, pool[0], NUM_ACTION_TOKENS, *pool[1:])
        self.action_position = nn.Parameter(torch.randn(NUM_ACTION_TOKENS, pool[0]) * 0.02)
        self.to_host = nn.Linear(pool[0], query_width)
        self.type_embedding = nn.Parameter(torch.randn(2, query_width) * 0.02)
        self.layers = nn.ModuleList(
            GatedCrossAttention(query_width, config.heads, config.ffn_ratio)
            for _ in range(config.layers)
        )
        self.ego = nn.Linear(ego_width, pool[0]) if ego_width else None
        self.to_scorer = GatedCrossAttention(query_width, config.heads, config.ffn_ratio)
        self.motion = MotionPath(config, query_width) if config.decodes_motion else None

    def tell(self, pooled: Tensor, vlm: VlmTokens) -> Tensor:
        """(B, N, C) → the same with decoded motion added: for the scorer alone. Not in training: the
        path learns in the scorer's own phase (`choosing`), where proposals stand still.
        """
        if self.motion is None or vlm.answer is None or self.training:
            return pooled
        return pooled + self.motion(vlm.answer.to(pooled.dtype))[:, None]

    def memory(self, vlm: VlmTokens, ego: Tensor | None = None) -> Memory:
        """Key/value tokens [visual; action], pooled in the light of the (B, E) ego status. In
        training, whole samples lose them with `modality_dropout`.
        """
        kept = self._keep(vlm.has_visual)
        has_visual, has_action = vlm.has_visual & kept, vlm.has_action & kept
        dtype = self.to_host.weight.dtype
        asked = None if self.ego is None or ego is None else self.ego(ego.to(dtype))[:, None]
        visual = self.visual_pool(
            vlm.visual.to(dtype), _spread(has_visual, vlm.visual.shape[1]), asked
        )  # (B, M_v, d)
        start = visual.mean(dim=1, keepdim=True) * has_visual[:, None, None]
        usable_actions = _spread(has_action, NUM_ACTION_TOKENS)
        action = self.action_pool(
            vlm.action.to(dtype), usable_actions, start, self.action_position
        )  # (B, 12, d)
        types = torch.cat([self.type_embedding[:1].expand(visual.shape[1], -1),
                           self.type_embedding[1:].expand(NUM_ACTION_TOKENS, -1)])  # fmt: skip
        tokens = self.to_host(torch.cat([visual, action], dim=1)) + types  # (B, S, C)
        return Memory(
            tokens, torch.cat([_spread(has_visual, visual.shape[1]), usable_actions], dim=1)
        )

    def forward(self, queries: Tensor, memory: Memory, position: Tensor | None = None) -> Tensor:
        """(B, Q, C) host queries → (B, Q, C); position (Q, C) or (B, Q, C) is added to the question
        only.
        """
        for layer in self.layers:
            queries = layer(queries, memory, position)
        return queries

    def _keep(self, like: Tensor) -> Tensor:
        if not self.training or self.config.modality_dropout == 0.0:
            return torch.ones_like(like)
        return torch.rand(like.shape, device=like.device) >= self.config.modality_dropout


def _spread(flags: Tensor, length: int) -> Tensor:
    """(B,) → (B, length)"""
    return flags[:, None].expand(-1, length)
