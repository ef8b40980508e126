"""What the report's numbers are evidence of, and what they are not."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from latentvla_core.evidence.summary import Difference
from latentvla_core.pdms.metrics import METRIC_VERSIONS
from latentvla_core.statistics import Interval
from latentvla_core.viz.html import WIDE, pill
from latentvla_core.viz.report.facts import FEW_LOGS, Facts, Versus
from latentvla_core.viz.report.study import ROLES, Study

FOREST_W, FOREST_H = 210.0, 18.0
VERDICTS = {
    "holds": ("good", "evidence: holds"),
    "open": ("none", "open"),
    "against": ("bad", "evidence: the opposite"),
}


def evidence(facts: Facts, recipe: str) -> str:
    """Both lists, then the comparisons that have their controls, then those that have none."""
    return (
        f"<h3>These are</h3><ul>{_are(facts)}</ul><h3>These are not</h3><ul>"
        f"{_are_not(facts, recipe)}</ul>{_study(facts.study)}{_differences(facts.versus)}"
    )


def _are(facts: Facts) -> str:
    parts = [
        "scores by the same rules as the official devkit, of every plan in the lake; a plan that"
        " cannot be scored is counted apart and never a zero;",
        "intervals over whole logs, because scenes of one log overlap;",
    ]
    if facts.study is not None and facts.study.held:
        held = len(facts.study.held)
        parts.append(
            f"{held} comparison{'s' * (held != 1)} with controls, over several seeds, whose whole"
            " interval lies above zero (below: “evidence: holds”)."
        )
    return "".join(f"<li>{part}</li>" for part in parts)


def _are_not(facts: Facts, recipe: str) -> str:
    parts = [
        f"<b>a ranking of planners.</b> Recipe “{escape(recipe)}” trains every planner once, without"
        " controls (the same fusion with noise, with equal compute, with black pictures, over"
        " several seeds). So rows stand in a fixed order, and a higher bar is no finding."
        + (" Job <code>evidence</code> makes the comparisons that could be." * (not facts.study))
    ]
    few = [f"{split} has {n}" for split, n in sorted(facts.logs.items()) if n < FEW_LOGS]
    if few:
        parts.append(
            f"precise: of logs, {escape(', '.join(few))}; below {FEW_LOGS}, even the intervals are"
            " too narrow;"
        )
    alone = "open-loop scores judge a plan for four seconds with the others replayed"
    parts.append(
        f"driving: {alone}. What planners did alone at the wheel stands under “Closed loop”."
        if facts.drives
        else f"driving: {alone}."
    )
    return "".join(f"<li>{part}</li>" for part in parts)


def _study(study: Study | None) -> str:
    if study is None:
        return ""
    title = "<h3>Comparisons with their controls</h3>"
    if study.refused:
        return f"{title}<p class=bad-text>They cannot be read: {escape(study.refused)}</p>"
    chain = "".join(
        f"<li>{pill('good' if held else 'bad', 'holds' if held else 'does not hold')}"
        f" {escape(said)}</li>"
        for held, said in study.chain
    )
    return (
        f"{title}<p class=soft>Both arms of a comparison differ in one thing and are trained with"
        " the same seeds; PDMS in points, intervals over whole logs; none is corrected for the"
        " number of comparisons.</p>"
        f"{f'<ul class=plain>{chain}</ul>' if chain else ''}{_groups(study.differences)}"
    )


def _groups(differences: Sequence[Difference]) -> str:
    """A table per role and number of labelled logs; the first open, the others folded."""
    groups: dict[tuple[str, int], list[Difference]] = {}
    for each in differences:
        groups.setdefault((each.role, each.labelled), []).append(each)
    order = sorted(groups, key=lambda key: (list(ROLES).index(key[0]), -key[1]))
    parts = []
    for number, key in enumerate(order):
        found = groups[key]
        counts = ", ".join(
            f"{sum(d.verdict == verdict for d in found)} {verdict}" for verdict in VERDICTS
        )
        said = f"{ROLES[key[0]]}, {key[1]} labelled logs: {counts}"
        parts.append(
            f"<details{' open' if number == 0 else ''}><summary>{escape(said)}</summary>"
            f"{_forest(found)}</details>"
        )
    return "".join(parts)


def _forest(differences: Sequence[Difference]) -> str:
    """A row per comparison: what it isolates, its interval drawn, its seeds, what it is."""
    ends = [abs(v) for d in differences for v in (d.interval.low, d.interval.high)]
    reach = max([v for v in ends if np.isfinite(v)], default=1.0) or 1.0
    rows = "".join(_compared(d, reach) for d in differences)
    return (
        f"{WIDE}<table class=forest><thead><tr><th scope=col>what</th><th scope=col>is"
        "</th><th scope=col>points of PDMS, 95 % over logs</th><th scope=col>seed by seed</th></tr>"
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _compared(found: Difference, reach: float) -> str:
    kind, said = VERDICTS[found.verdict]
    seeds = " ".join(f"{value:+.1f}" for value in found.by_seed)
    name = f"{found.a} − {found.b}"
    return (
        f"<tr><th scope=row>{escape(found.meaning or name)} <small>{escape(name)}</small></th>"
        f"<td>{pill(kind, said)}</td>"
        f"<td>{interval(found.interval, reach, name, digits=1)}</td><td class=num>{seeds}</td></tr>"
    )


def _differences(versus: Sequence[Versus]) -> str:
    """Fused planners against their hosts, as a forest of intervals."""
    shown = [v for v in versus if v.split == "test"] or list(versus)
    shown = [v for v in shown if v.difference.groups > 1]
    shown.sort(key=lambda v: list(METRIC_VERSIONS.values()).index(v.metric))
    if not shown:
        return ""
    reach = max(0.05, *(max(abs(v.difference.low), abs(v.difference.high)) for v in shown))
    rows = "".join(_difference(v, reach) for v in shown)
    return (
        "<h3>Fused planner − its host, scene by scene</h3><p class=soft>No evidence: without"
        " controls a difference does not say that codes caused it.</p>"
        f"{WIDE}<table class=forest><thead><tr><th scope=col>comparison</th><th scope=col>mean and 95 % over"
        f" logs</th></tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _difference(versus: Versus, reach: float) -> str:
    name = f"{versus.fused} − {versus.host}"
    return (
        f"<tr><th scope=row>{escape(name)} <small>{escape(f'{versus.metric}, {versus.split}')}"
        f"</small></th><td>{interval(versus.difference, reach, name)}</td></tr>"
    )


def interval(found: Interval, reach: float, name: str, digits: int = 3) -> str:
    """A whisker on a line from −reach to reach with zero in the middle, and the numbers."""
    x = [
        (np.clip(v / reach, -1, 1) + 1) * FOREST_W / 2 for v in (found.mean, found.low, found.high)
    ]
    told = f"{found.mean:+.{digits}f} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]"
    return (
        f"<svg viewBox='0 0 {FOREST_W:g} {FOREST_H:g}' width='{FOREST_W:g}' role=img"
        f" aria-label='{escape(f'{name}: {told}', True)}'><path d='M{FOREST_W / 2:g} 0v{FOREST_H:g}'"
        f" stroke='var(--soft)'/><path d='M{x[1]:.1f} {FOREST_H / 2:g}H{x[2]:.1f}'"
        f" stroke='var(--ink)' stroke-width='2'/><circle cx='{x[0]:.1f}' cy='{FOREST_H / 2:g}'"
        f" r='4.5' fill='var(--bar)'/></svg> <span class='num line'>{told}</span>"
    )
