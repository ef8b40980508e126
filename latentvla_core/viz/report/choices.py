"""What planners with several proposals chose: the plan, the best and the nearest proposal."""

from __future__ import annotations

from html import escape

from latentvla_core.lake.store import Lake
from latentvla_core.planner.menus import Menu, menus
from latentvla_core.statistics import Interval
from latentvla_core.viz.html import cells, table

HEAD = (
    "split",
    "planner",
    "chosen PDMS",
    "best proposal (answer known)",
    "regret",
    "living, of",
    "chosen ADE m",
    "min over K m",
)


def choices(lake: Lake) -> str:
    """A table per planner and split; "" where no planner has more than one proposal."""
    if lake.delta("choices") is None:
        return ""
    columns = ["split", "trajectory_id", "log_name", "proposals", "best", "nearest", "valid"]
    figures = ["chosen_score", "best_score", "chosen_ade_m", "nearest_ade_m"]
    found = menus(lake.read("choices", columns=[*columns, *figures]).to_pylist())
    if not found:
        return ""
    note = (
        "A planner with proposals is as good as its choice. Regret is what a perfect choice would"
        " add. A proposal lives if it scores most, or is nearest to the logged drive, in at least"
        " 1 % of the scenes: the others learn nothing. Intervals draw whole logs."
    )
    body = table(HEAD, [_row(menu) for menu in found])
    return (
        f"<h2>What was chosen, and from what</h2><div class='card wide'><p>{note}</p>{body}</div>"
    )


def _row(menu: Menu) -> str:
    return cells(
        escape(menu.split),
        escape(menu.planner),
        _points(menu.chosen),
        _points(menu.oracle),
        _points(menu.regret),
        f"{menu.living} best, {menu.near_living} nearest, of {menu.proposals}",
        f"{menu.chosen_ade_m:.2f}",
        f"{menu.nearest_ade_m:.2f}",
    )


def _points(value: Interval) -> str:
    if value.groups < 2:
        return f"{100 * value.mean:.1f} (one log)"
    return f"{100 * value.mean:.1f} [{100 * value.low:.1f}, {100 * value.high:.1f}]"
