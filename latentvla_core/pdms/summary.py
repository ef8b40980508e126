"""Means that say what they are means of: scored and expected counts, what is missing, and why.

Source: pdms.md §12.1, §12.2 (plain mean over rows; two-frame comfort over the rows that have it).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from latentvla_core.errors import DataError
from latentvla_core.pdms.table import ScoreTable
from latentvla_core.types import Array

NAMED = 5  # tokens spelled out in messages


class IncompleteError(DataError):
    """A mean was asked of a split that is not completely scored."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """Mean scores of one split, with the counts that make them comparable."""

    metric: str
    metric_version: str
    expected_scenes: int
    """Scenes the split has."""
    scored_scenes: int
    """Scenes of the split with at least one plan, all of whose plans are valid."""
    rows: int
    """Plans, valid or not, of scenes of the split."""
    valid_rows: int
    means: dict[str, float]
    """Column → mean over valid rows, whether complete or not; use `mean` unless you say so to the
    reader.
    """
    missing: tuple[str, ...]
    """Scenes of the split without a plan."""
    unknown: tuple[str, ...]
    """Scenes with a plan that the split does not have; not in the means."""
    reasons: dict[str, int]
    """Why rows are not valid → how many."""

    @property
    def complete(self) -> bool:
        """Every scene of the split is scored."""
        return self.scored_scenes == self.expected_scenes

    def mean(self, name: str = "score", *, incomplete: bool = False) -> float:
        """Mean of a column over the split.

        Raises:
            IncompleteError: not every scene is scored, and `incomplete` does not allow that.
        """
        if not self.complete and not incomplete:
            raise IncompleteError(
                f"{self.counts()}; a mean over a part is not comparable. Ask with incomplete=True"
            )
        return self.means[name]

    def counts(self) -> str:
        """ "scored 412 of 412", and what is wrong where the numbers differ."""
        text = f"scored {self.scored_scenes} of {self.expected_scenes}"
        parts = [
            _named("without a trajectory", self.missing),
            _named("not in the split", self.unknown),
        ]
        parts += [f"{count} invalid: {reason}" for reason, count in self.reasons.items()]
        return "; ".join([text, *(part for part in parts if part)])


def _named(what: str, tokens: tuple[str, ...]) -> str:
    if not tokens:
        return ""
    more = "" if len(tokens) <= NAMED else f" and {len(tokens) - NAMED} more"
    return f"{len(tokens)} {what} ({', '.join(tokens[:NAMED])}{more})"


def summarize(
    columns: Mapping[str, Array],
    scene_token: Array,
    valid: Array,
    reason: Array,
    *,
    expected: Collection[str],
    metric: str,
    metric_version: str,
) -> Summary:
    """Summary of n scored rows for the scenes a split expects.

    Args:
        columns: sub-scores and score, (n,) each; NaN only in rows that are not valid, and in
        two-frame comfort.
        scene_token: (n,) str; valid: (n,) bool; reason: (n,) str.
    """
    wanted = set(expected)
    known = np.array([token in wanted for token in scene_token], bool)
    good = known & np.asarray(valid, bool)
    tried = {token for token, inside in zip(scene_token, known, strict=True) if inside}
    failed = {
        token
        for token, inside, ok in zip(scene_token, known, good, strict=True)
        if inside and not ok
    }
    return Summary(
        metric=metric,
        metric_version=metric_version,
        expected_scenes=len(wanted),
        scored_scenes=len(tried - failed),
        rows=int(known.sum()),
        valid_rows=int(good.sum()),
        means={name: _mean(column[good]) for name, column in columns.items()},
        missing=tuple(sorted(wanted - tried)),
        unknown=tuple(sorted(set(scene_token) - wanted)),
        reasons=dict(Counter(np.asarray(reason)[known & ~good].tolist())),
    )


def _mean(values: Array) -> float:
    """Mean of the known values, NaN if there is none."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def summarize_table(table: ScoreTable, expected: Collection[str]) -> Summary:
    """Summary of a score table for the scenes a split expects."""
    return summarize(
        table.columns,
        table.scene_token,
        table.valid,
        table.reason,
        expected=expected,
        metric=table.metric,
        metric_version=table.metric_version,
    )
