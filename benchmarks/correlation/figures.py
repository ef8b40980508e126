"""Correlations over checkpoints with their intervals, and what learning from the score did to ranks.

Two things are chance: which checkpoints there are, and which logs and scenes judge them. They are
drawn again, alone or together; the figure is that of what was there.

Legend: D draws, C checkpoints, L logs, S scenes, T lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from scipy.stats import rankdata

from benchmarks.correlation.checkpoints import Checkpoint
from benchmarks.correlation.rows import CLOSED, OPEN, Rows
from latentvla_core.statistics import DRAWS, LEVEL
from latentvla_core.types import Array

Over = Literal["checkpoints", "scenes", "both"]
"""What is drawn again: checkpoints; logs and scenes, each whole; or all three."""


class Figure(NamedTuple):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval lies on one side of zero; else 0."""
        return int(self.low > 0) - int(self.high < 0)


def figure_of(values: Array) -> Figure:
    """(D + 1,) value first, draws behind it; draws without a value are left out."""
    low, high = np.nanquantile(values[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(float(values[0]), float(low), float(high))


# ---- coefficients ------------------------------------------------------------------------------


def pearson(x: Array, y: Array) -> Array:
    """(..., C) twice → (...); NaN where one of them is constant."""
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    return _divided((x * y).sum(-1), np.sqrt((x**2).sum(-1) * (y**2).sum(-1)))


def spearman(x: Array, y: Array) -> Array:
    """Pearson's of the ranks; equal values share a rank."""
    return pearson(rankdata(x, axis=-1), rankdata(y, axis=-1))


def kendall(x: Array, y: Array) -> Array:
    """Kendall's tau-b."""
    a, b = (np.sign(v[..., :, None] - v[..., None, :]) for v in (x, y))
    size = np.sqrt((a**2).sum((-1, -2)) * (b**2).sum((-1, -2)))
    return _divided((a * b).sum((-1, -2)), size)


def _divided(value: Array, size: Array) -> Array:
    return np.divide(value, size, out=np.full(size.shape, np.nan), where=size > 1e-12)


COEFFICIENTS: dict[str, Callable[[Array, Array], Array]] = {
    "Spearman": spearman,
    "Pearson": pearson,
    "Kendall": kendall,
}

# ---- means of every checkpoint -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Means:
    """Of every checkpoint in every draw; row 0 is what was there."""

    open_loop: dict[str, Array]
    """(D + 1, C)"""
    closed_loop: dict[str, Array]
    """(D + 1, C, T)"""


def means(rows: Rows, again: bool, draws: int = DRAWS, seed: int = 0) -> Means:
    """Means over scenes of logs, and over driven scenes; `again`: logs and scenes are drawn.

    Rounded, so that who is equal shares a rank however a processor adds up.
    """
    rng = np.random.default_rng(seed)
    counts = rows.scenes_per_log
    logs = _drawn(rng, counts.shape[1], draws, again)
    scenes = _drawn(rng, next(iter(rows.closed_loop.values())).shape[1], draws, again)
    total = logs @ counts.T
    opened = {k: logs @ (v * counts).T / total for k, v in rows.open_loop.items()}
    part = scenes / scenes.sum(1, keepdims=True)
    closed = {k: np.einsum("ds,cst->dct", part, v) for k, v in rows.closed_loop.items()}
    return Means(*({k: v.round(9) for k, v in kind.items()} for kind in (opened, closed)))


def _drawn(rng: np.random.Generator, count: int, draws: int, again: bool) -> Array:
    """(D + 1, count) how often each is there; ones first."""
    even = np.full(count, 1.0 / count)
    drawn = rng.multinomial(count, even, draws) if again else np.ones((draws, count))
    return np.concatenate([np.ones((1, count)), drawn]).astype(float)


# ---- correlations ------------------------------------------------------------------------------


Values = dict[tuple[str, str, str], Array]
"""(coefficient, open-loop score, closed-loop score) → (D + 1, T)."""


def correlations(
    rows: Rows, chosen: Array, over: Over, draws: int = DRAWS, seed: int = 0
) -> Values:
    """Every coefficient over the checkpoints `chosen` (n,), at every length."""
    found = means(rows, over != "checkpoints", draws, seed)
    picks = np.broadcast_to(np.arange(len(chosen)), (draws + 1, len(chosen))).copy()
    if over != "scenes":
        picks[1:] = np.random.default_rng(seed + 1).integers(0, len(chosen), (draws, len(chosen)))
    out: Values = {}
    for opened in OPEN:
        x = np.take_along_axis(found.open_loop[opened][:, chosen], picks, 1)
        for closed in CLOSED:
            wide = np.take_along_axis(found.closed_loop[closed][:, chosen], picks[..., None], 1)
            for name, coefficient in COEFFICIENTS.items():
                columns = [coefficient(x, wide[..., t]) for t in range(wide.shape[-1])]
                out[name, opened, closed] = np.stack(columns, -1)
    return out


# ---- learning from the score -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """What one training from a parent's weights changed; scores in points (of 100)."""

    child: Checkpoint
    changes: dict[str, Figure]
    """pdms, epdms over logs; cls and ds at the first and the last length over scenes, named by
    `drives_of`; all paired.
    """

    @property
    def inverts(self) -> list[tuple[str, str]]:
        """(open, closed) where one rose and the other fell, or the other way round, both with
        their whole intervals.
        """
        return [
            (a, b) for a in OPEN for b in self.changes
            if b not in OPEN and self.changes[a].sign * self.changes[b].sign < 0
        ]  # fmt: skip


def drives_of(rows: Rows) -> dict[str, tuple[str, int]]:
    """Name → (closed-loop score, place of its length): both scores after the shortest and the
    longest drives.
    """
    return {
        f"{name.upper()} after {rows.lengths_s[at]:g} s": (name, at)
        for at in (0, -1)
        for name in CLOSED
    }


def steps_of(rows: Rows, draws: int = DRAWS) -> list[Step]:
    """Every checkpoint with a parent that was judged too."""
    places = {c.name: i for i, c in enumerate(rows.checkpoints)}
    found = means(rows, True, draws)
    points = {name: 100 * v for name, v in found.open_loop.items()}
    for name, (score, at) in drives_of(rows).items():
        points[name] = (100 if score == "cls" else 1) * found.closed_loop[score][..., at]
    return [
        Step(c, {k: figure_of(v[:, places[c.name]] - v[:, places[c.parent]])
                 for k, v in points.items()})
        for c in rows.checkpoints if c.parent in places
    ]  # fmt: skip


def disordered(x: Array, y: Array, mark: Array) -> tuple[float, float]:
    """Shares of pairs that two scores (n,) put in opposite order: of pairs in which exactly one is
    marked (n,), and of pairs in which none is.
    """
    first, second = np.triu_indices(len(x), 1)
    opposite = np.sign(x[first] - x[second]) * np.sign(y[first] - y[second]) < 0
    one, none = mark[first] ^ mark[second], ~(mark[first] | mark[second])
    shares = [float(opposite[kind].mean()) if kind.any() else np.nan for kind in (one, none)]
    return shares[0], shares[1]
