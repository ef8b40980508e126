"""Qwen2.5-VL or Qwen3-VL by their real classes: built tiny from a configuration, or loaded from a
local checkpoint folder. Types name the first; what is used of both is the same.

The 16 action tokens go into rows of the embedding table that no token uses: 151 936 rows stand
against 151 665 tokens (latentvla.md §3.1). The table therefore grows only when there is no room,
and never shrinks.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from latentvla_core.errors import SetupError
from latentvla_core.training.foreign import check_model_type, pretrained
from latentvla_core.vlm import tokenizer as tokenizers
from latentvla_core.vlm import tokens
from latentvla_core.vlm.config import Family, VlmConfig
from latentvla_core.vlm.families import ROW_MULTIPLE, network_class, qwen_config
from latentvla_core.vlm.processor import VlmBatch, VlmProcessor, load_image_processor

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLForConditionalGeneration

LORA_TARGETS = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Matrices of the language model only; "all-linear" would reach into the vision tower (stack.md §7,
pitfall 6).
"""


def build_meta(config: VlmConfig) -> Qwen2_5_VLForConditionalGeneration:
    """The network of any size without memory or files, to count and plan."""
    return build_random(config, torch.device("meta"))


def build_random(config: VlmConfig, device: torch.device) -> Qwen2_5_VLForConditionalGeneration:
    """The network of any size with random weights, without files: to count, plan and measure speed."""
    tokenizer = None if config.text.vocab_rows else _tiny_tokenizer()
    with device:
        return network_class(config.family)(qwen_config(config, tokenizer))


def build(config: VlmConfig) -> tuple[Qwen2_5_VLForConditionalGeneration, VlmProcessor]:
    """Network and processor, ready to train: action tokens known, their rows initialised, frozen
    parts frozen.
    """
    network, processor = _pretrained(config) if config.backend == "pretrained" else _tiny(config)
    if config.freeze_vision:
        network.model.visual.requires_grad_(False)
    return network, processor


def build_tiny_processor(config: VlmConfig) -> VlmProcessor:
    """A processor with the tiny tokenizer, whatever the network: for measurements without a
    checkpoint's files.
    """
    return VlmProcessor(config, _tiny_tokenizer())


def add_lora(
    network: Qwen2_5_VLForConditionalGeneration, config: VlmConfig, action_ids: tuple[int, ...]
) -> Any:
    """Wrap the language matrices in LoRA, started from config.training.seed; besides them only the 16 new
    rows train. Returns the peft model.
    """
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=LORA_TARGETS,
        trainable_token_indices={"embed_tokens": list(action_ids)},
    )
    with torch.random.fork_rng(devices=[]):  # peft draws the thin matrices from torch's generator
        torch.manual_seed(config.training.seed)
        return get_peft_model(network, lora)  # pyright: ignore[reportArgumentType]


def count_parameters(network: nn.Module, *, trainable: bool = False) -> int:
    """Parameters, tied ones once."""
    return sum(p.numel() for p in network.parameters() if p.requires_grad or not trainable)


@torch.no_grad()
def init_action_rows(table: Any, ids: tuple[int, ...], used_rows: int, seed: int) -> None:
    """New rows = mean of the used ones + noise of 0.02 row norms: padding rows have arbitrary norm.

    `table` is the (V, D) embedding weight. It is tied to the head, so this also sets how likely the
    new tokens are before training (latentvla.md §3.1).
    """
    used = table[:used_rows].float()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(ids), used.shape[1], generator=generator).to(used.device)
    rows = used.mean(0) + 0.02 * used.norm(dim=1).mean() * noise
    table[list(ids)] = rows.to(table.dtype)


def _tiny(config: VlmConfig) -> tuple[Qwen2_5_VLForConditionalGeneration, VlmProcessor]:
    tokenizer = _tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        network = network_class(config.family)(qwen_config(config, tokenizer))
    return network, VlmProcessor(config, tokenizer)


def _tiny_tokenizer() -> Any:
    tokenizer = tokenizers.build_tiny()
    tokens.add_to(tokenizer)
    return tokenizer


def _pretrained(config: VlmConfig) -> tuple[Qwen2_5_VLForConditionalGeneration, VlmProcessor]:
    if not config.pretrained_path:
        raise SetupError(
            "backend 'pretrained' has no pretrained_path; give the local folder of a checkpoint "
            "(docs/vlm.md says how to get one), or use backend 'tiny'"
        )
    tokenizer = tokenizers.load(config.pretrained_path)
    used_rows = len(tokenizer)
    added = tokens.add_to(tokenizer)
    network = load_network(config.pretrained_path, train_dtype(config), config.family)
    make_room(network, len(tokenizer))
    if added:
        init_action_rows(
            network.get_input_embeddings().weight,
            tokens.ids(tokenizer),
            used_rows,
            config.training.seed,
        )
    images = load_image_processor(config.pretrained_path, config.family)
    return network, VlmProcessor(config, tokenizer, images)


def load_network(
    folder: str, dtype: torch.dtype, family: Family = "qwen2_5_vl"
) -> Qwen2_5_VLForConditionalGeneration:
    """Weights and configuration of a local folder; never asks the network, whatever HF_HUB_OFFLINE
    says.

    Raises SetupError naming the tensors when the folder lacks some, holds others, or is of another
    model: transformers would draw what is missing at random.
    """
    check_model_type(Path(folder), family)
    return pretrained(network_class(family), folder, dtype=dtype)


def make_room(network: Qwen2_5_VLForConditionalGeneration, num_tokens: int) -> None:
    """Grow the table when it has fewer rows than there are tokens; leave it alone otherwise."""
    table: Any = network.get_input_embeddings()
    if num_tokens > table.num_embeddings:
        network.resize_token_embeddings(
            num_tokens, pad_to_multiple_of=ROW_MULTIPLE, mean_resizing=False
        )


def train_dtype(config: VlmConfig) -> torch.dtype:
    """Full training keeps fp32 weights for the optimiser; under LoRA the frozen base may be half as
    large.
    """
    return (
        torch.bfloat16
        if config.training.precision == "bf16" and config.lora_rank
        else torch.float32
    )


def answer_logits(network: Qwen2_5_VLForConditionalGeneration, batch: VlmBatch) -> Tensor:
    """(B, L, V) logits of the answer's tokens given the question and the answer before them
    (teacher forcing).
    """
    positions, _ = positions_of(network, batch)
    states = network.model(
        **inputs_of(batch), position_ids=positions, use_cache=False
    ).last_hidden_state
    return network.lm_head(
        states[:, -batch.labels.shape[1] - 1 : -1]
    )  # the head only where something is learned


def inputs_of(batch: VlmBatch) -> dict[str, Tensor]:
    """What the network reads: everything but the labels."""
    return {name: value for name, value in batch._asdict().items() if name != "labels"}


def positions_of(
    network: Qwen2_5_VLForConditionalGeneration, batch: VlmBatch
) -> tuple[Tensor, Tensor]:
    """(3, B, S) positions in time, height and width, and (B,) the largest of each row."""
    positions, _ = network.model.get_rope_index(
        batch.input_ids,  # pyright: ignore[reportArgumentType]
        batch.mm_token_type_ids,  # pyright: ignore[reportArgumentType]
        batch.image_grid_thw,  # pyright: ignore[reportArgumentType]
        attention_mask=batch.attention_mask,  # pyright: ignore[reportArgumentType]
    )
    return positions, positions.amax(dim=(0, 2))
