"""The page of a closed-loop evaluation: the table with its floors, every run, every infraction, and
the worst runs drawn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from latentvla_core.closed_loop import report
from latentvla_core.closed_loop.scenes.sets import SceneSet
from latentvla_core.closed_loop.steps import Run
from latentvla_core.statistics import Interval
from latentvla_core.viz.drives.picture import frames, from_above
from latentvla_core.viz.html import cells, page, picture, pill, table

Row = Mapping[str, Any]
NAMES = {
    "cls": "CLS",
    "cls_tlc": "CLS·TLC",
    "ds": "DS",
    "success": "success",
    "alpasim": "A",
    "bridgesim": "B",
    "ncap": "N",
}
FRAMES = 5


def render(
    scenes: SceneSet,
    rows: Mapping[str, Sequence[Row]],
    planner: str,
    worst: Sequence[tuple[Run, Run | None]],
    videos: Mapping[tuple[Any, ...], str] | None = None,
) -> str:
    """HTML of everything that was driven; `worst`: runs to draw, each with the human's; `videos`:
    key of a run → its video, as seen from the page.
    """
    scores = rows["closed_loop_scores"]
    last = report.whole(scores)
    parts = [
        f"<h1>Closed loop: {escape(planner)}</h1>",
        _lead(scenes, last),
        "<h2>All drivers</h2>",
        _means(last),
        "<h2>CLS by situation, reactive traffic</h2>",
        _grid(report.by_situation(last)),
        "<h2>CLS by length of the run, reactive traffic</h2>",
        _grid({f"{s:g} s": v for s, v in report.by_length(scores).items()}),
        "<h2>Worst runs</h2>",
        LEGEND,
        *[_drawn(run, human, rows, (videos or {}).get(key_of(run))) for run, human in worst],
        "<h2>Every run</h2>",
        _runs(last, rows["closed_loop_infractions"]),
    ]
    return page(f"Closed loop: {planner}", parts)


LEGEND = (
    "<p>From above, ahead is up: the ego and its path are orange, the human's path is green, "
    "vehicles are blue, people pink, cyclists violet, things that stand brown, the road is grey. "
    "Below: what the front camera saw at those times. Times are since the run began, places are "
    "metres in the town. Runs of every driver stand further down.</p>"
)
"""What the drawings of a run show."""


def _lead(scenes: SceneSet, last: Sequence[Row]) -> str:
    tried = sum(scenes.tried.values())
    reasons = "; ".join(f"{escape(r)}: {n}" for r, n in scenes.reasons.items())
    return (
        f"<p>{len(scenes.scenes)} scenes, frozen by the human's success alone: {tried} candidates "
        f"were tried, {scenes.rejection_rate:.0%} refused ({reasons or 'none'}). More is better "
        "everywhere. CLS (0 … 1) is nuPlan's formula, CLS·TLC the same times no red light run, DS "
        "(0 … 100) CARLA's, success the share of runs to the end without an infraction, A (0 … 1) "
        "AlpaSim's, B (0 … 1) the plans' EPDMS times completion, N (0 … 5, staged dangers only) "
        "NeuroNCAP's. Intervals: 95 %, by scene. A driver that fails counts zero. Floors need no "
        "training: human (the world's own), pdm_closed (rules that know everything), "
        "constant_velocity, blind (no pictures) and stand_still.</p>"
    )


def _means(last: Sequence[Row]) -> str:
    lines = report.table(last)
    head = ["traffic", "driver", "runs", "failed", *NAMES.values()]
    body = [
        cells(
            line.traffic,
            f"<b class=line>{escape(line.driver)}</b>",
            str(line.runs),
            str(line.crashed),
            *[_cell(line.values[name]) for name in NAMES],
        )
        for line in lines
    ]
    return f"<div class=card>{table(head, body)}</div>"


def _cell(value: Interval | None) -> str:
    if value is None:
        return "–"
    digits = 1 if max(abs(value.low), abs(value.high)) > 5.5 else 2
    low, high = f"{value.low:.{digits}f}", f"{value.high:.{digits}f}"
    return f"{value.mean:.{digits}f}<br><small class=line>{low} … {high}</small>"


def _grid(values: Mapping[str, Mapping[str, float]]) -> str:
    """Drivers down, situations or lengths across: there may be many drivers."""
    drivers = list(dict.fromkeys(d for row in values.values() for d in row))
    body = [
        cells(
            f"<b class=line>{escape(driver)}</b>",
            *[f"{row[driver]:.2f}" if driver in row else "–" for row in values.values()],
        )
        for driver in drivers
    ]
    head = ["driver", *(name.replace("_", " ") for name in values)]
    return f"<div class=card>{table(head, body)}</div>"


def _key(row: Row) -> tuple[Any, ...]:
    return row["scene"], row["driver"], row["traffic"], row["seed"]


def _runs(last: Sequence[Row], infractions: Sequence[Row]) -> str:
    """One line per run, worst first, in a fold per driver and traffic."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in infractions:
        found.setdefault(_key(row), []).append(row)
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in last:
        groups.setdefault((row["driver"], row["traffic"]), []).append(row)
    folds = []
    for (driver, traffic), group in groups.items():
        ordered = sorted(group, key=lambda r: (r["ds"], r["cls"], r["scene"]))
        body = [_run_line(r, found.get(_key(r), [])) for r in ordered]
        inner = table(["scene", "CLS", "DS", "A", "route", "what happened"], body)
        title = f"{escape(driver)}, {traffic} traffic: {len(group)} runs"
        folds.append(f"<details class=card><summary>{title}</summary>{inner}</details>")
    return "".join(folds)


