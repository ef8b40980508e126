"""Splits whose rows lie in the lake: those that no source offers any more, and how they go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from latentvla_core.errors import SetupError
from latentvla_core.lake.storage import explained
from latentvla_core.lake.store import Lake, retry
from latentvla_core.tables import TABLES

KEPT = ("releases", "materialisations", "models")
"""What happened is remembered, whatever became of the split."""


def rows_by_split(lake: Lake) -> dict[str, Counter[str]]:
    """Split → table → rows stored, from transaction logs where the table is partitioned by split."""
    found: dict[str, Counter[str]] = {}
    for name, spec in TABLES.items():
        if "split" not in spec.names or name in KEPT:
            continue
        counts = _by_log(lake, name) if "split" in spec.partition_by else _by_row(lake, name)
        for split, rows in counts.items():
            if split and rows:
                found.setdefault(split, Counter())[name] += rows
    return found


def _by_log(lake: Lake, name: str) -> Counter[str]:
    sums: Counter[str] = Counter()
    for (split, _), rows in lake.counts(name, ["split"]).items():
        sums[split] += rows
    return sums


def _by_row(lake: Lake, name: str) -> Counter[str]:
    return Counter(lake.read(name, columns=["split"])["split"].to_pylist())


def strays(lake: Lake, splits: Iterable[str]) -> dict[str, Counter[str]]:
    """Splits that have rows and are none of these."""
    known = set(splits)
    return {split: rows for split, rows in rows_by_split(lake).items() if split not in known}


def drop_split(lake: Lake, split: str, *, dry_run: bool = False) -> Counter[str]:
    """Delete the rows of a split from every table; table → rows. Old versions stay readable.

    Raises SetupError, naming the splits there are, when no row is of that split.
    """
    there = rows_by_split(lake)
    if split not in there:
        raise SetupError(
            f"no row of {lake.root} is of split {split!r}; there are: {', '.join(sorted(there)) or 'none'}"
        )
    for name in there[split] if not dry_run else ():
        with explained(lake.uri(name)):
            retry(lambda name=name: _deleted(lake, name, split))
    return there[split]


def _deleted(lake: Lake, name: str, split: str) -> int:
    table = lake.delta(name)
    assert table is not None
    literal = split.replace("'", "''")
    table.delete(f"split = '{literal}'")
    return table.version()
