"""Is the model better than knowing which codes are frequent? Accuracy and likelihood on scenes it
was not trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from latentvla_core.types import Array
from latentvla_core.vlm.features import VlmFeatures
from latentvla_core.vlm.samples import VlmSample
from latentvla_core.vlm.tokens import NUM_ACTION_TOKENS

if TYPE_CHECKING:
    from latentvla_core.vlm.model import Vlm


def evaluate(
    vlm: Vlm,
    samples: Sequence[VlmSample],
    features: VlmFeatures | None = None,
    *,
    batch_size: int = 64,
) -> dict[str, float]:
    """Numbers over the labelled samples; counts say how many that were.

    Args:
        features: the model's predictions for exactly these samples, when they exist already.
    """
    features = vlm.predict(samples, batch_size) if features is None else features
    rows = np.array(
        [i for i, s in enumerate(samples) if s.codes is not None and features.valid[i]], np.int64
    )
    counts = {"samples": float(len(rows)), "invalid": float((~features.valid).sum())}
    if not len(rows):
        return counts
    answers: list[Any] = [samples[i].codes for i in rows]
    labels = np.stack(answers)
    nll = label_nll(vlm, [samples[i] for i in rows], batch_size)
    return {
        **compare(features.select(rows), labels, vlm.code_frequencies),
        "nll": float(nll.mean()),
        **counts,
    }


def compare(features: VlmFeatures, labels: Array, frequencies: Array) -> dict[str, float]:
    """Generated codes against labels, next to what the training frequencies alone would reach.

    Args:
        labels: (N, 12) codes of the same scenes.
        frequencies: (12, 16) how often each code stood at each position in training; rows sum to
        one.
    """
    labels = labels.astype(np.int64)
    right = features.codes == labels  # (N, 12)
    positions = np.arange(NUM_ACTION_TOKENS)
    marginal = labels == frequencies.argmax(1)
    per_transition = right.reshape(len(labels), 3, -1).mean((0, 2))
    return {
        "token_accuracy": float(right.mean()),
        "marginal_accuracy": float(marginal.mean()),
        "gain_over_marginal": float(right.mean() - marginal.mean()),
        **{f"token_accuracy_{k + 1}s": float(value) for k, value in enumerate(per_transition)},
        "sequence_accuracy": float(right.all(1).mean()),
        "marginal_nll": float(-np.log(frequencies[positions, labels]).mean()),
        "codes_used": float(len(np.unique(features.codes))),
    }


def label_nll(vlm: Vlm, samples: Sequence[VlmSample], batch_size: int = 64) -> Array:
    """(N, 12) negative log likelihood of each label token among the 16, given the label tokens
    before it.
    """
    import torch

    from latentvla_core.training.images import ImageCache
    from latentvla_core.vlm.network import answer_logits
    from latentvla_core.vlm.processor import VlmBatch

    found = []
    for first in range(0, len(samples), batch_size):
        part = samples[first : first + batch_size]
        answers: list[Any] = [s.codes for s in part]
        codes = np.stack(answers).astype(np.int64)
        batch = vlm.processor.batch(part, ImageCache(vlm.config.image_size_wh), codes)
        with torch.inference_mode():
            logits = answer_logits(vlm.network, VlmBatch(*(t.to(vlm.device) for t in batch)))
        actions = (
            logits[:, :NUM_ACTION_TOKENS, list(vlm.processor.action_ids)]
            .float()
            .log_softmax(-1)
            .cpu()
            .numpy()
        )
        found.append(-np.take_along_axis(actions, codes[..., None], 2)[..., 0])
    return np.concatenate(found)
