"""What plans and choices are judged by beside the PDM score: distances to the logged drive, and
whether the best proposal was chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latentvla_core.types import Array, SceneRecord


def displacement_errors(poses: Array, records: Sequence[SceneRecord]) -> dict[str, float]:
    """Mean distance to the logged future, metres: over all 8 poses (`ade_m`) and at 4 s (`fde_m`).

    Scenes without a plan (a pose that is not finite: their pictures cannot be read) are left out;
    {} where none is left.
    """
    truth = np.array([r.future_poses[: poses.shape[1], :2] for r in records])
    distance = np.linalg.norm(poses[..., :2] - truth, axis=-1)
    distance = distance[np.isfinite(distance).all(axis=-1)]
    if not len(distance):
        return {}
    return {"ade_m": float(distance.mean()), "fde_m": float(distance[:, -1].mean())}


def choice_report(scores: Array, chosen: Array, valid: Array) -> dict[str, float]:
    """(S, N) PDMS of the proposals, (S,) index of the chosen one, (S, N) valid → figures.

    `chosen` and `oracle` are mean PDMS of the scorer's choice and of the best proposal, `living`
    counts proposals that are the best of at least 1 % of scenes (ties go to the first). Scenes with
    a proposal that has no score are left out; without any scene the figures are NaN.
    """
    keep = np.asarray(valid, bool).all(1)
    if not keep.any():
        return dict.fromkeys(("chosen", "oracle", "regret", "living", "scenes"), float("nan"))
    kept, picks = np.asarray(scores, np.float64)[keep], np.asarray(chosen)[keep]
    mine, best = kept[np.arange(len(kept)), picks], kept.max(1)
    share = np.bincount(kept.argmax(1), minlength=kept.shape[1]) / len(kept)
    return {
        "chosen": float(mine.mean()),
        "oracle": float(best.mean()),
        "regret": float((best - mine).mean()),
        "living": float((share >= 0.01).sum()),
        "scenes": float(len(kept)),
    }


def nearest_report(proposals: Array, future_poses: Array, chosen: Array) -> dict[str, float]:
    """(S, N, 8, 3) proposals, (S, 8, 3) logged futures, (S,) choice → displacement figures, metres.

    `min_ade_m` is the nearest proposal's, `chosen_ade_m` the choice's; `living` counts proposals
    that are nearest in at least 1 % of scenes: the others learn nothing.
    """
    gaps = np.linalg.norm(proposals[..., :2] - future_poses[:, None, :, :2], axis=-1).mean(-1)
    share = np.bincount(gaps.argmin(1), minlength=gaps.shape[1]) / max(len(gaps), 1)
    return {
        "min_ade_m": float(gaps.min(1).mean()),
        "chosen_ade_m": float(gaps[np.arange(len(gaps)), chosen].mean()),
        "living": float((share >= 0.01).sum()),
    }
