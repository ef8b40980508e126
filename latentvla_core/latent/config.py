"""The latent action model's one configuration, in four sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from latentvla_core.latent.features import FeatureConfig
from latentvla_core.latent.network import DynamicsConfig
from latentvla_core.latent.quantizer import QuantizerConfig
from latentvla_core.training.config import FitConfig, is_knob, with_training
from latentvla_core.types import FRAME_INTERVAL_S


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentActionConfig:
    """Both stages: what they see, their size and codes, how they are trained. Defaults are `mini`."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    """Observation space."""
    dynamics: DynamicsConfig = field(default_factory=DynamicsConfig)
    """Transformers of each stage."""
    ego: QuantizerConfig = field(default_factory=QuantizerConfig)
    """Codebook of the ego actions: 16 codes [article]."""
    environment: QuantizerConfig = field(
        default_factory=lambda: QuantizerConfig(statistics="running")
    )
    """Codebook of the environment actions. Their outputs are nearly constant in many a drive, hence
    running statistics.
    """
    num_transitions: int = 3
    """Transitions labelled per scene (latentvla.md §2.6, reading a)."""
    codes_per_transition: int = 4
    """Ego codes per transition; times num_transitions = the 12 action tokens."""
    environment_codes: int = 4
    """Environment codes per transition; few, so that they cannot explain everything."""
    gap_frames: int = 2
    """Key frames per transition: 2 of 0.5 s = 1 s."""
    compensate: bool = True
    """Stage 1 sees the first frame as the trajectory says it would look from the second frame's
    pose (flat ground, nothing moves), where the camera's calibration is known. False = faithful:
    the frame as it is.
    """
    environment_sectors: bool = True
    """Environment codes are local: each reads and moves one upright strip of the picture, left to
    right, by shared weights. False = faithful: every code is about the whole picture.
    """
    change_weight: float = 5.0
    """Stage 1: weight of predicting also where, and how much, the second frame differs from what
    was to be expected (latent/environment/change.py). 0 = faithful.
    """
    soft_start: float = 0.3
    """Stage 1: part of its steps in which a falling share of samples is decoded from z as it is
    instead of from codes, so that the decoder has something to listen to before there is a codebook
    worth it. 0 = faithful.
    """
    code_dropout: float = 0.5
    """Stage 1: part of the samples whose codes are zeroed, so that the decoder learns to use the
    trajectory; of those whose first frame is not compensated, where geometry does not show it.
    """
    environment_dropout: float = 0.0
    """Stage 2: part of the samples whose environment codes are zeroed, so that the ego codes carry
    more.
    """
    independence_weight: float = 0.5
    """Stage 1: weight of the squared correlation between environment codes and ego motion. 0 =
    faithful.
    """
    leak_weight: float = 0.5
    """Stage 1: weight of the variance of ego motion between environment codes: what a probe from
    the codes would explain. 0 = faithful.
    """
    conditioning: Literal["added", "token", "none"] = "added"
    """How stage 1 is told the trajectory: tokens that are also added to every patch in the decoder,
    tokens only, not at all.
    """
    env_source: Literal["stage1_frozen", "reencode", "none"] = "stage1_frozen"
    """Where stage 2's environment codes come from: the frozen stage-1 encoder, or its own encoder
    (UniVLA's code).
    none: there are no such codes and there is no stage 1 (LAPO).
    """
    action_weight: float = 1.0
    """Weight of the regression ego codes → ego motion in stage 2; 0 = faithful to the article."""
    cycle_weight: float = 0.0
    """Stage 2: weight of the encoder reading, from frames predicted with another sample's ego
    codes, those codes and, times action_weight, that sample's motion. 0 = faithful.
    """
    agent_weight: float = 0.1
    """Stage 1: weight of the regression environment codes and ego motion → motion of others, where
    scenes have boxes. Without boxes it does nothing. 0 = label-free, and faithful.
    """
    mirror: bool = True
    """Exchange left and right in half of the training samples: pictures, trajectories and states
    alike.
    """
    training: FitConfig = field(
        default_factory=lambda: FitConfig(
            steps=150, batch_size=32, learning_rate=2e-3, warmup_steps=20, log_every=10
        )
    )
    """Of each stage; stage 2 uses seed + 1."""
    quality_every: int = 50
    """Steps between looks at a sample of held-out logs, in both stages; 0 = never. The asset gives
    that sample.
    """

    def __post_init__(self) -> None:
        if not 0 <= self.code_dropout < 1 or not 0 <= self.environment_dropout < 1:
            raise ValueError(
                f"dropouts {self.code_dropout}, {self.environment_dropout}; need 0 <= p < 1"
            )
        if not 0 <= self.soft_start < 1:
            raise ValueError(f"soft_start is {self.soft_start}; need 0 <= part of the steps < 1")
        if self.environment_codes < 1:
            raise ValueError(
                f"environment_codes is {self.environment_codes}; needs at least 1, or env_source 'none'"
            )
        if self.environment_positions and self.compensate and self.conditioning == "none":
            raise ValueError(
                "conditioning 'none' hides the trajectory from stage 1, compensate shows it; set compensate=False"
            )
        self._check_sectors()
        if self.gap_frames < 1:
            raise ValueError(
                f"gap_frames is {self.gap_frames}; a transition needs at least 1 frame of 0.5 s"
            )
        if self.env_source != "none" and self.environment.kind == "continuous":
            raise ValueError(
                "environment.kind is 'continuous'; only ego codes may be, as a comparator: use 'ema'"
            )

    def _check_sectors(self) -> None:
        columns = self.features.grid_hw[1]
        if self.env_source == "reencode" and self.environment_sectors:
            raise ValueError(
                "env_source 'reencode' reads codes of the whole picture; set environment_sectors=False"
            )
        if self.sectors and columns % self.sectors:
            raise ValueError(
                f"{self.sectors} environment_codes cannot share {columns} columns of patches evenly; use a divisor, or "
                "environment_sectors=False"
            )

    @property
    def environment_positions(self) -> int:
        """Environment codes per transition that there really are: 0 in a single stage."""
        return 0 if self.env_source == "none" else self.environment_codes

    @property
    def sectors(self) -> int:
        """Strips of the picture that have an environment code of their own; 0 where codes are about
        the whole picture.
        """
        return self.environment_positions if self.environment_sectors else 0

    @property
    def soft_steps(self) -> int:
        """Steps of stage 1 until everything is decoded from codes."""
        return round(self.soft_start * self.training.steps)

    @property
    def num_tokens(self) -> int:
        """Action tokens per scene (12)."""
        return self.num_transitions * self.codes_per_transition

    @property
    def gap_s(self) -> float:
        """Duration of a transition."""
        return self.gap_frames * FRAME_INTERVAL_S

    def training_of(self, stage: int) -> FitConfig:
        """Knobs of the training loop for stage 1 or 2."""
        return replace(self.training, seed=self.training.seed + stage - 1)

    @classmethod
    def of(cls, changes: Mapping[str, Any]) -> LatentActionConfig:
        """From fields and, beside them, knobs of the training by their own names."""
        knobs = {name: value for name, value in changes.items() if is_knob(name)}
        rest = {name: value for name, value in changes.items() if not is_knob(name)}
        return with_training(cls(**rest), **knobs)

    @classmethod
    def debug(cls, **changes: Any) -> LatentActionConfig:
        """Two steps per stage on tiny pictures: for tests of everything around the model."""
        small: dict[str, Any] = {
            "features": FeatureConfig(image_size_wh=(32, 16)),
            "dynamics": DynamicsConfig(width=16, heads=2, encoder_layers=1, decoder_layers=1),
            "steps": 2,
            "batch_size": 4,
            "warmup_steps": 0,
            "log_every": 1,
            "quality_every": 2,
        }
        return cls.of(small | changes)

    @classmethod
    def mini(cls, **changes: Any) -> LatentActionConfig:
        """The demo's: a minute on two cores. Quality is judged by `long`."""
        return cls.of(changes)

    @classmethod
    def long(cls, **changes: Any) -> LatentActionConfig:
        """What quality is judged by on the embedded world: convolutions, reading back, eight
        minutes of one core.

        Boxes may weigh twice as much as in `mini`: stage 1 has the steps to get rid of the ego
        speed that comes with them.
        """
        sized: dict[str, Any] = {
            "dynamics": DynamicsConfig(stem="convolution"),
            "steps": 2000,
            "cycle_weight": 0.2,
            "agent_weight": 0.2,
            "checkpoint_every": 200,
            "quality_every": 400,
        }
        return cls.of(sized | changes)

    @classmethod
    def single_gpu(cls, **changes: Any) -> LatentActionConfig:
        """DINOv2-S features, 6 + 6 layers of 384: hours on one GPU. Needs features.backbone."""
        code = QuantizerConfig(code_dim=32, decay=0.99, revive_every=200)
        sized: dict[str, Any] = {
            "features": FeatureConfig(
                kind="dinov2", image_size_wh=(392, 224), patch_px=14, dim=384
            ),
            "dynamics": DynamicsConfig(width=384, heads=6, encoder_layers=6, decoder_layers=6),
            "ego": code,
            "environment": replace(code, statistics="running"),
            "steps": 30_000,
            "batch_size": 128,
            "learning_rate": 2e-4,
            "warmup_steps": 500,
            "precision": "bf16",
            "checkpoint_every": 1000,
            "log_every": 50,
            "quality_every": 1000,
        }
        return cls.of(sized | changes)

    @classmethod
    def paper(cls, **changes: Any) -> LatentActionConfig:
        """UniVLA's size: DINOv2-B with registers, 12 + 12 layers of 768, ≈ 198 M parameters per
        stage.
        """
        sized: dict[str, Any] = {
            "features": FeatureConfig(
                kind="dinov2", image_size_wh=(392, 224), patch_px=14, dim=768
            ),
            "dynamics": DynamicsConfig(width=768, heads=12, encoder_layers=12, decoder_layers=12),
            "steps": 100_000,
            "batch_size": 512,
            "learning_rate": 1e-4,
            "warmup_steps": 1000,
            "quality_every": 2000,
        }
        return cls.single_gpu(**(sized | changes))
