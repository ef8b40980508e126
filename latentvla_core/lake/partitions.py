"""How the values of partition columns are asked for, in SQL and in Arrow, and read back.

Delta has no empty text there: to its protocol it is null. delta-rs writes '' into its log all the
same and compares it so, its `compact` makes it null, and pyarrow is handed null either way. Here ""
means both, and is what rows come back with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds


def condition(where: Mapping[str, Any]) -> str | None:
    """SQL: each of these partition columns has its value, or one of several; None where any will
    do.
    """
    return " AND ".join(_term(column, values_of(value)) for column, value in where.items()) or None


def matches(column: str, value: Any, partition_columns: Iterable[str]) -> ds.Expression:
    """Arrow: the column has this value, or one of several."""
    import pyarrow.dataset as ds

    values = values_of(value)
    return ds.field(column).isin(
        [*values, None] if "" in values and column in partition_columns else values
    )


def as_written(table: pa.Table, partition_columns: Iterable[str]) -> pa.Table:
    """The same rows with the empty text where Delta reads null; for those of the columns that the
    table has as texts.
    """
    import pyarrow as pa

    for index, field in enumerate(table.schema):
        values = table.column(index)
        if field.name in partition_columns and pa.types.is_string(field.type) and values.null_count:
            table = table.set_column(index, field, values.fill_null(""))
    return table


def values_of(value: Any) -> list[Any]:
    """What a condition asks for: the values of a list, tuple or set, else the value itself."""
    return list(value) if isinstance(value, list | tuple | set) else [value]


def _term(column: str, values: list[Any]) -> str:
    found = f"{column} IN ({', '.join(map(_literal, values))})"
    return f"({found} OR {column} IS NULL)" if "" in values else found


def _literal(value: Any) -> str:
    return str(value) if isinstance(value, Integral) else "'" + str(value).replace("'", "''") + "'"
