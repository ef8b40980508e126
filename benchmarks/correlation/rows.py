"""The rows that the study's figures are derived from: small, and all that is kept in the end."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.correlation.checkpoints import KINDS, Checkpoint
from latentvla_core.errors import DataError
from latentvla_core.types import Array

OPEN, CLOSED = ("pdms", "epdms"), ("cls", "ds")
CLOSED_COLUMNS = (
    "cls", "ds", "route_completion", "infractions", "no_at_fault_collisions", "drivable_area",
)  # fmt: skip
Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Rows:
    """What `report` reads.

    Legend: C checkpoints, L logs, S scenes, T lengths.
    """

    checkpoints: list[Checkpoint]
    lengths_s: tuple[float, ...]
    scenes_per_log: Array
    """(C, L) held-out scenes with a score."""
    open_loop: dict[str, Array]
    """pdms, epdms → (C, L) mean over the scenes of a log."""
    closed_loop: dict[str, Array]
    """cls (0 … 1), ds (0 … 100) → (C, S, T)."""

    def of(self, kinds: Iterable[str]) -> Array:
        """(n,) numbers of the checkpoints of some kinds."""
        wanted = set(kinds)
        return np.array([i for i, c in enumerate(self.checkpoints) if c.kind in wanted], np.int64)


# ---- on the way --------------------------------------------------------------------------------


def open_path(out: Path, checkpoint: str) -> Path:
    """Where the open-loop rows of a checkpoint are kept."""
    return out / "open" / f"{checkpoint}.json"


def keep_open(out: Path, checkpoint: str, found: Sequence[Row]) -> None:
    path = open_path(out, checkpoint)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".partial").write_text(json.dumps(list(found)))
    path.with_suffix(".partial").replace(path)


def mean(found: Sequence[Row], name: str) -> float:
    """Over the scenes that have a score."""
    return float(np.nanmean([row[name] for row in found]))


def collect(out: Path, checkpoints: Sequence[Checkpoint]) -> Path:
    """The rows of all checkpoints that were judged both ways, over the scenes that all of them have
    driven, as Parquet files below out/rows.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmarks.correlation.runs import stored_scores

    judged = [c for c in checkpoints if open_path(out, c.name).exists()]
    logs = [row for c in judged for row in by_log(json.loads(open_path(out, c.name).read_text()))]
    drives = shared([closed_row(row) for row in stored_scores(out, judged)])
    driven = {row["checkpoint"] for row in drives}
    folder = out / "rows"
    folder.mkdir(exist_ok=True)
    named = [_named(c) for c in judged if c.name in driven]
    for name, found in (("checkpoints", named), ("open_loop", logs), ("closed_loop", drives)):
        table = pa.Table.from_pylist([r for r in found if r["checkpoint"] in driven])
        pq.write_table(table, folder / f"{name}.parquet", compression="zstd")
    return folder


def shared(drives: Sequence[Row]) -> list[Row]:
    """Rows of the scenes that everybody has driven who has driven any."""
    by_scene: dict[str, set[str]] = {}
    for row in drives:
        by_scene.setdefault(row["scene"], set()).add(row["checkpoint"])
    everybody = set().union(*by_scene.values()) if by_scene else set()
    return [row for row in drives if by_scene[row["scene"]] == everybody]


def by_log(found: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows of scenes → a row per log: means over the scenes that both scores know."""
    logs: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        if np.isfinite(row["pdms"]) and np.isfinite(row["epdms"]):
            logs.setdefault((row["checkpoint"], row["log"]), []).append(row)
    return [
        {"checkpoint": name, "log": log, "scenes": len(group)}
        | {column: float(np.mean([r[column] for r in group])) for column in OPEN}
        for (name, log), group in sorted(logs.items())
    ]


def closed_row(row: Row) -> dict[str, Any]:
    """What of a row of `closed_loop_scores` is kept."""
    kept = {"checkpoint": row["driver"], "scene": row["scene"], "situation": row["situation"]}
    return kept | {c: row[c] for c in ("prefix_s", "valid", *CLOSED_COLUMNS)}


def _named(checkpoint: Checkpoint) -> dict[str, Any]:
    """Without folders, which are of one machine."""
    row = asdict(checkpoint)
    return {"checkpoint": row.pop("name"), **{k: v for k, v in row.items() if k not in _PLACES}}


_PLACES = ("folder", "features")

# ---- back again --------------------------------------------------------------------------------


def read(folder: Path) -> Rows:
    """What `collect` wrote. Raises DataError when a checkpoint lacks a log or a drive."""
    import pyarrow.parquet as pq

    found = {
        name: pq.read_table(folder / f"{name}.parquet").to_pylist()
        for name in ("checkpoints", "open_loop", "closed_loop")
    }
    checkpoints = [Checkpoint(name=r.pop("checkpoint"), **r) for r in found["checkpoints"]]
    checkpoints.sort(key=lambda c: KINDS.index(c.kind))
    lengths = tuple(sorted({row["prefix_s"] for row in found["closed_loop"]}))
    logs = sorted({row["log"] for row in found["open_loop"]})
    scenes = sorted({row["scene"] for row in found["closed_loop"]})
    names = [c.name for c in checkpoints]
    open_loop = {
        column: _grid(found["open_loop"], column, ("checkpoint", "log"), (names, logs))
        for column in ("scenes", *OPEN)
    }
    closed = {
        column: _grid(
            found["closed_loop"], column, ("checkpoint", "scene", "prefix_s"),
            (names, scenes, lengths),
        )
        for column in CLOSED
    }  # fmt: skip
    return Rows(checkpoints, lengths, open_loop.pop("scenes"), open_loop, closed)


def _grid(
    found: Sequence[Row], column: str, keys: Sequence[str], axes: Sequence[Sequence[Any]]
) -> Array:
    """Values as an array with an axis per key."""
    places = [{value: i for i, value in enumerate(axis)} for axis in axes]
    grid = np.full([len(axis) for axis in axes], np.nan)
    for row in found:
        grid[tuple(place[row[key]] for place, key in zip(places, keys, strict=True))] = row[column]
    if not np.isfinite(grid).all():
        missing = [a[i] for a, i in zip(axes, np.argwhere(~np.isfinite(grid))[0], strict=True)]
        told = ", ".join(f"{k} {v}" for k, v in zip(keys, missing, strict=True))
        raise DataError(f"no {column} for {told}; drive on until every checkpoint has every scene")
    return grid
