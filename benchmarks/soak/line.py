"""The line under test: real ingest, scenes, worlds, plans, scores, gate and registry around one
blind planner, which needs no pictures and trains in a second.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from latentvla_core.lake.maintenance import compact, vacuum
from latentvla_core.lake.store import Lake
from latentvla_core.tables import TABLES
from pipelines.assets.planners import plan_rows
from pipelines.settings import Settings
from pipelines.stages import STAGES as WHOLE
from pipelines.steps.context import Output, StageContext
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import UNPARTITIONED, Stage, digest, place_of, stale_work

PLANNER = "ego_status_mlp"
COMPACT, VACUUM = "compact", "vacuum"
KEPT = ("releases", "materialisations", "models", "quarantine")
"""Tables of records: they grow, so their rows are not those of a calm run."""
OWN = {
    *("made_by", "model_version", "data_version", "path", "sensor_root", "maps_root", "version"),
    *("inputs", "commit", "seconds", "mlflow_uri", "champion", "decided_us"),
}
"""Columns that tell where and when a run was."""


def plans_of_the_blind(context: StageContext, partition: str) -> Output:
    """What `trajectories` does, for the one planner there is."""
    from latentvla_core.planner.model import load
    from latentvla_core.planner.plan import plan_all

    records = context.records(**place_of(partition))
    plans = plan_all(context.model(PLANNER, load), records, None, device=context.device)
    rows = plan_rows(PLANNER, records, plans, context.ledger.made_by(PLANNER, ""))
    return Output(rows, groups=(PLANNER,))


_PLANS = replace(
    WHOLE["trajectories"], run=plans_of_the_blind, deps=("scenes", PLANNER), picture=None
)
_NAMES = (
    *("logs", "frames", "scenes", "scene_worlds", PLANNER, "baseline_trajectories"),
    *("trajectories", "pdm_scores", "pdm_summary", "releases"),
)


def shortened(stage: Stage, names: tuple[str, ...]) -> Stage:
    """The stage in a line of these alone: what it reads of others is empty there."""
    deps, after = (tuple(n for n in asked if n in names) for asked in (stage.deps, stage.after))
    return replace(stage, deps=deps, after=after, gates=())


LITTLE: dict[str, Stage] = {
    name: shortened(_PLANS if name == "trajectories" else WHOLE[name], _NAMES) for name in _NAMES
}


def write_sources(folder: Path, store: Path, tree: Path | None = None) -> Path:
    """A sources YAML of splits train and test below `tree` (the store itself, unless another is
    given); maps lie in the store.
    """
    rule = {"num_history_frames": 4, "num_future_frames": 10, "has_route": True}
    logs, maps = (tree or store) / "navsim_logs", str(store / "maps")
    splits = {
        name: {"logs": str(logs / part), "sensors": str(folder), "maps": maps, "filter": rule}
        for name, part in (("train", "trainval"), ("test", "test"))
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "sources.yaml"
    path.write_text(yaml.safe_dump({"splits": splits}))
    return path


def write_recipe(path: Path, *, hidden: int, **training: Any) -> None:
    """Recipe `debug` with this width and training of the planner, scored by PDMS alone."""
    planner = {"hidden": hidden, "training": training}
    path.write_text(yaml.safe_dump({"base": "debug", "ego_status": planner, "metrics": ["pdms"]}))


def deployment(folder: Path, store: Path, lake: str = "") -> Settings:
    """A home of its own over the logs of the store."""
    sources = write_sources(folder, store)
    write_recipe(folder / "recipe.yaml", steps=20, hidden=16, batch_size=8)
    env = {
        "LATENTVLA_HOME": str(folder / "home"), "LATENTVLA_SOURCES": str(sources),
        "LATENTVLA_SHARDS": "2", "LATENTVLA_WORKERS": "1", "LATENTVLA_DEVICE": "cpu",
        "LATENTVLA_RECIPE": str(folder / "recipe.yaml"), "LATENTVLA_LAKE": lake,
    }  # fmt: skip
    return Settings.from_env(env)


def silent(text: str) -> None:
    """Where a child's progress goes."""


def engine_of(settings: Settings) -> Engine:
    return Engine(settings, LITTLE, silent)


def stale(engine: Engine) -> list[tuple[str, str]]:
    return stale_work(
        LITTLE, engine.recipe, engine.settings.partitions, engine.ledger, engine.files_key,
        is_there=engine.is_there,
    )  # fmt: skip


def settle(settings: Settings) -> int:
    """What the next run does: everything that is stale; how many pieces that was."""
    engine = engine_of(settings)
    work = stale(engine)
    for asset, partition in work:
        engine.execute(asset, partition)
    return len(work)


def parts_of(stage: str, settings: Settings) -> Iterable[str]:
    return settings.partitions if LITTLE[stage].partitioned else (UNPARTITIONED,)


def do(settings: Settings, job: str) -> None:
    """One job again, though nothing asks for it: a stage, or maintenance of the whole lake."""
    if job == COMPACT:
        compact(Lake(settings.lake))
    elif job == VACUUM:
        vacuum(Lake(settings.lake), keep_days=0)
    else:
        engine = engine_of(settings)
        for partition in parts_of(job, settings):
            engine.execute(job, partition, force=True)


def forget_weights(settings: Settings) -> None:
    """A training does not begin where its weights are: the job of killing one needs them gone."""
    shutil.rmtree(settings.models / PLANNER, ignore_errors=True)


def facts(settings: Settings) -> dict[str, str]:
    """Table → digest of its rows, columns of `OWN` left out; equal for runs of equal logs."""
    lake, found = Lake(settings.lake), {}
    for name in sorted({stage.table for stage in LITTLE.values()} - set(KEPT)):
        columns = [c.name for c in TABLES[name].columns if c.name not in OWN]
        rows = lake.read(name, columns=columns).to_pylist()
        found[name] = digest(sorted(json.dumps(row, default=_plain) for row in rows))
    return found


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else str(value)


def faults(settings: Settings, calm: dict[str, str], decisions: int = 0) -> list[str]:
    """What is wrong with a lake that has settled; empty when nothing is."""
    engine, lake = engine_of(settings), Lake(settings.lake)
    told = [f"{name} differs from a calm run's" for name, key in facts(settings).items()
            if calm and key != calm[name]]  # fmt: skip
    told += [f"{asset} {partition} is stale after a run" for asset, partition in stale(engine)]
    releases = lake.rows("releases")
    if len(releases) < decisions:
        told.append(f"{len(releases)} decisions are kept, there were {decisions}")
    for name in {stage.table for stage in LITTLE.values()}:
        table, key = lake.read(name), list(TABLES[name].key)
        if table.group_by(key).aggregate([]).num_rows != table.num_rows:
            told.append(f"{name} has rows with the same key")
    made_by = engine.ledger.made_by(PLANNER, UNPARTITIONED)
    if not lake.rows("models", {"name": PLANNER, "version": made_by}):
        told.append(f"models has no row of {PLANNER} {made_by}")
    return told


def settle_and_read(settings: Settings) -> None:
    """A run, and somebody who looks at every table."""
    settle(settings)
    for name in {stage.table for stage in LITTLE.values()} | {"materialisations"}:
        Lake(settings.lake).read(name)


def decided(settings: Settings) -> int:
    """Decisions of the gate that are kept."""
    return Lake(settings.lake).read("releases", columns=["name"]).num_rows
