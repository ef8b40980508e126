"""Multi-head attention on plain tensors, shared by the fusion module and the Transfuser's GPT
blocks.

Legend: B batch, Q queries, S keys, C width, h heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MultiHeadAttention(nn.Module):
    """Attention of queries to keys of the same width, with an optional mask of usable keys."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(
                f"width {width} does not split into {heads} heads; choose a multiple of the head count"
            )
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, usable: Tensor | None = None) -> Tensor:
        """(B, Q, C), (B, S, C), bool (B, S) → (B, Q, C). A sample without one usable key gets
        exactly zero.
        """
        q = self._split(self.query(queries))  # (B, h, Q, C/h)
        k, v = (self._split(x) for x in self.key_value(keys).chunk(2, dim=-1))  # (B, h, S, C/h)
        any_usable = None if usable is None else usable.any(dim=1)  # (B,)
        # A row of softmax over nothing is NaN: such samples attend to everything and are zeroed
        # afterwards.
        mask = (
            None
            if usable is None or any_usable is None
            else (usable | ~any_usable[:, None])[:, None, None, :]
        )
        mixed = F.scaled_dot_product_attention(
            q, k, v, mask, dropout_p=self.dropout if self.training else 0.0
        )
        out = self.out(mixed.transpose(1, 2).flatten(2))  # (B, Q, C)
        return (
            out
            if any_usable is None
            else torch.where(any_usable[:, None, None], out, torch.zeros_like(out))
        )

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Mlp(nn.Sequential):
    """Linear → activation → Linear (→ dropout)."""

    def __init__(
        self,
        width: int,
        hidden: int,
        out: int,
        dropout: float = 0.0,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(
            nn.Linear(width, hidden), activation(), nn.Linear(hidden, out), nn.Dropout(dropout)
        )


class SwiGLU(nn.Module):
    """Gated feed-forward block of UniVLA's attention pooling (latentvla.md §4.1)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * hidden)
        self.out = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.up(x).chunk(2, dim=-1)
        return self.out(F.silu(gate) * value)
