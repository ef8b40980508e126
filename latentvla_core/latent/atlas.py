"""What does code 7 do? Statistics of what goes with each ego code, and a name derived from them by
rule.

A transition carries several codes of one codebook, one per position; it counts once for each
position that holds the code. Nothing here is learned: names are what the numbers beside them say,
in words, and are labelled as derived.
Legend: n transitions, N positions, K codes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np

from latentvla_core.tables.quality import HISTOGRAM_BINS
from latentvla_core.types import Array

SPEED_EDGES_MPS = np.linspace(-3.0, 3.0, HISTOGRAM_BINS + 1)
HEADING_EDGES_RAD = np.linspace(-0.36, 0.36, HISTOGRAM_BINS + 1)
FEW = 20  # uses below which medians and lifts would be gossip
SHOWN_CONTEXTS = 4
LEAST_LIFT = 1.25  # less is no news
STANDING_MPS = 0.5
MOSTLY, OFTEN = 0.75, 0.3  # shares of standing still that a name mentions

# (median at least, word), most first: change of speed, and of heading, per second
_FASTER = ((1.5, "accelerate hard"), (0.6, "accelerate"), (0.2, "gain a little speed"))
_SLOWER = ((2.0, "brake hard"), (0.8, "brake"), (0.2, "lose a little speed"))
_TURN = ((0.12, "turn"), (0.02, "slight"))
SPEED_BANDS = {
    "reversing": (-math.inf, -STANDING_MPS),
    "standing": (-STANDING_MPS, STANDING_MPS),
    "slow, under 3 m/s": (STANDING_MPS, 3.0),
    "medium, 3 to 8 m/s": (3.0, 8.0),
    "fast, over 8 m/s": (8.0, math.inf),
}


@dataclass(frozen=True, slots=True)
class Transitions:
    """What the atlas is made of."""

    codes: Array
    """(n, N) ego codes."""
    delta_speed_mps: Array
    """(n,) change of speed over the transition; NaN where poses are unknown."""
    delta_heading_rad: Array
    """(n,) left positive; NaN where unknown."""
    speed_mps: Array
    """(n,) at its start; NaN where unknown."""
    contexts: Mapping[str, Array]
    """(n,) float by name: 1 holds, 0 does not, NaN unknown."""
    gap_s: float
    """Duration of a transition; words for changes are about changes per second."""

    def __len__(self) -> int:
        return len(self.codes)


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution in four numbers and a histogram."""

    mean: float
    p10: float
    p50: float
    p90: float
    counts: Array
    """(bins,) int64, tails in the outer bins."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One code of the atlas."""

    code: int
    name: str
    uses: int
    share: float
    by_position: Array
    """(N,) share of the codes at each position."""
    speed_change: Spread
    heading_change: Spread
    speed_p50_mps: float
    by_position_speed_mps: Array
    """(N,) mean change of speed when the code stands at that position; NaN when it never does."""
    by_position_heading_rad: Array
    """(N,) the same for the heading."""
    contexts: tuple[tuple[str, float, float], ...]
    """(condition, frequency with the code, frequency overall)."""
    neighbours: tuple[tuple[int, float], ...]
    """The other codes and their distances, nearest first."""

    def row(self) -> dict[str, object]:
        """The row of `latent_codes`, but for the model's version."""
        speed, heading = self.speed_change, self.heading_change
        return {
            "code": self.code, "name": self.name, "uses": self.uses, "share": self.share,
            "share_by_position": self.by_position, "speed_p50_mps": self.speed_p50_mps,
            **_columns("delta_speed", "mps", speed), **_columns("delta_heading", "rad", heading),
            "contexts": [name for name, _, _ in self.contexts],
            "context_lifts": [there / overall for _, there, overall in self.contexts],
            "neighbours": [code for code, _ in self.neighbours],
            "neighbour_distances": [distance for _, distance in self.neighbours],
        }  # fmt: skip


def _columns(name: str, unit: str, spread: Spread) -> dict[str, object]:
    return {
        f"{name}_{unit}": spread.mean,
        f"{name}_p10_{unit}": spread.p10,
        f"{name}_p50_{unit}": spread.p50,
        f"{name}_p90_{unit}": spread.p90,
        f"{name}_histogram": spread.counts,
    }


def atlas(transitions: Transitions, codebook: Array) -> list[Entry]:
    """An entry per code; `codebook` (K, d) holds the codes' vectors in the quantiser's space."""
    distances = np.linalg.norm(codebook[:, None] - codebook[None], axis=-1)
    return [_entry(transitions, code, distances[code]) for code in range(len(codebook))]


