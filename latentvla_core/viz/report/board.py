"""The leaderboard: planners as rows, the score as a bar with its interval, sub-scores as small
multiples.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from latentvla_core.pdms.metrics import METRIC_LABELS, metric_of, short
from latentvla_core.statistics import Interval
from latentvla_core.viz.html import WIDE
from latentvla_core.viz.report.facts import BASELINES, Facts, Standing
from latentvla_core.viz.site.files import figure

BAR_W, BAR_H = 210.0, 18.0
SUB_W, SUB_H = 44.0, 7.0


def board(facts: Facts) -> str:
    """All tables, split by split and metric by metric."""
    splits: dict[str, list[str]] = {}
    for split, metric in dict.fromkeys((s.split, s.metric) for s in facts.standings):
        rows = [s for s in facts.standings if (s.split, s.metric) == (split, metric)]
        splits.setdefault(split, []).append(_table(split, metric, rows, facts))
    first, *others = splits
    folded = (
        f"<details><summary>{escape(split)}{_meaning(split)}</summary>{''.join(splits[split])}"
        "</details>"
        for split in others
    )
    return "".join(splits[first]) + "".join(folded)


def _meaning(split: str) -> str:
    return {"train": ": what planners were trained on", "val": ": what models were chosen by"}.get(
        split, ""
    )


def _table(split: str, metric: str, rows: Sequence[Standing], facts: Facts) -> str:
    label = METRIC_LABELS[metric_of(metric)]
    names = list(rows[0].sub)
    head = ["planner", f"{label}, 95 % over logs", *map(short, names)]
    closed = facts.closed if split == "test" else {}
    if closed:
        head.insert(2, "closed loop: CLS")
    cells = "".join(f"<th scope=col>{escape(h)}</th>" for h in head)
    body = "".join(_row(row, names, closed, row.planner in first_of_hosts(rows)) for row in rows)
    held = " (held out)" if split == "test" else ""
    logs = facts.logs.get(split, 0)
    scenes = max(r.expected for r in rows)
    count = f"{logs} log{'s' * (logs != 1)}, {scenes:,} scenes"
    return (
        f"<section class=board><h3>{escape(split)}{held} · {label} <small>{escape(metric)},"
        f" {count}</small></h3>{WIDE}<table class=lead><thead><tr>{cells}</tr></thead>"
        f"<tbody>{body}</tbody></table></div></section>"
    )


def first_of_hosts(rows: Sequence[Standing]) -> set[str]:
    """Trained planners that begin a family: `ipad` before `ipad_latent` and `ipad_student`."""
    found, host = set(), ""
    for row in rows:
        if row.planner in BASELINES or (host and row.planner.startswith(f"{host}_")):
            continue
        host = row.planner
        found.add(host)
    return found


def _row(
    row: Standing, names: Sequence[str], closed: dict[str, Interval], begins: bool = False
) -> str:
    kind = "base" if row.planner in BASELINES else "trained"
    cells = [f"<th scope=row class={kind}>{escape(row.planner)}</th>", f"<td>{_score(row)}</td>"]
    if closed:
        found = closed.get(row.planner)
        told = bar(found, row.planner, "scene") if found else "<span class=soft>not driven</span>"
        cells.append(f"<td data-name='closed loop'>{told}</td>")
    cells += [_sub(name, row.sub[name]) for name in names]
    return f"<tr{' class=begins' * begins}>{''.join(cells)}</tr>"


def _score(row: Standing) -> str:
    if row.score is None:
        return f"<span class=soft>no scene scored: {escape(row.reasons or 'no reason told')}</span>"
    drawn = bar(row.score, row.planner)
    if row.is_whole:
        return drawn
    part = f"{row.scored} of {row.expected} scenes: not a mean of the split. {row.reasons}"
    return f"{drawn}<div class='bad-text small'>{escape(part)}</div>"


def bar(value: Interval, label: str, unit: str = "log") -> str:
    """A bar from 0 to 1 with a whisker for the interval, and the number beside it. One log (or
    whatever the `unit` of its interval is) alone has no interval.
    """
    alone = value.groups < 2
    span = f"one {unit}: no interval" if alone else f"[{value.low:.3f}, {value.high:.3f}]"
    spoken = f"{label}: {value.mean:.3f}, {span}"
    x = [max(0.0, min(1.0, v)) * BAR_W for v in (value.mean, value.low, value.high)]
    y = BAR_H / 2
    marks = (
        f"<rect width='{BAR_W:g}' height='{BAR_H:g}' rx='3' fill='var(--track)'/>"
        f"<rect width='{x[0]:.1f}' height='{BAR_H:g}' rx='3' fill='var(--bar)'/>"
    )
    if not alone:
        marks += (
            f"<path d='M{x[1]:.1f} {y:g}H{x[2]:.1f}M{x[1]:.1f} {y - 5:g}v10M{x[2]:.1f} {y - 5:g}"
            "v10' stroke='var(--ink)' stroke-width='1.6' fill='none'/>"
        )
    return (
        f"<span class=score><svg viewBox='0 0 {BAR_W:g} {BAR_H:g}' width='{BAR_W:g}'"
        f" role=img aria-label='{escape(spoken, True)}'>{marks}</svg>"
        f" <b>{value.mean:.3f}</b> <small>{span}</small></span>"
    )


def _sub(name: str, value: float) -> str:
    if figure(value) is None:
        return f"<td data-name='{short(name)}'><span class=soft>–</span></td>"
    low = " class=low" if value < 0.9 else ""
    return (
        f"<td data-name='{short(name)}'><span{low}>{value:.2f}</span>"
        f"<svg viewBox='0 0 {SUB_W:g} {SUB_H:g}' width='{SUB_W:g}' aria-hidden=true>"
        f"<rect width='{SUB_W:g}' height='{SUB_H:g}' fill='var(--track)'/>"
        f"<rect width='{SUB_W * value:.1f}' height='{SUB_H:g}' fill='var(--bar)'/></svg></td>"
    )
