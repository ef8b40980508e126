"""Many scenes, many drivers, two kinds of traffic: runs, steps, scores and infractions as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from latentvla_core.closed_loop.columns import COLUMNS, parquet_fields
from latentvla_core.closed_loop.driver import Driver
from latentvla_core.closed_loop.drivers.planners import driver_of
from latentvla_core.closed_loop.episode import Traffic, run_episode
from latentvla_core.closed_loop.pool import in_order
from latentvla_core.closed_loop.scenes.prepared import open_prepared
from latentvla_core.closed_loop.scenes.sets import Verdict
from latentvla_core.closed_loop.scores.score import score_run

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


@lru_cache(maxsize=4)
def _driver(name: str, features: str) -> Driver:
    """Loaded once per process."""
    return driver_of(name, Path(features) if features else None)


def drive_scene(verdict: Verdict, config: DriveConfig) -> Rows:
    """All runs of one scene: rows of every table, in the order of drivers and traffic."""
    scene, ground, _ = open_prepared(verdict.spec, config.seconds)
    out: Rows = {name: [] for name in TABLES}
    for name in config.drivers:
        driver = _driver(name, config.features)
        for traffic in config.traffic:
            run = run_episode(driver, scene, traffic=traffic, picture_wh=config.picture_wh)
            scored = score_run(
                run, scene, ground, reference_impact_mps=verdict.reference_impact_mps
            )
            out["closed_loop_runs"].append(run.row())
            out["closed_loop_scores"] += scored.rows
            out["closed_loop_infractions"] += [i.to_row(run.key) for i in scored.infractions]
            if config.keep_steps:
                out["closed_loop_steps"] += list(run.rows())
    return out


def drive(
    verdicts: Sequence[Verdict],
    config: DriveConfig,
    *,
    workers: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Rows]:
    """Rows scene by scene, in the order of the scenes, whatever the number of processes."""
    for done, rows in enumerate(
        in_order(partial(drive_scene, config=config), verdicts, workers), start=1
    ):
        if progress:
            progress(done, len(verdicts))
        yield rows


def write_tables(parts: Iterator[Rows], out: Path) -> dict[str, list[dict[str, Any]]]:
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
