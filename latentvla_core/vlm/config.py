"""Configuration of the language model stage: one schema, four sizes (`debug`, `mini`, `single_gpu`,
`paper`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal

from latentvla_core.training.config import FitConfig, with_training
from latentvla_core.types import CAMERA_NAMES

Family = Literal["qwen2_5_vl", "qwen3_vl"]
PATCH_PX: dict[Family, int] = {"qwen2_5_vl": 14, "qwen3_vl": 16}
MERGE = 2
"""Patches per side that become one token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextTower:
    """Shape of the language model. The defaults are the tiny one."""

    hidden_size: int = 64
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    ffn_size: int = 192
    vocab_rows: int = 0
    """Rows of the embedding table; 0 = as many as the tokenizer has tokens, rounded up to 64."""
    mrope_section: tuple[int, int, int] = (2, 3, 3)
    """Rotary frequencies for time, height and width; sums to half of the head width."""
    rope_theta: float = 10_000.0
    max_positions: int = 4096

    def __post_init__(self) -> None:
        half_head = self.hidden_size // self.heads // 2
        if self.hidden_size % self.heads or sum(self.mrope_section) != half_head:
            raise ValueError(
                f"mrope_section {self.mrope_section} must sum to half of the head width "
                f"({self.hidden_size} / {self.heads} / 2 = {half_head}); change one of the three"
            )
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads {self.heads} is no multiple of kv_heads {self.kv_heads}; pick a divisor"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionTower:
    """Shape of the picture encoder: patches of 14 px (Qwen3-VL: 16), merged 2 × 2 into one token."""

    hidden_size: int = 48
    layers: int = 2
    heads: int = 3
    ffn_size: int = 96
    window_px: int = 112
    full_attention_layers: tuple[int, ...] = (1,)
    """Layers that see the whole picture; the others see windows of `window_px`. Qwen2.5-VL only."""
    deepstack_layers: tuple[int, ...] = (0,)
    """Layers whose states are added to the first language layers as well. Qwen3-VL only."""


