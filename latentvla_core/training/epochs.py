"""Runs that count in epochs: how many steps that is, and the loop's settings for them."""

from __future__ import annotations

from typing import Literal, Protocol

from latentvla_core.training.loop import FitConfig


class EpochConfig(Protocol):
    """What a stage's configuration must have for `fit_config` (vlm.config.VlmConfig,
    distill.config.StudentConfig).
    """

    @property
    def batch_size(self) -> int: ...
    @property
    def accumulate(self) -> int: ...
    @property
    def learning_rate(self) -> float: ...
    @property
    def weight_decay(self) -> float: ...
    @property
    def warmup_fraction(self) -> float: ...
    @property
    def clip_norm(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def precision(self) -> Literal["fp32", "bf16"]: ...
    @property
    def checkpoint_every(self) -> int: ...
    @property
    def log_every(self) -> int: ...

    def steps(self, num_samples: int) -> int:
        """Optimiser steps for a training set of this size."""
        ...


def fit_config(config: EpochConfig, num_samples: int) -> FitConfig:
    """The loop's settings for a training set of this size."""
    steps = config.steps(num_samples)
    return FitConfig(
        steps=steps,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=round(config.warmup_fraction * steps),
        clip_norm=config.clip_norm,
        seed=config.seed,
        precision=config.precision,
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
    )
