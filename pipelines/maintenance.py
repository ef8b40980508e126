"""The weekly job that keeps the lake compact; off until switched on. It has no postponed
annotations, as Dagster wants.
"""

from typing import Any

import dagster as dg

from latentvla_core.lake.maintenance import KEEP_DAYS, compact, vacuum
from pipelines.resources import LatentVLAResource


@dg.op(
    config_schema={
        "keep_days": dg.Field(
            int, default_value=KEEP_DAYS, description="Keep what was replaced in the last days."
        )
    }
)
def compact_and_vacuum(context: dg.OpExecutionContext, latentvla: LatentVLAResource) -> None:
    """Join small files of every table, then delete old ones that neither a current row nor a
    registered model needs.
    """
    from latentvla_core.lake.store import Lake

    lake = Lake(latentvla.settings().lake)
    joined, cleaned = compact(lake), vacuum(lake, keep_days=context.op_config["keep_days"])
    for kept in (*joined, *cleaned):
        context.log.info(str(kept))
    context.add_output_metadata({
        "files_before": sum(kept.files_before for kept in joined),
        "files_after": sum(kept.files_after for kept in joined),
        "files_deleted": sum(kept.deleted for kept in cleaned),
    })  # fmt: skip


@dg.job(
    description="Small files joined, old ones deleted; what registered models were trained on is kept."
)
def lake_maintenance() -> None:
    compact_and_vacuum()


def weekly_maintenance(job: Any = lake_maintenance) -> dg.ScheduleDefinition:
    """Sunday at 04:00, when `nightly_retraining` is long done."""
    return dg.ScheduleDefinition(
        name="weekly_maintenance",
        job=job,
        cron_schedule="0 4 * * 0",
        default_status=dg.DefaultScheduleStatus.STOPPED,
    )
