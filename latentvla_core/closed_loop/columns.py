"""Columns of the closed-loop tables as `latentvla drive` writes them: those of the lake, less what
only a lake knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from latentvla_core.schema import TableSpec, restore
from latentvla_core.tables.closed_loop import DRIVEN, LAKE_ONLY

SPECS: dict[str, TableSpec] = {spec.name: spec for spec in DRIVEN}
COLUMNS: dict[str, tuple[str, ...]] = {
    name: tuple(c for c in spec.names if c not in LAKE_ONLY) for name, spec in SPECS.items()
}


def parquet_fields() -> dict[str, list[Any]]:
    """pyarrow fields by table."""
    return {
        name: [field for field in spec.arrow_schema() if field.name not in LAKE_ONLY]
        for name, spec in SPECS.items()
    }


def as_stored(table: str, row: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """A plain row as the lake takes it, its lists as arrays of their shapes; `more` columns beside."""
    return restore(SPECS[table], row) | more
