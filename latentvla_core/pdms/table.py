"""The result of scoring: one row per plan, as columns; and summaries that do not hide what is
missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from latentvla_core.types import Array

if TYPE_CHECKING:
    from latentvla_core.pdms.measure import SceneScore
    from latentvla_core.pdms.world import World


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Scores of n plans of S scenes, scene by scene. A row that is not `valid` has NaN scores and a
    `reason`.
    """

    metric: str
    metric_version: str
    scene_token: Array
    """(n,) object array of str."""
    trajectory_id: Array
    """(n,) object array of str."""
    columns: dict[str, Array]
    """Sub-scores by their devkit names, then `score`; (n,) float64."""
    valid: Array
    """(n,) bool."""
    reason: Array
    """(n,) object array of str."""
    details: dict[str, Array]
    """(n, …) diagnostics: progress_m, collision_step, collision_object (position in the world's
    columns), …
    """
    scene_offsets: Array
    """(S + 1,) first row of each scene."""

    def __len__(self) -> int:
        return len(self.valid)

    def __getitem__(self, name: str) -> Array:
        """(n,) a sub-score or `score`."""
        return self.columns[name]

    def grid(self, name: str) -> Array:
        """(S, K) a column of a table with K plans in every scene."""
        counts = np.diff(self.scene_offsets)
        if len(set(counts.tolist())) > 1:
            raise ValueError(
                f"scenes have {counts.min()} to {counts.max()} plans; a grid needs the same number"
            )
        return self.columns[name].reshape(len(counts), -1)

    def rows(self) -> list[dict[str, Any]]:
        """One dict per plan: keys, sub-scores, score, valid, reason, metric_version (the columns of
        SCORES.parquet).
        """
        columns = {
            "scene_token": self.scene_token,
            "trajectory_id": self.trajectory_id,
            **self.columns,
        }
        columns |= {"valid": self.valid, "reason": self.reason}
        lists = [column.tolist() for column in columns.values()]
        return [
            dict(zip(columns, values, strict=True)) | {"metric_version": self.metric_version}
            for values in zip(*lists, strict=True)
        ]

    @staticmethod
    def of(
        worlds: Sequence[World],
        names: Sequence[tuple[str, ...]],
        scenes: Sequence[SceneScore],
        metric: str,
        version: str,
        sub_scores: tuple[str, ...],
    ) -> ScoreTable:
        """Put the scores of S scenes under each other."""
        counts = [len(ids) for ids in names]
        details = sorted({name for scene in scenes for name in scene.details})
        return ScoreTable(
            metric,
            version,
            np.repeat(np.array([world.scene_token for world in worlds], object), counts),
            np.array([name for ids in names for name in ids], object),
            {name: _stack(scenes, name, "columns") for name in (*sub_scores, "score")},
            np.concatenate([scene.valid for scene in scenes] or [np.zeros(0, bool)]),
            np.array([reason for scene in scenes for reason in scene.reasons], object),
            {name: _stack(scenes, name, "details") for name in details},
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        )


def _stack(scenes: Sequence[SceneScore], name: str, where: str) -> Array:
    """(n, …) a column of all scenes; NaN (or -1) for scenes that could not be scored."""
    known = next(
        (getattr(scene, where)[name] for scene in scenes if name in getattr(scene, where)),
        np.zeros(0),
    )
    blank = -1 if known.dtype.kind == "i" else np.nan
    parts = []
    for scene in scenes:
        shape = (len(scene.valid), *known.shape[1:])
        parts.append(getattr(scene, where).get(name, np.full(shape, blank, known.dtype)))
    return np.concatenate(parts) if parts else known
