"""SQL over the lake (DataFusion, the engine inside delta-rs): which tables and views a query means,
and what is said when it means none. Queries read; see `statements.py`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from latentvla_core.errors import DataError, SetupError
from latentvla_core.lake.statements import check_reads
from latentvla_core.lake.storage import first_lines, storage_remedy
from latentvla_core.tables import TABLES
from latentvla_core.tables.views import VIEWS, no_rows

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable, QueryBuilder

Opened = Callable[[str, int | None], "DeltaTable | None"]
"""(table, Delta version or None) → the table, or None while nothing was written to it."""

_NAMED = re.compile(r"\b(?:from|join)\s+([a-z_]\w*)", re.IGNORECASE)
_NOT_FOUND = re.compile(r"table '(?:\w+\.)*(\w+)' not found")


def run(root: str, opened: Opened, query: str, at: Mapping[str, int]) -> pa.Table:
    """The query's rows, over the tables it names at these Delta versions. Errors as of `Lake.sql`."""
    return Session(root, opened, at).run(query)


class Session:
    """Several queries on one opening of each table, as a prompt asks them."""

    def __init__(self, root: str, opened: Opened, at: Mapping[str, int] | None = None) -> None:
        from deltalake import QueryBuilder

        self.root, self.opened, self.at = root, opened, at or {}
        self.engine: QueryBuilder = QueryBuilder()
        self._known: set[str] = set()

    def run(self, query: str) -> pa.Table:
        """The query's rows."""
        import pyarrow as pa

        self._register(query)
        try:
            check_reads(query, self._plan)
            return pa.table(self.engine.execute(query).read_all())
        except DataError:
            raise
        except Exception as error:  # the engine raises bare Exceptions
            raise self._told(error) from error

    def _plan(self, query: str) -> str:
        import pyarrow as pa

        plans = pa.table(self.engine.execute(f"explain {query}").read_all())
        return "\n".join(plans["plan"].to_pylist())

    def _register(self, query: str) -> None:
        """The tables and views whose names the query has as words. A word that is no table yet may
        be a value; the engine says so if it is not.
        """
        views = [name for name in VIEWS if re.search(rf"\b{name}\b", query, re.IGNORECASE)]
        named = list(
            dict.fromkeys([*tables_of(query), *(t for v in views for t in VIEWS[v].tables)])
        )
        if not named:
            others = _NAMED.findall(query)
            raise SetupError(
                no_such_table(others[0])
                if others
                else f"the query names no table of the lake; {_there_are()}"
            )
        new = [name for name in named if name not in self._known]
        tables = {n: t for n in new if (t := self.opened(n, self.at.get(n))) is not None}
        if not tables and not self._known:
            raise SetupError(self._not_yet(named[0]))
        for name, table in tables.items():
            self.engine.register(name, table)
        self._known |= tables.keys()
        for name in views:
            self._define(name)

    def _define(self, name: str) -> None:
        """A view over the tables there are; one without rows stands for each that is not."""
        if name in self._known:
            return
        absent = [table for table in VIEWS[name].tables if table not in self._known]
        stand_ins = ", ".join(f"{table} as ({no_rows(TABLES[table])})" for table in absent)
        query = VIEWS[name].query
        if stand_ins:
            query = (
                f"with {stand_ins}, {query[len('with ') :]}"
                if query.startswith("with ")
                else f"with {stand_ins} {query}"
            )
        self.engine.execute(f"create view {name} as {query}")
        self._known.add(name)

    def _not_yet(self, name: str) -> str:
        if not any(self.opened(other, None) is not None for other in TABLES):
            return (
                f"table {name} does not exist yet in {self.root}, nor does any other: make them"
                " (latentvla demo), or name the lake that has them with LATENTVLA_LAKE or"
                " LATENTVLA_HOME"
            )
        if name == "quarantine":
            return f"table {name} does not exist yet in {self.root}: nothing was refused so far"
        return (
            f"table {name} does not exist yet in {self.root}; materialise it first (latentvla demo)"
        )

    def _told(self, error: Exception) -> SetupError | DataError:
        """The engine's error as ours: a table, the storage, or the query is wrong."""
        text = str(error)
        missing = _NOT_FOUND.search(text)
        if missing:
            name = missing[1].lower()
            return SetupError(self._not_yet(name) if name in TABLES else no_such_table(missing[1]))
        if "Object Store error" in text or "Parquet error" in text:
            return SetupError(f"{self.root}: {first_lines(error)}; {storage_remedy(self.root)}")
        return DataError(f"the query was refused: {text}")


def tables_of(query: str) -> list[str]:
    """Tables of the lake whose names the query has as words."""
    return [name for name in TABLES if re.search(rf"\b{name}\b", query, re.IGNORECASE)]


def no_such_table(name: str) -> str:
    """What is said of a name that is no table, with the one that may be meant."""
    close = difflib.get_close_matches(name.lower(), [*TABLES, *VIEWS], 1)
    return f"{name}: no such table{f' (did you mean {close[0]}?)' if close else ''}; {_there_are()}"


def _there_are() -> str:
    return f"there are: {', '.join(TABLES)}; views: {', '.join(VIEWS)}"
