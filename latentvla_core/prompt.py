"""The prompt of `latentvla sql` without a query: statements end with a semicolon, errors are said
and the next statement is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from latentvla_core.errors import LatentVLAError
from latentvla_core.tables import TABLES
from latentvla_core.tables.views import VIEWS

HELP = "SQL ends with ; — also: tables, describe NAME, help, quit"
FIRST, NEXT = "sql> ", "...> "


def ask(
    run: Callable[[str], Any],
    show: Callable[[Any], None],
    say: Callable[[str], None],
    read: Callable[[str], str] = input,
) -> None:
    """Until the input ends or says quit.

    Args:
        run: a query → its rows. show: prints rows. say: prints a line. read: a prompt → one line;
        raises EOFError at the end.
    """
    say(HELP)
    for statement in statements(read):
        word, _, name = statement.rstrip(" ;").partition(" ")
        if word.lower() in ("quit", "exit", "\\q"):
            return
        try:
            answered = _answer(word.lower(), name.strip())
            if answered is None:
                show(run(statement))
            else:
                say(answered)
        except LatentVLAError as error:
            say(f"error: {error}")
        except KeyboardInterrupt:
            say("stopped")


def _answer(word: str, name: str) -> str | None:
    """What the prompt itself knows; None for SQL."""
    if word in ("help", "?", "\\?"):
        return HELP
    if word in ("tables", "\\d") and not name:
        things = {**TABLES, **VIEWS}
        return "\n".join(f"{thing:<20} {things[thing].row}" for thing in things)
    if word in ("describe", "desc") and name in TABLES:
        columns = TABLES[name].columns
        return "\n".join(f"{c.name:<28} {c.type_name:<14} {c.unit:<10} {c.doc}" for c in columns)
    return None


def statements(read: Callable[[str], str]) -> Iterator[str]:
    """Lines joined until one ends with a semicolon; the prompt's own words need none."""
    lines: list[str] = []
    while True:
        try:
            line = read(NEXT if lines else FIRST).strip()
        except EOFError:
            break
        except KeyboardInterrupt:
            lines.clear()
            continue
        lines += [line] if line else []
        if lines and (line.endswith(";") or (len(lines) == 1 and _is_own(line))):
            yield "\n".join(lines)
            lines.clear()
    if lines:
        yield "\n".join(lines)


def _is_own(line: str) -> bool:
    word, _, name = line.partition(" ")
    return (
        word.lower() in ("quit", "exit", "\\q") or _answer(word.lower(), name.strip()) is not None
    )


def reader_of(lines: Iterable[str]) -> Callable[[str], str]:
    """A `read` that gives these lines, for input that is no terminal."""
    rest = iter(lines)

    def read(_: str) -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    return read
