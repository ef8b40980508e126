"""Stages as Dagster assets: partitions, descriptions, a blocking check each, and what the UI shows
of a run.

Everything a stage *does* is in `engine.py` and `assets/`; this file only says it to Dagster. It has
no postponed annotations, because Dagster inspects those of an asset's context.
"""

from collections.abc import Iterator, Mapping, Sequence
from inspect import cleandoc
from pathlib import Path
from typing import Any

import dagster as dg

from latentvla_core.lake.locks import held
from latentvla_core.tables import TABLES, Column
from latentvla_core.viz.addresses import url_of
from pipelines.checks import FigureVerdict, Verdict, verify
from pipelines.engines.devices import trainer_of
from pipelines.engines.pipes import through
from pipelines.engines.shards import execute_shards
from pipelines.resources import LatentVLAResource
from pipelines.settings import Settings
from pipelines.steps.context import Outcome, StageContext
from pipelines.steps.engine import FORCED_MODEL, Engine
from pipelines.steps.lineage import UNPARTITIONED, Stage
from pipelines.steps.source_files import tell_of_files
from pipelines.versions import code_version_of, deps_of, told_of, true_versions, version_told


def partitions_of(settings: Settings) -> dg.StaticPartitionsDefinition:
    """One dimension, `<split>-<shard>`, so that a range of partitions is one run."""
    return dg.StaticPartitionsDefinition(list(settings.partitions))


def asset_of(
    stage: Stage, settings: Settings, stages: Mapping[str, Stage], *, pooled: bool = True
) -> dg.AssetsDefinition:
    """The Dagster asset of one stage, with its blocking schema check.

    `pooled` false leaves the gpu pool out: a killed process keeps its place in a pool until a
    daemon frees it, and a run without a daemon would wait for it for ever.
    """
    extra, figures = stage.checks, stage.figures

    @dg.asset(
        name=stage.name,
        deps=deps_of(stage, stages, settings),
        group_name=stage.group,
        description=cleandoc(stage.doc),  # indented paragraphs would be shown as code
        code_version=code_version_of(stage, settings),
        kinds={"python", *stage.kinds},
        partitions_def=partitions_of(settings) if stage.partitioned else None,
        backfill_policy=dg.BackfillPolicy.single_run() if stage.partitioned else None,
        check_specs=[
            dg.AssetCheckSpec(
                check_name(stage), asset=stage.name, blocking=True, description=_CHECK
            ),
            *(
                dg.AssetCheckSpec(name, asset=stage.name, description=f.__doc__)
                for name, f in extra.items()
            ),
            *(
                dg.AssetCheckSpec(name, asset=stage.name, blocking=True, description=meaning)
                for name, meaning in (figures.names() if figures else {}).items()
            ),
        ],
        metadata=_definition_metadata(stage, settings),
        tags={"latentvla/kind": stage.kind},
        op_tags={"dagster/priority": "-1"} if stage.late else None,
        pool="gpu" if stage.heavy and pooled else None,
        config_schema={
            "force": dg.Field(
                bool,
                default_value=False,
                description=f"Do the work even if nothing changed. {FORCED_MODEL}",
            )
        },
        output_required=True,
    )
    def body(context: dg.AssetExecutionContext, latentvla: LatentVLAResource) -> Iterator[Any]:
        with held(place_of_work(latentvla.settings(), stage), context.log.info):
            yield from _materialised(context, latentvla, stage, settings, stages)

    return body


def place_of_work(settings: Settings, stage: Stage) -> Path:
    """What a run of an asset locks, so that of two runs the second says who works and waits, and
    then finds it done.
    """
    return settings.home / "at_work" / stage.name


def _materialised(
    context: dg.AssetExecutionContext,
    latentvla: LatentVLAResource,
    stage: Stage,
    settings: Settings,
    stages: Mapping[str, Stage],
) -> Iterator[Any]:
    """The work, and what Dagster is told of it."""
    keys = context.partition_keys if stage.partitioned else [UNPARTITIONED]
    force = context.op_execution_context.op_config["force"]
    engine = latentvla.engine(stages, context.log.info)
    engine.trainer = trainer_of(engine, through(context))
    tell_of_files(context, engine, stage, keys, settings.partitions)
    outcomes = _executed(engine, stage, keys, context.run_id, force)
    checked = verify(engine.lake, stage, outcomes)
    told = told_of(engine, stage, outcomes)
    told = {key: {n: _linked(v) for n, v in own.items()} for key, own in told.items()}
    for key in keys if stage.partitioned else ():
        context.add_asset_metadata(told[key], partition_key=key)
    yield dg.MaterializeResult(
        metadata=run_metadata(engine, stage, outcomes) | ({} if stage.partitioned else told[""]),
        data_version=dg.DataVersion(version_told(stage, stages, _version_of(outcomes))),
        check_results=[
            _result(check_name(stage), checked),
            *(_result(name, check(engine.lake)) for name, check in stage.checks.items()),
            *(
                _figure_result(verdict)
                for verdict in (stage.figures.verdicts(engine) if stage.figures else ())
            ),
        ],
    )
    if len(keys) > 1:
        yield from true_versions(context, stage, outcomes, told)


