"""Columns of the closed-loop tables, once."""

from __future__ import annotations

from typing import Any

from latentvla_core.closed_loop.scores.score import SCORES, TERMS
from latentvla_core.closed_loop.steps import STATE_COLUMNS

KEY = {"scene": "string", "driver": "string", "traffic": "string", "seed": "int64"}
PLACE = {"situation": "string", "location": "string"}
COLUMNS: dict[str, dict[str, str]] = {
    "closed_loop_runs": {
        **KEY,
        **PLACE,
        "spec": "string",
        "steps": "int64",
        "ended": "string",
        "valid": "bool",
        "reason": "string",
    },
    "closed_loop_steps": {
        **KEY,
        "step": "int64",
        "time_s": "double",
        **dict.fromkeys(STATE_COLUMNS, "double"),
        "plan": "list<double>",
        "actor_tokens": "list<string>",
        "actor_classes": "list<int8>",
        "actor_boxes": "list<double>",
        "actor_velocities": "list<double>",
        "light_ids": "list<string>",
        "light_colours": "list<string>",
    },
    "closed_loop_scores": {
        **KEY,
        **PLACE,
        "prefix_s": "double",
        "metric_version": "string",
        "valid": "bool",
        "reason": "string",
        **dict.fromkeys(TERMS, "double"),
        "min_ttc_s": "double",
        "driven_m": "double",
        "reference_m": "double",
        "route_completion": "double",
        "infractions": "int64",
        "success": "bool",
        **dict.fromkeys(SCORES, "double"),
    },
    "closed_loop_infractions": {
        **KEY,
        "kind": "string",
        "step": "int64",
        "time_s": "double",
        "x_m": "double",
        "y_m": "double",
        "partner": "string",
        "at_fault": "bool",
        "detail": "string",
    },
}


def parquet_fields() -> dict[str, list[Any]]:
    """pyarrow fields by table."""
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int64": pa.int64(),
        "double": pa.float64(),
        "bool": pa.bool_(),
        "list<double>": pa.list_(pa.float64()),
        "list<string>": pa.list_(pa.string()),
        "list<int8>": pa.list_(pa.int8()),
    }
    return {
        table: [pa.field(name, types[kind]) for name, kind in columns.items()]
        for table, columns in COLUMNS.items()
    }
