"""How long a training of a configuration will take, before anything is loaded: multiplications
counted by rule, seconds by a device's speed.

Counted are the matrix products of both towers and their attention; norms, activations and the
optimiser are left out, so the rate that a plan needs is a *reached* one, not a data sheet's.
`benchmarks/vlm_steps.py` measures it and holds plans against steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from latentvla_core.vlm.config import MERGE, TextTower, VisionTower, VlmConfig
from latentvla_core.vlm.memory import QUESTION_TOKENS
from latentvla_core.vlm.tokens import NUM_ACTION_TOKENS

FRAMES = 2
"""A still picture is two equal frames."""
COLOURS = 3


@dataclass(frozen=True, slots=True)
class TimePlan:
    """Work of one training, and its time at a rate."""

    step_flops: int
    """Floating-point operations of one optimiser step on all devices."""
    steps: int
    device_flops: float
    """Operations per second that one device reaches in this training."""
    devices: int

    @property
    def step_s(self) -> float:
        return self.step_flops / (self.device_flops * self.devices)

    @property
    def hours(self) -> float:
        return self.steps * self.step_s / 3600

    def __str__(self) -> str:
        lines = [
            ("work per step", f"{self.step_flops / 1e12:.3f} TFLOP"),
            ("a step", f"{self.step_s:.2f} s"),
            ("steps", f"{self.steps}"),
            (f"training on {self.devices}", f"{self.hours:.1f} h"),
        ]
        return "\n".join(f"{name:<28}{value:>16}" for name, value in lines)


def time_plan(
    config: VlmConfig,
    scenes: int,
    device_flops: float,
    *,
    devices: int = 1,
    question_tokens: int = QUESTION_TOKENS,
) -> TimePlan:
    """The plan for `scenes` training scenes.

    Args:
        device_flops: operations per second that a device reaches: some 30 to 50 % of its dense peak
        where matrices are large, as `benchmarks/vlm_steps.py` measures.
        question_tokens: words and numbers of a question under the model's tokenizer.
    """
    if device_flops <= 0 or devices < 1 or scenes < 1:
        raise ValueError(
            f"{scenes} scenes at {device_flops} operations a second on {devices} devices; each "
            "must be above 0"
        )
    training = config.training
    batch = training.batch_size * training.accumulate
    steps = round(training.epochs * scenes / batch) if training.epochs else training.steps
    if training.epochs and training.steps:
        steps = min(steps, training.steps)
    work = batch * sample_flops(config, question_tokens)
    return TimePlan(work, max(steps, 1), device_flops, devices)


def sample_flops(config: VlmConfig, question_tokens: int = QUESTION_TOKENS) -> int:
    """Operations of one sample forward and backward.

    A backward pass costs twice the forward one; half of that where weights are frozen but gradients
    pass through (LoRA's base), nothing in a frozen vision tower. Checkpointing does the forward
    pass once more.
    """
    pictures = len(config.cameras) * config.tokens_per_view
    length = pictures + question_tokens + NUM_ACTION_TOKENS + config.learn_end_token
    text = text_flops(config.text, length) + _head_flops(config)
    passes = 2 if config.lora_rank else 3
    text *= passes + config.gradient_checkpointing
    vision = vision_flops(config)
    if not config.freeze_vision:
        vision *= 3 + config.gradient_checkpointing
    return text + vision


def text_flops(text: TextTower, length: int) -> int:
    """Operations of one forward pass over `length` tokens: twice the weights per token, and
    attention of every token to every other.
    """
    width, kv = text.hidden_size, text.kv_heads * (text.hidden_size // text.heads)
    weights = 2 * width * width + 2 * width * kv + 3 * width * text.ffn_size
    return text.layers * (2 * length * weights + 4 * length * length * width)


def vision_flops(config: VlmConfig) -> int:
    """Operations of one forward pass over all views of a scene. Windows of Qwen2.5-VL see each other
    in its full layers only.
    """
    vision, merged = config.vision, config.tokens_per_view
    patches = MERGE**2 * merged
    seen = patches * len(config.cameras)
    pixels = COLOURS * FRAMES * (config.pixels_per_token // MERGE) ** 2
    layer = 2 * seen * _vision_weights(config, vision)
    attention = sum(4 * seen * _reach(config, k, patches) for k in range(vision.layers))
    wide = MERGE**2 * vision.hidden_size
    mergers = 1 + (len(vision.deepstack_layers) if config.family == "qwen3_vl" else 0)
    merging = mergers * 2 * merged * len(config.cameras) * wide * (wide + config.text.hidden_size)
    start = 2 * seen * pixels * vision.hidden_size
    return vision.layers * layer + attention * vision.hidden_size + merging + start


def _vision_weights(config: VlmConfig, vision: VisionTower) -> int:
    feed_forward = 2 if config.family == "qwen3_vl" else 3  # the older one is gated
    return 4 * vision.hidden_size**2 + feed_forward * vision.hidden_size * vision.ffn_size


def _reach(config: VlmConfig, layer: int, patches: int) -> int:
    """Patches that each patch attends to."""
    vision = config.vision
    if config.family == "qwen3_vl" or layer in vision.full_attention_layers:
        return patches
    return min(patches, (vision.window_px // (config.pixels_per_token // MERGE)) ** 2)


def _head_flops(config: VlmConfig) -> int:
    """The head works on the answer only."""
    rows = config.text.vocab_rows or 512
    return 2 * (NUM_ACTION_TOKENS + config.learn_end_token) * config.text.hidden_size * rows
