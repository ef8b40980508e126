"""Tables as Polars LazyFrames: what a join or a summary does not need is not read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from latentvla_core.lake.partitions import values_of
from latentvla_core.schema import TableSpec

if TYPE_CHECKING:
    import polars as pl
    from deltalake import DeltaTable


def lazy_rows(
    spec: TableSpec,
    table: DeltaTable | None,
    where: Mapping[str, Any],
    columns: Sequence[str] | None,
) -> pl.LazyFrame:
    """As `Lake.scan`. The condition comes first, so that files of other partitions are not opened."""
    import polars as pl

    if table is None:
        empty = pl.from_arrow(spec.arrow_schema().empty_table())
        assert isinstance(empty, pl.DataFrame)
        frame = empty.lazy()
    else:
        frame = pl.scan_delta(table)
    for column, value in where.items():
        frame = frame.filter(_matches(column, values_of(value)))
    frame = frame.with_columns(
        pl.col(name).fill_null("")
        for name in spec.partition_by
        if spec.is_record and spec.column(name).dtype == "string"
    )
    return frame if columns is None else frame.select(columns)


def _matches(column: str, values: list[Any]) -> pl.Expr:
    """ "" is what Delta writes as null in a partition (partitions.py)."""
    import polars as pl

    found = pl.col(column).is_in(values) if len(values) != 1 else pl.col(column) == values[0]
    return found | pl.col(column).is_null() if "" in values else found
