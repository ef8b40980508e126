"""Keeping tables compact: small files become large ones, files that no version worth keeping names
are deleted.

The line writes at least one file per shard and piece of work; `materialisations`, which only grows,
gets one per piece. Where a table declares an order, its rows are sorted on the way. Neither
operation changes a row. What a registered model was trained on stays readable unless it is given up
by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from latentvla_core.errors import SetupError
from latentvla_core.lake.layout import TABLE_PROPERTIES, file_layout
from latentvla_core.lake.sorting import sort_partitions
from latentvla_core.lake.sql import no_such_table
from latentvla_core.lake.storage import explained
from latentvla_core.lake.store import Lake, retry
from latentvla_core.tables import TABLES, TableSpec

if TYPE_CHECKING:
    from deltalake import DeltaTable

KEEP_DAYS = 30


@dataclass(frozen=True, slots=True)
class Kept:
    """What was done to one table."""

    table: str
    files_before: int
    files_after: int
    deleted: int
    """Files removed from the disk (or that would be)."""
    pinned: tuple[int, ...]
    """Delta versions that models were trained on, all of whose files were kept."""

    def __str__(self) -> str:
        pins = (
            f", versions {', '.join(map(str, self.pinned))} of models kept" if self.pinned else ""
        )
        return f"{self.table:<18} {self.files_before:>6} → {self.files_after:>5} files, {self.deleted} deleted{pins}"


def existing(lake: Lake, names: Iterable[str] = ()) -> list[str]:
    """The tables of the lake among `names` (all where none is given). Raises SetupError for a name
    that is no table.
    """
    unknown = sorted(set(names) - set(TABLES))
    if unknown:
        raise SetupError("; ".join(map(no_such_table, unknown)))
    return [
        name for name in TABLES if (not names or name in set(names)) and lake.version(name) >= 0
    ]


def compact(lake: Lake, names: Iterable[str] = ()) -> list[Kept]:
    """Join small files inside each partition, in the table's order if it declares one. Old versions
    keep their files.

    What is compact already is left alone: a second run writes nothing.
    """
    return [_compacted(lake, name) for name in existing(lake, names)]


def _compacted(lake: Lake, name: str) -> Kept:
    before = _open(lake, name)
    renew_properties(before)
    renew_comments(before, TABLES[name])
    order = TABLES[name].order
    with explained(lake.uri(name)):
        if order and {field.name for field in before.schema().fields}.issuperset(order):
            sort_partitions(lambda: _open(lake, name), order)
        else:  # also the rows of an older layout, which may lack these columns
            retry(lambda: _joined(_open(lake, name)))
        after = _open(lake, name)
        _set_checkpoint(after)
    return Kept(name, len(before.file_uris()), len(after.file_uris()), 0, ())


def _joined(table: DeltaTable) -> int:
    table.optimize.compact(writer_properties=file_layout("ZSTD"))
    return table.version()


def _set_checkpoint(table: DeltaTable) -> None:
    """Opening the table then reads one file instead of every commit since the last checkpoint."""
    from deltalake.fs import DeltaStorageHandler
    from pyarrow.fs import FileType

    file = f"_delta_log/{table.version():020d}.checkpoint.parquet"
    if DeltaStorageHandler(table.table_uri).get_file_info([file])[0].type == FileType.NotFound:
        table.create_checkpoint()


def vacuum(
    lake: Lake,
    names: Iterable[str] = (),
    *,
    keep_days: int = KEEP_DAYS,
    forget_models: bool = False,
    dry_run: bool = False,
) -> list[Kept]:
    """Delete files that no current row needs and that were replaced more than `keep_days` ago.

    Every version that a model of table `models` was trained on keeps its files, however old, unless
    `forget_models`.
    """
    if keep_days < 0:
        raise SetupError(f"keep_days is {keep_days}; needs 0 or more days")
    pins = {} if forget_models else pinned(lake)
    return [
        _vacuumed(lake, name, keep_days, pins.get(name, ()), dry_run)
        for name in existing(lake, names)
    ]


def _vacuumed(lake: Lake, name: str, keep_days: int, pins: Sequence[int], dry_run: bool) -> Kept:
    table = _open(lake, name)
    known = tuple(v for v in pins if v <= table.version())
    files = len(table.file_uris())
    with explained(lake.uri(name)):
        # `full` would also delete what a writer that is still at work has not committed yet.
        deleted = table.vacuum(
            keep_days * 24,
            dry_run=dry_run,
            enforce_retention_duration=False,
            keep_versions=list(known) or None,
        )
    return Kept(name, files, files, len(deleted), known)


def pinned(lake: Lake) -> dict[str, tuple[int, ...]]:
    """Table → Delta versions that models were trained on."""
    found: dict[str, set[int]] = {}
    for row in lake.rows("models", columns=["inputs"]):
        for table, version in json.loads(row["inputs"]).items():
            if table in TABLES and version >= 0:
                found.setdefault(table, set()).add(version)
    return {table: tuple(sorted(versions)) for table, versions in found.items()}


def renew_properties(table: DeltaTable) -> None:
    """Tables of older releases let Delta delete log entries after 30 days, and with them the way to
    old versions.
    """
    if any(
        table.metadata().configuration.get(key) != value for key, value in TABLE_PROPERTIES.items()
    ):
        table.alter.set_table_properties(TABLE_PROPERTIES)


def renew_comments(table: DeltaTable, spec: TableSpec) -> None:
    """Columns of tables that were made before comments and units stood in the Delta schema, or
    whose words changed.
    """
    stored = {field.name: dict(field.metadata) for field in table.schema().fields}
    for column in spec.columns:
        if column.name in stored and stored[column.name] != column.told():
            table.alter.set_column_metadata(column.name, column.told())


def _open(lake: Lake, name: str) -> DeltaTable:
    table = lake.delta(name)
    if table is None:
        raise SetupError(f"table {name} vanished from {lake.root}; run again")
    return table
