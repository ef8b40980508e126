"""`latentvla demo`: the whole line through Dagster, in this process, with progress; then a table
and a report.

Run it again and it says that there is nothing to do. Kill it anywhere and run it again: it goes on
where it was.
"""

from __future__ import annotations

import os
import re
import sys
import time
from typing import Annotated, Any

import typer

from latentvla_core.errors import LatentVLAError, SetupError
from latentvla_core.lake.locks import held, tell
from latentvla_core.lake.places import without_password
from latentvla_core.pdms.metrics import METRIC_VERSIONS, SUB_SCORES, short
from latentvla_core.recipes import recipe_named, require_weights
from pipelines.settings import TRAIN, VAL, Settings
from pipelines.steps import warm
from pipelines.steps.engine import FORCED_MODEL, Engine
from pipelines.steps.lineage import stale_work


def demo(
    recipe: Annotated[str, typer.Option(help="debug, mini, single_gpu or paper.")] = "",
    job: Annotated[
        str, typer.Option(help="whole_line, labels or baseline_scores (pipelines/jobs.py).")
    ] = "whole_line",
    force: Annotated[
        bool, typer.Option(help=f"Do everything again, even what is up to date. {FORCED_MODEL}")
    ] = False,
) -> None:
    """Embedded world → whole line through Dagster → table, report, registry. Needs no data and no
    GPU.

    With OPENSCENE_DATA_ROOT or LATENTVLA_SOURCES set, the same line runs on your logs.
    """
    if recipe:
        os.environ["LATENTVLA_RECIPE"] = recipe
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    settings = Settings.from_env()
    _check_job(job)
    _check_splits(settings, job)
    check_weights(settings, job)
    started = time.monotonic()
    with held(settings.home / "run", tell):
        _bring_up_to_date(settings, job, force)
        finish(settings, time.monotonic() - started)


def _bring_up_to_date(settings: Settings, job: str, force: bool) -> None:
    todo = None if force else work_left(settings, job)
    if todo == []:
        print(
            f"nothing to do: all assets of job {job} are up to date (recipe {settings.recipe}, lake {settings.lake})"
        )
    else:
        print(
            f"{'everything' if todo is None else f'{len(todo)} pieces of work'} to do; recipe {settings.recipe}"
        )
        run_job(settings, job, force=force)


def work_left(settings: Settings, job: str) -> list[tuple[str, str]] | None:
    """(asset, partition) pairs to do, [] for none; None when the embedded world itself has yet to
    be written.
    """
    from pipelines import sources
    from pipelines.jobs import JOBS
    from pipelines.stages import STAGES

    engine = Engine(settings, STAGES)
    if "logs" in JOBS[job][0]:
        if settings.embedded and not sources.world_is_current(settings, engine.recipe):
            return None
        sources.prepare(settings, engine.recipe, lambda text: None)  # asset logs will say it
    return stale_work(
        STAGES,
        engine.recipe,
        settings.partitions,
        engine.ledger,
        engine.files_key,
        JOBS[job][0],
        engine.is_there,
    )


def _check_job(job: str) -> None:
    from pipelines.jobs import JOBS

    if job not in JOBS:
        raise SetupError(f"--job is {job!r}; use one of {', '.join(JOBS)}")


def _check_splits(settings: Settings, job: str) -> None:
    """Before any work: a job that trains reads the split of that name."""
    from pipelines.jobs import JOBS

    if "latent_action_model" in JOBS[job][0] and TRAIN not in settings.splits:
        raise SetupError(
            f"job {job} trains on a split named {TRAIN} (and judges on {VAL}); the sources name"
            f" {', '.join(settings.splits)}: name one, or set embedded_world: true (docs/data.md)"
        )


def check_weights(settings: Settings, job: str) -> None:
    """Before any work: the published weights that the job's stages start from are there."""
    from pipelines.jobs import JOBS
    from pipelines.stages import STAGES

    sections = {section for name in JOBS[job][0] for section in STAGES[name].recipe}
    require_weights(recipe_named(settings.recipe, settings.weights), sections)


