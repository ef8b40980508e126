"""Configuration of the student: one schema, four sizes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from latentvla_core.training.config import FitConfig, with_training


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig:
    """Shape, losses and training of the student (latentvla.md §5)."""

    cameras: tuple[str, ...] = ("CAM_F0", "CAM_L0", "CAM_R0")
    """Views; the first is required, the others are masked where a scene lacks them."""
    image_size_wh: tuple[int, int] = (112, 56)
    """Pixels per view before the backbone."""
    backbone_widths: tuple[int, int, int, int] = (8, 16, 24, 32)
    """Channels of the four ResNet stages; the last has stride 32."""
    backbone_depths: tuple[int, int, int, int] = (1, 1, 1, 1)
    """Residual blocks per stage."""
    backbone_path: str = ""
    """Local folder of a ResNet checkpoint in transformers format to start from; "" = random."""
    token_pool: int = 1
    """Side of the square of backbone cells averaged into one context token."""
    width: int = 64
    """Width of the transformer."""
    layers: int = 2
    heads: int = 4
    ffn_size: int = 128
    feature_width: int = 64
    """D of what is handed on; training sets it to the teacher's."""
    num_visual_tokens: int = 12
    """M of what is handed on; training sets it to the teacher's."""
    decoding: Literal["autoregressive", "parallel"] = "autoregressive"
    """parallel: 12 learned queries answered in one pass, without conditioning on earlier tokens."""
    temperature: float = 2.0
    """Softens both distributions in the KL term."""
    kl_weight: float = 1.0
    label_weight: float = 0.5
    action_weight: float = 1.0
    """Matching of the states at the 12 action tokens."""
    visual_weight: float = 0.5
    """Matching of the pooled picture states."""
    smooth_l1_weight: float = 0.1
    """Scale of the matched states beside their direction."""
    label_prefix_fraction: float = 0.5
    """Part of each batch that is conditioned on labels; the rest on the teacher's own tokens."""
    training: FitConfig = field(
        default_factory=lambda: FitConfig(
            epochs=8.0,
            steps=300,
            learning_rate=2e-3,
            weight_decay=0.05,
            warmup_fraction=0.05,
            checkpoint_every=200,
        )
    )

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width} is no multiple of heads {self.heads}; change one of them"
            )
        if not 0 <= self.label_prefix_fraction <= 1 or self.temperature <= 0:
            raise ValueError(
                f"label_prefix_fraction {self.label_prefix_fraction} must be in 0 … 1 and temperature "
                f"{self.temperature} above 0"
            )
        if not self.training.epochs and not self.training.steps:
            raise ValueError("training.epochs and training.steps are both 0; give one of them")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of context tokens per view."""
        rows, columns = (-(-side // 32) for side in (self.image_size_wh[1], self.image_size_wh[0]))
        return -(-rows // self.token_pool), -(-columns // self.token_pool)

    @classmethod
    def debug(cls) -> StudentConfig:
        """Two steps of the smallest network: tests."""
        return cls(
            image_size_wh=(56, 28),
            width=32,
            layers=2,
            heads=2,
            ffn_size=64,
            training=replace(cls().training, steps=2, batch_size=4, log_every=1),
        )

    @classmethod
    def mini(cls) -> StudentConfig:
        """The demo: 2 × 64."""
        return cls()

    @classmethod
    def single_gpu(cls) -> StudentConfig:
        """Half the depth of the paper's, for one card."""
        return replace(with_training(cls.paper(), batch_size=64), layers=6)

    @classmethod
    def paper(cls) -> StudentConfig:
        """ResNet-18 and 12 × 512: about 50 million parameters."""
        return cls(**_PAPER)


_PAPER = {
    "image_size_wh": (448, 252),
    "backbone_widths": (64, 128, 256, 512),
    "backbone_depths": (2, 2, 2, 2),
    "token_pool": 2,
    "width": 512,
    "layers": 12,
    "heads": 8,
    "ffn_size": 2048,
    "feature_width": 2048,
    "num_visual_tokens": 64,
    "training": replace(
        StudentConfig().training,
        epochs=10.0,
        steps=0,
        batch_size=128,
        learning_rate=3e-4,
        precision="bf16",
    ),
}
