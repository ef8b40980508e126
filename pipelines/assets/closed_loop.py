"""closed_loop: every floor and every trained planner at the wheel, in scenes that the human alone
chose, and what their drives are worth.

A driver is an asset by name, `closed_loop_<driver>`: a new version of one planner drives again and
nobody else does. What a killed drive has done stays in a folder beside the models, scene by scene.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.assets.planners import PLANNERS
from pipelines.steps import declare, drives
from pipelines.steps.context import Output, StageContext
from pipelines.steps.drives import (
    FLOORS,
    GROUP,
    RUNS,
    SCENES,
    STEPS,
    drives_of,
    seat_of,
    workers_for,
)
from pipelines.steps.lineage import digest

if TYPE_CHECKING:
    from latentvla_core.closed_loop.config import ClosedLoopConfig
    from latentvla_core.closed_loop.stored import Stored


def asset_name(driver: str) -> str:
    """Name of a driver's asset."""
    return f"closed_loop_{driver}"


@declare.table(deps=(), group=GROUP, recipe=(GROUP,), kinds=("deltalake",), heavy=True)
def closed_loop_scenes(context: StageContext) -> Output:
    """The set that everybody drives: candidates in a fixed order, kept where the *human* drives
    well. No planner has a say. Every refused candidate is a row with its reason.
    """
    from latentvla_core.closed_loop.stored import scene_rows

    config: ClosedLoopConfig = context.recipe.closed_loop
    wanted = len(config.situations) * config.per_situation
    with context.progress(SCENES) as bar:
        rows = scene_rows(
            config,
            workers_for(context, wanted),
            lambda done, total: bar.log(done, {"progress": done / total}),
        )
    scenes = sum(row["is_scene"] for row in rows)
    refused = 1.0 - scenes / len(rows)
    told = {"scenes": scenes, "candidates": len(rows), "rejection_rate": round(refused, 3)}
    return Output(rows, metadata=told)


def declare_driver(driver: str) -> None:
    """The asset of one driver; its rows replace that driver's and no other's."""
    trained = driver not in FLOORS
    what = "The trained planner" if trained else "The floor"

    @declare.table(
        name=asset_name(driver),
        table=RUNS,
        beside=(STEPS,),
        doc=f"{what} {driver} at the wheel in every scene of the set: its runs, and beside them"
        f" every step, from which they are scored, drawn and replayed.",
        deps=(SCENES, driver) if trained else (SCENES,),
        group=GROUP,
        recipe=(GROUP,),
        kinds=("pytorch", "deltalake") if trained else ("deltalake",),
        heavy=True,
    )
    def run(context: StageContext) -> Output:
        from latentvla_core.closed_loop.columns import as_stored

        seat = seat_of(context, driver)
        runs: list[dict[str, Any]] = []
        steps: list[dict[str, Any]] = []
        for row, rows in (run for of_scene in drives_of(context, seat) for run in of_scene):
            runs.append(as_stored(RUNS, row, model_version=seat.model_version))
            steps += [as_stored(STEPS, step) for step in rows]
        failed = [row for row in runs if not row["valid"]]
        told = {"runs": len(runs), "failed": len(failed), "steps": len(steps)}
        note = {"first_failure": failed[0]["reason"]} if failed else {}
        return Output(runs, beside={STEPS: steps}, groups=(driver,), metadata=told | note)


for _driver in (*FLOORS, *PLANNERS):
    declare_driver(_driver)
DRIVES = tuple(asset_name(driver) for driver in (*FLOORS, *PLANNERS))


@declare.table(
    picture=drives.worst_drives,
    beside=("closed_loop_infractions",),
    deps=(SCENES, *DRIVES),
    group=GROUP,
    recipe=(GROUP,),
    kinds=("deltalake",),
)
def closed_loop_scores(context: StageContext) -> Output:
    """What every stored run is worth: CLS, DS, A, B, N with all their terms at every length, and
    beside them every infraction. Nobody drives again for it.
    """
    from latentvla_core.closed_loop.columns import as_stored

    table, beside = "closed_loop_scores", "closed_loop_infractions"
    scores: list[dict[str, Any]] = []
    infractions: list[dict[str, Any]] = []
    versions: dict[str, dict[str, Any]] = {}
    for row in context.lake.rows(RUNS, columns=["driver", "model_version", "made_by"]):
        own = {"model_version": row["model_version"], "run_made_by": row["made_by"]}
        versions[row["driver"]] = own
    for judged in _judged(context):
        scores += [as_stored(table, row, **versions[row["driver"]]) for row in judged.scores]
        infractions += [as_stored(beside, row) for row in judged.infractions]
    drivers = tuple(sorted({*FLOORS, *PLANNERS, *versions}))
    told = {"runs": len({(r["scene"], r["driver"], r["traffic"]) for r in scores})}
    return Output(scores, beside={beside: infractions}, groups=drivers, metadata=told)


def _judged(context: StageContext) -> Iterator[Any]:
    """What all runs of each scene are worth, scene by scene."""
    from latentvla_core.closed_loop.stored import driven_scenes, score_scenes

    scenes = driven_scenes(context.lake.rows(SCENES))
    work = ((scene, stored_runs(context, scene["scene"])) for scene in scenes)
    seconds, workers = context.recipe.closed_loop.seconds, workers_for(context, len(scenes))
    found = score_scenes(work, seconds, workers)
    for _ in context.track("closed_loop_scores", scenes):
        yield next(found)


def stored_runs(context: StageContext, scene: str) -> Sequence[Stored]:
    """Runs of one scene with their steps, driver by driver."""
    steps: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in context.lake.rows(STEPS, {"scene": scene}):
        steps[row["driver"], row["traffic"]].append(row)
    runs = context.lake.rows(RUNS, {"scene": scene})
    runs.sort(key=lambda row: (row["driver"], row["traffic"]))
    return [(row, steps[row["driver"], row["traffic"]]) for row in runs]


@declare.table(
    picture=drives.scores_chart,
    deps=(SCENES, *DRIVES, "closed_loop_scores"),
    group=GROUP,
    kinds=("deltalake",),
)
def closed_loop_summary(context: StageContext) -> Output:
    """Means with intervals by driver, kind of traffic and situation, at every length of the runs;
    and the page with every run, every infraction and the worst runs drawn.
    """
    from latentvla_core.closed_loop.report import summary
    from latentvla_core.closed_loop.scenes.situations import DANGEROUS

    rows = context.lake.rows("closed_loop_scores")
    found = summary(rows, DANGEROUS)
    version = digest(*sorted({row["made_by"] for row in rows}))
    page = drives.drives_page(context, context.page(GROUP, version))
    return Output(found, metadata={"page": page})
