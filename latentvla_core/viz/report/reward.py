"""What learning from the score changed, and what the detectors of its known pitfalls say."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from latentvla_core.lake.store import Lake
from latentvla_core.rl.limits import is_beyond
from latentvla_core.viz.report.study import rows_of

NOTE = (
    "Planners that learned from the PDM score after imitation have seen the benchmark’s scorer: read"
    " their PDMS beside EPDMS and the closed loop, which they did not train on. Differences are paired"
    " by scene, intervals draw whole logs. Figures are before → after; red ones are beyond the limit"
    " that the training warns at."
)
GAINS = {"score": "PDMS gained, points", "epdms": "EPDMS gained, points"}
SHARES = {
    "reversing": "reversing",
    "jumping": "last pose jumps",
    "extended_comfort": "extended comfort",
    "dead_groups": "dead groups",
    "collapsed": "collapsed scenes",
    "easy_share": "easy scenes’ share",
}


def learned_from_score(lake: Lake) -> str:
    """A section with a row per planner and held-out split; "" where job `rl` has not run."""
    rows = rows_of(lake, "rl_summary")
    if not rows:
        return ""
    names = ("planner", "split", *GAINS.values(), *SHARES.values())
    head = "".join(f"<th scope=col>{name}</th>" for name in names)
    order = sorted(rows, key=lambda r: (r["split"] != "test", r["split"], r["planner"]))
    told = "".join(
        f"<li><b>{escape(r['planner'])}</b>, {escape(r['split'])}: {escape(r['warnings'])}</li>"
        for r in order
        if r["warnings"]
    )
    said = f"<h4>What the detectors say</h4><ul>{told}</ul>" if told else ""
    return (
        f"<h2>Learned from the score</h2><p class=soft>{NOTE}</p><div class=card><div class=wide>"
        f"<table class=lead><thead><tr>{head}</tr></thead><tbody>{''.join(map(_row, order))}"
        f"</tbody></table></div>{said}</div>"
    )


def _row(row: Mapping[str, Any]) -> str:
    cells = {"split": escape(row["split"])}
    cells |= {title: _gain(row, name) for name, title in GAINS.items()}
    cells |= {title: _change(row, name) for name, title in SHARES.items()}
    shown = "".join(f"<td data-name='{title}'>{cell}</td>" for title, cell in cells.items())
    return f"<tr><th scope=row class=trained>{escape(row['planner'])}</th>{shown}</tr>"


def _gain(row: Mapping[str, Any], name: str) -> str:
    mean, low, high = (100 * row[f"{name}_{part}"] for part in ("gain", "low", "high"))
    if row["logs"] < 2:
        return f"{mean:+.1f} <small>one log</small>"
    return f"{mean:+.1f} <small>[{low:+.1f}, {high:+.1f}]</small>"


def _change(row: Mapping[str, Any], name: str) -> str:
    before, after = (row[f"{name}_{when}"] for when in ("before", "after"))
    shown = [f"{100 * x:.0f} %" if x == x else "–" for x in (before, after)]
    text = " → ".join(shown)
    return f"<span class=bad-text>{text}</span>" if is_beyond(name, after, before) else text
