"""How planners drive when they are at the wheel, beside what their plans score."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from latentvla_core.closed_loop.report import Line
from latentvla_core.statistics import Interval
from latentvla_core.viz.html import WIDE
from latentvla_core.viz.report.board import bar
from latentvla_core.viz.report.facts import BASELINES, Facts

HEAD = {
    "cls": "CLS, 95 % over scenes",
    "ds": "DS (0 … 100)",
    "success": "success",
    "alpasim": "A",
    "ncap": "N (0 … 5)",
}
MEANINGS = {
    "usual": "usual scenes",
    "dangerous": "staged dangers, where not reacting means a crash",
}
TRAFFIC = {"reactive": "others react", "log": "others repeat the log"}
NOTE = (
    "CLS is nuPlan’s closed-loop score and DS CARLA’s driving score, over whole runs; success is a"
    " run that arrives without an infraction; A is AlpaSim’s score; N is NeuroNCAP’s, of staged"
    " dangers alone. A driver that fails counts zero. Order of rows as above."
)


def closed_loop(facts: Facts, site: str) -> str:
    """A section with a table per set of scenes; empty where nobody drove."""
    if not facts.drives:
        return ""
    link = f" <a href='{escape(site, True)}/index.html#/runs'>Watch every run.</a>" if site else ""
    tables = "".join(_table(name, lines) for name, lines in facts.drives.items())
    return f"<h2>Closed loop</h2><p class=soft>{NOTE}{link}</p><div class=card>{tables}</div>"


def _table(name: str, lines: Sequence[Line]) -> str:
    shown = [key for key in HEAD if any(line.values.get(key) for line in lines)]
    head = "".join(f"<th scope=col>{h}</th>" for h in ("driver", *(HEAD[k] for k in shown), "runs"))
    parts = []
    for traffic in dict.fromkeys(line.traffic for line in lines):
        rows = "".join(_row(line, shown) for line in lines if line.traffic == traffic)
        parts.append(
            f"<h4>{escape(TRAFFIC.get(traffic, traffic))}</h4>{WIDE}<table class=lead>"
            f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
        )
    return f"<section class=board><h3>{escape(MEANINGS.get(name, name))}</h3>{''.join(parts)}</section>"


def _row(line: Line, shown: Sequence[str]) -> str:
    kind = "base" if line.driver in BASELINES else "trained"
    cells = "".join(_cell(line, key) for key in shown)
    failed = f" <span class=bad-text>{line.crashed} failed</span>" if line.crashed else ""
    return (
        f"<tr><th scope=row class={kind}>{escape(line.driver)}</th>{cells}"
        f"<td data-name=runs>{line.runs}{failed}</td></tr>"
    )


def _cell(line: Line, key: str) -> str:
    value = line.values.get(key)
    if value is None:
        return f"<td data-name='{HEAD[key]}'><span class=soft>–</span></td>"
    if key == "cls":
        return f"<td data-name='CLS'>{bar(value, f'{line.driver}, closed loop', 'scene')}</td>"
    return f"<td data-name='{HEAD[key]}'>{_number(value)}</td>"


def _number(value: Interval) -> str:
    digits = 1 if value.high > 5 else 2
    return (
        f"{value.mean:.{digits}f} <small>[{value.low:.{digits}f}, {value.high:.{digits}f}]</small>"
    )
