"""What a scene says in codes: label, teacher and student over each other, with confidence."""

from __future__ import annotations

from typing import Any

import numpy as np

from latentvla_core.types import NUM_ACTION_TOKENS, Array
from latentvla_core.viz.site.files import figures, packed

MISSING = 255  # no code at this position
PER_STEP = 4  # codes of a transition
STEPS = NUM_ACTION_TOKENS // PER_STEP


def sentence(rows: list[dict[str, Any]]) -> Array:
    """(12,) label codes of a scene, time-major; MISSING where a transition is not valid."""
    codes = np.full((STEPS, PER_STEP), MISSING, np.int64)
    for row in rows:
        if row["valid"] and row["step"] < STEPS and len(row["ego_codes"]) == PER_STEP:
            codes[row["step"]] = row["ego_codes"]
    return codes.ravel()


def predicted(row: dict[str, Any] | None) -> Array:
    """(12,) codes that the teacher or the student gives; MISSING where there are none."""
    if row is None or not row["valid"] or len(row["codes"]) != NUM_ACTION_TOKENS:
        return np.full(NUM_ACTION_TOKENS, MISSING, np.int64)
    codes = np.asarray(row["codes"], np.int64)
    return np.where(codes < 0, MISSING, codes)


def agreement(label: Array, guess: Array) -> int:
    """How many of 12 codes equal the label's; MISSING when one of both has none."""
    known = (label != MISSING) & (guess != MISSING)
    return int((label == guess)[known].sum()) if known.any() else MISSING


def sentence_data(
    labels: list[dict[str, Any]],
    teacher: dict[str, Any] | None,
    student: dict[str, Any] | None,
) -> dict[str, Any]:
    """Codes by who says them; null where nobody does."""
    return {
        "label": _label(labels) if labels else None,
        "teacher": _guess(teacher),
        "student": _guess(student),
    }


def _label(rows: list[dict[str, Any]]) -> dict[str, Any]:
    known = {row["step"]: row for row in rows if row["valid"] and row["step"] < STEPS}
    blank = np.full(PER_STEP, np.nan)

    def of_steps(column: str) -> list[float | None]:
        parts = [known[s][column] if s in known else blank for s in range(STEPS)]
        return figures(np.concatenate(parts))

    return {
        "codes": sentence(rows).tolist(),
        "confidence": of_steps("ego_confidence"),
        "distance": of_steps("ego_distances"),
        "gap_s": float(np.mean([row["gap_s"] for row in rows])),
        "model": rows[0]["model_version"],
        "reason": "; ".join(sorted({row["reason"] for row in rows if row["reason"]})),
        "environment": [list(map(int, row["environment_codes"])) for row in rows if row["valid"]],
    }


def _guess(row: dict[str, Any] | None) -> dict[str, Any] | None:
    if row is None:
        return None
    if not row["valid"]:
        return {"codes": [], "reason": row["reason"], "model": row["model_version"]}
    chances = softmax(np.asarray(row["logits"], float).reshape(NUM_ACTION_TOKENS, -1))
    return {
        "codes": predicted(row).tolist(),
        "chances_u8": packed(np.rint(chances * 255), "u1"),  # (12, K) row by row
        "num_codes": chances.shape[1],
        "reason": "",
        "model": row["model_version"],
    }


def softmax(logits: Array) -> Array:
    """(..., K) logits → chances that sum to 1."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)
