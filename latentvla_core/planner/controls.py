"""Honest controls of the fusion (latentvla.md §4.4): the same planner fed with less, or with
nothing but noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from latentvla_core.planner.inputs import VlmFeatures
from latentvla_core.types import Array

Control = Literal["full", "noise", "visual_only", "action_only", "missing"]


class Seen(NamedTuple):
    """Which of the two kinds of tokens a planner gets."""

    visual: bool
    action: bool


CONTROLS: dict[str, Seen] = {
    "full": Seen(True, True),
    "noise": Seen(True, True),
    "visual_only": Seen(True, False),
    "action_only": Seen(False, True),
    "missing": Seen(False, False),
}


@dataclass(frozen=True, slots=True)
class PlannerFeatures:
    """VLM embeddings as planners take them: like vlm.VlmFeatures, with flags for what is withheld."""

    visual: Array
    """(N, M, D)"""
    action: Array
    """(N, 12, D)"""
    has_visual: Array
    """(N,) bool"""
    has_action: Array
    """(N,) bool"""
    valid: Array
    """(N,) bool, of the features they come from."""
    scene_tokens: tuple[str, ...]
    """Of the features they come from; () when those name no scenes."""
    codes: Array | None = None
    """(N, 12) answered codes, if the features have them."""
    logits: Array | None = None
    """(N, 12, 16) before the softmax, if the features have them."""


def control_features(features: VlmFeatures, control: Control, seed: int = 0) -> PlannerFeatures:
    """The features a control run sees.

    `noise` draws every channel from a normal distribution of that channel's mean and standard
    deviation, so that a gain can only come from parameters and training, not from content.
    """
    if control not in CONTROLS:
        raise ValueError(f"control is {control!r}; choose one of {', '.join(CONTROLS)}")
    visual, action = features.visual, features.action
    codes, logits = getattr(features, "codes", None), getattr(features, "logits", None)
    if control == "noise":
        rng = np.random.default_rng(seed)
        visual, action = _noise_like(visual, rng), _noise_like(action, rng)
        logits = None if logits is None else _noise_like(logits, rng)
        codes = None if logits is None else logits.argmax(-1)
    seen = CONTROLS[control]
    count = len(visual)
    return PlannerFeatures(
        visual=visual if seen.visual else np.zeros_like(visual),
        action=action if seen.action else np.zeros_like(action),
        has_visual=np.full(count, seen.visual),
        has_action=np.full(count, seen.action),
        valid=np.asarray(getattr(features, "valid", np.ones(count, bool))),
        scene_tokens=tuple(getattr(features, "scene_tokens", ())),
        codes=codes,
        logits=logits,
    )


def _noise_like(rows: Array, rng: np.random.Generator) -> Array:
    """(N, M, D) normal noise with each channel's moments over scenes and tokens."""
    values = rows.astype(np.float32)
    mean, std = values.mean(axis=(0, 1)), values.std(axis=(0, 1))
    return (rng.standard_normal(rows.shape, dtype=np.float32) * std + mean).astype(rows.dtype)
