"""A planner's own page, as one file that lies with its model: what it scores, plans of it as
pictures, how fast it is, what it is made of and not for.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape

from latentvla_core.viz.html import WIDE, page
from latentvla_core.viz.report.board import board
from latentvla_core.viz.report.card import Card, latency_told, licences, limits
from latentvla_core.viz.report.closed import closed_loop
from latentvla_core.viz.report.facts import FEW_LOGS, Facts
from latentvla_core.viz.report.page import STYLE, failure
from latentvla_core.viz.report.worst import Worst

SCORED = (
    "Bars run from 0 to 1; whiskers are 95 % intervals over whole logs. A mean is no ranking: the"
    f" report says what is evidence, and with fewer than {FEW_LOGS} logs intervals are too narrow."
)


def model_page(
    card: Card,
    facts: Facts,
    plans: Sequence[Worst],
    curves: bytes = b"",
    parameters: Mapping[str, str] | None = None,
) -> str:
    """A whole HTML document.

    Args:
        plans: the worst first; each with its picture from above, and what the cameras saw.
        curves: PNG of the training.
        parameters: every parameter of the recipe that the training read.
    """
    parts = [
        STYLE,
        _head(card),
        _scores(card, facts),
        _plans(plans),
        _section("Latency", f"<p>{escape(latency_told(card.latency))}</p>"),
        _section("Limits", _list(limits(card, facts))),
        _section("Data", _data(card)),
        _section("Recipe", _recipe(card, parameters or {}) + _picture(curves)),
        _section("Licence of base weights", _list(licences(card.base))),
    ]
    return page(f"{card.name} {card.version}", parts)


def _section(title: str, body: str) -> str:
    return f"<h2>{title}</h2><div class=card>{body}</div>"


def _list(lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line.removeprefix('* '))}</li>" for line in lines)
    return f"<ul>{items}</ul>"


def _head(card: Card) -> str:
    told = (
        f"recipe <b>{escape(card.recipe)}</b> · {card.parameters:,} weights · commit"
        f" <code>{escape(card.commit or 'unknown')}</code>"
    )
    link = (
        f"<p><a target=_blank rel=noopener href='{escape(card.url, True)}'>Browse its scenes</a></p>"
        if card.url
        else ""
    )
    return (
        f"<h1>{escape(card.name)} <small><code>{escape(card.version)}</code></small></h1>"
        f"<p>{told}</p>{link}"
    )


def _scores(card: Card, facts: Facts) -> str:
    own = replace(
        facts,
        standings=[s for s in facts.standings if s.planner == card.name],
        drives={
            name: [line for line in lines if line.driver == card.name]
            for name, lines in facts.drives.items()
            if any(line.driver == card.name for line in lines)
        },
    )
    if not own.standings:
        return _section("Scores", "<p>Not scored: its plans wait for pdm_scores.</p>")
    driven = closed_loop(own, "") or "<p class=soft>Closed loop: not driven.</p>"
    return f"<h2>Scores</h2><p class=soft>{SCORED}</p><div class=card>{board(own)}</div>{driven}"


def _plans(plans: Sequence[Worst]) -> str:
    if not plans:
        return ""
    shown = "".join(failure(each, "") for each in plans)
    return (
        "<h2>Its plans</h2><p class=soft>Held-out scenes: where it loses most, each failing"
        " differently, and last a scene of its middle score. Red marks what went wrong.</p>"
        f"<div class=worst>{shown}</div>"
    )


def _data(card: Card) -> str:
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td class=num>{version}</td></tr>"
        for name, version in sorted(card.inputs.items())
    )
    read = f"<p>Trained on split {escape(', '.join(card.splits))}.</p>" if card.splits else ""
    head = "<tr><th scope=col>input</th><th scope=col>Delta version</th></tr>"
    return f"{read}<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _recipe(card: Card, parameters: Mapping[str, str]) -> str:
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td><code>{escape(value)}</code></td></tr>"
        for name, value in parameters.items()
    )
    if not rows:
        return f"<p>{escape(card.recipe)}</p>"
    return (
        f"<p>{escape(card.recipe)}</p><details><summary>{len(parameters)} parameters</summary>"
        f"{WIDE}<table><tbody>{rows}</tbody></table></div></details>"
    )


def _picture(png: bytes) -> str:
    if not png:
        return ""
    data = base64.b64encode(png).decode()
    return f"<img class=curves src='data:image/png;base64,{data}' alt='figures of the training'>"