def _entry(data: Transitions, code: int, distances: Array) -> Entry:
    here = data.codes == code  # (n, N)
    weights = here.sum(axis=1)  # a transition counts once per position with the code
    speed = spread(np.repeat(data.delta_speed_mps, weights), SPEED_EDGES_MPS)
    heading = spread(np.repeat(data.delta_heading_rad, weights), HEADING_EDGES_RAD)
    moments = [
        np.repeat(v, weights)
        for v in (data.speed_mps, data.delta_speed_mps, data.delta_heading_rad)
    ]
    order = [int(c) for c in np.argsort(distances, kind="stable") if c != code]
    return Entry(
        code=code,
        name=derived_name(*moments, gap_s=data.gap_s),
        uses=int(weights.sum()),
        share=float(weights.sum() / max(data.codes.size, 1)),
        by_position=here.mean(axis=0) if len(data) else np.zeros(data.codes.shape[1]),
        speed_change=speed,
        heading_change=heading,
        speed_p50_mps=_quantile(moments[0], 0.5),
        by_position_speed_mps=_by_position(here, data.delta_speed_mps),
        by_position_heading_rad=_by_position(here, data.delta_heading_rad),
        contexts=typical(data.contexts, weights),
        neighbours=tuple((c, float(distances[c])) for c in order),
    )


def spread(values: Array, edges: Array) -> Spread:
    """Of the finite values; NaN and zero counts when there are none."""
    known = values[np.isfinite(values)]
    inside = np.clip(known, edges[0], np.nextafter(edges[-1], -np.inf))
    mean = float(known.mean()) if len(known) else math.nan
    low, middle, high = (_quantile(known, q) for q in (0.1, 0.5, 0.9))
    return Spread(mean, low, middle, high, np.histogram(inside, edges)[0])


def _quantile(values: Array, q: float) -> float:
    known = values[np.isfinite(values)]
    return float(np.quantile(known, q)) if len(known) else math.nan


def _by_position(here: Array, values: Array) -> Array:
    known = np.isfinite(values)
    uses = (here & known[:, None]).sum(axis=0)
    sums = (here * np.where(known, values, 0.0)[:, None]).sum(axis=0)
    return np.where(uses > 0, sums / np.maximum(uses, 1), np.nan)


def typical(contexts: Mapping[str, Array], weights: Array) -> tuple[tuple[str, float, float], ...]:
    """Conditions clearly more frequent with the code than overall: (name, frequency there,
    overall), most telling first.

    Telling: by how many standard errors the frequency stands above the overall one.
    """
    found = []
    for name, holds in contexts.items():
        known = np.isfinite(holds)
        uses = float(weights[known].sum())
        if uses < FEW:
            continue
        overall = float(holds[known].mean())
        there = float((holds[known] * weights[known]).sum() / uses)
        error = math.sqrt(max(overall * (1 - overall), 1e-12) / uses)
        if overall > 0 and there / overall >= LEAST_LIFT and there - overall > 3 * error:
            found.append(((there - overall) / error, name, there, overall))
    return tuple(entry[1:] for entry in sorted(found, reverse=True)[:SHOWN_CONTEXTS])


def derived_name(
    speed_mps: Array, delta_speed_mps: Array, delta_heading_rad: Array, *, gap_s: float = 1.0
) -> str:
    """Words for medians over the uses (m,) of a code: what happens to speed, to heading, and at
    what speed it begins.

    Standing still is counted apart: as part of a median it would make half of all codes "keep
    speed".
    """
    if len(speed_mps) < FEW:
        return "hardly used"
    known = np.isfinite(speed_mps + delta_speed_mps + delta_heading_rad)
    speed, change, turn = (v[known] for v in (speed_mps, delta_speed_mps, delta_heading_rad))
    if len(speed) < FEW:
        return "motion unknown"
    still = stands(speed, change)
    words = {True: "stand still", False: ""}
    if not still.all():
        words[False] = _moving_words(speed[~still], change[~still], turn[~still], gap_s)
    return ", or ".join(words[part] for part in spoken_of(float(still.mean())))


def stands(speed_mps: Array, delta_speed_mps: Array) -> Array:
    """(m,) bool; False where unknown."""
    return (np.abs(speed_mps) < STANDING_MPS) & (np.abs(delta_speed_mps) < STANDING_MPS)


def spoken_of(standing_share: float) -> tuple[bool, ...]:
    """Which uses of a code its name and its examples speak of, in this order: those that stand
    (True), that move (False).
    """
    if standing_share >= MOSTLY:
        return (True,)
    return (True, False) if standing_share >= OFTEN else (False,)


def _moving_words(
    speed_mps: Array, delta_speed_mps: Array, delta_heading_rad: Array, gap_s: float
) -> str:
    level, change = (float(np.median(v)) for v in (speed_mps, delta_speed_mps))
    words = [_speed_words(level, change, gap_s), _turn_words(delta_heading_rad, gap_s)]
    return ", ".join(w for w in words if w)


