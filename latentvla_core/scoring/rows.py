"""The rows of SCORES.parquet as Arrow tables: small enough to travel between processes and to hold
a whole split.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from latentvla_core.pdms.metrics import SUB_SCORES, metric_of
from latentvla_core.pdms.table import ScoreTable

KEY = ("scene_token", "trajectory_id")


def schema(metric: str, extra: Mapping[str, pa.DataType] | None = None) -> pa.Schema:
    """Columns of a metric's rows, and `extra` ones behind them."""
    kinds: dict[str, pa.DataType] = dict.fromkeys(KEY, pa.string())
    kinds |= dict.fromkeys((*SUB_SCORES[metric], "score"), pa.float64())
    kinds |= {"valid": pa.bool_(), "reason": pa.string(), "metric_version": pa.string()} | dict(
        extra or {}
    )
    return pa.schema([pa.field(name, kind) for name, kind in kinds.items()])


def as_rows(scores: ScoreTable) -> pa.Table:
    """A score table with the columns of `schema`."""
    columns: dict[str, Any] = {
        "scene_token": scores.scene_token,
        "trajectory_id": scores.trajectory_id,
    }
    columns |= scores.columns | {"valid": scores.valid, "reason": scores.reason}
    columns["metric_version"] = np.full(len(scores), scores.metric_version, object)
    return pa.table(columns, schema(scores.metric))


def blank_row(token: str, name: str, reason: str, version: str) -> dict[str, Any]:
    """A row without scores."""
    scores = dict.fromkeys((*SUB_SCORES[metric_of(version)], "score"), float("nan"))
    keys = {"scene_token": token, "trajectory_id": name}
    return keys | scores | {"valid": False, "reason": reason, "metric_version": version}


def blank_rows(of_scene: Mapping[str, Mapping[str, str]], version: str) -> pa.Table:
    """Rows without scores: token → trajectory id → reason."""
    rows = [
        blank_row(token, name, why, version)
        for token, names in of_scene.items()
        for name, why in names.items()
    ]
    return pa.Table.from_pylist(rows, schema(metric_of(version)))


def in_order(parts: list[pa.Table]) -> pa.Table:
    """One table of all parts, sorted by its key: the same bytes however the work was shared out."""
    return pa.concat_tables(parts).sort_by([(name, "ascending") for name in KEY]).combine_chunks()


def write_rows(rows: pa.Table, out: str | Path) -> None:
    """Parquet, written beside and moved, so that no half file is left."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    pq.write_table(rows, beside, compression="zstd")
    beside.replace(out)
