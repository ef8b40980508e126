"""The Dagster code location. Read `stages.py` for the order of the line, `jobs.py` for what runs
when.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import dagster as dg

warnings.filterwarnings(
    "ignore", category=dg.BetaWarning
)  # backfill policies, without which a shard is a run

from pipelines.dagster_assets import asset_of, partitions_of  # noqa: E402
from pipelines.jobs import EXECUTOR, jobs_of  # noqa: E402
from pipelines.maintenance import lake_maintenance, weekly_maintenance  # noqa: E402
from pipelines.nights.hooks import decisions, failures, freshness  # noqa: E402
from pipelines.resources import LatentVLAResource  # noqa: E402
from pipelines.sensors import new_logs, nightly_retraining  # noqa: E402
from pipelines.settings import Settings  # noqa: E402
from pipelines.stages import STAGES  # noqa: E402
from pipelines.steps.engine import Engine  # noqa: E402
from pipelines.steps.lineage import Stage  # noqa: E402
from pipelines.steps.source_files import changed_files, file_assets  # noqa: E402


def build(
    settings: Settings, stages: Mapping[str, Stage] = STAGES, *, pooled: bool = True
) -> dg.Definitions:
    """All assets, checks, jobs, schedules and sensors of one deployment, or of a shorter line."""
    assets = [asset_of(stage, settings, stages, pooled=pooled) for stage in stages.values()]
    jobs = jobs_of(settings, stages)
    return dg.Definitions(
        assets=[*assets, *file_assets(stages, partitions_of(settings))],
        jobs=[*jobs.values(), lake_maintenance],
        schedules=[nightly_retraining(jobs["whole_line"], settings, stages), weekly_maintenance()],
        sensors=[
            new_logs(jobs["ingest_and_label"], settings),
            failures(),
            decisions(settings),
            freshness(settings, stages),
            changed_files(settings, stages, lambda: Engine(settings, stages)),
        ],
        resources={"latentvla": LatentVLAResource()},
        executor=EXECUTOR,
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Read by `dagster dev -m pipelines.definitions`; the environment is read here and nowhere
    else.
    """
    return build(Settings.from_env())
