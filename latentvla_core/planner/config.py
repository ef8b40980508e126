"""How planners are trained: one schema for every recipe. Hosts have configurations of their own
(planner/hosts).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from latentvla_core.training.config import FitConfig, with_training


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoosingConfig:
    """Length and rates of the scorer's own phase. Defaults are `mini`."""

    training: FitConfig = field(
        default_factory=lambda: FitConfig(
            steps=0, epochs=45.0, batch_size=64, learning_rate=2e-3, warmup_steps=20, log_every=375
        )
    )
    """Passes over the frozen proposals of all training scenes; 0 epochs = no such phase (as
    published).
    """
    min_steps: int = 1500
    """At least so many optimiser steps if there is a phase at all: a short one chose worse than
    none (docs/results/choice.md).
    """
    motion_weight_decay: float = 0.3
    """Of the path for decoded motion: a teacher says a little, and more is learned by heart."""

    @classmethod
    def none(cls) -> ChoosingConfig:
        """No such phase."""
        return with_training(cls(), epochs=0.0)

    @classmethod
    def short(cls, epochs: float, **knobs: Any) -> ChoosingConfig:
        """So many passes, however few steps that are."""
        return with_training(cls(min_steps=0), epochs=epochs, **{"warmup_steps": 0, **knobs})

    @property
    def is_on(self) -> bool:
        return self.training.epochs > 0

    def training_of(self, scenes: int) -> FitConfig:
        """Knobs of the loop for so many scenes, none of them twice in one batch."""
        knobs = replace(self.training, batch_size=max(1, min(self.training.batch_size, scenes)))
        steps = max(self.min_steps, knobs.steps_for(scenes)) if self.is_on and scenes else 0
        return replace(knobs, steps=steps, epochs=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """How often, and how much. Defaults: nothing is changed, as the hosts were published."""

    mirror: float = 0.0
    """Probability that a sample has left and right exchanged."""
    colour: float = 0.0
    """Largest relative change of a picture's brightness, contrast and saturation."""

    def __post_init__(self) -> None:
        if not (0.0 <= self.mirror <= 1.0 and 0.0 <= self.colour < 1.0):
            raise ValueError(
                f"mirror is {self.mirror}, colour {self.colour}; needs a probability and a part below 1"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannerTrainConfig:
    """One training of one planner; one schema for every recipe. Defaults are `mini`."""

    training: FitConfig = field(
        default_factory=lambda: FitConfig(
            steps=80,
            batch_size=16,
            learning_rate=2e-3,
            weight_decay=0.0,
            warmup_steps=20,
            clip_norm=5.0,
            log_every=25,
        )
    )
    """Of a host from scratch. The hosts were trained by Adam without decay; the trajectory's weight
    of 10 makes gradient norms above 1 normal.
    """
    fine_tune_steps: int = 30
    """Optimiser steps from a host checkpoint: the fused planner, and the control without VLM."""
    fine_tune_epochs: float = 0.0
    """Passes from a host checkpoint, in place of `fine_tune_steps`; 0 = that counts."""
    fine_tune_learning_rate: float = 1e-3
    """Peak rate of planner and fusion when fine-tuning."""
    fine_tune_backbone_scale: float = 0.1
    """Rate of the ResNets when fine-tuning, as a part of the planner's."""
    gate_rate_scale: float = 30.0
    """Rate of the fusion's gates, as a multiple of the planner's: they start at zero, and at the
    planner's rate a fusion stays unused.
    """
    choosing: ChoosingConfig = field(default_factory=ChoosingConfig)
    """The scorer's own phase after the training; read for iPad."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """How training batches are changed; the last phase of the scorer sees scenes as they are."""
    simulation_processes: int = 0
    """Processes that simulate iPad's proposals; 0 or 1: none besides the training itself."""

    def training_of(self, fine_tune: bool) -> FitConfig:
        """Knobs of the loop from scratch, or from a host checkpoint."""
        if not fine_tune:
            return self.training
        return replace(
            self.training,
            steps=0 if self.fine_tune_epochs else self.fine_tune_steps,
            epochs=self.fine_tune_epochs,
            learning_rate=self.fine_tune_learning_rate,
        )

    @classmethod
    def debug(cls) -> PlannerTrainConfig:
        config = cls(fine_tune_steps=2, choosing=ChoosingConfig.short(epochs=1))
        return with_training(config, steps=2, batch_size=2, warmup_steps=0, log_every=1)

    @classmethod
    def mini(cls) -> PlannerTrainConfig:
        return cls()

    @classmethod
    def single_gpu(cls) -> PlannerTrainConfig:
        config = cls(
            fine_tune_epochs=5,
            fine_tune_learning_rate=1e-4,
            augment=AugmentConfig(mirror=0.5, colour=0.2),
            simulation_processes=16,
        )
        return with_training(
            config,
            epochs=20,
            steps=0,
            batch_size=64,
            learning_rate=1e-4,
            warmup_steps=500,
            precision="bf16",
            checkpoint_every=1_000,
            log_every=50,
        )

    @classmethod
    def paper(cls) -> PlannerTrainConfig:
        """20 epochs of navtrain at batch 64, as iPad; Transfuser's own recipe allows up to 100."""
        return replace(
            cls.single_gpu(),
            fine_tune_epochs=20,
            augment=AugmentConfig(),
            choosing=ChoosingConfig.none(),
        )
