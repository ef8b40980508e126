"""The arms that a fused planner of the line is compared with, by name: what each is told, and which
question it answers. The study (`evidence`) asks the same of small planners on many logs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from latentvla_core.errors import SetupError
from latentvla_core.planner.controls import Control
from latentvla_core.statistics import Interval, paired_difference
from latentvla_core.types import Array

Tokens = Literal["none", "vlm", "codes"]
LINE = ("host", "latent", "student", "swapped", "missing")
"""Arms that are no training of their own: the line's planners, and the fused one told the student's
tokens in place of the VLM's (`swapped`), or nothing (`missing`).
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One training of one host."""

    isolates: str
    """The question it answers, in one line."""
    tokens: Tokens = "none"
    """Whose tokens it reads: none (the host alone), the VLM's, or the codes of the future."""
    control: Control = "full"
    """What is done to the VLM's tokens."""
    sees: bool = True
    """False: its pictures are black, in training and after."""
    fine_tunes: bool = True
    """From the trained host, as long as the fused planner; False: from scratch, as the host."""


ARMS: dict[str, Arm] = {
    "equal_compute": Arm(isolates="the host trained as long as the fused planner, without a VLM"),
    "black": Arm(
        isolates="the host with black pictures: what it sees with them", sees=False,
        fine_tunes=False,
    ),
    "noise": Arm(isolates="noise of the VLM's moments", tokens="vlm", control="noise"),
    "visual_only": Arm(
        isolates="E_v: tokens of the pictures alone", tokens="vlm", control="visual_only"
    ),
    "action_only": Arm(
        isolates="E_a: tokens of the actions alone", tokens="vlm", control="action_only"
    ),
    "refinement": Arm(
        isolates="the fusion's layers, told the same in every scene", tokens="vlm",
        control="refinement",
    ),
    "oracle": Arm(isolates="positive control: the codes of the future", tokens="codes"),
}  # fmt: skip
COMPARISONS: tuple[tuple[str, str, str], ...] = (
    ("oracle", "equal_compute", "positive control: a VLM that knows the codes of the future"),
    ("host", "black", "pictures, against black ones"),
    ("latent", "equal_compute", "the VLM, against the host trained as long"),
    ("latent", "noise", "the VLM, against noise"),
    ("latent", "refinement", "the VLM, against the same layers without one"),
    ("latent", "visual_only", "both kinds of tokens, against E_v"),
    ("latent", "action_only", "both kinds of tokens, against E_a"),
    ("latent", "missing", "the VLM, against the same planner when it does not answer"),
    ("student", "equal_compute", "the student, against the host trained as long"),
    ("latent", "student", "the VLM, against its student"),
    ("latent", "swapped", "the VLM, against its student put in its place untrained"),
    ("student", "swapped", "fine-tuning on the student, against the untrained swap"),
)
"""(a, b, what a − b says)."""
POSITIVE = COMPARISONS[0][:2]


def arm(name: str) -> Arm:
    """The arm of a name. Raises SetupError that lists the names."""
    if name not in ARMS:
        raise SetupError(f"arm {name!r} is unknown; use one of {', '.join(ARMS)}")
    return ARMS[name]


class Figure(NamedTuple):
    """A column that arms are compared in."""

    column: str
    better: int
    """1: more is better; -1: less is."""


FIGURES = (Figure("score", 1), Figure("ade_m", -1))


@dataclass(frozen=True, slots=True)
class Compared:
    """a − b of one host on one split, paired scene by scene; the interval draws whole logs."""

    host: str
    split: str
    a: str
    b: str
    meaning: str
    figure: str
    difference: Interval
    verdict: str
    """holds: a is better with its whole interval; against: worse; open: neither, or one log."""


def compared(rows: Iterable[Mapping[str, Any]]) -> list[Compared]:
    """Rows of `planner_controls` → every comparison whose arms planned the same scenes."""
    groups: dict[tuple[str, str, str], dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        key = (row["host"], row["split"], row["arm"])
        groups.setdefault(key, {})[row["scene_token"]] = row
    places = list(dict.fromkeys((host, split) for host, split, _ in groups))
    return [
        _compared(host, split, (a, b, meaning), figure, groups[host, split, a],
                  groups[host, split, b])
        for host, split in places
        for a, b, meaning in COMPARISONS
        if (host, split, a) in groups and (host, split, b) in groups
        for figure in FIGURES
    ]  # fmt: skip


def _compared(
    host: str,
    split: str,
    named: tuple[str, str, str],
    figure: Figure,
    one: Mapping[str, Mapping[str, Any]],
    two: Mapping[str, Mapping[str, Any]],
) -> Compared:
    a, b, meaning = named
    tokens = sorted(one.keys() & two.keys())
    values = [np.array([part[t][figure.column] for t in tokens], float) for part in (one, two)]
    known = np.isfinite(values[0]) & np.isfinite(values[1])
    logs = np.array([one[t]["log_name"] for t in tokens])
    found = _difference(values[0][known], values[1][known], logs[known])
    return Compared(host, split, a, b, meaning, figure.column, found, _verdict(found, figure))


def _difference(one: Array, two: Array, logs: Array) -> Interval:
    nan = float("nan")
    return paired_difference(one, two, logs) if len(one) else Interval(nan, nan, nan, 0, 0)


def _verdict(found: Interval, figure: Figure) -> str:
    if found.groups < 2:
        return "open"
    low, high = sorted((figure.better * found.low, figure.better * found.high))
    return "holds" if low > 0 else "against" if high < 0 else "open"


def positive_control(found: Sequence[Compared], host: str, split: str) -> tuple[bool, str] | None:
    """(whether the fusion of a host uses a VLM that is right, the sentence); None: not run.

    Held: with the codes of the future its plans are nearer to the logged drive than those of the
    host trained as long, with the whole interval. What fails it cannot use any VLM, so nothing that
    was compared with its fused planner means anything.
    """
    ours = [
        c
        for c in found
        if (c.host, c.split, c.a, c.b, c.figure) == (host, split, *POSITIVE, "ade_m")
    ]
    if not ours:
        return None
    held = ours[0].verdict == "holds"
    told = (
        f"{host} told the codes of the future, against the host trained as long, on {split}:"
        f" displacement {ours[0].difference} m over {ours[0].difference.groups} logs"
    )
    return held, f"{'its fusion can be used' if held else 'its fusion is NOT used'}: {told}"
