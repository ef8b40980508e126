"""How a table is declared, and how rows of arrays become Arrow columns and come back. The tables
are in `tables.py`.

Arrays are stored flat, as lists, and get their shape back from `Column.shape`; timestamps are int64
microseconds (stack.md §4.1: fixed-size lists, unsigned and zone-less types do not survive a Delta
round trip).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from latentvla_core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

NUMPY_OF = {
    "int8": np.int8,
    "int32": np.int32,
    "int64": np.int64,
    "float32": np.float32,
    "float64": np.float64,
    "bool": np.bool_,
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column. A column with a `shape` is an array per row, stored flat as a list."""

    name: str
    dtype: str
    """int8, int32, int64, float32, float64, bool or string."""
    doc: str
    unit: str = ""
    shape: tuple[int, ...] | None = None
    """None: a scalar. (-1,), (-1, 3), (41, -1, 4, 2) …: at most one -1."""

    def arrow_type(self) -> pa.DataType:
        import pyarrow as pa

        scalar = (
            pa.string()
            if self.dtype == "string"
            else pa.from_numpy_dtype(np.dtype(NUMPY_OF[self.dtype]))
        )
        return scalar if self.shape is None else pa.list_(scalar)

    @property
    def type_name(self) -> str:
        """As docs/tables.md shows it: `float64[n, 3]`."""
        if self.shape is None:
            return self.dtype
        return f"{self.dtype}[{', '.join('n' if s == -1 else str(s) for s in self.shape)}]"

    def told(self) -> dict[str, str]:
        """What the Delta schema says of it: `comment` (as Spark and Unity Catalog show it), `unit`,
        and the `shape` a flat list gets back, -1 for any length.
        """
        shape = "" if self.shape is None else ", ".join(map(str, self.shape))
        told = {"comment": self.doc, "unit": self.unit, "shape": shape}
        return {key: value for key, value in told.items() if value}


