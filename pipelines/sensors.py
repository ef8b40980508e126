"""When things run by themselves: retraining every night, ingest when logs arrive. Both are off
until switched on.
"""

from __future__ import annotations

from typing import Any

import dagster as dg

from latentvla_core.errors import SetupError
from pipelines.jobs import all_partitions
from pipelines.settings import Settings
from pipelines.sources import list_logs
from pipelines.steps.lineage import digest


def nightly_retraining(job: Any, settings: Settings) -> dg.ScheduleDefinition:
    """The whole line at 02:00; stages whose inputs did not change return at once, so an idle night
    costs seconds.
    """

    @dg.schedule(
        job=job,
        cron_schedule="0 2 * * *",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        name="nightly_retraining",
    )
    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        day = context.scheduled_execution_time.strftime("%Y-%m-%d")
        return dg.RunRequest(
            run_key=f"nightly-{day}",
            tags={**all_partitions(settings), "latentvla/trigger": "nightly"},
        )

    return nightly


def new_logs(job: Any, settings: Settings) -> dg.SensorDefinition:
    """Asks for a run when the list of log files changes; the cursor is a hash of names and
    contents.
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
        key = digest([(row["log_name"], row["content_key"]) for row in listing])
        if key == context.cursor:
            return dg.SkipReason(f"{len(listing)} logs, none of them new")
        tags = {**all_partitions(settings), "latentvla/trigger": "new_logs"}
        return dg.SensorResult(
            run_requests=[dg.RunRequest(run_key=f"logs-{key}", tags=tags)], cursor=key
        )

    return sensor
