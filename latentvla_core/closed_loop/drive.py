"""Many scenes, many drivers, two kinds of traffic: runs, steps, scores and infractions as tables."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from latentvla_core.closed_loop.columns import COLUMNS, parquet_fields
from latentvla_core.closed_loop.driver import Driver
from latentvla_core.closed_loop.drivers.planners import driver_of
from latentvla_core.closed_loop.episode import Scene, Traffic, run_episode
from latentvla_core.closed_loop.pool import in_order
from latentvla_core.closed_loop.scenes.sets import SceneSet, Search, Verdict, judged
from latentvla_core.closed_loop.scenes.spec import SceneSpec
from latentvla_core.closed_loop.scores.drive import Ground
from latentvla_core.closed_loop.scores.score import METRIC_VERSION, score_run

TABLES = tuple(COLUMNS)
Rows = dict[str, list[dict[str, Any]]]
"""Table → its rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriveConfig:
    """What is driven, by whom, among what."""

    drivers: tuple[str, ...]
    """Names for `planners.driver_of`."""
    traffic: tuple[Traffic, ...] = ("reactive", "log")
    seconds: float = 20.0
    """T."""
    picture_wh: tuple[int, int] = (448, 252)
    features: str = ""
    """Folder of the student or VLM of a fused planner that is given as a folder."""
    keep_steps: bool = True
    """Whether step rows are kept."""

    @property
    def fingerprint(self) -> str:
        """Names what has been driven: half a run of another configuration is no use."""
        text = json.dumps([METRIC_VERSION, asdict(self)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@lru_cache(maxsize=4)
def _driver(name: str, features: str) -> Driver:
    """Loaded once per process."""
    return driver_of(name, Path(features) if features else None)


def drive_scene(
    scene: Scene, ground: Ground, config: DriveConfig, reference_impact_mps: float = float("nan")
) -> Rows:
    """All runs of one scene: rows of every table, in the order of drivers and traffic."""
    out: Rows = {name: [] for name in TABLES}
    for name in config.drivers:
        driver = _driver(name, config.features)
        for traffic in config.traffic:
            run = run_episode(driver, scene, traffic=traffic, picture_wh=config.picture_wh)
            scored = score_run(run, scene, ground, reference_impact_mps=reference_impact_mps)
            out["closed_loop_runs"].append(run.row())
            out["closed_loop_scores"] += scored.rows
            out["closed_loop_infractions"] += [i.to_row(run.key) for i in scored.infractions]
            if config.keep_steps:
                out["closed_loop_steps"] += list(run.rows())
    return out


def attempt(spec: SceneSpec, config: DriveConfig, folder: Path) -> tuple[Verdict, Path]:
    """Judges a candidate and drives it if it is a scene. What is done already is not done again."""
    path = folder / f"{spec.token}.json.gz"
    if path.exists():
        done = read_part(path)
        impact = done["reference_impact_mps"]
        impact = float("nan") if impact is None else impact
        return Verdict(spec, done["reason"], impact), path
    verdict, prepared = judged(spec, config.seconds)
    rows = {}
    if prepared is not None:
        rows = drive_scene(*prepared, config, verdict.reference_impact_mps)
    impact = verdict.reference_impact_mps
    content = {
        "reason": verdict.reason,
        "reference_impact_mps": None if impact != impact else impact,
        "rows": rows,
    }
    partial_path = path.with_suffix(f".{os.getpid()}.partial")
    with gzip.GzipFile(partial_path, "wb", compresslevel=3, mtime=0) as file:
        file.write(json.dumps(content).encode())
    partial_path.replace(path)
    return verdict, path


def read_part(path: Path) -> dict[str, Any]:
    """What `attempt` wrote."""
    with gzip.open(path, "rb") as file:
        return json.loads(file.read())


def drive_set(
    names: Sequence[str],
    per_situation: int,
    seed: int,
    config: DriveConfig,
    out: Path,
    *,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[SceneSet, Rows]:
    """Finds the scenes, drives them all, writes Parquet files and `scenes.json`; gives back all
    rows but the steps. Killed and called again, it goes on where it was.
    """
    parts = out / "parts" / config.fingerprint
    parts.mkdir(parents=True, exist_ok=True)
    search, paths, done = Search(names, per_situation, seed), {}, 0
    work = partial(attempt, config=config, folder=parts)
    for verdict, path in in_order(work, search.specs(), workers):
        if search.take(verdict):
            paths[verdict.spec.token], done = path, done + 1
            if progress:
                progress(done, len(names) * per_situation)
    found = search.result
    found.save(out / "scenes.json")
    rows = write_tables((read_part(paths[v.spec.token])["rows"] for v in found.scenes), out)
    return found, rows


def write_tables(parts: Iterable[Rows], out: Path) -> Rows:
    """One Parquet file per table; gives back all rows but the steps."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out.mkdir(parents=True, exist_ok=True)
    kept: Rows = {name: [] for name in TABLES}
    writers: dict[str, pq.ParquetWriter] = {}
    schemas = {name: pa.schema(fields) for name, fields in parquet_fields().items()}
    try:
        for name in TABLES:
            writers[name] = pq.ParquetWriter(
                out / f"{name}.parquet", schemas[name], compression="zstd"
            )
        for rows in parts:
            for name in TABLES:
                if rows[name]:
                    writers[name].write_table(pa.Table.from_pylist(rows[name], schemas[name]))
                if name != "closed_loop_steps":
                    kept[name] += rows[name]
    finally:
        for writer in writers.values():
            writer.close()
    return kept
