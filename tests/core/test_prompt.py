"""The prompt of `latentvla sql`: when a statement ends, what the prompt answers itself, and that an
error or Ctrl-C ends one statement and not the session.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from latentvla_core.errors import DataError, SetupError
from latentvla_core.prompt import FIRST, HELP, NEXT, ask, reader_of, statements
from latentvla_core.tables import TABLES
from latentvla_core.tables.views import VIEWS


def spoken(*lines: str) -> list[str]:
    return list(statements(reader_of(lines)))


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (["select 1;"], ["select 1;"]),
        (["select", "1", ";"], ["select\n1\n;"]),
        (["select 1;", "select 2;"], ["select 1;", "select 2;"]),
        (["", "   ", "select 1;  "], ["select 1;"]),
        (["select 1"], ["select 1"]),  # the input ends
        (
            ["tables", "help", "describe scenes", "quit"],
            ["tables", "help", "describe scenes", "quit"],
        ),
        (["select", "help", ";"], ["select\nhelp\n;"]),  # a column of that name
        (["describe nothing", ";"], ["describe nothing\n;"]),
        ([], []),
    ],
)
def test_a_statement_ends_with_its_semicolon_and_own_words_need_none(lines, found):
    assert spoken(*lines) == found


def test_the_prompt_shows_whether_a_statement_goes_on():
    shown: list[str] = []
    rest = reader_of(["select", "1;", "select 2;"])

    def read(prompt: str) -> str:
        shown.append(prompt)
        return rest(prompt)

    list(statements(read))
    assert shown == [FIRST, NEXT, FIRST, FIRST]


def test_ctrl_c_while_typing_throws_away_what_was_typed():
    given = iter(["drop", KeyboardInterrupt, "select 1;", EOFError])

    def read(_: str) -> str:
        word = next(given)
        if isinstance(word, str):
            return word
        raise word

    assert list(statements(read)) == ["select 1;"]


class Session:
    """A prompt that keeps what was run, shown and said."""

    def __init__(self, run: Callable[[str], str] = str.upper) -> None:
        self.run, self.asked = run, list[str]()
        self.shown, self.said = list[str](), list[str]()

    def __call__(self, *lines: str) -> Session:
        def run(query: str) -> str:
            self.asked.append(query)
            return self.run(query)

        ask(run, self.shown.append, self.said.append, reader_of(lines))
        return self


def test_rows_are_shown_and_the_prompt_begins_with_its_help():
    session = Session()("select 1;")
    assert (session.shown, session.said) == (["SELECT 1;"], [HELP])


@pytest.mark.parametrize("word", ["quit", "QUIT;", "exit", "\\q"])
def test_nothing_after_quit_is_run(word: str):
    assert Session()("select 1;", word, "select 2;").asked == ["select 1;"]


def test_tables_and_views_are_listed_with_what_a_row_is():
    (_, told) = Session()("tables;").said
    lines = told.splitlines()
    assert [line.split()[0] for line in lines] == [*TABLES, *VIEWS]
    assert lines[0].endswith(TABLES["logs"].row)


@pytest.mark.parametrize("text", ["describe pdm_scores", "DESC pdm_scores;"])
def test_columns_are_told_with_type_unit_and_meaning(text: str):
    session = Session()(text)
    assert session.asked == []
    lines = session.said[1].splitlines()
    assert len(lines) == len(TABLES["pdm_scores"].columns)
    assert lines[0].split()[:2] == ["split", "string"]


@pytest.mark.parametrize("text", ["describe scene_overview;", "tables of scenes;", "help me;"])
def test_what_the_prompt_does_not_know_is_for_the_engine(text: str):
    session = Session()(text)
    assert session.asked == ([text] if not text.startswith("help") else [])


def test_an_error_is_said_and_the_next_statement_is_run():
    def run(query: str) -> str:
        if "bad" in query:
            raise DataError("no field bad")
        if "gone" in query:
            raise SetupError("no such table")
        if "long" in query:
            raise KeyboardInterrupt
        return query

    session = Session(run)("bad;", "gone;", "long;", "good;")
    assert session.said[1:] == ["error: no field bad", "error: no such table", "stopped"]
    assert session.shown == ["good;"]


def test_an_error_of_the_program_is_not_swallowed():
    def run(query: str) -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        Session(run)("select 1;")
