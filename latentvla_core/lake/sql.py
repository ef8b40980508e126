"""SQL over the lake (DataFusion, the engine inside delta-rs): which tables a query means, and what
is said when it means none.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from latentvla_core.errors import DataError, SetupError
from latentvla_core.lake.storage import first_lines, storage_remedy
from latentvla_core.tables import TABLES

if TYPE_CHECKING:
    import pyarrow as pa

    from latentvla_core.lake.store import Lake

_NAMED = re.compile(r"\b(?:from|join)\s+([a-z_]\w*)", re.IGNORECASE)
_NOT_FOUND = re.compile(r"table '(?:\w+\.)*(\w+)' not found")


def run(lake: Lake, query: str, at: Mapping[str, int]) -> pa.Table:
    """The query's rows, over the tables it names at these Delta versions. Errors as of `Lake.sql`."""
    import pyarrow as pa
    from deltalake import QueryBuilder

    engine = QueryBuilder()
    known = tables_of(query)
    if not known:
        named = _NAMED.findall(query)
        raise SetupError(
            no_such_table(named[0])
            if named
            else f"the query names no table of the lake; {_there_are()}"
        )
    tables = {
        name: table for name in known if (table := lake.delta(name, at.get(name))) is not None
    }
    if not tables:
        raise SetupError(_not_yet(lake, known[0]))
    for (
        name,
        table,
    ) in (
        tables.items()
    ):  # a word that is no table yet may be a value; the engine says so if it is not
        engine.register(name, table)
    try:
        return pa.table(engine.execute(query).read_all())
    except Exception as error:  # the engine raises bare Exceptions
        raise _told(lake, error) from error


def tables_of(query: str) -> list[str]:
    """Tables of the lake whose names the query has as words."""
    return [name for name in TABLES if re.search(rf"\b{name}\b", query, re.IGNORECASE)]


def no_such_table(name: str) -> str:
    """What is said of a name that is no table, with the one that may be meant."""
    close = difflib.get_close_matches(name.lower(), TABLES, 1)
    return f"{name}: no such table{f' (did you mean {close[0]}?)' if close else ''}; {_there_are()}"


def _there_are() -> str:
    return f"there are: {', '.join(TABLES)}"


def _not_yet(lake: Lake, name: str) -> str:
    if not any(lake.version(other) >= 0 for other in TABLES):
        return (
            f"table {name} does not exist yet in {lake.root}, nor does any other: make them (latentvla demo), or name"
            " the lake that has them with LATENTVLA_LAKE or LATENTVLA_HOME"
        )
    if name == "quarantine":
        return f"table {name} does not exist yet in {lake.root}: nothing was refused so far"
    return f"table {name} does not exist yet in {lake.root}; materialise it first (latentvla demo)"


def _told(lake: Lake, error: Exception) -> SetupError | DataError:
    """The engine's error as ours: a table, the storage, or the query is wrong."""
    text = str(error)
    missing = _NOT_FOUND.search(text)
    if missing:
        name = missing[1].lower()
        return SetupError(_not_yet(lake, name) if name in TABLES else no_such_table(missing[1]))
    if "Object Store error" in text or "Parquet error" in text:
        return SetupError(f"{lake.root}: {first_lines(error)}; {storage_remedy(lake.root)}")
    return DataError(f"the query was refused: {text}")
