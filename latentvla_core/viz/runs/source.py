"""Where closed-loop runs are read from: tables of the lake, or Parquet files of `latentvla drive`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from latentvla_core.errors import SetupError
from latentvla_core.lake.store import Lake

RUNS, STEPS = "closed_loop_runs", "closed_loop_steps"
SCORES, INFRACTIONS = "closed_loop_scores", "closed_loop_infractions"
KEY = ("scene", "driver", "traffic", "seed")
Rows = list[dict[str, Any]]


class Tables(Protocol):
    """Rows of a closed-loop table, all or those that fit."""

    def rows(self, table: str, where: Mapping[str, Any] | None = None) -> Rows: ...


@dataclass(frozen=True, slots=True)
class Folder:
    """What `latentvla drive --out` wrote. Raises SetupError naming the file that is missing."""

    path: Path

    def __post_init__(self) -> None:
        for table in (RUNS, STEPS, SCORES, INFRACTIONS):
            if not (self.path / f"{table}.parquet").is_file():
                raise SetupError(
                    f"--runs {self.path} has no {table}.parquet; give a folder that latentvla"
                    " drive wrote"
                )

    def rows(self, table: str, where: Mapping[str, Any] | None = None) -> Rows:
        """Rows of a table."""
        import pyarrow.parquet as pq

        chosen = [(name, "=", value) for name, value in (where or {}).items()]
        return pq.read_table(self.path / f"{table}.parquet", filters=chosen or None).to_pylist()


@dataclass(frozen=True, slots=True)
class Stored:
    """The tables of the lake; one that is not there is empty."""

    lake: Lake

    def rows(self, table: str, where: Mapping[str, Any] | None = None) -> Rows:
        """Rows of a table."""
        return self.lake.rows(table, dict(where or {})) if self.lake.version(table) >= 0 else []


def key_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """What names a run in every table."""
    return tuple(row[name] for name in KEY)


def by_run(rows: Iterable[dict[str, Any]]) -> dict[tuple[Any, ...], Rows]:
    """Rows by the run they belong to."""
    found: dict[tuple[Any, ...], Rows] = {}
    for row in rows:
        found.setdefault(key_of(row), []).append(row)
    return found


def sources_of(lake: Lake, folder: Path | None) -> list[Tables]:
    """The lake's runs, and those of a folder if one is given."""
    from latentvla_core.tables import TABLES

    stored: list[Tables] = [Stored(lake)] if RUNS in TABLES else []
    return [*stored, *([Folder(folder)] if folder else [])]
