"""The lake: Delta tables below one root, a folder or `s3://…`, written and read by the specs of
`tables.py`.

A partition is replaced whole in one transaction, so a killed writer leaves the old rows or the new
ones, never both (stack.md §4.2). Credentials and endpoint for S3 come from the usual AWS_*
variables.
"""

from __future__ import annotations

import functools
import json
import operator
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentvla_core.errors import DataError, SetupError
from latentvla_core.lake.layout import TABLE_PROPERTIES, file_layout
from latentvla_core.lake.partitions import as_written, condition, matches, values_of

# docs/queries.md and scripts of users import it from here
from latentvla_core.lake.places import lake_root as lake_root
from latentvla_core.lake.sql import Session, run
from latentvla_core.lake.storage import WRITE_ATTEMPTS, dataset_of, explained
from latentvla_core.tables import TABLES, TableSpec, to_arrow, to_rows

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    from deltalake import DeltaTable

_MADE_BY = ("min.made_by", "max.made_by")


@dataclass(frozen=True, slots=True)
class Lake:
    """All tables of one deployment."""

    root: str

    def uri(self, name: str) -> str:
        return f"{self.root.rstrip('/')}/{name}"

    def delta(self, name: str, version: int | None = None) -> DeltaTable | None:
        """The Delta table, or None while nothing was written to it. Raises SetupError for a version
        it has not had.
        """
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError

        with explained(self.uri(name)):
            if not DeltaTable.is_deltatable(self.uri(name)):
                return None
            try:
                return DeltaTable(self.uri(name), version=version)
            except DeltaError:
                latest = DeltaTable(self.uri(name)).version()
                if version is None or version <= latest:
                    raise
        raise SetupError(f"table {name} has versions 0 to {latest}; {version} was asked for")

    def version(self, name: str) -> int:
        """Current Delta version; -1 while the table does not exist."""
        table = self.delta(name)
        return -1 if table is None else table.version()

    def read(
        self,
        name: str,
        where: Mapping[str, Any] | None = None,
        columns: Sequence[str] | None = None,
        version: int | None = None,
    ) -> pa.Table:
        """Rows whose columns equal `where` (a list: any of its values), sorted by key; empty if
        there is no table.
        """
        spec = TABLES[name]
        wanted = list(dict.fromkeys([*(columns or spec.names), *spec.key]))
        table = self.delta(name, version)
        if table is None or not all(map(values_of, (where or {}).values())):
            return _select(spec.arrow_schema().empty_table(), columns)
        self._check_layout(spec, table, spec.names if version is None else wanted)
        with explained(self.uri(name)):
            arrow = _rows_where(table, where or {}, wanted)
        arrow = (
            arrow.select(wanted)
            .cast(_subset(spec, wanted))
            .sort_by([(k, "ascending") for k in spec.key])
        )
        return _select(arrow, columns)

    def place_of_log(self, log_name: str) -> dict[str, Any]:
        """Condition for `read` that finds a log's rows in the files of its shard alone, which
        `logs` tells.

        A sequence faster than 2 Hz is one row of `logs`, `oak`, and has its rows elsewhere under
        the names of its phases, `oak@0`, `oak@1` … (data/frames_poses.py): ask for
        those. Rows that were written with another number of shards are elsewhere: the name alone
        finds them too, slowly. Raises DataError where neither the log nor the sequence of the phase
        is in `logs`.
        """
        phase = re.fullmatch(r"(.+)@\d+", log_name)
        names = [log_name, phase[1]] if phase else [log_name]
        found = self.read("logs", {"log_name": names}, ["split", "shard"]).to_pydict()
        if not found["shard"]:
            raise DataError(
                f"log {log_name!r} is not in table logs of {self.root}; names are those of `logs.log_name`"
            )
        return {
            "log_name": log_name,
            **{column: sorted(set(values)) for column, values in found.items()},
        }

    def counts(self, name: str, columns: Sequence[str]) -> Counter[tuple[Any, ...]]:
        """(*values of partition columns, made_by) → rows, from the transaction log; no file is
        read.

        made_by is "" where a file does not say it: tables of more than 32 columns have no
        statistics of the last ones.
        """
        import pyarrow as pa

        found: Counter[tuple[Any, ...]] = Counter()
        table = self.delta(name)
        if table is None or not set(columns) <= set(table.metadata().partition_columns):
            return found
        with explained(self.uri(name)):
            actions = pa.table(table.get_add_actions(flatten=True))
        wanted = [
            c
            for c in (*_MADE_BY, *(f"partition.{c}" for c in columns))
            if c in actions.column_names
        ]
        for file in as_written(actions.select(["num_records", *wanted]), wanted).to_pylist():
            low, high = (file.get(column) for column in _MADE_BY)
            made_by = low if low == high and low else ""
            found[*(file[f"partition.{c}"] for c in columns), made_by] += file["num_records"]
        return found

    def rows(
        self,
        name: str,
        where: Mapping[str, Any] | None = None,
        columns: Sequence[str] | None = None,
        version: int | None = None,
    ) -> list[dict[str, Any]]:
        """`read` as dicts with arrays in their declared shape."""
        return to_rows(TABLES[name], self.read(name, where, columns, version))

    def scan(
        self,
        name: str,
        where: Mapping[str, Any] | None = None,
        columns: Sequence[str] | None = None,
        version: int | None = None,
    ) -> pl.LazyFrame:
        """Rows whose columns equal `where` (a list: any of its values), as a Polars LazyFrame: joins
        and summaries read the files and columns they need and no others. Order is not defined;
        arrays are flat lists. Empty if there is no table.
        """
        from latentvla_core.lake.frames import lazy_rows

        spec, table = TABLES[name], self.delta(name, version)
        if table is not None and version is None:
            self._check_layout(spec, table, columns or spec.names)
        return lazy_rows(spec, table, where or {}, columns)

    def trained_on(self, model: str, version: str = "") -> dict[str, int]:
        """Table → Delta version that a model read when it was trained; the latest of that name
        unless told otherwise.

        Raises DataError that names the versions there are.
        """
        rows = self.rows("models", {"name": model}, ["name", "version", "inputs", "made_by"])
        if not version and rows:
            order = self.read(
                "materialisations", {"asset": model}, ["made_by", "finished_us"]
            ).to_pylist()
            version = max(order, key=lambda row: row["finished_us"], default=rows[-1])["made_by"]
        for row in rows:
            if row["version"] == version:
                return {
                    table: at for table, at in json.loads(row["inputs"]).items() if table in TABLES
                }
        if not rows:
            names = (
                ", ".join(sorted(set(self.read("models", columns=["name"])["name"].to_pylist())))
                or "none yet"
            )
            raise DataError(f"{model!r} is no model of table models; there are: {names}")
        known = ", ".join(row["version"] for row in rows)
        raise DataError(
            f"model {model!r}, version {version!r} is not in table models; of that name there are: {known}"
        )

    def replace(
        self,
        name: str,
        rows: Iterable[Mapping[str, Any]],
        partition: Mapping[str, Any],
        note: Mapping[str, str] | None = None,
    ) -> int:
        """Replace one partition (all its columns given) by `rows`; returns the Delta version. No
        rows empties it.

        A tuple as the value of a column stands for several partitions, replaced in the same
        transaction.

        Raises DataError when a row belongs to another partition, misses a column, or repeats a key.
        """
        from deltalake import CommitProperties, write_deltalake

        spec = TABLES[name]
        data = to_arrow(spec, rows)
        faults = faults_of(spec, data, partition)
        if faults:
            raise DataError("; ".join(faults), file=f"table {name}", frame=str(dict(partition)))
        where = condition(partition)
        commit = CommitProperties(custom_metadata=dict(note or {}), max_commit_retries=15)

        def write() -> int:
            table = self._writable(spec)
            write_deltalake(
                table,
                data,
                mode="overwrite",
                predicate=where,
                commit_properties=commit,
                writer_properties=file_layout(),
            )
            return table.version()

        with explained(self.uri(name)):
            return retry(write)

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> int:
        """Append rows (for `materialisations`, the only table that only grows)."""
        from deltalake import write_deltalake

        spec = TABLES[name]
        data = to_arrow(spec, rows)

        def write() -> int:
            table = self._writable(spec)
            write_deltalake(table, data, mode="append", writer_properties=file_layout())
            return table.version()

        with explained(self.uri(name)):
            return retry(write)

    def sql(self, query: str, at: Mapping[str, int] | None = None) -> pa.Table:
        """Run SQL (DataFusion) over the tables the query names; `at` gives Delta versions of
        tables, else the current.

        Raises SetupError naming the tables there are when it names none, and DataError with the
        engine's message.
        """
        return run(self.root, self.delta, query, at or {})

    def session(self, at: Mapping[str, int] | None = None) -> Session:
        """For several queries on one opening of the tables; as `sql` otherwise."""
        return Session(self.root, self.delta, at)

    def _writable(self, spec: TableSpec) -> DeltaTable:
        """The table in the declared layout: made where there is none, and made anew where an older
        one lies.

        Rows of an older layout are dropped from the current version, since the line makes them
        again (the schema version is in every fingerprint), and stay readable at their own Delta
        version. Raises SetupError for records.
        """
        from deltalake import CommitProperties, DeltaTable, write_deltalake

        uri, note = (
            self.uri(spec.name),
            CommitProperties(custom_metadata={"schema_version": str(spec.version)}),
        )
        places = list(spec.partition_by)
        if not DeltaTable.is_deltatable(uri):
            if "://" not in self.root:
                Path(self.root).mkdir(parents=True, exist_ok=True)
            DeltaTable.create(
                uri,
                spec.told_schema(),
                mode="ignore",
                partition_by=places,
                description=spec.row,
                commit_properties=note,
                configuration=TABLE_PROPERTIES,
            )
        table = DeltaTable(uri)
        if is_outdated(spec, table):
            if spec.is_record:
                self._check_layout(spec, table, spec.names)
            # From this handle on: a writer that migrated in the meantime makes this commit fail,
            # and it is tried again.
            empty = spec.told_schema().empty_table()
            write_deltalake(
                table,
                empty,
                mode="overwrite",
                schema_mode="overwrite",
                partition_by=places,
                commit_properties=note,
            )
        return table

    def _check_layout(self, spec: TableSpec, table: DeltaTable, wanted: Sequence[str]) -> None:
        """Raises SetupError, with the remedy, when columns that are wanted are not stored."""
        missing = [name for name in wanted if name not in {f.name for f in table.schema().fields}]
        if not missing:
            return
        old = (
            f"latentvla sql --at {spec.name}={table.version()} 'select * from {spec.name} limit 5'"
        )
        remedy = (
            f"its rows cannot be made again: move {self.uri(spec.name)} away to start a new one"
            if spec.is_record
            else f"materialise {spec.name} (latentvla demo), which makes its rows anew; the old ones stay readable: {old}"
        )
        raise SetupError(
            f"{self.uri(spec.name)} is of an older schema: it lacks {', '.join(missing)}, this code reads schema version"
            f" {spec.version}; {remedy}"
        )


