"""Honest controls of the fusion (latentvla.md §4.4): the same planner fed with less, or with
nothing but noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from latentvla_core.types import CODEBOOK_SIZE, NUM_ACTION_TOKENS, Array
from latentvla_core.vlm.features import KINDS, VlmFeatures
from latentvla_core.vlm.tokens import NO_CODE

Control = Literal["full", "noise", "visual_only", "action_only", "refinement", "missing"]
PICTURES = ("camera", "images", "lidar")
"""Parts of an input batch that a planner sees with."""
CERTAIN_LOGIT = 20.0
"""Of a code that is known: a probability of one."""
CONTROLS: dict[str, tuple[str, ...]] = {
    "full": KINDS,
    "noise": KINDS,
    "visual_only": ("visual",),
    "action_only": ("action",),
    "refinement": KINDS,
    "missing": (),
}
"""Control → kinds of tokens that a planner gets."""


def control_features(features: VlmFeatures, control: Control, seed: int = 0) -> VlmFeatures:
    """The features a control run sees.

    `noise` draws every channel from a normal distribution of that channel's mean and standard
    deviation, so that a gain can only come from parameters and training, not from content.
    `refinement` says the same to every scene: what is left is the host with the fusion's layers, a
    longer refinement without a VLM.
    """
    if control not in CONTROLS:
        raise ValueError(f"control is {control!r}; choose one of {', '.join(CONTROLS)}")
    shown = CONTROLS[control]
    if control == "noise":
        rng = np.random.default_rng(seed)
        drawn = {name: _noise_like(getattr(features, name), rng) for name in (*KINDS, "logits")}
        features = replace(features, codes=drawn["logits"].argmax(-1).astype(np.int8), **drawn)
    kept = () if control == "refinement" else shown
    withheld = [kind for kind in KINDS if kind not in kept]
    silent = {kind: np.zeros_like(getattr(features, kind)) for kind in withheld}
    if "action" in withheld:
        silent |= {"codes": np.full_like(features.codes, NO_CODE)}
        silent |= {"logits": np.zeros_like(features.logits)}
    return replace(features, shown=shown, **silent)


def _noise_like(rows: Array, rng: np.random.Generator) -> Array:
    """(N, M, D) normal noise with each channel's moments over scenes and tokens."""
    values = rows.astype(np.float32)
    mean, std = values.mean(axis=(0, 1)), values.std(axis=(0, 1))
    return (rng.standard_normal(rows.shape, dtype=np.float32) * std + mean).astype(rows.dtype)


def oracle_features(codes: Array, width: int, scene_tokens: Sequence[str]) -> VlmFeatures:
    """Features of a VLM that knows the (N, 12) codes of the future, for the positive control: what
    cannot be used when it is right cannot be used at all.

    Each code has a fixed random embedding of the VLM's width; pictures say nothing. A scene without
    a code (-1) has no answer.
    """
    said = np.asarray(codes, np.int64).reshape(-1, NUM_ACTION_TOKENS)
    known = np.asarray((said >= 0).all(-1))
    words = np.random.default_rng(0).standard_normal((CODEBOOK_SIZE, width), np.float32)
    one_hot = np.eye(CODEBOOK_SIZE, dtype=np.float32)[said.clip(min=0)] * known[:, None, None]
    return VlmFeatures(
        visual=np.zeros((len(said), 1, width), np.float32),
        action=one_hot @ words,
        codes=np.where(known[:, None], said, NO_CODE).astype(np.int8),
        logits=one_hot * CERTAIN_LOGIT,
        valid=known,
        reasons=tuple("" if is_known else "no label" for is_known in known),
        scene_tokens=tuple(scene_tokens),
        shown=("action",),
    )


def blacken(batch: dict[str, Any]) -> dict[str, Any]:
    """The same input batch with black pictures and no lidar hits."""
    return {
        name: value.new_zeros(value.shape) if name in PICTURES else value
        for name, value in batch.items()
    }
