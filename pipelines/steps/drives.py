"""Drives of the lake as people look at them: pictures for the UI, and the page."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.steps.context import StageContext

if TYPE_CHECKING:
    from latentvla_core.closed_loop.scenes.sets import SceneSet
    from latentvla_core.closed_loop.steps import Run

Row = Mapping[str, Any]
SHOWN_WORST, DRAWN_WORST = 3, 6
FLOORS = ("human", "pdm_closed", "constant_velocity", "stand_still", "blind")


def stored_run(context: StageContext, row: Row) -> Run | None:
    """The run that a row of any closed-loop table is about; None where it is not stored."""
    from latentvla_core.closed_loop.steps import run_of

    where = {name: row[name] for name in ("scene", "driver", "traffic", "seed")}
    runs = context.lake.rows("closed_loop_runs", where)
    return run_of(runs[0], context.lake.rows("closed_loop_steps", where)) if runs else None


def worst_rows(rows: list[Row], count: int) -> list[Row]:
    """Scores over T of the worst drives: of trained planners in turn; of PDM-Closed where nobody
    else has driven.
    """
    from latentvla_core.closed_loop.report import whole, worst

    last = whole(rows)
    planners = sorted({r["driver"] for r in last} - set(FLOORS)) or ["pdm_closed"]
    ranked = [worst(last, planner, count) for planner in planners]
    turns = [row for turn in zip(*ranked, strict=False) for row in turn]
    return turns[:count]


def worst_drives(context: StageContext, keys: list[str]) -> list[bytes]:
    """What the front camera saw when the worst drives went wrong."""
    from latentvla_core.viz.drives.chart import drive_strip

    found = []
    for row in worst_rows(context.lake.rows("closed_loop_scores"), SHOWN_WORST):
        run = stored_run(context, row)
        where = {name: row[name] for name in ("scene", "driver", "traffic", "seed")}
        steps = context.lake.rows("closed_loop_infractions", where, ["step"])
        if run is not None:
            found.append(drive_strip(run, min((r["step"] for r in steps), default=run.steps)))
    return found


def scores_chart(context: StageContext, keys: list[str]) -> bytes:
    """CLS and DS of every driver over the usual scenes, or whatever scenes there are."""
    from latentvla_core.viz.drives.chart import scores_chart

    rows = context.lake.rows("closed_loop_summary")
    longest = max(row["prefix_s"] for row in rows)
    sets = {row["scenes_of"] for row in rows}
    of = "usual" if "usual" in sets else "dangerous"
    return scores_chart([r for r in rows if r["scenes_of"] == of and r["prefix_s"] == longest])


def drives_page(context: StageContext, path: Path) -> Path:
    """Every driver, every run, every infraction, the worst drives drawn."""
    from latentvla_core.viz.drives.page import render
    from latentvla_core.viz.html import write_page

    names = ("closed_loop_runs", "closed_loop_scores", "closed_loop_infractions")
    rows = {name: context.lake.rows(name) for name in names}
    drawn = []
    for row in worst_rows(rows["closed_loop_scores"], DRAWN_WORST):
        run = stored_run(context, row)
        if run is not None:
            drawn.append((run, stored_run(context, {**row, "driver": "human"})))
    scenes = scene_set(context.lake.rows("closed_loop_scenes"))
    return write_page(path, render(scenes, rows, "all drivers of the lake", drawn))


def scene_set(rows: list[dict[str, Any]]) -> SceneSet:
    """The set that rows of `closed_loop_scenes` tell of."""
    from latentvla_core.closed_loop.scenes.sets import SceneSet, Verdict, spec_of
    from latentvla_core.closed_loop.stored import driven_scenes

    verdicts = [
        Verdict(spec_of(json.loads(row["spec"])), "", row["reference_impact_mps"])
        for row in driven_scenes(rows)
    ]
    tried = Counter(row["situation"] for row in rows)
    reasons = Counter(row["reason"] for row in rows if row["reason"])
    return SceneSet(verdicts, dict(tried), dict(sorted(reasons.items())))
