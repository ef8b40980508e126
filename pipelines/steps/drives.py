"""Driving the lake's set, and drives as people look at them: pictures for the UI, and the page."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.steps.context import StageContext
from pipelines.steps.lineage import UNPARTITIONED, digest

if TYPE_CHECKING:
    from latentvla_core.closed_loop.config import ClosedLoopConfig
    from latentvla_core.closed_loop.scenes.sets import SceneSet
    from latentvla_core.closed_loop.steps import Run
    from latentvla_core.closed_loop.stored import Seat, Stored

GROUP, SCENES = "closed_loop", "closed_loop_scenes"
RUNS, STEPS = "closed_loop_runs", "closed_loop_steps"
KEPT = 2  # versions of a planner whose drives stay on disk: this one, and the one before
Row = Mapping[str, Any]
SHOWN_WORST, DRAWN_WORST = 3, 6
FLOORS = ("human", "pdm_closed", "constant_velocity", "stand_still", "blind")


def workers_for(context: StageContext, scenes: int) -> int:
    """Processes for so many scenes; starting one costs as much as a scene or two."""
    return max(1, min(context.settings.workers, scenes // 2))


def seat_of(context: StageContext, driver: str) -> Seat:
    """The driver of a name: a floor, or the latest finished version of a planner."""
    from latentvla_core.closed_loop.stored import Seat

    if driver in FLOORS:
        return Seat(name=driver)
    folder = context.model_dir(driver)
    return planner_seat(driver, folder, context.ledger.made_by(driver, UNPARTITIONED))


def planner_seat(name: str, folder: Path, version: str) -> Seat:
    """A planner's folder with that of the model whose features it reads."""
    from latentvla_core.closed_loop.stored import Seat

    parts = json.loads((folder / "summary.json").read_text())["parts"]
    features = str(parts.get("features", ""))
    return Seat(name=name, folder=str(folder), features=features, model_version=version)


def drives_of(context: StageContext, seat: Seat) -> Iterator[list[Stored]]:
    """Runs of the lake's set, scene by scene; drives what has not been driven."""
    from latentvla_core.closed_loop.stored import drive_scenes, driven_scenes

    config: ClosedLoopConfig = context.recipe.closed_loop
    scenes = driven_scenes(context.lake.rows(SCENES))
    key = digest(seat.key(config), context.ledger.made_by(SCENES, UNPARTITIONED))
    folder = context.settings.home / GROUP / seat.name / key
    folder.mkdir(parents=True, exist_ok=True)
    folder.touch()
    _forget_old(folder.parent)
    runs = drive_scenes(seat, scenes, config, folder, workers_for(context, len(scenes)))
    for _ in context.track(f"{seat.name} drives", scenes):
        yield next(runs)


def _forget_old(folder: Path) -> None:
    """Drives of versions before the last ones; they can be driven again."""
    found = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in found[KEPT:]:
        shutil.rmtree(path, ignore_errors=True)


def stored_run(context: StageContext, row: Row) -> Run | None:
    """The run that a row of any closed-loop table is about; None where it is not stored."""
    from latentvla_core.closed_loop.steps import run_of

    where = {name: row[name] for name in ("scene", "driver", "traffic", "seed")}
    runs = context.lake.rows("closed_loop_runs", where)
    return run_of(runs[0], context.lake.rows("closed_loop_steps", where)) if runs else None


def worst_rows(rows: Sequence[Row], count: int) -> list[Row]:
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
