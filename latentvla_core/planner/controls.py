"""Honest controls of the fusion (latentvla.md §4.4): the same planner fed with less, or with
nothing but noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from latentvla_core.planner.inputs import VlmFeatures
from latentvla_core.types import CODEBOOK_SIZE, NUM_ACTION_TOKENS, Array

Control = Literal["full", "noise", "visual_only", "action_only", "refinement", "missing"]
PICTURES = ("camera", "images", "lidar")
"""Parts of an input batch that a planner sees with."""
CERTAIN_LOGIT = 20.0
"""Of a code that is known: a probability of one."""


class Seen(NamedTuple):
    """Which of the two kinds of tokens a planner gets."""

    visual: bool
    action: bool


CONTROLS: dict[str, Seen] = {
    "full": Seen(True, True),
    "noise": Seen(True, True),
    "visual_only": Seen(True, False),
    "action_only": Seen(False, True),
    "refinement": Seen(True, True),
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
    `refinement` says the same to every scene: what is left is the host with the fusion's layers, a
    longer refinement without a VLM.
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
    if control == "refinement":
        visual, action, codes, logits = np.zeros_like(visual), np.zeros_like(action), None, None
    seen = CONTROLS[control]
    count = len(visual)
    if not seen.action:
        codes, logits = None, None
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


def oracle_features(
    codes: Array, width: int, scene_tokens: Sequence[str] = (), seed: int = 0
) -> PlannerFeatures:
    """Features of a VLM that knows the (N, 12) codes of the future, for the positive control: what
    cannot be used when it is right cannot be used at all.

    Each code has a fixed random embedding of the VLM's width; pictures say nothing. A scene without
    a code (-1) has no answer.
    """
    said = np.asarray(codes, np.int64)
    known = (said >= 0).all(-1)
    words = np.random.default_rng(seed).standard_normal((CODEBOOK_SIZE, width), np.float32)
    one_hot = np.eye(CODEBOOK_SIZE, dtype=np.float32)[said.clip(min=0)] * known[:, None, None]
    return PlannerFeatures(
        visual=np.zeros((len(said), 1, width), np.float32),
        action=one_hot @ words,
        has_visual=np.zeros(len(said), bool),
        has_action=known,
        valid=known,
        scene_tokens=tuple(scene_tokens),
        codes=np.where(known[:, None], said, -1).reshape(-1, NUM_ACTION_TOKENS),
        logits=one_hot * CERTAIN_LOGIT,
    )


def blacken(batch: dict[str, Any]) -> dict[str, Any]:
    """The same input batch with black pictures and no lidar hits."""
    return {
        name: value.new_zeros(value.shape) if name in PICTURES else value
        for name, value in batch.items()
    }
