"""What planners with several proposals chose: the plan, the best and the nearest proposal."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from latentvla_core.lake.store import Lake
from latentvla_core.planner.menus import Menu, menus
from latentvla_core.statistics import Interval
from latentvla_core.viz.html import WIDE
from latentvla_core.viz.report.board import bar

NOTE = (
    "A planner with proposals is as good as its choice. Regret is what a perfect choice would add. A"
    " proposal lives if it scores most, or is nearest to the logged drive, in at least 1 % of the"
    " scenes: the others learn nothing. Intervals draw whole logs."
)
HEAD = (
    "planner",
    "chosen PDMS",
    "best proposal, answer known",
    "regret",
    "living",
    "ADE chosen",
    "nearest",
)
MEANINGS = {
    "living": "proposals that score most, and that are nearest, in 1 % of the scenes or more",
    "ADE chosen": "mean distance of the chosen plan to the logged drive, metres",
    "nearest": "the same of the nearest proposal",
}


def choices(lake: Lake) -> str:
    """A table per split, the held-out one open; "" where no planner has more than one proposal."""
    if lake.delta("choices") is None:
        return ""
    columns = ["split", "trajectory_id", "log_name", "proposals", "best", "nearest", "valid"]
    figures = ["chosen_score", "best_score", "chosen_ade_m", "nearest_ade_m"]
    splits: dict[str, list[Menu]] = {}
    for menu in menus(lake.read("choices", columns=[*columns, *figures]).to_pylist()):
        splits.setdefault(menu.split, []).append(menu)
    if not splits:
        return ""
    first = "test" if "test" in splits else min(splits)
    folded = "".join(
        f"<details><summary>{escape(split)}</summary>{_table(found)}</details>"
        for split, found in splits.items()
        if split != first
    )
    return (
        f"<h2>What was chosen, and from what</h2><p class=soft>{NOTE}</p><div class=card>"
        f"<h3>{escape(first)}</h3>{_table(splits[first])}{folded}</div>"
    )


def _table(found: Sequence[Menu]) -> str:
    head = "".join(f"<th scope=col title='{MEANINGS.get(h, h)}'>{h}</th>" for h in HEAD)
    rows = "".join(map(_row, found))
    return (
        f"{WIDE}<table class=lead><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(menu: Menu) -> str:
    said = {
        "chosen PDMS": bar(menu.chosen, f"{menu.planner}, chosen"),
        "best": bar(menu.oracle, f"{menu.planner}, best proposal"),
        "regret": _regret(menu.regret),
        "living": f"{menu.living} best, {menu.near_living} nearest <small>of {menu.proposals}</small>",
        "ADE chosen": f"{menu.chosen_ade_m:.2f} <small>m</small>",
        "nearest": f"{menu.nearest_ade_m:.2f} <small>m</small>",
    }
    cells = "".join(f"<td data-name='{name}'>{cell}</td>" for name, cell in said.items())
    return f"<tr><th scope=row class=trained>{escape(menu.planner)}</th>{cells}</tr>"


def _regret(value: Interval) -> str:
    if value.groups < 2:
        return f"{value.mean:.3f} <small>one log</small>"
    return f"{value.mean:.3f} <small>[{value.low:.3f}, {value.high:.3f}]</small>"
