"""Rows of runs → tables, comparisons and the paragraph that says what held.

Everything published about the study is derived here from stored rows, so a reader can derive it
again. Scores are shown in points (times 100). Seeds are averaged scene by scene, then whole logs
are drawn again: an interval is about logs, the seeds stand beside it one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from latentvla_core.errors import SetupError
from latentvla_core.evidence.situations import EYES, SITUATIONS, SUB_SCORES
from latentvla_core.evidence.variants import COMPARISONS, VARIANTS
from latentvla_core.statistics import Interval, grouped_mean, paired_difference
from latentvla_core.types import Array

Rows = Sequence[Mapping[str, Any]]
Arm = tuple[str, int, str]
"""Variant, labelled logs, role."""
POINTS = ("pdms", "epdms", "best_pdms", *SUB_SCORES)
"""Columns that are shown times 100."""
FIGURES = ("pdms", *SUB_SCORES, "epdms", "ade_m", "min_ade_m", "best_pdms")


@dataclass(frozen=True, slots=True)
class Cells:
    """One variant's values per scene, seeds side by side."""

    keys: Array
    """(R,) "log|situation" of each cell, sorted."""
    scenes: Array
    """(R,) scenes of each cell."""
    values: Array
    """(seeds, R)."""
    seeds: tuple[int, ...]

    @property
    def logs(self) -> Array:
        """(R,)"""
        return np.array([key.rpartition("|")[0] for key in self.keys])


def cells(rows: Rows, variant: str, labelled: int, role: str, column: str = "pdms") -> Cells:
    """Values of one arm; every seed must have the same cells, else the study is not complete."""
    found: dict[int, dict[str, tuple[int, float]]] = {}
    scale = 100.0 if column in POINTS else 1.0
    for row in _by_arm(rows).get((variant, labelled, role), ()):
        key = f"{row['log_name']}|{row['situation']}"
        found.setdefault(row["seed"], {})[key] = (row["scenes"], scale * row[column])
    if not found:
        raise SetupError(f"no rows of {variant} with {labelled} labelled logs on {role}; run it")
    keys = sorted(set.intersection(*(set(f) for f in found.values())))
    longest = max(len(f) for f in found.values())
    if len(keys) != longest:
        raise SetupError(
            f"seeds of {variant} ({labelled}, {role}) have different scenes; run again"
        )
    seeds = tuple(sorted(found))
    values = np.array([[found[seed][key][1] for key in keys] for seed in seeds])
    return Cells(np.array(keys), np.array([found[seeds[0]][k][0] for k in keys]), values, seeds)


_LAST: list[tuple[Rows, dict[Arm, list[Mapping[str, Any]]]]] = []


def _by_arm(rows: Rows) -> dict[Arm, list[Mapping[str, Any]]]:
    """The rows of each arm. Those of the last list are kept, since a page asks for it hundreds of
    times; the list is kept too, so that no other takes its place in memory.
    """
    if not (_LAST and _LAST[0][0] is rows):
        found: dict[Arm, list[Mapping[str, Any]]] = {}
        for row in rows:
            found.setdefault((row["variant"], row["labelled"], row["role"]), []).append(row)
        _LAST[:] = [(rows, found)]
    return _LAST[0][1]


def mean_of(part: Cells) -> Interval:
    """Mean over scenes and seeds, interval over logs; scenes without a value are left out."""
    values = part.values.mean(0)
    use = np.isfinite(values)
    return grouped_mean(
        np.repeat(values[use], part.scenes[use]), np.repeat(part.logs[use], part.scenes[use])
    )


@dataclass(frozen=True, slots=True)
class Difference:
    """a − b in points."""

    a: str
    b: str
    meaning: str
    labelled: int
    role: str
    interval: Interval
    by_seed: tuple[float, ...]

    @property
    def verdict(self) -> str:
        """holds: the whole interval is above 0; against: below; open: neither."""
        if self.interval.low > 0:
            return "holds"
        return "against" if self.interval.high < 0 else "open"