def _executed(
    engine: Engine, stage: Stage, keys: Sequence[str], run_id: str, force: bool
) -> dict[str, Outcome]:
    """The work itself: shards by the engine of shards, everything else here."""
    numbers = {key: number for number, key in enumerate(keys, 1)}

    def tell(key: str, outcome: Outcome) -> None:
        engine.say(_line(stage, key, numbers[key], len(keys), outcome))

    if stage.partitioned:
        return execute_shards(engine, stage, keys, run_id=run_id, force=force, tell=tell)
    outcome = engine.execute(stage.name, UNPARTITIONED, run_id=run_id, force=force)
    tell(UNPARTITIONED, outcome)
    return {UNPARTITIONED: outcome}


def _result(name: str, verdict: Verdict) -> dg.AssetCheckResult:
    told = "; ".join(verdict.faults) or None
    severity = dg.AssetCheckSeverity.WARN if verdict.warns else dg.AssetCheckSeverity.ERROR
    return dg.AssetCheckResult(
        passed=not verdict.faults, check_name=name, severity=severity, description=told,
        metadata=verdict.metadata(),
    )  # fmt: skip


def _figure_result(verdict: FigureVerdict) -> dg.AssetCheckResult:
    """A missed requirement is an error and stops what follows; a missed target is a warning and
    does not.
    """
    severity = dg.AssetCheckSeverity.ERROR if verdict.blocks else dg.AssetCheckSeverity.WARN
    return dg.AssetCheckResult(
        passed=verdict.passed, check_name=verdict.name, severity=severity, description=verdict.told,
        metadata=verdict.metadata,
    )  # fmt: skip


_CHECK = "Schema as declared in tables.py, unique keys, rows as counted when written, every row with its provenance."


def check_name(stage: Stage) -> str:
    return f"{stage.name}_schema"


def _version_of(outcomes: Mapping[str, Outcome]) -> str:
    from pipelines.steps.lineage import digest

    made = [outcome.made_by for outcome in outcomes.values()]
    return made[0] if len(made) == 1 else digest(made)


def _line(stage: Stage, key: str, number: int, total: int, outcome: Outcome) -> str:
    where = f" {key} ({number}/{total})" if key else ""
    if outcome.skipped:
        return f"{stage.name}{where}: up to date"
    refused = f", {outcome.quarantined} quarantined" if outcome.quarantined else ""
    return f"{stage.name}{where}: {outcome.rows} rows{refused} in {outcome.seconds:.1f} s"


def _linked(value: Any) -> Any:
    """Pages of a server as links; files as paths to copy, since a browser opens no file:// link."""
    if isinstance(value, str) and value.startswith(("http://", "https://")):
        return dg.MetadataValue.url(value)
    return dg.MetadataValue.path(str(value)) if isinstance(value, Path) else value


def _definition_metadata(stage: Stage, settings: Settings) -> dict[str, Any]:
    spec = TABLES[stage.table]
    return {
        "dagster/column_schema": dg.TableSchema(columns=[_column(c) for c in spec.columns]),
        "dagster/table_name": spec.name,
        "dagster/uri": f"{settings.lake}/{spec.name}",
        "row": spec.row,
        "key": ", ".join(spec.key),
        "schema_version": spec.version,
        "recipe_sections": ", ".join(stage.recipe) or "none",
        "browser": _page(stage, settings),
    }


def _page(stage: Stage, settings: Settings) -> dg.UrlMetadataValue:
    """The page of the browser that shows what this asset holds."""
    is_planner = stage.family == "planner"
    return dg.MetadataValue.url(url_of(settings.site_url, stage.name, is_planner=is_planner))


def _column(column: Column) -> dg.TableColumn:
    kind = column.dtype if column.shape is None else f"list<{column.dtype}> {column.shape}"
    unit = f" [{column.unit}]" if column.unit else ""
    return dg.TableColumn(column.name, kind, column.doc + unit)


def run_metadata(
    engine: StageContext, stage: Stage, outcomes: Mapping[str, Outcome]
) -> dict[str, Any]:
    """Row counts, table versions of inputs and output, and what the stage itself reports (pictures,
    numbers). No link into the browser: what a run wrote would stay when the pages are served
    elsewhere; the asset's definition has it.
    """
    done = [o for o in outcomes.values() if not o.skipped]
    metadata: dict[str, Any] = {
        "partitions_done": len(done),
        "partitions_up_to_date": len(outcomes) - len(done),
        "rows_written": sum(o.rows for o in done),
        "quarantined": sum(o.quarantined for o in done),
        "seconds": round(sum(o.seconds for o in done), 2),
        "delta/version": engine.lake.version(stage.table),
        "recipe": engine.recipe.name,
    }
    if metadata["delta/version"] >= 0:
        metadata["dagster/row_count"] = engine.lake.counts(stage.table, ()).total()
    for dep in stage.deps:
        metadata[f"delta/input/{dep}"] = engine.lake.version(engine.stages[dep].table)
    from pipelines.pictures import pictures_of

    return metadata | pictures_of(engine, stage, outcomes)