def is_outdated(spec: TableSpec, table: DeltaTable) -> bool:
    """Whether a stored table has other columns or partitions than declared."""
    names = {field.name for field in table.schema().fields}
    return names != set(spec.names) or list(table.metadata().partition_columns) != list(
        spec.partition_by
    )


def faults_of(spec: TableSpec, data: pa.Table, partition: Mapping[str, Any]) -> list[str]:
    """What is wrong with rows about to become one partition; empty when nothing is."""
    faults = []
    if set(partition) != set(spec.partition_by):
        faults.append(
            f"partition {sorted(partition)} given, the table is partitioned by {sorted(spec.partition_by)}"
        )
    for column, value in partition.items():
        others = data.column(column).unique().to_pylist() if data.num_rows else []
        if set(others) - set(value if isinstance(value, tuple) else (value,)):
            faults.append(f"column {column} holds {others}, the partition is {value!r}")
    nulls = [c.name for c in spec.columns if data.column(c.name).null_count]
    if nulls:
        faults.append(f"null values in {nulls}; use NaN with valid = false and a reason")
    if data.num_rows and data.group_by(list(spec.key)).aggregate([]).num_rows < data.num_rows:
        faults.append(f"key {spec.key} is not unique")
    return faults


def _rows_where(table: DeltaTable, where: Mapping[str, Any], columns: list[str]) -> pa.Table:
    """Partitions first: a data set of every file costs more than reading one of them."""
    partitioned = table.metadata().partition_columns
    files = condition({column: value for column, value in where.items() if column in partitioned})
    data = dataset_of(table, files)
    terms = [matches(column, value, partitioned) for column, value in where.items()]
    found = data.to_table(
        columns=columns, filter=functools.reduce(operator.and_, terms) if terms else None
    )
    return as_written(found, partitioned)


def _subset(spec: TableSpec, names: Sequence[str]) -> pa.Schema:
    import pyarrow as pa

    schema = spec.arrow_schema()
    return pa.schema([schema.field(name) for name in names])


def _select(table: pa.Table, columns: Sequence[str] | None) -> pa.Table:
    return table if columns is None else table.select(list(columns))


def retry(write: Callable[[], int]) -> int:
    """Concurrent first writes conflict on table metadata; the whole transaction is then tried again
    (stack.md §4.3).
    """
    from deltalake.exceptions import CommitFailedError

    for attempt in range(WRITE_ATTEMPTS):
        try:
            return write()
        except CommitFailedError:
            if attempt == WRITE_ATTEMPTS - 1:
                raise
            time.sleep(random.uniform(0.02, 0.2) * min(attempt + 1, 5))
    raise AssertionError("unreachable: the last attempt returns or raises")
