"""The study's figures as text, and its picture: both from stored rows alone."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from textwrap import fill

import numpy as np

from benchmarks.correlation.checkpoints import HOSTS
from benchmarks.correlation.figures import (
    COEFFICIENTS,
    Figure,
    Values,
    correlations,
    disordered,
    drives_of,
    figure_of,
    means,
    steps_of,
)
from benchmarks.correlation.rows import CLOSED, OPEN, Rows
from latentvla_core.errors import SetupError
from latentvla_core.statistics import DRAWS
from latentvla_core.types import Array

BEGIN, END = "<!-- figures -->", "<!-- end -->"
LEARNED, APART = ("imitation", "rl", "fused"), ("blind", "floor")
PAIRS = [(a, b) for a in OPEN for b in CLOSED]


def write(rows: Rows, doc: Path | None, image: Path | None, draws: int = DRAWS) -> str:
    """All figures as Markdown; into a page and as a picture if they are named."""
    learned = rows.of(LEARNED)
    over = {o: correlations(rows, learned, o, draws) for o in ("checkpoints", "scenes", "both")}
    text = "\n\n".join(sections(rows, over, draws))
    if doc is not None:
        replace(doc, text)
    if image is not None:
        from benchmarks.correlation.picture import draw

        draw(rows, over["both"], image)
    return text


def replace(doc: Path, text: str) -> None:
    """Puts the text between the two marks of a page."""
    page = doc.read_text(encoding="utf-8")
    if BEGIN not in page or END not in page:
        raise SetupError(f"{doc} has no lines {BEGIN} and {END}; write them where the figures go")
    head, rest = page.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    doc.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{tail}", encoding="utf-8")


def sections(rows: Rows, over: dict[str, Values], draws: int) -> Iterable[str]:
    """The parts of the page, in order."""
    learned = rows.of(LEARNED)
    yield answers(rows, over["both"], draws)
    yield f"Spearman over {len(learned)} checkpoints that learned, by length of the drive:"
    yield by_length(rows, over)
    yield "The same pairs by all three coefficients, checkpoints, logs and scenes drawn again:"
    yield by_coefficient(rows, over["both"])
    yield "Other choices of checkpoints, Spearman:"
    yield by_choice(rows, draws)
    yield "What learning from the score changed, in points, against the planner it started from:"
    yield by_step(rows, draws)
    yield "All checkpoints; scores in points:"
    yield everyone(rows)


# ---- what it says ------------------------------------------------------------------------------


def answers(rows: Rows, values: Values, draws: int) -> str:
    """What holds and what does not, in sentences that follow from the rows."""
    first, last = rows.lengths_s[0], rows.lengths_s[-1]
    told = []
    for opened, closed in PAIRS:
        found = values["Spearman", opened, closed]
        fall = figure_of(found[:, -1] - found[:, 0])
        word = {-1: "falls", 0: "no change can be told", 1: "rises"}[fall.sign]
        told.append(
            f"{opened.upper()} with {closed.upper()}: {figure_of(found[:, 0])} after {first:g} s, "
            f"{figure_of(found[:, -1])} after {last:g} s; {word} ({fall})"
        )
    lines = [f"* {line}." for line in [*told, *_inversions(rows, draws)]]
    return "\n".join(wrapped(line) for line in lines)


def wrapped(line: str) -> str:
    """An item of a list as lines of a page."""
    return fill(line, 100, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _inversions(rows: Rows, draws: int) -> Iterable[str]:
    steps = [s for s in steps_of(rows, draws) if s.child.kind == "rl"]
    for opened in OPEN:
        for closed in drives_of(rows):
            turned = [s.child.name for s in steps if (opened, closed) in s.inverts]
            if turned:
                yield (
                    f"Learning from the score moved {opened.upper()} and {closed} in opposite "
                    f"directions in {len(turned)} of {len(steps)}: {', '.join(turned)}"
                )
    if steps and not any(s.inverts for s in steps):
        yield (
            f"Learning from the score turned no pair of scores round with whole intervals "
            f"(0 of {len(steps)} trainings)"
        )
    yield from _order(rows)


def _order(rows: Rows) -> Iterable[str]:
    """How often two scores disagree about who is better, with and without RL."""
    chosen, found = rows.of(LEARNED), means(rows, False, 1)
    mark = np.array([rows.checkpoints[i].kind == "rl" for i in chosen])
    if not mark.any():
        return
    for closed in CLOSED:
        x, y = found.open_loop["pdms"][0, chosen], found.closed_loop[closed][0, chosen, -1]
        one, none = disordered(x, y, mark)
        yield (
            f"PDMS and {closed.upper()} after {rows.lengths_s[-1]:g} s order {one:.0%} of the "
            f"pairs of an RL checkpoint and another in opposite ways, {none:.0%} of the pairs "
            "without RL"
        )


# ---- tables ------------------------------------------------------------------------------------


def by_length(rows: Rows, over: dict[str, Values]) -> str:
    """A row per pair of scores and thing that is drawn again, a column per length."""
    names = {"checkpoints": "checkpoints", "scenes": "logs and scenes", "both": "all of them"}
    body = [
        [f"{a.upper()}, {b.upper()}", names[kind], *map(str, _figures(found["Spearman", a, b]))]
        for a, b in PAIRS
        for kind, found in over.items()
    ]
    return table(["scores", "drawn again", *_lengths(rows)], body)


def by_coefficient(rows: Rows, values: Values) -> str:
    body = [
        [f"{a.upper()}, {b.upper()}", name, *map(str, _figures(values[name, a, b]))]
        for a, b in PAIRS
        for name in COEFFICIENTS
    ]
    return table(["scores", "coefficient", *_lengths(rows)], body)


def by_choice(rows: Rows, draws: int) -> str:
    """The same over fewer or more checkpoints."""
    learned, everybody = rows.of(LEARNED), np.arange(len(rows.checkpoints))
    choices = {
        "imitation alone": rows.of(("imitation",)),
        **{f"{h} alone": _of_host(rows, learned, h) for h in HOSTS},
        "all, floors and blind ones too": everybody,
    }
    body = []
    for name, chosen in choices.items():
        if len(chosen) < 4:
            continue
        found = correlations(rows, chosen, "both", draws)
        for a, b in PAIRS:
            figures = map(str, _figures(found["Spearman", a, b]))
            body.append([f"{name} ({len(chosen)})", f"{a.upper()}, {b.upper()}", *figures])
    return table(["checkpoints", "scores", *_lengths(rows)], body)


def _of_host(rows: Rows, chosen: Array, host: str) -> Array:
    return np.array([i for i in chosen if rows.checkpoints[i].host == host], np.int64)


def by_step(rows: Rows, draws: int) -> str:
    names = [*OPEN, *drives_of(rows)]
    body = [
        [step.child.name, *(_points(step.changes[n]) for n in names)]
        for step in steps_of(rows, draws)
    ]
    return table(["checkpoint", "PDMS", "EPDMS", *drives_of(rows)], body)


def everyone(rows: Rows) -> str:
    """Every checkpoint's scores; ranks among those that learned."""
    found, learned = means(rows, False, 1), rows.of(LEARNED)
    columns = [100 * found.open_loop[n][0] for n in OPEN]
    columns += [100 * found.closed_loop["cls"][0, :, t] for t in (0, -1)]
    columns += [found.closed_loop["ds"][0, :, t] for t in (0, -1)]
    rank = {int(i): 1 + int((columns[0][learned] > columns[0][i]).sum()) for i in learned}
    drive = {int(i): 1 + int((columns[-1][learned] > columns[-1][i]).sum()) for i in learned}
    order = sorted(range(len(columns[0])), key=lambda i: (i not in rank, -columns[0][i]))
    body = [
        [
            rows.checkpoints[i].name, rows.checkpoints[i].kind,
            *(f"{column[i]:.1f}" for column in columns),
            f"{rank[i]} / {drive[i]}" if i in rank else "apart",
        ]
        for i in order
    ]  # fmt: skip
    first, last = (f"{rows.lengths_s[k]:g} s" for k in (0, -1))
    head = ["checkpoint", "kind", "PDMS", "EPDMS", f"CLS {first}", f"CLS {last}"]
    return table([*head, f"DS {first}", f"DS {last}", "rank PDMS / DS"], body)


def _figures(values: Array) -> list[Figure]:
    return [figure_of(values[:, t]) for t in range(values.shape[1])]


def _lengths(rows: Rows) -> list[str]:
    return [f"{s:g} s" for s in rows.lengths_s]


def _points(figure: Figure) -> str:
    return f"{figure.value:+.1f} [{figure.low:+.1f}, {figure.high:+.1f}]"


def table(head: list[str], body: list[list[str]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
