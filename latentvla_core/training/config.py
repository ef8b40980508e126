"""How a training goes: the one set of knobs, nested as `training` in every trained stage's
configuration.

Free of torch, so that recipes can be read without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True, slots=True)
class FitConfig:
    """Knobs of the training loop. All but `training.FREE` must stay the same when a run is
    resumed.
    """

    steps: int
    """Optimiser steps of the whole run; with `epochs` the most there may be, 0 = no such bound."""
    epochs: float = 0.0
    """Passes over the samples; 0 = `steps` counts."""
    batch_size: int = 32
    """Samples per backward pass."""
    accumulate: int = 1
    """Backward passes per optimiser step; the effective batch is batch_size * accumulate."""
    learning_rate: float = 1e-3
    """Peak rate, reached after the warm-up."""
    weight_decay: float = 0.01
    """AdamW's, applied to matrices only (see `default_param_groups`)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's averaging factors."""
    warmup_steps: int = 0
    """Steps of linear increase from 0."""
    warmup_fraction: float = 0.0
    """The same as a part of all steps, in place of `warmup_steps`; 0 = that counts."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """What follows the warm-up; cosine ends at `final_lr_fraction`."""
    final_lr_fraction: float = 0.0
    """Rate at the end of the cosine, as a part of the peak."""
    clip_norm: float = 1.0
    """Largest global gradient norm; 0 = no clipping."""
    seed: int = 0
    """Of weights, sample order, collate and everything torch draws inside a step."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: forward pass under autocast; weights, gradients and optimiser stay in fp32."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 = only at the end. Needs a checkpoint_dir."""
    log_every: int = 10
    """Steps per line of metrics; values are means over those steps."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; needs at least 1")
        if self.steps < 0 or self.epochs < 0 or self.learning_rate <= 0:
            raise ValueError(
                f"steps {self.steps}, epochs {self.epochs}, learning_rate {self.learning_rate};"
                " need >= 0, >= 0 and > 0"
            )
        if self.schedule not in ("cosine", "constant") or self.precision not in ("fp32", "bf16"):
            raise ValueError(
                f"schedule {self.schedule!r}, precision {self.precision!r}; see the fields' types"
            )

    def steps_for(self, num_samples: int) -> int:
        """Optimiser steps for a training set of this size."""
        if not self.epochs:
            return self.steps
        by_epochs = math.ceil(self.epochs * num_samples / (self.batch_size * self.accumulate))
        return min(by_epochs, self.steps) if self.steps else by_epochs

    def for_samples(self, num_samples: int) -> FitConfig:
        """The same run with its steps counted: no epochs, no fractions."""
        steps = self.steps_for(num_samples)
        warmup = round(self.warmup_fraction * steps) if self.warmup_fraction else self.warmup_steps
        return replace(self, steps=steps, epochs=0.0, warmup_steps=warmup, warmup_fraction=0.0)


KNOBS = tuple(f.name for f in fields(FitConfig))
FORMER = {"max_steps": "steps"}
"""Names that knobs had when they lay beside the other fields, and what they are called now."""


def with_training(config: Config, **knobs: Any) -> Config:
    """A stage's configuration with other knobs of its training."""
    training = replace(config.training, **knobs)  # pyright: ignore[reportAttributeAccessIssue]
    return replace(config, training=training)  # pyright: ignore[reportArgumentType]


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Flat fields as older versions wrote them: the knobs go into `training`."""
    knobs = {FORMER.get(name, name): v for name, v in values.items() if is_knob(name)}
    rest = {name: value for name, value in values.items() if not is_knob(name)}
    return {**rest, "training": {**knobs, **rest.get("training", {})}} if knobs else rest


def is_knob(name: str) -> bool:
    return name in KNOBS or name in FORMER
