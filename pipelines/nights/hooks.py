"""Sensors that tell people what happened: a run failed, a candidate was promoted or refused, labels
are late. On from the start; silent until one of LATENTVLA_TELL_… is set.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

import dagster as dg

from latentvla_core.errors import LatentVLAError
from latentvla_core.lake.store import Lake
from pipelines.jobs import JOBS
from pipelines.nights.messages import Message, tell
from pipelines.nights.news import Waiting, decisions_since, late
from pipelines.settings import Settings
from pipelines.stages import STAGES
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import Stage, stale_work

ON = dg.DefaultSensorStatus.RUNNING
DAY_US = 24 * 3600 * 1_000_000  # what is told of the past when the sensor is new
KEPT_FRESH = "ingest_and_label"
"""Job whose assets must not stay stale: labels of logs that have arrived."""


def failures() -> dg.SensorDefinition:
    """One message for every run that failed, a refusing gate included (nights/messages.py)."""

    @dg.run_failure_sensor(
        name="tell_failures",
        default_status=ON,
        monitor_all_code_locations=False,
    )
    def sensor(context: dg.RunFailureSensorContext) -> None:
        run = context.dagster_run
        steps = [_why(event) for event in context.get_step_failure_events()]
        text = "\n".join([context.failure_event.message or "", *steps])
        title = f"LatentVLA: job {run.job_name} failed"
        message = Message(event="run_failed", title=title, text=text, key=run.run_id)
        for fault in tell(message):
            context.log.warning(fault)

    return sensor


def _why(event: dg.DagsterEvent) -> str:
    """The step and the innermost error, which says what to do."""
    error = event.step_failure_data.error
    while error is not None and error.cause is not None:
        error = error.cause
    return f"{event.step_key}: {error.message.strip() if error else event.message}"


def decisions(settings: Settings) -> dg.SensorDefinition:
    """One message for every decision of the promotion gate: promoted, refused, rolled back."""

    @dg.sensor(name="tell_decisions", minimum_interval_seconds=60, default_status=ON)
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        since_us = int(context.cursor) if context.cursor else time.time_ns() // 1000 - DAY_US
        try:
            rows = Lake(settings.lake).rows("releases")
        except LatentVLAError as error:
            return dg.SkipReason(str(error))
        messages = decisions_since(rows, since_us)
        _tell_all(context, messages)
        last_us = max((row["decided_us"] for row in rows), default=since_us)
        context.update_cursor(str(max(since_us, last_us)))
        return dg.SkipReason(f"{len(messages)} decisions told")

    return sensor


def freshness(settings: Settings, stages: Mapping[str, Stage] = STAGES) -> dg.SensorDefinition:
    """One message when logs have waited for their labels for a day."""

    @dg.sensor(name="tell_stale", minimum_interval_seconds=1800, default_status=ON)
    def sensor(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        try:
            stale = stale_of(settings, stages)
        except LatentVLAError as error:
            return dg.SkipReason(str(error))
        waiting, message = late(Waiting.read(context.cursor), stale, time.time())
        _tell_all(context, [message] if message else [])
        context.update_cursor(waiting.written())
        return dg.SkipReason(f"{len(stale)} pieces of work are stale")

    return sensor


def stale_of(settings: Settings, stages: Mapping[str, Stage]) -> list[tuple[str, str]]:
    """(asset, partition) that job `ingest_and_label` would do now; nothing before its model is
    trained, since nobody waits for labels that cannot be made.
    """
    engine = Engine(settings, stages)
    if "absent" in {engine.ledger.made_by(n, "") for n, s in stages.items() if s.kind == "model"}:
        return []
    chosen = [name for name in JOBS[KEPT_FRESH][0] if name in stages]
    return stale_work(
        stages, engine.recipe, settings.partitions, engine.ledger, engine.files_key, chosen,
        engine.is_there,
    )  # fmt: skip


def _tell_all(context: dg.SensorEvaluationContext, messages: Iterable[Message]) -> None:
    for message in messages:
        for fault in tell(message):
            context.log.warning(fault)