def difference(
    rows: Rows, a: str, b: str, labelled: int, role: str, meaning: str = "", column: str = "pdms"
) -> Difference:
    """Paired scene by scene and seed by seed, over the seeds that both arms were run with."""
    one, two = _common(*(cells(rows, name, labelled, role, column) for name in (a, b)))
    if not one.seeds or not np.array_equal(one.keys, two.keys):
        raise SetupError(f"{a} and {b} were not run on the same seeds and scenes; run both")
    weights, logs = one.scenes, np.repeat(one.logs, one.scenes)
    left, right = (np.repeat(part.values.mean(0), weights) for part in (one, two))
    by_seed = ((one.values - two.values) * weights).sum(1) / weights.sum()
    return Difference(
        a, b, meaning, labelled, role, paired_difference(left, right, logs), tuple(by_seed)
    )


def _common(one: Cells, two: Cells) -> tuple[Cells, Cells]:
    """Both with the seeds they share."""
    seeds = tuple(seed for seed in one.seeds if seed in two.seeds)
    left, right = (
        replace(part, values=part.values[[part.seeds.index(s) for s in seeds]], seeds=seeds)
        for part in (one, two)
    )
    return left, right


def present(rows: Rows, role: str) -> list[tuple[str, int]]:
    """(variant, labelled) that have rows of this role, in the order of the variants."""
    found = {(variant, labelled) for variant, labelled, of in _by_arm(rows) if of == role}
    order = list(VARIANTS)
    return sorted(found, key=lambda key: (key[1], order.index(key[0])))


def comparisons(rows: Rows, role: str) -> list[Difference]:
    """All comparisons whose arms were run, smallest number of labelled logs first."""
    there = set(present(rows, role))
    sizes = sorted({labelled for _, labelled in there})
    return [
        difference(rows, a, b, labelled, role, meaning)
        for labelled in sizes
        for a, b, meaning in COMPARISONS
        if {(a, labelled), (b, labelled)} <= there
    ]


def table(rows: Rows, role: str) -> list[dict[str, Any]]:
    """One row per (variant, labelled): the table `evidence_summary`."""
    out = []
    for name, labelled in present(rows, role):
        parts = {column: cells(rows, name, labelled, role, column) for column in FIGURES}
        pdms = parts["pdms"]
        figures = {column: mean_of(part) for column, part in parts.items()}
        row: dict[str, Any] = {"variant": name, "labelled": labelled, "role": role}
        row |= {column: interval.mean for column, interval in figures.items()}
        row |= {"pdms_low": figures["pdms"].low, "pdms_high": figures["pdms"].high}
        row |= {"scenes": figures["pdms"].count, "logs": figures["pdms"].groups}
        row |= {"seeds": len(pdms.seeds), "seed_spread": float(_by_seed(pdms).std())}
        out.append(row | {"eyes_pdms": needs_eyes(pdms)} | _situations(pdms))
    return out


def _by_seed(part: Cells) -> Array:
    """(seeds,) means over scenes."""
    return (part.values * part.scenes).sum(1) / part.scenes.sum()


def by_situation(part: Cells) -> dict[str, tuple[float, int]]:
    """Situation → mean over scenes and seeds, scenes."""
    names = np.array([key.rpartition("|")[2] for key in part.keys])
    values, out = part.values.mean(0), {}
    for situation in SITUATIONS:
        use = names == situation
        if use.any():
            count = int(part.scenes[use].sum())
            out[situation] = (float((values * part.scenes)[use].sum() / count), count)
    return out


def needs_eyes(part: Cells) -> float:
    """Mean over the situations that ego status cannot foresee, each weighing the same."""
    found = by_situation(part)
    known = [found[name][0] for name in EYES if name in found]
    return float(np.mean(known)) if known else float("nan")


def _situations(part: Cells) -> dict[str, float]:
    found = by_situation(part)
    return {
        f"pdms_{name}": found[name][0] if name in found else float("nan") for name in SITUATIONS
    }


HOSTS = {"menu": "the blind host", "seeing": "a host that sees"}


