"""How much of the teacher is in the student, and how much better than guessing both are, on
held-out scenes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from latentvla_core.distill.losses import agreement, state_distance, token_kl
from latentvla_core.distill.model import Student
from latentvla_core.types import Array, SceneRecord
from latentvla_core.vlm.evaluation import compare
from latentvla_core.vlm.features import VlmFeatures
from latentvla_core.vlm.tokens import CODEBOOK_SIZE


def evaluate(
    student: Student,
    records: Sequence[SceneRecord],
    labels: Array,
    teacher: VlmFeatures | None,
    features: VlmFeatures | None = None,
) -> dict[str, float]:
    """Numbers over the scenes that can be used; counts say how many that were.

    Args:
        labels: (N, 12), -1 where a scene has none.
        teacher: its features of the same records; None = compare with labels only.
        features: the student's own predictions, when they exist already.
    """
    features = student.predict(records) if features is None else features
    known = features.valid & ((labels >= 0) & (labels < CODEBOOK_SIZE)).all(1)
    found = {"samples": float(known.sum()), "invalid": float((~features.valid).sum())}
    if known.any():
        rows = np.flatnonzero(known)
        found |= compare(features.select(rows), labels[rows], student.code_frequencies)
    if teacher is not None:
        found |= _against_teacher(features, teacher, labels, known)
    return found


def _against_teacher(
    features: VlmFeatures, teacher: VlmFeatures, labels: Array, known: Array
) -> dict[str, float]:
    """Agreement of codes everywhere; of distributions and states where both have read the same
    tokens.
    """
    rows = np.flatnonzero(features.valid & teacher.valid)
    if not len(rows):
        return {}
    own, other = features.select(rows), teacher.select(rows)
    same_before, same_with = agreement(torch.from_numpy(own.codes), torch.from_numpy(other.codes))
    kl = token_kl(torch.from_numpy(own.logits), torch.from_numpy(other.logits), 1.0)
    pairs = [(torch.from_numpy(a).float(), torch.from_numpy(b).float()) for a, b in
             ((own.action, other.action), (own.visual, other.visual))]  # fmt: skip
    action, visual = (1 - state_distance(a, b, 0.0) for a, b in pairs)
    found = {
        "teacher_agreement": float((own.codes == other.codes).mean()),
        "teacher_kl": float(kl[same_before].mean()),
        "action_cosine": float(action[same_with].mean()) if same_with.any() else 0.0,
        "visual_cosine": float(visual.mean()),
    }
    both = np.flatnonzero(known & teacher.valid)
    if len(both):
        found["teacher_token_accuracy"] = float((teacher.codes[both] == labels[both]).mean())
    return found
