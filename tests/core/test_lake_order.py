"""Compaction of a table that declares an order: a log lies in few row groups, no row is lost, and
nothing is done twice.
"""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from label_rows import label

from latentvla_core.errors import DataError
from latentvla_core.lake import sorting
from latentvla_core.lake.layout import file_layout
from latentvla_core.lake.maintenance import compact
from latentvla_core.lake.store import Lake
from latentvla_core.tables import TABLES, to_arrow

SPEC = TABLES["latent_actions"]
GROUP = 4  # rows per row group in these tests


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setattr("latentvla_core.lake.layout.ROWS_PER_GROUP", GROUP)
    monkeypatch.setattr("latentvla_core.lake.sorting.ROWS_PER_GROUP", GROUP)
    return Lake(str(tmp_path))


def drive(log: str, rows: int = 6, **changes: Any) -> list[dict[str, Any]]:
    return [label(f"{log}-{i}", log_name=log, timestamp_us=i, **changes) for i in range(rows)]


def shuffled(*drives: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = [row for drive in drives for row in drive]
    random.Random(0).shuffle(rows)
    return rows


def opened(lake: Lake) -> DeltaTable:
    table = lake.delta("latent_actions")
    assert table is not None
    return table


def stored(lake: Lake) -> list[list[str]]:
    """Scene tokens in the order in which they lie, of each file."""
    return [
        pq.read_table(uri, columns=["scene_token"])["scene_token"].to_pylist()
        for uri in opened(lake).file_uris()
    ]


def ranges(lake: Lake) -> list[tuple[str, str]]:
    """The first and last log of each row group, as its statistics say."""
    data = opened(lake).to_pyarrow_dataset()
    found = [
        group.statistics["log_name"] for file in data.get_fragments() for group in file.row_groups
    ]
    return sorted((each["min"], each["max"]) for each in found)


def folder(lake: Lake) -> dict[str, int]:
    """Every file of the lake, with the time it was written."""
    return {
        str(path): path.stat().st_mtime_ns for path in Path(lake.root).rglob("*") if path.is_file()
    }


def everything(lake: Lake, version: int | None = None) -> list[str]:
    """All rows, as texts, since NaN is not itself."""
    return sorted(map(str, lake.read("latent_actions", version=version).to_pylist()))


def test_files_of_the_same_shard_become_one_in_order_of_logs_and_time(lake: Lake):
    for rows in np.array_split(shuffled(drive("a"), drive("b"), drive("c")), 5):
        lake.append("latent_actions", list(rows))
    before, rows = lake.version("latent_actions"), everything(lake)
    assert compact(lake, ["latent_actions"])[0].files_after == 1
    assert stored(lake) == [[f"{log}-{i}" for log in "abc" for i in range(6)]]
    assert everything(lake) == rows == everything(lake, before)


def test_no_two_row_groups_can_hold_the_same_log_unless_they_are_neighbours(lake: Lake):
    lake.append("latent_actions", shuffled(*(drive(log) for log in "adg")))
    lake.append("latent_actions", shuffled(*(drive(log) for log in "be")))
    compact(lake, ["latent_actions"])
    assert len(ranges(lake)) == 8
    assert all(high <= low for (_, high), (low, _) in pairwise(ranges(lake)))


def test_what_is_compact_is_left_alone(lake: Lake):
    lake.append("latent_actions", shuffled(drive("a"), drive("b")))
    lake.append("latent_actions", drive("c"))
    compact(lake, ["latent_actions"])
    before = folder(lake)
    assert list(
        Path(lake.uri("latent_actions")).glob(
            f"_delta_log/*{lake.version('latent_actions')}.checkpoint.parquet"
        )
    )
    compact(lake, ["latent_actions"])
    assert folder(lake) == before


def test_a_table_without_an_order_is_joined_once_too(lake: Lake):
    for file in "ba":
        lake.append(
            "quarantine",
            [
                {
                    "stage": "frames",
                    "split": "train",
                    "shard": 0,
                    "file": file,
                    "frame": "",
                    "field": "",
                    "reason": "",
                    "made_by": "f",
                }
            ],
        )
    assert compact(lake)[0].files_after == 1
    before = folder(lake)
    compact(lake)
    assert folder(lake) == before


def test_a_shard_in_order_keeps_its_file_while_its_neighbour_is_sorted(lake: Lake):
    """Also a single file, such as earlier compactions left with the rows of two files interleaved."""
    lake.append("latent_actions", [*drive("a"), *drive("b")])
    (kept,) = opened(lake).file_uris()
    lake.append("latent_actions", shuffled(drive("c", shard=1), drive("d", shard=1)))
    rows = everything(lake)
    compact(lake, ["latent_actions"])
    assert kept in opened(lake).file_uris()
    assert sorted(stored(lake)) == [
        [f"{log}-{i}" for log in pair for i in range(6)] for pair in ("ab", "cd")
    ]
    assert everything(lake) == rows


def test_names_that_differ_late_are_told_apart(lake: Lake):
    """Statistics of cut names would overlap for ever, and each compaction would sort anew."""
    lake.append("latent_actions", shuffled(*(drive(f"{'x' * 120}-{i}") for i in range(4))))
    compact(lake, ["latent_actions"])
    before = folder(lake)
    compact(lake, ["latent_actions"])
    assert folder(lake) == before


def test_rows_that_come_while_others_are_sorted_are_not_lost(lake: Lake):
    lake.append("latent_actions", drive("b"))
    lake.append("latent_actions", drive("a"))
    tables = []

    def with_another_writer() -> DeltaTable:
        tables.append(opened(lake))
        if len(tables) == 2:  # the first handle plans, the second rewrites
            lake.append("latent_actions", drive("late"))
        return tables[-1]

    sorting.sort_partitions(with_another_writer, SPEC.order)
    assert len(tables) == 3, "the conflict was tried again"
    assert stored(lake) == [[f"{log}-{i}" for log in ("a", "b", "late") for i in range(6)]]


def test_a_shard_that_is_replaced_meanwhile_stays_replaced(lake: Lake):
    place = {"split": "train", "shard": 0, "model_version": "m"}
    lake.append("latent_actions", drive("b"))
    lake.append("latent_actions", drive("a"))
    tables = []

    def with_another_writer() -> DeltaTable:
        tables.append(opened(lake))
        if len(tables) == 2:
            lake.replace("latent_actions", drive("new"), place)
        return tables[-1]

    sorting.sort_partitions(with_another_writer, SPEC.order)
    assert stored(lake) == [[f"new-{i}" for i in range(6)]]


@pytest.mark.parametrize("change", [{"split": "it's"}, {"model_version": "a b/c=d"}], ids=str)
def test_partitions_of_any_name_are_sorted(lake: Lake, change: dict[str, Any]):
    lake.append("latent_actions", [*drive("b", **change), *drive("other")])
    lake.append("latent_actions", drive("a", **change))
    rows = everything(lake)
    compact(lake, ["latent_actions"])
    assert everything(lake) == rows
    assert sorted(stored(lake)) == [
        [f"{log}-{i}" for log in logs for i in range(6)] for logs in ("ab", ["other"])
    ]


def test_a_partition_without_a_name_is_sorted_and_keeps_the_empty_text(lake: Lake):
    """Also where delta-rs joined its files before: it writes null then."""
    for log in "dcba":
        lake.append("latent_actions", [*drive(log), *drive(log, split="")])
        if log == "c":
            opened(lake).optimize.compact()
    rows = everything(lake)
    assert compact(lake, ["latent_actions"])[0].files_after == 2
    assert stored(lake) == [[f"{log}-{i}" for log in "abcd" for i in range(6)]] * 2
    assert everything(lake) == rows
    assert len(lake.sql("select 1 from latent_actions where split = ''")) == 24
    before = folder(lake)
    compact(lake, ["latent_actions"])
    assert folder(lake) == before


def test_many_shards_are_rewritten_in_few_transactions(lake: Lake, monkeypatch: pytest.MonkeyPatch):
    for log in "ba":
        lake.append(
            "latent_actions",
            [row for shard in range(6) for row in drive(f"{log}{shard}", shard=shard)],
        )
    before, rows = lake.version("latent_actions"), everything(lake)
    places = sorting.unsorted(opened(lake), "log_name")
    assert len(places) == 6
    monkeypatch.setattr(
        "latentvla_core.lake.sorting.COMMIT_B", 2 * max(place.size_b for place in places)
    )
    compact(lake, ["latent_actions"])
    assert lake.version("latent_actions") == before + 3
    assert everything(lake) == rows


def test_more_rows_than_the_writer_takes_at_once_stay_in_order(tmp_path: Path):
    """The writer hands parts of 8 192 rows to several threads: a shard given in parts would be
    shuffled again.
    """
    lake, rng = Lake(str(tmp_path)), np.random.default_rng(0)
    one = to_arrow(SPEC, [label("a")])
    for _ in range(2):
        rows = one.take(pa.array(np.zeros(80_000, int)))
        for name, values in (
            ("log_name", pa.array(rng.integers(0, 40, len(rows))).cast(pa.string())),
            ("scene_token", pa.array(rng.integers(0, 1 << 60, len(rows))).cast(pa.string())),
            ("shard", pa.array(rng.integers(0, 2, len(rows), np.int32))),
        ):
            rows = rows.set_column(SPEC.names.index(name), rows.schema.field(name), values)
        lake.append("latent_actions", [])
        write_deltalake(opened(lake), rows, mode="append", writer_properties=file_layout())
    compact(lake, ["latent_actions"])
    for uri in opened(lake).file_uris():
        names = pq.read_table(uri, columns=["log_name"])["log_name"].to_pylist()
        assert names == sorted(names)
    assert not sorting.unsorted(opened(lake), "log_name")


def test_nothing_is_written_unless_every_row_was_read(lake: Lake, monkeypatch: pytest.MonkeyPatch):
    lake.append("latent_actions", drive("b"))
    lake.append("latent_actions", drive("a"))
    before = folder(lake)
    promised = [
        sorting.Place(place.where, place.files, 13, place.size_b)
        for place in sorting.places_of(opened(lake))
    ]
    monkeypatch.setattr("latentvla_core.lake.sorting.places_of", lambda table: promised)
    with pytest.raises(DataError, match="12 of 13 rows were read"):
        compact(lake, ["latent_actions"])
    assert folder(lake) == before


def test_rows_of_an_older_layout_are_joined_as_they_lie(lake: Lake):
    for token in "ba":
        write_deltalake(
            lake.uri("latent_actions"),
            pa.table({"scene_token": [token], "split": ["train"]}),
            mode="append",
            partition_by=["split"],
        )
    assert compact(lake, ["latent_actions"])[0].files_after == 1
    assert sorted(*stored(lake)) == ["a", "b"]
