"""When things run by themselves: retraining every night, ingest when logs arrive. Both are off
until switched on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import dagster as dg

from latentvla_core.errors import LatentVLAError, SetupError
from pipelines.jobs import all_partitions, writes_to
from pipelines.nights.arrivals import Arrivals, decide
from pipelines.nights.retraining import Plan, plan
from pipelines.settings import TRAIN, Settings
from pipelines.sources import MARKER, list_logs
from pipelines.stages import STAGES
from pipelines.steps import graves
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import Stage, stale_work

Stages = Mapping[str, Stage]


def nightly_retraining(
    job: Any, settings: Settings, stages: Stages = STAGES
) -> dg.ScheduleDefinition:
    """At 02:00 what is stale, where enough is new and nobody else writes; else it says why it
    skips (nights/retraining.py). A run whose process is gone counts no longer as writing.
    """

    @dg.schedule(
        job=job,
        cron_schedule="0 2 * * *",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        name="nightly_retraining",
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        graves.bury(context.instance)
        running = _running(context, settings)
        try:
            decision = tonight(settings, running, stages)
        except LatentVLAError as error:
            return dg.SkipReason(str(error))
        if not decision.assets:
            return dg.SkipReason(decision.reason)
        day = context.scheduled_execution_time.strftime("%Y-%m-%d")
        return dg.RunRequest(
            run_key=f"nightly-{day}",
            asset_selection=[dg.AssetKey(asset) for asset in decision.assets],
            tags={
                **all_partitions(settings),
                **writes_to(settings),
                "latentvla/trigger": "nightly",
            },
        )

    return nightly


def tonight(settings: Settings, running: list[str], stages: Stages = STAGES) -> Plan:
    """What a night would do now, by the ledger and the counts of training scenes."""
    if settings.embedded and not (settings.home / "world" / MARKER).is_file():
        return Plan(tuple(stages)) if not running else plan((), {}, 0, 0, running)
    engine = Engine(settings, stages)
    stale = stale_work(
        stages,
        engine.recipe,
        settings.partitions,
        engine.ledger,
        engine.files_key,
        is_there=engine.is_there,
    )
    models = {name: stage for name, stage in stages.items() if stage.kind == "model"}
    return plan(stale, models, *scenes_known(engine, models), running)


def scenes_known(engine: Engine, models: Mapping[str, Any]) -> tuple[int, int]:
    """Training scenes there are, and those that the latest finished training read."""
    rows = [row for (asset, _), row in engine.ledger.latest.items() if asset in models]
    lake = engine.lake
    now = lake.read("scenes", {"split": TRAIN}, ["scene_token"]).num_rows
    for row in sorted(rows, key=lambda row: row["finished_us"], reverse=True):
        version = json.loads(row["inputs"]).get("scenes", -1)
        if version >= 0:
            then = lake.read("scenes", {"split": TRAIN}, ["scene_token"], version)
            return now, then.num_rows
    return now, 0


def new_logs(job: Any, settings: Settings) -> dg.SensorDefinition:
    """Asks for labels when an upload is over: every log whole and quiet for two minutes. Logs that
    were taken away and brought back are a new run.
    """

    @dg.sensor(
        job=job,
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus.STOPPED,
        name="new_logs",
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            listing = list_logs(settings)
        except SetupError as error:
            return dg.SkipReason(str(error))
        if not listing:
            return dg.SkipReason(f"no logs in {[source.logs for source in settings.sources]}")
        arrivals, decision = decide(Arrivals.read(context.cursor), listing, time.time())
        if not decision.run_key:
            return dg.SensorResult(
                skip_reason=dg.SkipReason(decision.reason), cursor=arrivals.written()
            )
        tags = {**all_partitions(settings), **writes_to(settings), "latentvla/trigger": "new_logs"}
        request = dg.RunRequest(run_key=decision.run_key, tags=tags)
        return dg.SensorResult(run_requests=[request], cursor=arrivals.written())

    return sensor


def _running(context: dg.ScheduleEvaluationContext, settings: Settings) -> list[str]:
    """Ids of runs that write to this lake now or will."""
    busy = [
        dg.DagsterRunStatus.QUEUED,
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    ]
    found = context.instance.get_run_records(
        dg.RunsFilter(statuses=busy, tags=writes_to(settings)), limit=5
    )
    return [record.dagster_run.run_id for record in found]