QWEN_3B_TEXT = TextTower(
    hidden_size=2048,
    layers=36,
    heads=16,
    kv_heads=2,
    ffn_size=11008,
    vocab_rows=151_936,
    mrope_section=(16, 24, 24),
    rope_theta=1_000_000.0,
    max_positions=128_000,
)
"""Qwen2.5-VL-3B: with QWEN_3B_VISION 3.755e9 parameters (stack.md §7)."""
QWEN_3B_VISION = VisionTower(
    hidden_size=1280,
    layers=32,
    heads=16,
    ffn_size=3420,
    window_px=112,
    full_attention_layers=(7, 15, 23, 31),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class VlmConfig:
    """Everything that decides what the language model is, sees, learns and hands on."""

    family: Family = "qwen2_5_vl"
    """Which transformers classes: Qwen2.5-VL (the paper's), or Qwen3-VL."""
    backend: Literal["tiny", "pretrained"] = "tiny"
    """tiny: the real classes built from the shapes below. pretrained: weights and tokenizer from
    `pretrained_path`.
    """
    pretrained_path: str = ""
    """Local folder of a checkpoint of the family (config.json, *.safetensors, tokenizer files). Never
    downloaded.
    """
    text: TextTower = field(default_factory=TextTower)
    vision: VisionTower = field(default_factory=VisionTower)
    template_version: str = "v1"
    """Prompt template, see `prompts.TEMPLATES`."""
    cameras: tuple[str, ...] = ("CAM_F0", "CAM_L0", "CAM_R0")
    """Views in prompt order; the first is required, the others are used where a scene has them."""
    image_size_wh: tuple[int, int] = (112, 56)
    """Pixels per view, multiples of 28 (Qwen3-VL: 32); (504, 280) is what Qwen's own rule makes of 1920×1080 at
    196 tokens.
    """
    visual_grid: tuple[int, int] = (2, 6)
    """Rows × columns the picture tokens are pooled to, on the panorama of all views; M = rows ·
    columns.
    """
    read_out: Literal["last_layer", "final_norm"] = "last_layer"
    """States handed on: last layer before the head's norm, scaled to unit RMS; or after that norm
    (learned gain).
    """
    freeze_vision: bool = False
    """Keep the picture encoder as it is: right for pre-trained weights, pointless for random ones."""
    lora_rank: int = 0
    """0 = train all language weights; otherwise LoRA of this rank plus the 16 new embedding rows."""
    lora_alpha: int = 64
    learn_end_token: bool = True
    """Also train the end-of-turn token that follows the 12 actions."""
    gradient_checkpointing: bool = False
    training: FitConfig = field(
        default_factory=lambda: FitConfig(
            epochs=8.0, steps=400, learning_rate=5e-3, warmup_fraction=0.03, checkpoint_every=100
        )
    )
    """precision bf16: weights of a pre-trained model stay fp32 for the optimiser, arithmetic runs
    under autocast. The seed also starts LoRA and the rows of new tokens.
    """
    batches_ahead: int = 0
    """Training batches whose pictures threads decode while the model works, and all that memory
    holds of them; 0 = every picture is decoded into memory first (131 GB for navtrain).
    """

    def __post_init__(self) -> None:
        if self.family not in PATCH_PX:
            raise ValueError(f"family {self.family!r} is unknown; use {' or '.join(PATCH_PX)}")
        if any(side % self.pixels_per_token or side <= 0 for side in self.image_size_wh):
            raise ValueError(
                f"image_size_wh {self.image_size_wh} must be positive multiples of "
                f"{self.pixels_per_token}"
            )
        unknown = [name for name in self.cameras if name not in CAMERA_NAMES]
        if unknown or not self.cameras:
            raise ValueError(f"cameras {self.cameras} must be some of {CAMERA_NAMES}")
        if self.backend == "pretrained" and self.text.vocab_rows == 0:
            raise ValueError(
                "backend 'pretrained' needs text.vocab_rows, the rows of the checkpoint's embedding table"
            )
        if not self.training.epochs and not self.training.steps:
            raise ValueError("training.epochs and training.steps are both 0; give one of them")

    @property
    def pixels_per_token(self) -> int:
        """Side of the square of pixels behind one token."""
        return PATCH_PX[self.family] * MERGE

    @property
    def tokens_per_view(self) -> int:
        """Language-model tokens one view costs."""
        return math.prod(side // self.pixels_per_token for side in self.image_size_wh)

    @property
    def num_visual_tokens(self) -> int:
        """M of `VlmFeatures.visual`."""
        return math.prod(self.visual_grid)

    @classmethod
    def debug(cls) -> VlmConfig:
        """Two steps of the smallest model: tests."""
        text = TextTower(hidden_size=32, layers=2, heads=2, kv_heads=1, ffn_size=64)
        vision = VisionTower(hidden_size=16, layers=2, heads=2, ffn_size=32)
        return cls(
            text=text,
            vision=vision,
            image_size_wh=(56, 28),
            visual_grid=(1, 6),
            training=replace(cls().training, steps=2, batch_size=4, log_every=1),
        )

    @classmethod
    def mini(cls) -> VlmConfig:
        """The demo: a Qwen2.5-VL of tiny shape, a minute of training on two cores."""
        return cls()

    @classmethod
    def single_gpu(cls, pretrained_path: str = "") -> VlmConfig:
        """The published 3B checkpoint with LoRA on one 24–80 GB card."""
        return replace(
            with_training(
                cls.paper(pretrained_path), learning_rate=1e-4, batch_size=8, accumulate=8
            ),
            lora_rank=32,
            image_size_wh=(448, 252),
        )

    @classmethod
    def paper(cls, pretrained_path: str = "") -> VlmConfig:
        """Qwen2.5-VL-3B, language model trained whole, vision frozen (latentvla.md §3.3, §9 rows
        12–14).
        """
        return cls(
            backend="pretrained",
            pretrained_path=pretrained_path,
            text=QWEN_3B_TEXT,
            vision=QWEN_3B_VISION,
            batches_ahead=4,
            image_size_wh=(504, 280),
            visual_grid=(4, 16),
            freeze_vision=True,
            gradient_checkpointing=True,
            training=replace(
                cls().training,
                epochs=3.0,
                steps=0,
                batch_size=16,
                accumulate=8,
                learning_rate=2e-5,
                precision="bf16",
            ),
        )
