"""The files behind assets, as external assets of Dagster: one per kind, a version per partition, so
that its graph shows where data comes from and its stale status knows of files that changed.

It has no postponed annotations, as `dagster_assets.py`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from latentvla_core.errors import LatentVLAError
from pipelines.settings import Settings
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import UNPARTITIONED, Stage, scope_of

DATA_VERSION = "dagster/data_version"
GROUP = "files"
KINDS = {
    "logs": "Log files; drives of your own with their pictures.",
    "front": "Pictures of the front camera.",
    "cameras": "Pictures of all cameras.",
    "sensors": "All files of sensors: pictures and point clouds.",
    "maps": "The maps of the split.",
    "filter": "Which scenes of the split count.",
}
"""The kinds of `steps/inputs.py` that lie outside the home."""


def asset_name(kind: str) -> str:
    """Name of the external asset of a kind of files."""
    return f"files_{kind}"


def file_assets(
    stages: Mapping[str, Stage], partitions: dg.StaticPartitionsDefinition
) -> list[dg.AssetSpec]:
    """One for every kind that a stage reads."""
    read = {kind for stage in stages.values() for kind in stage.files}
    return [
        dg.AssetSpec(
            asset_name(kind),
            group_name=GROUP,
            description=f"{meaning} Their version changes when one is replaced, removed or put back.",
            kinds={"file"},
            partitions_def=partitions,
        )
        for kind, meaning in KINDS.items()
        if kind in read
    ]


def observe(
    instance: dg.DagsterInstance, engine: Engine, pairs: Iterator[tuple[str, str]]
) -> list[dg.AssetObservation]:
    """Observations of the (kind, partition) pairs whose files are not those that Dagster was told of
    last.
    """
    seen = []
    for kind, partition in pairs:
        key, version = dg.AssetKey(asset_name(kind)), engine.files_key(kind, partition)
        last = instance.get_latest_data_version_record(key, True, partition)
        tags = (last.event_log_entry.tags or {}) if last is not None else {}
        if tags.get(DATA_VERSION) != version:
            seen.append(dg.AssetObservation(key, partition=partition, tags={DATA_VERSION: version}))
    return seen


def tell_of_files(
    context: Any, engine: Engine, stage: Stage, keys: Sequence[str], partitions: Sequence[str]
) -> None:
    """Before a stage works on partitions: what its files are now. Dagster looked up the versions of
    inputs when the step began, so it has to look again at those that were told since.
    """
    if stage.prepare is not None:
        stage.prepare(engine)
    scope = {part for key in keys for part in scope_of(stage, key, partitions)}
    parts = partitions if UNPARTITIONED in scope else sorted(scope)
    told = observe(context.instance, engine, pairs_of(stage.files, parts))
    step = context.op_execution_context._step_execution_context
    for event in told:
        context.instance.report_runless_asset_event(event)
        step.wipe_input_asset_version_info(event.asset_key)


def pairs_of(kinds: Sequence[str], partitions: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((kind, part) for kind in kinds if kind in KINDS for part in partitions)


def changed_files(
    settings: Settings, stages: Mapping[str, Stage], engine_of: Callable[[], Engine]
) -> dg.SensorDefinition:
    """Tells Dagster of files that changed since it was told last; starts nothing."""
    kinds = tuple(kind for kind in KINDS if any(kind in s.files for s in stages.values()))

    @dg.sensor(
        minimum_interval_seconds=600,
        default_status=dg.DefaultSensorStatus.STOPPED,
        name="changed_files",
        asset_selection=dg.AssetSelection.assets(*(asset_name(kind) for kind in kinds)),
        description=changed_files.__doc__,
    )
    def sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        try:
            told = observe(context.instance, engine_of(), pairs_of(kinds, settings.partitions))
        except LatentVLAError as error:
            return dg.SkipReason(str(error))
        if not told:
            return dg.SkipReason("no file changed")
        return dg.SensorResult(asset_events=told)

    return sensor