def _run_line(row: Row, infractions: Sequence[Row]) -> str:
    text = "<br>".join(_sentence(i) for i in infractions)
    if not row["valid"]:
        text = pill("bad", "failed") + " " + escape(str(row["reason"]))
    return cells(
        f"<code>{escape(row['scene'])}</code>",
        f"{row['cls']:.2f}",
        f"{row['ds']:.1f}",
        f"{row['alpasim']:.2f}",
        f"{row['route_completion']:.0%}",
        f"<div style='min-width:20rem'>{text or pill('good', 'clean')}</div>",
    )


HOW = {
    "ego_stood": "the ego stood",
    "object_stood": "the other stood",
    "from_behind": "it came from behind",
    "front": "with the front",
    "side_in_lane": "sideways, the ego in its lane",
    "side_between_lanes": "sideways, the ego between lanes",
}
"""`closed_loop.scores.contacts.Contact.why` in words."""


def _sentence(row: Row) -> str:
    who = f" with {escape(row['partner'])}" if row["partner"] else ""
    fault = "" if row["at_fault"] else ", not at fault"
    why, _, rest = row["detail"].partition(", ")
    detail = f"{HOW[why]}, {rest}" if why in HOW else row["detail"]
    more = f" ({escape(detail)})" if detail else ""
    where = f"{row['time_s']:.1f} s at {row['x_m']:.0f}, {row['y_m']:.0f} m"
    return f"<b>{escape(row['kind'].replace('_', ' '))}</b>{who}{more}, {where}{fault}"


def key_of(run: Run) -> tuple[Any, ...]:
    """What names a run."""
    return tuple(run.key.values())


def _drawn(
    run: Run, human: Run | None, rows: Mapping[str, Sequence[Row]], video: str | None
) -> str:
    """One of the worst runs: from above and as the front camera saw it, around its first fault."""
    own = [r for r in rows["closed_loop_infractions"] if _key(r) == key_of(run)]
    first = min((r["step"] for r in own), default=run.steps)
    steps = [max(0, min(run.steps, first + offset)) for offset in (-30, -20, -10, 0, 10)]
    above = "".join(
        f"<figure>{from_above(run, s, human)}<figcaption>{s * 0.1:.1f} s</figcaption></figure>"
        for s in (steps[1], steps[3])
    )
    seen = "".join(
        f"<figure>{picture(jpeg, f'front camera after {s * 0.1:.1f} s')}"
        f"<figcaption>{s * 0.1:.1f} s</figcaption></figure>"
        for s, jpeg in zip(steps[:FRAMES], frames(run, steps[:FRAMES]), strict=True)
    )
    told = "<br>".join(_sentence(r) for r in own) or escape(run.reason) or "no infraction"
    title = f"{escape(run.driver)} in <code>{escape(run.scene)}</code>, {run.traffic} traffic"
    return (
        f"<div class=card><h3>{title}</h3><p>{told}</p><div class=row>{above}</div>"
        f"<div class=row>{seen}</div>{_video(video)}</div>"
    )


def _video(path: str | None) -> str:
    if path is None:
        return ""
    return f"<video controls preload=none width=448 src='{escape(path)}'></video>"