def _speed_words(level: float, change: float, gap_s: float) -> str:
    """With the level in numbers: codes of a drive differ in how fast it goes before they differ in
    anything else.
    """
    if level <= -STANDING_MPS:
        return f"reverse at {-level:.1f} m/s"
    word = _word(change, _FASTER if change > 0 else _SLOWER, gap_s)
    if level >= STANDING_MPS:
        return f"{word} from {level:.0f} m/s" if word else f"keep speed at {level:.0f} m/s"
    return (
        "reverse from standing"
        if level + change <= -STANDING_MPS
        else f"{word or 'keep speed'} from standing"
    )


def _turn_words(delta_heading_rad: Array, gap_s: float) -> str:
    """The side of the median, unless a quarter of the uses turn to the other one and at least as
    far; degrees are those of the transition.
    """
    right, change, left = (float(v) for v in np.quantile(delta_heading_rad, (0.25, 0.5, 0.75)))
    against = min(-right, left) if change == 0 else -right if change > 0 else left
    if (
        against >= abs(change)
        and _word(against, _TURN, gap_s)
        and _word(max(-right, left), _TURN, gap_s) == "turn"
    ):
        return "turn either way"
    word, side = _word(change, _TURN, gap_s), "left" if change > 0 else "right"
    return f"{word} {side} {math.degrees(abs(change)):.0f}°" if word else ""


def _word(change: float, table: Sequence[tuple[float, str]], gap_s: float) -> str:
    """That of the largest bound, per second, which the change reaches; "" if it reaches none."""
    return next((word for least, word in table if abs(change) >= least * gap_s), "")


def speed_bands(speed_mps: Array) -> dict[str, Array]:
    """Speed at the start as contexts."""
    known = np.isfinite(speed_mps)
    return {
        name: np.where(known, (speed_mps >= low) & (speed_mps < high), np.nan).astype(np.float64)
        for name, (low, high) in SPEED_BANDS.items()
    }


def told_by_position(data: Transitions) -> Array:
    """(N, 3) share of the variance that the code at each position explains: of the speed halfway
    through the transition, of Δspeed and of Δheading; NaN if that is constant.
    """
    halfway_mps = data.speed_mps + data.delta_speed_mps / 2
    moments = halfway_mps, data.delta_speed_mps, data.delta_heading_rad
    return np.array([[_explained(codes, values) for values in moments] for codes in data.codes.T])


def _explained(codes: Array, values: Array) -> float:
    known = np.isfinite(values)
    codes, values = codes[known], values[known]
    if len(values) < FEW or values.var() < 1e-9:
        return math.nan
    counts = np.bincount(codes)
    means = np.bincount(codes, values) / np.maximum(counts, 1)
    return float((counts * np.square(means - values.mean())).sum() / len(values) / values.var())


def examples(
    data: Transitions,
    code: int,
    groups: Array,
    confidence: Array,
    *,
    count: int = 3,
    usable: Sequence[bool] | None = None,
) -> list[int]:
    """Rows to show for a code, each of another group (log): clear cases of what its name speaks of,
    whose speed, change of speed and change of heading lie between the quartiles, the most confident
    first.
    """
    here, still = data.codes == code, stands(data.speed_mps, data.delta_speed_mps)
    weights = here.sum(axis=1) * np.isfinite(data.speed_mps)  # as the name counts uses
    share = float(np.average(still, weights=weights)) if weights.any() else 0.0
    shown = here.any(axis=1) & (np.ones(len(data), bool) if usable is None else np.asarray(usable))
    parts = [
        _clearest(data, np.flatnonzero(shown & (still == part)), here, confidence)
        for part in spoken_of(share)
    ]
    order = [row for some in zip_longest(*parts) for row in some if row is not None]
    chosen: list[int] = []
    for row in order:  # first one per log, then whatever is clearest
        if len(chosen) < count and groups[row] not in {groups[c] for c in chosen}:
            chosen.append(row)
    chosen += [row for row in order if row not in chosen][: count - len(chosen)]
    return chosen


def _clearest(data: Transitions, rows: Array, here: Array, confidence: Array) -> list[int]:
    """The rows, the most usual first, then the most confident."""
    moments = data.speed_mps, data.delta_speed_mps, data.delta_heading_rad
    unusual = np.sum([_outside_quartiles(values[rows]) for values in moments], axis=0)
    certainty = np.where(here[rows], confidence[rows], -np.inf).max(axis=1)
    return [int(row) for row in rows[np.lexsort((rows, -certainty, unusual))]]


def _outside_quartiles(values: Array) -> Array:
    """(m,) int: 1 where a value is below the first or above the third quartile; 0 where it is
    unknown.
    """
    low, high = (_quantile(values, q) for q in (0.25, 0.75))
    return ((values < low) | (values > high)).astype(int)
