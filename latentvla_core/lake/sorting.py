"""Partitions whose rows lie in the order that their table declares, so that row groups which cannot
hold a log are skipped.

delta-rs does neither: its `compact` reads the files of a partition side by side and interleaves
their rows, and its `z_order` compares the first 15 bytes of a name, which all logs of an hour
share, and rewrites every file each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from latentvla_core.errors import DataError
from latentvla_core.lake.layout import ROWS_PER_GROUP, file_layout
from latentvla_core.lake.partitions import as_written, condition
from latentvla_core.lake.storage import dataset_of
from latentvla_core.lake.store import retry

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.dataset as ds
    from deltalake import DeltaTable

FILE_B = 100 << 20  # a partition may have one file for every so much of it
COMMIT_B = (
    32 << 20
)  # of files, rewritten in one transaction: in memory they are some three times as large
ONE_FILE_B = (
    1 << 50
)  # a partition becomes one file: a second run finds nothing to do, however well rows compress


@dataclass(frozen=True, slots=True)
class Place:
    """One partition as it is stored."""

    where: str
    """SQL condition that all its rows meet, and no other."""
    files: int
    rows: int
    size_b: int


def sort_partitions(opened: Callable[[], DeltaTable], order: Sequence[str]) -> None:
    """Rewrite the partitions that need it, each as one file in `order`; a few transactions, each
    tried again on conflict.

    A partition needs it that has several small files, or row groups whose ranges of the first
    column overlap. One transaction's rows are held in memory: those of one partition at least, as
    whoever wrote it held them.
    """
    for places in batches(unsorted(opened(), order[0])):
        wheres = [place.where for place in places]
        retry(lambda wheres=wheres: _rewrite(opened(), wheres, order))


def unsorted(table: DeltaTable, column: str) -> list[Place]:
    """The partitions that are to be rewritten. Footers are read only where there are several row
    groups to tell apart.
    """
    return [
        place
        for place in places_of(table)
        if place.files > max(1, math.ceil(place.size_b / FILE_B))
        or (place.rows > ROWS_PER_GROUP and not _is_sorted(_data(table, place), column))
    ]


def places_of(table: DeltaTable) -> list[Place]:
    """The partitions, from the transaction log alone; without those whose shard is null, which no
    writer of ours makes.
    """
    import pyarrow as pa

    columns = {f"partition.{column}": column for column in table.metadata().partition_columns}
    files: dict[str, list[dict[str, Any]]] = {}
    for file in as_written(pa.table(table.get_add_actions(flatten=True)), columns).to_pylist():
        values = {column: file[entry] for entry, column in columns.items()}
        if None not in values.values():
            files.setdefault(condition(values) or "", []).append(file)
    return [
        Place(
            where,
            len(found),
            sum(f["num_records"] for f in found),
            sum(f["size_bytes"] for f in found),
        )
        for where, found in files.items()
    ]


def batches(places: Iterable[Place]) -> Iterator[list[Place]]:
    """Partitions that are rewritten in one transaction: few enough for memory, enough that versions
    stay few.
    """
    batch: list[Place] = []
    for place in places:
        if batch and sum(p.size_b for p in batch) + place.size_b > COMMIT_B:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch


def _is_sorted(data: ds.FileSystemDataset, column: str) -> bool:
    """Whether row groups share bounds at most, so that one value is in neighbouring groups only."""
    groups = [
        group.statistics for fragment in data.get_fragments() for group in fragment.row_groups
    ]
    ranges = sorted((g[column]["min"], g[column]["max"]) for g in groups if g and column in g)
    return all(high <= low for (_, high), (low, _) in pairwise(ranges))


def _rewrite(table: DeltaTable, wheres: Sequence[str], order: Sequence[str]) -> int:
    """From this handle on: rows that another writer adds or replaces in the meantime make the
    commit fail.
    """
    import pyarrow as pa
    from deltalake import CommitProperties, write_deltalake

    places = [place for place in places_of(table) if place.where in wheres]
    rows = [batch for place in places for batch in _sorted_rows(table, place, order)]
    write_deltalake(
        table,
        pa.RecordBatchReader.from_batches(pa.schema(table.schema().to_arrow()), rows),
        mode="overwrite",
        predicate=" OR ".join(f"({where})" for where in wheres if where) or None,
        target_file_size=ONE_FILE_B,
        writer_properties=file_layout("ZSTD"),
        commit_properties=CommitProperties(custom_metadata={"sorted_by": ", ".join(order)}),
    )
    return table.version()


def _sorted_rows(table: DeltaTable, place: Place, order: Sequence[str]) -> list[pa.RecordBatch]:
    """In one batch, since the writer takes batches in any order. Raises DataError unless every row
    was read.
    """
    found = as_written(_data(table, place).to_table(), table.metadata().partition_columns)
    if found.num_rows != place.rows:
        raise DataError(
            f"{found.num_rows} of {place.rows} rows were read; nothing was written",
            file=place.where,
        )
    return found.sort_by([(column, "ascending") for column in order]).combine_chunks().to_batches()


def _data(table: DeltaTable, place: Place) -> ds.FileSystemDataset:
    return dataset_of(table, place.where or None)
