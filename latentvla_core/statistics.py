"""Intervals that know that scenes of one log are not independent.

Windows of a log overlap, so the spread between scenes understates the error of a mean 2.3 to 2.5
times on the embedded world. Whole logs are drawn again instead (cluster bootstrap).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from latentvla_core.types import Array

DRAWS = 2000
LEVEL = 0.95


class Interval(NamedTuple):
    """A mean with its bootstrap interval over groups."""

    mean: float
    low: float
    high: float
    count: int
    """Values behind the mean."""
    groups: int
    """Groups (logs) that were drawn again."""

    def __str__(self) -> str:
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def grouped_mean(
    values: Array, groups: Sequence[str] | Array, seed: int = 0, draws: int = DRAWS
) -> Interval:
    """(N,) values of scenes and (N,) their logs → mean over scenes, 95 % interval over logs."""
    values, sums, counts = _by_group(values, groups)
    picks = np.random.default_rng(seed).integers(0, len(sums), (draws, len(sums)))
    means = sums[picks].sum(1) / counts[picks].sum(1)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(values.mean()), float(low), float(high), len(values), len(sums))


def paired_difference(
    values_a: Array, values_b: Array, groups: Sequence[str] | Array, seed: int = 0
) -> Interval:
    """Mean of `values_a − values_b` (N,), paired scene by scene, interval over groups.

    Both arms see the same scenes, so the difference of a log is drawn, never the two arms apart.
    """
    values_a, values_b = np.asarray(values_a, np.float64), np.asarray(values_b, np.float64)
    if values_a.shape != values_b.shape:
        raise ValueError(
            f"{values_a.shape} values against {values_b.shape}; pairs need the same scenes in the "
            "same order"
        )
    return grouped_mean(values_a - values_b, groups, seed)


def grouped_error(values: Array, groups: Sequence[str] | Array) -> float:
    """Standard error of the mean of (N,) values whose groups (N,) are independent and whose members
    are not (cluster-robust); NaN for fewer than two groups.
    """
    if len(values) == 0 or len(np.unique(np.asarray(groups))) < 2:
        return float("nan")
    values, sums, counts = _by_group(values, groups)
    off = sums - counts * values.mean()
    return float(np.sqrt((off**2).sum() * len(sums) / (len(sums) - 1)) / len(values))


def _by_group(values: Array, groups: Sequence[str] | Array) -> tuple[Array, Array, Array]:
    """(N,) values, (G,) sums and (G,) counts; refuses what has no mean."""
    values, names = np.asarray(values, np.float64), np.asarray(groups)
    if values.ndim != 1 or values.shape != names.shape or not len(values):
        raise ValueError(f"{values.shape} values in {names.shape} groups; need equal, 1-D, not 0")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise ValueError(f"{bad} of {len(values)} values are not finite; leave those scenes out")
    _, where = np.unique(names, return_inverse=True)
    return values, np.bincount(where, values), np.bincount(where)