def chain(rows: Rows, role: str, labelled: int, host: str = "menu") -> tuple[bool, str]:
    """Whether host < student ≤ teacher holds, and the sentence that says so first.

    Held means: student − host has its interval above 0, and teacher − student is not below 0 with
    its whole interval.
    """
    student = difference(rows, f"{host}+student", host, labelled, role)
    teacher = difference(rows, f"{host}+teacher", host, labelled, role)
    gap = difference(rows, f"{host}+teacher", f"{host}+student", labelled, role)
    held = student.verdict == "holds" and gap.verdict != "against"
    numbers = (
        f"student − host {student.interval}, teacher − host {teacher.interval}, "
        f"teacher − student {gap.interval}"
    )
    start = f"host < student ≤ teacher {'holds' if held else 'does NOT hold'} for {HOSTS[host]}"
    return held, f"{start} with {labelled} labelled logs on {role}: {numbers}."


def chains(rows: Rows, role: str) -> list[tuple[bool, str]]:
    """The chain of every host and number of labelled logs that was run; what does not hold first."""
    there = set(present(rows, role))
    sizes = sorted({labelled for _, labelled in there})
    found = [
        chain(rows, role, n, host)
        for host in HOSTS
        for n in sizes
        if {(host, n), (f"{host}+student", n), (f"{host}+teacher", n)} <= there
    ]
    return sorted(found, key=lambda pair: pair[0])


def positive_controls(rows: Rows, role: str = "test") -> list[tuple[bool, str]]:
    """For every host and number of labelled logs whose control was run: whether a scorer that is
    told the codes of the future chooses better, with the interval, and the sentence.

    Where it does not, codes cannot be used, and the arms of that host say nothing about a teacher.
    """
    there = set(present(rows, role))
    found = []
    for host, name in HOSTS.items():
        for labelled in sorted(n for arm, n in there if arm == f"{host}+oracle"):
            if (host, labelled) not in there:
                continue
            gap = difference(rows, f"{host}+oracle", host, labelled, role)
            held = gap.verdict == "holds"
            told = "holds" if held else "FAILS: no arm of it says what latent actions are worth"
            found.append((held, f"The positive control of {name} with {labelled} labelled logs on "
                                f"{role} {told}: codes of the future {gap.interval}."))  # fmt: skip
    return sorted(found, key=lambda pair: pair[0])


def paragraph(rows: Rows, quality: Rows, role: str = "test") -> str:
    """What held and what did not: failed positive controls first, then the chain."""
    parts = [text for held, text in positive_controls(rows, role) if not held]
    parts += [text for _, text in chains(rows, role)]
    found = comparisons(rows, role)
    for verdict, start in (("holds", "Above 0 with the interval"), ("against", "Below 0 with it")):
        named = [f"{d.meaning} ({d.labelled}: {d.interval})" for d in found if d.verdict == verdict]
        parts.append(f"{start}: {'; '.join(named) or 'nothing'}.")
    return " ".join([*parts, *closing(rows, quality, role)])


def closing(rows: Rows, quality: Rows, role: str = "test") -> list[str]:
    """How many comparisons are undecided, and what the teacher knows."""
    found = comparisons(rows, role)
    undecided = sum(d.verdict == "open" for d in found)
    told = (
        f"{undecided} of {len(found)} comparisons are open; none of them is corrected for the "
        "number of comparisons."
    )
    return [told, *_teachers(quality)]


def _teachers(quality: Rows) -> list[str]:
    """What the latent-action teacher knows, against its controls."""
    told = [row for row in quality if row["teacher"] == "teacher"]
    if not told:
        return []
    mean = {
        name: float(np.mean([row[name] for row in told]))
        for name in ("accuracy", "blind_accuracy", "marginal_accuracy", "gain")
    }
    refused = sorted({row["teacher"] for row in quality if not row["is_handed_on"]})
    text = (
        f"The teacher answers {mean['accuracy']:.3f} of the latent actions of unseen logs right, "
        f"without pictures {mean['blind_accuracy']:.3f}, the marginal "
        f"{mean['marginal_accuracy']:.3f}; pictures are worth {mean['gain']:.4f} nats a token."
    )
    if refused:
        text += f" Not handed on in every seed, since blind was as good: {', '.join(refused)}."
    return [text]
