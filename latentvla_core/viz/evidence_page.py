"""The study of what pictures and latent actions are worth, as one page: the chain first, then every
comparison with its interval, then the arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from latentvla_core.evidence.situations import SITUATIONS
from latentvla_core.evidence.summary import (
    Difference,
    Rows,
    chains,
    closing,
    comparisons,
    positive_controls,
    table,
)
from latentvla_core.evidence.variants import VARIANTS
from latentvla_core.viz import svg
from latentvla_core.viz.html import cells, number, page, pill
from latentvla_core.viz.html import table as html_table

CURVES = ("menu", "menu+blind_teacher", "menu+teacher", "menu+student", "seeing", "seeing+teacher")
ROLES = {"test": "test logs, same towns", "test_towns": "test logs, other towns"}
VERDICTS = {"holds": "good", "open": "none", "against": "bad"}
NOTE = (
    "Every arm of a seed chooses from the same menu of blind proposals; arms differ only in what the "
    "scorer is told. Teachers and students are trained on logs that no planner was trained on. "
    "Intervals are 95 % bootstraps over whole logs of the mean over seeds; the seeds stand beside "
    "them one by one."
)


def evidence_page(rows: Rows, quality: Rows, notes: Sequence[str] = ()) -> str:
    """(HTML) the page, from stored rows of runs and of teachers."""
    roles = [role for role in ROLES if any(row["role"] == role for row in rows)]
    parts = [_head(rows, quality, notes), _teachers(quality)]
    for role in roles:
        parts += [_forest(rows, role), _curve(rows, role), _arms(rows, role), _cases(rows, role)]
    return page("What are pictures and latent actions worth?", parts)


def _head(rows: Rows, quality: Rows, notes: Sequence[str]) -> str:
    roles = [role for role in ROLES if any(row["role"] == role for row in rows)]
    found = [pair for role in roles for pair in positive_controls(rows, role)]
    found += [pair for role in roles for pair in chains(rows, role)]
    banners = "".join(  # what does not hold is said first
        f"<div class='banner {'good' if held else 'bad'}'>{escape(text)}</div>"
        for held, text in sorted(found, key=lambda pair: pair[0])
    )
    told = "".join(f"<p>{escape(text)}</p>" for text in (NOTE, *notes, *closing(rows, quality)))
    return f"<h1>What are pictures and latent actions worth?</h1>{banners}{told}"


def _teachers(quality: Rows) -> str:
    header = (
        "teacher", "seed", "loss", "blind", "marginal", "right", "blind", "marginal",
        "gain over blind", "",
    )  # fmt: skip
    found = [
        cells(
            escape(row["teacher"]),
            str(row["seed"]),
            *(number(row[name]) for name in ("loss", "blind_loss", "marginal_loss")),
            *(number(row[n]) for n in ("accuracy", "blind_accuracy", "marginal_accuracy")),
            f"{row['gain']:+.4f} [{row['gain_low']:+.4f}, {row['gain_high']:+.4f}]",
            pill("good", "handed on") if row["is_handed_on"] else pill("bad", "refused"),
        )
        for row in sorted(quality, key=lambda row: (row["teacher"], row["seed"]))
    ]
    text = (
        "<p>On val logs, which no teacher saw. Loss is nats a token, of a path L1. A teacher is "
        "handed on only if its loss is below that of its own blind branch.</p>"
    )
    return f"<h2>What teachers know</h2>{text}<div class=card>{html_table(header, found)}</div>"


def _forest(rows: Rows, role: str) -> str:
    found = comparisons(rows, role)
    span = max([*(abs(x) for d in found for x in (d.interval.low, d.interval.high)), 1.0])
    lines = [
        cells(
            str(d.labelled),
            f"{escape(d.meaning)}<br><small>{escape(d.a)} − {escape(d.b)}</small>",
            interval_bar(d, span),
            f"<span class=line>{d.interval}</span>",
            f"<small>{' '.join(f'{x:+.1f}' for x in d.by_seed)}</small>",
            pill(VERDICTS[d.verdict], d.verdict),
        )
        for d in found
    ]
    header = ("labelled logs", "what", "", "points of PDMS", "seeds", "")
    return (
        f"<h2>Comparisons: {escape(ROLES[role])}</h2>"
        f"<div class=card>{html_table(header, lines)}</div>"
    )


def interval_bar(found: Difference, span: float, width: float = 260) -> str:
    """An interval on a line from −span to span, with a tick at zero."""

    def x_of(value: float) -> float:
        return (value / span + 1) / 2 * (width - 8) + 4

    colour = {"holds": svg.GOOD, "against": svg.BAD, "open": svg.INK}[found.verdict]
    low, high = x_of(found.interval.low), x_of(found.interval.high)
    parts = [
        svg.line((x_of(0), 0), (x_of(0), 18), svg.GREY, dashed=True),
        svg.line((low, 9), (high, 9), colour, width=2),
        svg.rect(x_of(found.interval.mean) - 3, 5, 6, 8, colour, str(found.interval)),
    ]
    return svg.svg(width, 18, parts, str(found.interval))


def _curve(rows: Rows, role: str) -> str:
    summary = {(row["variant"], row["labelled"]): row for row in table(rows, role)}
    sizes = sorted({labelled for _, labelled in summary})
    series = {
        name: [(n, summary[name, n]["pdms"]) for n in sizes if (name, n) in summary]
        for name in CURVES
        if any((name, n) in summary for n in sizes)
    }
    chart = svg.curves(series, "PDMS over labelled logs", width=560, height=260)
    return f"<div class=card>{chart}</div>"


def _arms(rows: Rows, role: str) -> str:
    header = (
        "arm", "logs", "PDMS", "interval", "where eyes are needed", "NC", "DAC", "EP", "TTC", "C",
        "EPDMS", "ADE m", "min over K m", "best of menu", "what it is for",
    )  # fmt: skip
    lines = [_arm(row) for row in table(rows, role)]
    return (
        f"<h2>Arms: {escape(ROLES[role])}</h2><p>No ranking: arms differ by less than their "
        f"intervals; read the comparisons.</p><div class=card>{html_table(header, lines)}</div>"
    )


def _arm(row: dict[str, Any]) -> str:
    points = ("eyes_pdms", "no_at_fault_collisions", "drivable_area_compliance", "ego_progress")
    points += ("time_to_collision_within_bound", "comfort", "epdms")
    return cells(
        f"<span class=line>{escape(row['variant'])}</span>",
        str(row["labelled"]),
        f"<b>{row['pdms']:.1f}</b>",
        f"<span class=line>[{row['pdms_low']:.1f}, {row['pdms_high']:.1f}]</span>",
        *(f"{row[name]:.1f}" for name in points),
        f"{row['ade_m']:.2f}",
        f"{row['min_ade_m']:.2f}",
        f"{row['best_pdms']:.1f}",
        f"<small>{escape(VARIANTS[row['variant']].isolates)}</small>",
    )


def _cases(rows: Rows, role: str) -> str:
    lines = [
        cells(
            f"<span class=line>{escape(row['variant'])}</span>",
            str(row["labelled"]),
            *(number(row[f"pdms_{name}"]) for name in SITUATIONS),
        )
        for row in table(rows, role)
    ]
    header = ("arm", "logs", *SITUATIONS)
    return f"<h2>By situation: {escape(ROLES[role])}</h2><div class=card>{html_table(header, lines)}</div>"
