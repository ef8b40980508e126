"""Batched greedy decoding under the mask of the 16 action ids, for exactly 12 steps, with a
key/value cache.

B questions, S padded question length, D width, V vocabulary rows. Pictures and question pass the
network once; each further step reads one token. What planners get are states at *generated* tokens:
labels come from the future, so a label must never be fed here (latentvla.md §3.5).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from latentvla_core.training.images import ImageCache
from latentvla_core.vlm.config import VlmConfig
from latentvla_core.vlm.features import VlmFeatures, empty
from latentvla_core.vlm.network import inputs_of, positions_of
from latentvla_core.vlm.processor import VlmBatch, VlmProcessor
from latentvla_core.vlm.samples import VlmSample, with_pictures
from latentvla_core.vlm.tokens import NUM_ACTION_TOKENS

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration

PANORAMA = ("CAM_L2", "CAM_L1", "CAM_L0", "CAM_F0", "CAM_R0", "CAM_R1", "CAM_R2", "CAM_B0")
"""Views from left to right, as they are laid side by side before pooling."""


class Speaker(Protocol):
    """What decoding needs of a `vlm.Vlm`."""

    @property
    def config(self) -> VlmConfig: ...
    @property
    def network(self) -> Qwen2_5_VLForConditionalGeneration: ...
    @property
    def processor(self) -> VlmProcessor: ...
    @property
    def width(self) -> int: ...
    @property
    def device(self) -> torch.device: ...


class Decoded(NamedTuple):
    """One batch of answers."""

    codes: Tensor
    """(B, 12) int64"""
    logits: Tensor
    """(B, 12, 16) float32"""
    question_states: Tensor
    """(B, S, D) read-out states of the question."""
    action_states: Tensor
    """(B, 12, D) read-out states where the generated tokens were read."""


def predict(vlm: Speaker, samples: Sequence[VlmSample], batch_size: int = 64) -> VlmFeatures:
    """One row per sample, in order; samples that are invalid or lack a readable picture become
    invalid rows.
    """
    features = empty([s.scene_token for s in samples], vlm.config.num_visual_tokens, vlm.width, "")
    reasons = [s.reason for s in samples]
    for first in range(0, len(samples), batch_size):
        cache = ImageCache(
            vlm.config.image_size_wh
        )  # of this batch only: no scene's pictures are needed twice
        part = with_pictures(samples[first : first + batch_size], cache)
        rows = np.array([first + i for i, s in enumerate(part) if s.valid], np.int64)
        reasons[first : first + len(part)] = [s.reason for s in part]
        if len(rows):
            _fill(vlm, features, rows, [samples[i] for i in rows], cache)
    return VlmFeatures(
        scene_tokens=features.scene_tokens,
        reasons=tuple(reasons),
        **{
            name: getattr(features, name)
            for name in ("codes", "logits", "visual", "action", "valid")
        },
    )


def _fill(
    vlm: Speaker,
    features: VlmFeatures,
    rows: np.ndarray,
    samples: Sequence[VlmSample],
    cache: ImageCache,
) -> None:
    batch = VlmBatch(*(t.to(vlm.device) for t in vlm.processor.batch(samples, cache)))
    decoded = decode(vlm, batch)
    visual = pool_pictures(vlm, decoded.question_states, batch, [s.cameras for s in samples])
    features.codes[rows] = decoded.codes.to(torch.int8).cpu().numpy()
    features.logits[rows] = decoded.logits.cpu().numpy()
    features.visual[rows] = visual.half().cpu().numpy()
    features.action[rows] = decoded.action_states.half().cpu().numpy()
    features.valid[rows] = True


@torch.inference_mode()
def decode(vlm: Speaker, batch: VlmBatch) -> Decoded:
    """Generate. Only the 16 action ids can be chosen and there are always 12 steps, so no answer is
    malformed.
    """
    network = vlm.network
    network.eval()
    actions = torch.tensor(vlm.processor.action_ids, device=network.device)
    head = network.lm_head.weight[actions]  # (16, D): the mask, without computing what it hides
    mask, (positions, last) = batch.attention_mask, positions_of(network, batch)
    codes, logits, states = [], [], []
    with _read_out(vlm) as read:
        out = network.model(**inputs_of(batch), position_ids=positions, use_cache=True)
        question_states = read(out)
        for step in range(NUM_ACTION_TOKENS):
            logits.append(functional.linear(out.last_hidden_state[:, -1], head).float())
            codes.append(logits[-1].argmax(-1))
            mask = functional.pad(mask, (0, 1), value=1)
            out = network.model(
                input_ids=actions[codes[-1]][:, None],
                attention_mask=mask,
                position_ids=(last + 1 + step).expand(3, -1)[
                    ..., None
                ],  # text: the same in time, height and width
                past_key_values=out.past_key_values,
                use_cache=True,
            )
            states.append(read(out)[:, 0])
    return Decoded(
        torch.stack(codes, 1), torch.stack(logits, 1), question_states, torch.stack(states, 1)
    )


def pool_pictures(
    vlm: Speaker, states: Tensor, batch: VlmBatch, cameras: Sequence[tuple[str, ...]]
) -> Tensor:
    """(B, S, D) states → (B, M, D): picture tokens laid out as one panorama, averaged to
    `config.visual_grid`.
    """
    width, height = (side // vlm.config.pixels_per_token for side in vlm.config.image_size_wh)
    pooled = states.new_zeros(len(states), vlm.config.num_visual_tokens, states.shape[2])
    for views in dict.fromkeys(cameras):
        rows = torch.tensor(
            [i for i, own in enumerate(cameras) if own == views], device=states.device
        )
        tokens = states[rows][batch.mm_token_type_ids[rows] == 1]  # row after row, view after view
        grid = tokens.view(len(rows), len(views), height, width, -1)
        order = sorted(range(len(views)), key=lambda v: PANORAMA.index(views[v]))
        panorama = torch.cat([grid[:, v] for v in order], dim=2)  # (b, height, views · width, D)
        small = functional.adaptive_avg_pool2d(panorama.permute(0, 3, 1, 2), vlm.config.visual_grid)
        pooled[rows] = small.flatten(2).transpose(1, 2)
    return pooled


@contextmanager
def _read_out(vlm: Speaker) -> Iterator[Any]:
    """A function from the network's output to the states `config.read_out` asks for.

    The last layer's states have a few huge channels; scaled to unit RMS they fit float16 and any
    planner.
    """
    if vlm.config.read_out == "final_norm":
        yield lambda out: out.last_hidden_state
        return
    seen: list[Tensor] = []
    norm = vlm.network.model.language_model.norm
    hook = norm.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        yield lambda out: _unit_rms(seen.pop())
    finally:
        hook.remove()


def _unit_rms(states: Tensor) -> Tensor:
    states = states.float()
    return states * torch.rsqrt(states.square().mean(-1, keepdim=True) + 1e-6)
