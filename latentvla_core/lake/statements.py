"""What a query may do: read. Anything that would write, define or set is refused before the engine
sees it run.

Two looks, since either alone can be tricked: the first word of the statement, comments left out,
must be one that reads; and the engine's own plan of it must hold no step that writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from latentvla_core.errors import DataError

READING = ("select", "with", "values", "from")
_BLANK = re.compile(r"\s+|--[^\n]*(?:\n|$)|/\*(?:(?!/\*).)*?\*/", re.DOTALL)
_WORD = re.compile(r"[a-z_]+", re.IGNORECASE)
_EXPLAINS = re.compile(r"(?:analyze|verbose|format\s+[a-z_]+)\b", re.IGNORECASE)
_DESCRIBES = re.compile(r'(?:describe|desc)\s+"?[a-z_]\w*"?\s*;?\s*$', re.IGNORECASE)
_WRITES = re.compile(
    r"^\s*(?:CopyTo|Dml|Create\w*|Drop\w*|SetVariable|ResetVariable|Prepare|Execute|Deallocate"
    r"|Transaction\w*|DataSinkExec|Statement)\b",
    re.MULTILINE,
)


def check_reads(query: str, plan_of: Callable[[str], str]) -> None:
    """Raises DataError, naming the kind of statement, unless the query only reads.

    Args:
        plan_of: the engine's logical plan of a query, as text. It is asked only for statements that
        begin with a word that reads.
    """
    statement = _without_explain(_stripped(query))
    if _DESCRIBES.match(statement):
        return
    word = _first_word(statement)
    if word not in READING:
        raise DataError(_refusal(word.upper() or statement[:20] or "nothing"))
    found = _WRITES.search(plan_of(statement))
    if found:
        raise DataError(_refusal(found[0].strip()))


def _refusal(kind: str) -> str:
    return (
        f"the statement is {kind}; queries of the lake read and nothing else: begin with SELECT, WITH,"
        " VALUES, EXPLAIN or DESCRIBE, and save an answer with --format csv|parquet --out FILE"
    )


def _stripped(text: str) -> str:
    """Without leading blanks and comments."""
    while found := _BLANK.match(text):
        text = text[found.end() :]
    return text


def _without_explain(statement: str) -> str:
    """The statement that EXPLAIN … is about: EXPLAIN ANALYZE runs it."""
    if _first_word(statement) != "explain":
        return statement
    rest = _stripped(statement[len("explain") :])
    while found := _EXPLAINS.match(rest):
        rest = _stripped(rest[found.end() :])
    return rest


def _first_word(statement: str) -> str:
    found = _WORD.match(statement.lstrip("( \t\r\n"))
    return found[0].lower() if found else ""