@dataclass(frozen=True, slots=True)
class TableSpec:
    """One table: a row is `row`, unique by `key`, replaced whole per value of `partition_by`."""

    name: str
    row: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partition_by: tuple[str, ...] = ("split", "shard")
    order: tuple[str, ...] = ()
    """How rows lie inside a partition after compaction, so that those of one value of the first
    column are found without decoding the others; worth it where a partition has many row groups.
    (): as they were written.
    """
    version: int = 1
    is_record: bool = False
    """Rows tell what happened and cannot be made again from inputs; a change of schema never drops
    them.
    """

    def column(self, name: str) -> Column:
        return next(c for c in self.columns if c.name == name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    def arrow_schema(self) -> pa.Schema:
        import pyarrow as pa

        return pa.schema([pa.field(c.name, c.arrow_type()) for c in self.columns])

    def told_schema(self) -> pa.Schema:
        """`arrow_schema` with comment, unit and shape of each column, as a new Delta table keeps
        them for whoever opens it with another tool.
        """
        import pyarrow as pa

        return pa.schema(
            [pa.field(c.name, c.arrow_type(), metadata=c.told()) for c in self.columns]
        )


def text(name: str, doc: str, shape: tuple[int, ...] | None = None) -> Column:
    """Column of strings."""
    return Column(name, "string", doc, shape=shape)


def real(name: str, doc: str, unit: str = "", shape: tuple[int, ...] | None = None) -> Column:
    """Column of float64."""
    return Column(name, "float64", doc, unit, shape)


def single(name: str, doc: str, unit: str = "", shape: tuple[int, ...] | None = None) -> Column:
    """Column of float32."""
    return Column(name, "float32", doc, unit, shape)


def integer(
    name: str, doc: str, unit: str = "", shape: tuple[int, ...] | None = None, dtype: str = "int64"
) -> Column:
    """Column of integers."""
    return Column(name, dtype, doc, unit, shape)


def flag(name: str, doc: str, shape: tuple[int, ...] | None = None) -> Column:
    """Column of booleans."""
    return Column(name, "bool", doc, shape=shape)


def to_arrow(spec: TableSpec, rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Rows (arrays may have any shape that fits `Column.shape`) → an Arrow table of the declared
    schema.

    Raises DataError naming table, row key and column when a value is missing or does not fit.
    """
    import pyarrow as pa

    rows = list(rows)
    columns = [
        pa.array([_flat(spec, column, row) for row in rows], column.arrow_type())
        for column in spec.columns
    ]
    return pa.Table.from_arrays(columns, schema=spec.arrow_schema())


def _flat(spec: TableSpec, column: Column, row: Mapping[str, Any]) -> Any:
    where = f"table {spec.name}, row {tuple(row.get(k) for k in spec.key)}"
    if column.name not in row:
        raise DataError(
            "the value is missing; every declared column needs one", file=where, field=column.name
        )
    value = row[column.name]
    if column.shape is None:
        return value.item() if isinstance(value, np.generic) else value
    if column.dtype == "string":
        return list(value)
    given, dtype = np.asarray(value), np.dtype(NUMPY_OF[column.dtype])
    array = given.astype(dtype, copy=False)
    if (
        dtype.kind == "i"
        and not np.can_cast(given.dtype, dtype)
        and not np.array_equal(array, given)
    ):
        raise DataError(
            f"{given.min()} … {given.max()} do not fit {dtype}", file=where, field=column.name
        )
    if not _fits(array.shape, column.shape):
        raise DataError(
            f"shape {array.shape} does not fit {column.shape}", file=where, field=column.name
        )
    return array.ravel()


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(shape) == len(declared) and all(
        d in (-1, s) for s, d in zip(shape, declared, strict=True)
    )


def to_rows(spec: TableSpec, table: pa.Table) -> list[dict[str, Any]]:
    """Arrow table → rows with arrays restored to `Column.shape` (columns of the table only, so
    pruned reads work).
    """
    columns = [spec.column(name) for name in table.column_names]
    values = [_unflatten(column, table.column(column.name)) for column in columns]
    return [
        dict(zip((c.name for c in columns), row, strict=True)) for row in zip(*values, strict=True)
    ]


def _unflatten(column: Column, chunked: pa.ChunkedArray) -> Sequence[Any]:
    if column.shape is None:
        return chunked.to_pylist()
    if column.dtype == "string":
        return [tuple(v) for v in chunked.to_pylist()]
    return [
        _reshape(flat, column.shape)
        for chunk in chunked.chunks
        for flat in _arrays(chunk, NUMPY_OF[column.dtype])
    ]


def _arrays(chunk: pa.ListArray, dtype: Any) -> Iterable[np.ndarray]:
    """The values of each list: views of one array, since a scalar per row costs more than reading
    the file.
    """
    flat = np.asarray(chunk.values.to_numpy(zero_copy_only=False), dtype)
    ends = chunk.offsets.to_numpy()
    return (flat[first:last] for first, last in zip(ends[:-1], ends[1:], strict=True))


def _reshape(flat: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if flat.size or -1 not in shape:
        return flat.reshape(shape)
    return flat.reshape(tuple(0 if s == -1 else s for s in shape))


def restore(spec: TableSpec, row: Mapping[str, Any]) -> dict[str, Any]:
    """A row that went through JSON, with the arrays of declared columns in their type and shape."""
    return {
        name: _restored(spec.column(name), v) if name in spec.names else v
        for name, v in row.items()
    }


def _restored(column: Column, value: Any) -> Any:
    if column.shape is None:
        return value
    if column.dtype == "string":
        return tuple(value)
    return _reshape(np.asarray(value, NUMPY_OF[column.dtype]).ravel(), column.shape)


def markdown(spec: TableSpec) -> str:
    """The table's section of docs/tables.md."""
    place = ", ".join(spec.partition_by) or "not partitioned"
    order = f" Compaction sorts by {', '.join(spec.order)}." if spec.order else ""
    told = f"One row is {spec.row}. Key: {', '.join(spec.key)}. Partitions: {place}. Version {spec.version}.{order}"
    head = f"## {spec.name}\n\n{wrapped(told)}\n\n"
    lines = [f"| {c.name} | {c.type_name} | {c.unit} | {c.doc} |" for c in spec.columns]
    return (
        head + "| column | type | unit | meaning |\n|---|---|---|---|\n" + "\n".join(lines) + "\n"
    )


def page(specs: Mapping[str, TableSpec], views: Iterable[str] = ()) -> str:
    """docs/tables.md; `views` are sections of their own after the tables."""
    told = "Generated from `latentvla_core/tables/`. Arrays are stored as flat lists; the type column gives their shape."
    head = f"# Tables\n\n{wrapped(told)}\n\n"
    return head + "\n".join([*(markdown(spec) for spec in specs.values()), *views])


def wrapped(text: str) -> str:
    """Prose in lines of at most 100 columns."""
    return textwrap.fill(text, 100, break_long_words=False, break_on_hyphens=False)
