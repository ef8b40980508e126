"""What a configuration will need before anything is loaded: parameters counted on the meta device,
bytes by rule.

Weights, gradients and optimiser states are exact for AdamW; activations are estimates (one step's
peak, sdpa attention) that tell 24 GB from 80 GB, not 70 from 72.
"""

from __future__ import annotations

from dataclasses import dataclass

from latentvla_core.vlm.config import VlmConfig
from latentvla_core.vlm.tokens import CODEBOOK_SIZE, NUM_ACTION_TOKENS

GB = 1e9
FP32, HALF = 4, 2
QUESTION_TOKENS = 160
"""Words and numbers of template v1 under Qwen's splitting rules (every digit a token): counted 152,
rounded up.
"""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes on one device while training, and for one batch of predictions."""

    parameters: int
    trainable: int
    sequence_length: int
    """Tokens of one sample: pictures, words, answer."""
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    kv_cache_bytes: int
    """Keys and values of one prediction batch of `batch_size` scenes."""
    devices: int

    @property
    def training_bytes(self) -> int:
        return (
            self.weights_bytes
            + self.gradients_bytes
            + self.optimizer_bytes
            + self.activations_bytes
        )

    def __str__(self) -> str:
        lines = [
            ("parameters", _count(self.parameters)),
            ("  trained", _count(self.trainable)),
            ("tokens per sample", f"{self.sequence_length}"),
            ("weights", f"{self.weights_bytes / GB:.2f} GB"),
            ("gradients", f"{self.gradients_bytes / GB:.2f} GB"),
            ("optimiser (AdamW)", f"{self.optimizer_bytes / GB:.2f} GB"),
            ("activations, estimated", f"{self.activations_bytes / GB:.2f} GB"),
            (f"training, each of {self.devices}", f"{self.training_bytes / GB:.2f} GB"),
            ("prediction: key/value cache", f"{self.kv_cache_bytes / GB:.2f} GB"),
        ]
        return "\n".join(f"{name:<28}{value:>12}" for name, value in lines)


def memory_plan(config: VlmConfig, *, devices: int = 1) -> MemoryPlan:
    """The plan of a configuration.

    Args:
        devices: over which weights, gradients and optimiser are sharded; activations are per
        device.
    """
    from latentvla_core.vlm.network import build_meta, count_parameters

    network = build_meta(config)
    parameters, vision = count_parameters(network), count_parameters(network.model.visual)
    trainable = (
        lora_parameters(config) if config.lora_rank else parameters - vision * config.freeze_vision
    )
    half = config.training.precision == "bf16"
    base = HALF if half and config.lora_rank else FP32  # as network.train_dtype
    length = (
        len(config.cameras) * config.tokens_per_view
        + QUESTION_TOKENS
        + NUM_ACTION_TOKENS
        + config.learn_end_token
    )
    text = config.text
    kv_row = (
        2
        * text.layers
        * text.kv_heads
        * (text.hidden_size // text.heads)
        * (HALF if half else FP32)
    )
    return MemoryPlan(
        parameters=parameters,
        trainable=trainable,
        sequence_length=length,
        weights_bytes=(parameters * base + (trainable * FP32 if config.lora_rank else 0))
        // devices,
        gradients_bytes=trainable * FP32 // devices,
        optimizer_bytes=2 * trainable * FP32 // devices,
        activations_bytes=config.training.batch_size * _activations(config, length),
        kv_cache_bytes=config.training.batch_size * length * kv_row,
        devices=devices,
    )


def _count(number: int) -> str:
    return f"{number / 1e9:.3f} B" if number >= 1e8 else f"{number / 1e6:.3f} M"


def lora_parameters(config: VlmConfig) -> int:
    """Weights that train under LoRA: two thin matrices per language matrix, and the 16 new rows."""
    width, ffn = config.text.hidden_size, config.text.ffn_size
    kv = config.text.kv_heads * (width // config.text.heads)
    shapes = [
        (width, width),
        (width, kv),
        (width, kv),
        (width, width),
        (width, ffn),
        (width, ffn),
        (ffn, width),
    ]
    per_layer = sum(config.lora_rank * (rows + columns) for rows, columns in shapes)
    return config.text.layers * per_layer + CODEBOOK_SIZE * width


def _activations(config: VlmConfig, length: int) -> int:
    """Bytes one sample keeps for the backward pass.

    A layer keeps about 10 widths and 4 feed-forward widths per token (inputs of norms, projections
    and products); with checkpointing only one width per layer is kept and one layer at a time is
    rebuilt. A frozen vision tower keeps nothing but the layer it is in. The head works on the
    answer's positions only.
    """
    size = HALF if config.training.precision == "bf16" else FP32
    text, vision = config.text, config.vision
    layer = length * (10 * text.hidden_size + 4 * text.ffn_size) * size
    kept = (
        text.layers * length * text.hidden_size * FP32 + layer
        if config.gradient_checkpointing
        else text.layers * layer
    )
    patches = 4 * len(config.cameras) * config.tokens_per_view
    vision_layer = patches * (10 * vision.hidden_size + 4 * vision.ffn_size) * size
    seen = vision_layer * (
        1 if config.freeze_vision or config.gradient_checkpointing else vision.layers
    )
    rows = text.vocab_rows or 512
    return kept + seen + (NUM_ACTION_TOKENS + 1) * rows * 2 * FP32
