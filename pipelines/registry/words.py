"""What the gate compares of models that speak in codes: one score per scene, candidate and champion
by the same code.

The latent action model is judged by what its codes tell of the second picture, VLM and student by
how many of the 12 codes of today's labels they name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from latentvla_core.types import SceneRecord
from pipelines.assets.latent_action_model import what_it_sees
from pipelines.steps.reading import features_of, labels_of

if TYPE_CHECKING:
    from pipelines.steps.context import StageContext

LATENT = "latent_action_model"
SPEAKERS = {LATENT: "", "vlm": "vlm_features", "student": "student_features"}
"""Model → table of what its latest version said."""
GAIN, ACCURACY = "gain-over-copy-v1", "token-accuracy-v1"


def metric_of(name: str) -> str:
    """Name of the score, with the version of its definition."""
    return GAIN if name == LATENT else ACCURACY


def word_scores(
    context: StageContext, name: str, folder: Path, split: str, *, stored: bool
) -> list[dict[str, Any]]:
    """Rows for `gates.compare`: scene_token, log_name, valid, score.

    Args:
        stored: the folder is of the version whose features the lake has, so it need not look again.
    """
    from pipelines.registry.model_code import features_of as features_made_by
    from pipelines.registry.model_code import load_family

    records = context.records(split)
    if name == LATENT:
        return gains(context, load_family(name, folder), records)
    features = features_of(context, records, SPEAKERS[name]) if stored else None
    if features is None and records:
        features = features_made_by(name, load_family(name, folder), records)
    return accuracies(records, labels_of(context, records), features)


def accuracies(
    records: Sequence[SceneRecord], labels: np.ndarray, features: Any
) -> list[dict[str, Any]]:
    """Share of the codes of labels (N, 12) that were named, of scenes that have a label."""
    return [
        {
            "scene_token": record.scene_token,
            "log_name": record.log_name,
            "valid": bool(features.valid[i]),
            "score": float((features.codes[i] == labels[i]).mean()),
        }
        for i, record in enumerate(records)
        if (labels[i] >= 0).all()
    ]


def gains(
    context: StageContext, model: Any, records: Sequence[SceneRecord]
) -> list[dict[str, Any]]:
    """Of every transition: by how much of the usual change the prediction is nearer to the second
    picture than the first picture is. Their mean is the quality report's `gain_over_copy`.
    """
    from latentvla_core.latent.pairs import collect_pairs
    from latentvla_core.latent.probes.run import errors_of

    if not records:
        return []
    cache = what_it_sees(context, model.config)
    pairs = collect_pairs(records, model.config.gap_frames, cache)
    right, copy = errors_of(model, pairs)
    usual = float(copy.mean()) or 1.0
    return [
        {
            "scene_token": f"{log}: pictures {first} and {second}",
            "log_name": log,
            "valid": bool(np.isfinite(right[i])),
            "score": float((copy[i] - right[i]) / usual),
        }
        for i, (log, (first, second)) in enumerate(
            zip(pairs.logs.tolist(), pairs.rows.tolist(), strict=True)
        )
    ]