def run_job(settings: Settings, job: str, *, force: bool = False) -> None:
    """Execute a job over every partition in this process, recorded in DAGSTER_HOME if that is set."""
    import dagster as dg

    from pipelines.definitions import build
    from pipelines.jobs import JOBS, all_partitions
    from pipelines.steps import graves

    _check_job(job)
    if settings != Settings.from_env():
        raise SetupError(
            "the settings differ from the environment's, which assets read; export the variables instead"
        )
    settings.prepare_dagster_home()
    if "scene_worlds" in JOBS[job][0]:
        warm.start()
    resolved = build(settings, pooled=False).resolve_job_def(job)
    with dg.DagsterInstance.get() as instance:
        graves.bury(instance)
        result = resolved.execute_in_process(
            instance=instance,
            tags={**all_partitions(settings), **graves.process_tag()},
            run_config={
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                "ops": {asset: {"config": {"force": force}} for asset in JOBS[job][0]},
                "resources": {"latentvla": {"config": {"echo": True}}},
            },
            raise_on_error=False,
        )
    if not result.success:
        _explain(result, settings)


def _explain(result: Any, settings: Settings) -> None:
    """Say what failed in one message; what is finished stays finished."""
    if stopped := _stopped_by(result, settings):
        raise LatentVLAError(f"{stopped}\nFinished work is kept; run again to go on.")
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            cause = error.cause or error
            message = re.sub(rf"^[\w.]*{cause.cls_name}: ", "", cause.message.strip())
            raise LatentVLAError(
                f"asset {event.step_key} failed: {message}\nFinished work is kept; run again to go on."
            )
    raise LatentVLAError(
        "the run failed before a step could say why; look at it in the UI (make ui)"
    )


def _stopped_by(result: Any, settings: Settings) -> str:
    """What the blocking checks that failed have to say; "" when none did."""
    from pipelines.stages import STAGES

    checks = [
        event.asset_check_evaluation_data
        for event in result.all_events
        if event.event_type_value == CHECKED
    ]
    failed = [c for c in checks if not c.passed and c.blocking and c.severity.value == "ERROR"]
    if not failed:
        return ""
    asset = failed[0].asset_key.to_user_string()
    approve = STAGES[asset].approve
    if approve is not None:
        try:
            approve(Engine(settings, STAGES))
        except LatentVLAError as error:
            return str(error)
    told = "\n".join(f"  - {c.description or c.check_name}" for c in failed)
    return f"the line was stopped by a check of asset {asset}:\n{told}"


def finish(settings: Settings, seconds: float) -> None:
    """Print the scores and where to look next."""
    from latentvla_core.lake.printing import write_table
    from latentvla_core.lake.store import Lake
    from pipelines.assets.latent_actions import familiar
    from pipelines.report import write_report

    lake = Lake(settings.lake)
    if lake.version("pdm_summary") >= 0:
        for metric in recipe_named(settings.recipe).metrics:
            write_table(lake.sql(summary_sql(metric)), "table", None)
    refused = lake.read("quarantine", columns=["file"]).num_rows
    if refused:
        print(f'{refused} rows were refused; why: latentvla sql "select * from quarantine"')
    for told in familiar(lake).faults if lake.version("latent_actions") >= 0 else ():
        print(f"warning: {told}")
    path = write_report(settings)
    if (site := path.with_name("site") / "index.html").is_file():
        print(f"browse  {site}  (held-out scenes; latentvla view: all)")
    print(
        f"report  {path}\nlake    {settings.lake}\nmodels  {without_password(settings.mlflow_uri)}\nUI      make ui",
        file=sys.stdout,
    )
    print(f"done in {seconds:.0f} s")


CHECKED = "ASSET_CHECK_EVALUATION"


def summary_sql(metric: str) -> str:
    """Query for the means of one metric, by planner."""
    means = ", ".join(f"round({name}, 3) as {short(name).lower()}" for name in SUB_SCORES[metric])
    return f"""
select split, trajectory_id as planner, round(score, 4) as {metric}, round(score_stderr, 4) as stderr, {means},
       num_scored || ' of ' || num_expected as scored
from pdm_summary where split <> 'train' and metric_version = '{METRIC_VERSIONS[metric]}' order by split, score desc
"""
