"""The student: ResNet on each view, tokens of state and history, a prefix-LM transformer, twelve
answers.

B scenes, C views, n pictures, K context tokens (pictures, state, history, command), W width, D
width of the teacher's states, M pooled picture tokens. Attention is bidirectional over the context
and causal over the actions, so the context is computed once and its keys and values serve all
decoding steps.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from latentvla_core.distill.config import StudentConfig
from latentvla_core.distill.inputs import StudentInputs
from latentvla_core.types import Command
from latentvla_core.vlm.prompts import HISTORY_STEPS
from latentvla_core.vlm.tokens import CODEBOOK_SIZE, NUM_ACTION_TOKENS

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BEGIN = CODEBOOK_SIZE  # row of the action embedding that starts an answer
Cache = list[tuple[Tensor, Tensor]]
"""Keys and values per layer, each (B, heads, tokens, W / heads)."""


class StudentOutput(NamedTuple):
    """What a batch gives, with the teacher's meaning and shapes."""

    codes: Tensor
    """(B, 12) int64: the tokens that were read, given or generated."""
    logits: Tensor
    """(B, 12, 16)"""
    visual: Tensor
    """(B, M, D)"""
    action: Tensor
    """(B, 12, D)"""


class StudentNetwork(nn.Module):
    """See the head of this file."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.backbone = _resnet(config)
        self.reduce = nn.Linear(config.backbone_widths[-1], width)
        rows, columns = config.grid
        self.row_position = nn.Parameter(0.02 * torch.randn(rows, 1, width))
        self.column_position = nn.Parameter(0.02 * torch.randn(1, columns, width))
        self.camera_embedding = nn.Parameter(0.02 * torch.randn(len(config.cameras), 1, 1, width))
        self.state_in, self.history_in = _mlp(4, width), _mlp(4, width)
        self.history_position = nn.Parameter(0.02 * torch.randn(HISTORY_STEPS, width))
        self.command_embedding = nn.Embedding(len(Command), width)
        self.action_embedding = nn.Embedding(CODEBOOK_SIZE + 1, width)
        self.action_position = nn.Parameter(0.02 * torch.randn(NUM_ACTION_TOKENS + 1, width))
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CODEBOOK_SIZE)
        self.visual_queries = nn.Parameter(0.02 * torch.randn(config.num_visual_tokens, width))
        self.visual_pool = nn.MultiheadAttention(width, config.heads, batch_first=True)
        self.visual_out = nn.Linear(width, config.feature_width)
        self.action_out = nn.Linear(width, config.feature_width)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD), persistent=False)

    def forward(self, inputs: StudentInputs, codes: Tensor) -> StudentOutput:
        """All positions at once, each given the (B, 12) codes before it."""
        context, usable = self.context(inputs)
        answers = self._answer_tokens(codes)  # (B, 13, W)
        states, _ = self._blocks(
            torch.cat([context, answers], 1), self._prefix_mask(usable, answers.shape[1])
        )
        return self._output(
            codes, states[:, : context.shape[1]], states[:, context.shape[1] :], usable
        )

    @torch.inference_mode()
    def generate(self, inputs: StudentInputs) -> StudentOutput:
        """Greedy answers of exactly 12 tokens; only the 16 codes exist, so none can be malformed."""
        if self.config.decoding == "parallel":
            parallel = self(inputs, self._no_codes(len(inputs.state)))
            return parallel._replace(codes=parallel.logits.argmax(-1))
        context, usable = self.context(inputs)
        begin = self._answer_tokens(self._no_codes(len(usable)))[:, :1]
        states, past = self._blocks(torch.cat([context, begin], 1), self._prefix_mask(usable, 1))
        found, codes = [states[:, -1:]], []
        for step in range(NUM_ACTION_TOKENS):
            codes.append(self.head(found[-1][:, 0]).argmax(-1))
            token = self.action_embedding(codes[-1])[:, None] + self.action_position[step + 1]
            seen = functional.pad(usable, (0, step + 2), value=True)[:, None, None]
            state, past = self._blocks(token, seen, past)
            found.append(state)
        return self._output(torch.stack(codes, 1), states[:, :-1], torch.cat(found, 1), usable)

    def context(self, inputs: StudentInputs) -> tuple[Tensor, Tensor]:
        """(B, K, W) tokens of everything known, and (B, K) which of them exist."""
        count, views = inputs.view_mask.shape
        pictures = ((inputs.pictures.float() / 255.0 - self.mean) / self.std).permute(
            0, 3, 1, 2
        )  # (n, 3, H, W)
        cells = self.backbone(pictures).feature_maps[-1]
        cells = functional.adaptive_avg_pool2d(cells, self.config.grid).permute(
            0, 2, 3, 1
        )  # (n, rows, cols, channels)
        tokens = self.reduce(cells) + self.row_position + self.column_position
        grid = tokens.new_zeros(count, views, *tokens.shape[1:]).index_put(
            (inputs.view_mask,), tokens
        )
        grid = (grid + self.camera_embedding).flatten(1, 3)  # (B, C · rows · cols, W)
        history = self.history_in(inputs.history) + self.history_position
        others = [
            self.state_in(inputs.state)[:, None],
            history,
            self.command_embedding(inputs.command)[:, None],
        ]
        per_view = grid.shape[1] // views
        always = torch.ones(count, 1, dtype=torch.bool, device=grid.device)
        usable = [
            inputs.view_mask.repeat_interleave(per_view, 1),
            always,
            inputs.history_mask,
            always,
        ]
        return torch.cat([grid, *others], 1), torch.cat(usable, 1)

    def _answer_tokens(self, codes: Tensor) -> Tensor:
        """(B, 12) codes → (B, 13, W): the beginning, then each code; queries alone when decoding in
        parallel.
        """
        if self.config.decoding == "parallel":
            codes = torch.full_like(codes, BEGIN)
        tokens = self.action_embedding(functional.pad(codes, (1, 0), value=BEGIN))
        return tokens + self.action_position

    def _no_codes(self, count: int) -> Tensor:
        return torch.full((count, NUM_ACTION_TOKENS), BEGIN, device=self.head.weight.device)

    def _prefix_mask(self, usable: Tensor, answers: int) -> Tensor:
        """(B, 1, K + A, K + A) True where a row may look: context sees context, answers also
        earlier answers.
        """
        count, known = usable.shape
        may = torch.zeros(
            count, 1, known + answers, known + answers, dtype=torch.bool, device=usable.device
        )
        may[..., :known] = usable[:, None, None]
        may[..., known:, known:] = torch.ones(
            answers, answers, dtype=torch.bool, device=usable.device
        ).tril()
        return may

    def _blocks(
        self, tokens: Tensor, mask: Tensor, past: Cache | None = None
    ) -> tuple[Tensor, Cache]:
        cache: Cache = []
        for i, block in enumerate(self.blocks):
            tokens, keys_values = block(tokens, mask, past[i] if past else None)
            cache.append(keys_values)
        return self.norm(tokens), cache

    def _output(
        self, codes: Tensor, context: Tensor, answers: Tensor, usable: Tensor
    ) -> StudentOutput:
        """Heads on (B, K, W) context and (B, 13, W) answer states.

        A code is predicted where the one before it is read, except in parallel, where every query
        predicts its own.
        """
        before, at = answers[:, :-1], answers[:, 1:]
        logits = self.head(at if self.config.decoding == "parallel" else before)
        queries = self.visual_queries.expand(len(context), -1, -1)
        pooled, _ = self.visual_pool(
            queries, context, context, key_padding_mask=~usable, need_weights=False
        )
        return StudentOutput(codes, logits, self.visual_out(queries + pooled), self.action_out(at))


class Block(nn.Module):
    """Pre-norm attention and feed-forward, with an optional cache of keys and values."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, config.ffn_size), nn.Linear(config.ffn_size, width)

    def forward(
        self, tokens: Tensor, mask: Tensor, past: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """(B, T, W) tokens; mask (B, 1, T or 1, all keys) True where attention may look."""
        split = (
            self.qkv(self.norm_1(tokens)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )
        query, key, value = split.unbind(0)  # each (B, heads, T, W / heads)
        if past is not None:
            key, value = torch.cat([past[0], key], 2), torch.cat([past[1], value], 2)
        seen = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        tokens = tokens + self.out(seen.transpose(1, 2).flatten(2))
        return tokens + self.down(functional.gelu(self.up(self.norm_2(tokens)))), (key, value)


def _mlp(inputs: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))


def _resnet(config: StudentConfig) -> nn.Module:
    """ResNet of basic blocks, last stage only; (64, 128, 256, 512) × 2 is ResNet-18."""
    from transformers import ResNetBackbone, ResNetConfig

    shape = ResNetConfig(
        embedding_size=config.backbone_widths[0],
        hidden_sizes=list(config.backbone_widths),
        depths=list(config.backbone_depths),
        layer_type="basic",
        out_features=["stage4"],  # pyright: ignore[reportCallIssue]
    )
    return ResNetBackbone(shape)
