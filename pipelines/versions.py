"""What Dagster is told of each partition: its version, its numbers, and what was told when it was
made, so that a run with nothing to do leaves no page empty.

It has no postponed annotations, as `dagster_assets.py`.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import dagster as dg

from latentvla_core.recipe_file import is_recipe_file
from latentvla_core.recipes import Recipe, Weights, recipe_named
from latentvla_core.tables import TABLES
from pipelines.settings import Settings
from pipelines.steps.context import Outcome, StageContext
from pipelines.steps.lineage import Stage, digest
from pipelines.steps.source_files import DATA_VERSION, KINDS, asset_name

DONE = "done"  # what a gate tells, and what is waited for
WHOLE = "whole"  # file of an asset without partitions


def _recipe(settings: Settings) -> Recipe:
    path = Path(settings.recipe)
    text = path.read_text() if is_recipe_file(settings.recipe) and path.is_file() else ""
    return _recipe_of(settings.recipe, settings.weights, text)


@lru_cache(maxsize=4)
def _recipe_of(name: str, weights: Weights, text: str) -> Recipe:
    """Once for all assets; again when the file's text is another."""
    return recipe_named(name, weights)


def code_version_of(stage: Stage, settings: Settings) -> str:
    """Everything beside its inputs that makes an asset stale: code, schema of its table, and the
    sections of the recipe it reads.
    """
    parts = [stage.code_version, f"schema {TABLES[stage.table].version}"]
    if stage.recipe:
        recipe = _recipe(settings)
        sections = {name: getattr(recipe, name) for name in stage.recipe}
        parts.append(f"{', '.join(stage.recipe)} {digest(sections)[:8]}")
    return " · ".join(parts)


def deps_of(stage: Stage, stages: Mapping[str, Stage], settings: Settings) -> list[dg.AssetDep]:
    """Inputs, and the files behind them; of a model, the partitions of the splits that it reads."""
    tables = [
        dg.AssetDep(name, partition_mapping=_mapping(stage, stages.get(name), settings))
        for name in (*stage.deps, *stage.after, *stage.gates)
    ]
    files = [
        dg.AssetDep(asset_name(kind), partition_mapping=_of_splits(stage, settings))
        for kind in stage.files
        if kind in KINDS
    ]
    return [*tables, *files]


def version_told(stage: Stage, stages: Mapping[str, Stage], made_by: str) -> str:
    """The data version of an asset without partitions. One that nobody reads and that others only
    wait for tells them that it is done, and nothing that would make them stale.
    """
    is_read = any(stage.name in other.deps for other in stages.values())
    is_awaited = any(stage.name in (*s.after, *s.gates) for s in stages.values())
    return DONE if is_awaited and not is_read else made_by


def _mapping(stage: Stage, dep: Stage | None, settings: Settings) -> dg.PartitionMapping | None:
    return None if dep is None or not dep.partitioned else _of_splits(stage, settings)


def _of_splits(stage: Stage, settings: Settings) -> dg.PartitionMapping | None:
    if stage.partitioned or not stage.reads:
        return None
    keys = [key for key in settings.partitions if key.rpartition("-")[0] in stage.reads]
    return dg.SpecificPartitionsPartitionMapping(keys)


def told_of(
    engine: StageContext, stage: Stage, outcomes: Mapping[str, Outcome]
) -> dict[str, dict[str, Any]]:
    """Metadata of each partition; of one that was up to date, what was told when it was made."""
    folder = _folder(engine, stage)
    told = {}
    for key, outcome in outcomes.items():
        note = folder / f"{key or WHOLE}.json"
        if not outcome.skipped:
            note.parent.mkdir(parents=True, exist_ok=True)
            content = {"made_by": outcome.made_by, "told": _plain(outcome.metadata)}
            note.write_text(json.dumps(content, default=str))
        row = engine.ledger.latest[stage.name, key]
        own = outcome.metadata if not outcome.skipped else _recalled(note, outcome.made_by)
        told[key] = {
            **own,
            "dagster/partition_row_count": row["rows"],
            "made_by": outcome.made_by,
            "delta/written_at": row["delta_version"],
            "commit": row["commit"],
            "quarantined": row["quarantined"],
            "seconds": round(row["seconds"], 2),
        }
    return told


def true_versions(
    context: dg.AssetExecutionContext,
    stage: Stage,
    outcomes: Mapping[str, Outcome],
    told: Mapping[str, Mapping[str, Any]],
) -> Iterator[dg.AssetMaterialization]:
    """After a run over several partitions, one event for each with the version of its own rows.

    A step tells Dagster one data version for all its partitions, so without these two shards of
    different content would have one version, and an unchanged shard another after every run.
    """
    key = dg.AssetKey(stage.name)
    last = context.instance.get_latest_materialization_event(key)
    if last is None or last.asset_materialization is None:
        return
    common, tags = last.asset_materialization.metadata, last.asset_materialization.tags
    shared = {name: value for name, value in common.items() if name not in _names(told)}
    for partition, outcome in outcomes.items():
        yield dg.AssetMaterialization(
            asset_key=key,
            partition=partition,
            metadata={**shared, **told[partition]},
            tags={**(tags or {}), DATA_VERSION: outcome.made_by},
        )


def _names(told: Mapping[str, Mapping[str, Any]]) -> set[str]:
    return {name for own in told.values() for name in own}


def keep_pictures(
    engine: StageContext, stage: Stage, outcomes: Mapping[str, Outcome], drawn: list[bytes]
) -> list[bytes]:
    """The pictures just drawn, or those of the last run that made something."""
    folder = _folder(engine, stage) / "pictures"
    if all(outcome.skipped for outcome in outcomes.values()):
        return [path.read_bytes() for path in sorted(folder.glob("*.png"))]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for number, png in enumerate(drawn):
        (folder / f"{number}.png").write_bytes(png)
    return drawn


def _folder(engine: StageContext, stage: Stage) -> Path:
    return engine.settings.home / "told" / stage.name


def _plain(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {name: str(v) if isinstance(v, Path) else v for name, v in metadata.items()}


def _recalled(note: Path, made_by: str) -> dict[str, Any]:
    """{} where nothing was told of this version on this machine."""
    try:
        content = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    return content["told"] if content.get("made_by") == made_by else {}
