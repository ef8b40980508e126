"""What a page tells to type is understood: every printed command reaches its program's own parser,
and every variable, target and file it names exists.

That the commands also do what they say, on a home with a finished line, is in `test_smoke.py`.
"""

from __future__ import annotations

import argparse
import re
import runpy
import sys
from contextlib import suppress
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
import typer
from printed import ROOT, Printed, commands_of, printed_commands

from latentvla_core import cli


def of(program: str) -> list[Printed]:
    return [c for c in printed_commands() if c.words[0] == program]


def modules() -> list[Printed]:
    """`python -m benchmarks.NAME …`, with which every published figure is measured again."""
    return [c for c in of("python") if c.words[1] == "-m" and "benchmarks" in c.words[2]]


def command_line() -> click.Command:
    """The whole command line, with the commands that the orchestrator adds."""
    for plugin in entry_points(group="latentvla.commands"):
        if plugin.name not in {c.name for c in cli.app.registered_commands}:
            cli.app.command(plugin.name)(plugin.load())
    return typer.main.get_command(cli.app)


def parse(command: Any, words: list[str], parent: click.Context | None = None) -> None:
    """Down to the last command, as click would; nothing is run."""
    context = command.make_context(command.name, words, parent=parent)
    rest = [*context.protected_args, *context.args] if hasattr(command, "commands") else []
    if rest:
        _, inner, words = command.resolve_command(context, rest)
        parse(inner, words, context)


@pytest.mark.parametrize("printed", of("latentvla"), ids=str)
def test_every_printed_command_of_ours_is_one_that_the_command_line_knows(printed: Printed):
    left_out = (click.MissingParameter, click.exceptions.NoArgsIsHelpError)
    with suppress(*(left_out if printed.is_shortened else ()), click.exceptions.Exit):
        parse(command_line(), list(printed.words[1:]))


class Parsed(Exception):
    """The benchmark understood its words; measuring would begin now."""


@pytest.fixture
def stops_when_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    parse_args = argparse.ArgumentParser.parse_args

    def understood(parser: argparse.ArgumentParser, *words: Any) -> None:
        parse_args(parser, *words)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", understood)


@pytest.mark.parametrize("printed", modules(), ids=str)
def test_every_printed_benchmark_starts_and_understands_its_words(
    printed: Printed, stops_when_parsed: None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(ROOT))
    words = [re.sub(r"^(N|COUNT)$", "1", word) for word in printed.words[2:]]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises((Parsed, SystemExit) if printed.is_shortened else Parsed):
        runpy.run_module(words[0], run_name="__main__")


@pytest.mark.parametrize("printed", of("python"), ids=str)
def test_every_module_and_test_file_that_is_printed_exists(printed: Printed):
    _, flag, module, *rest = printed.words
    assert flag == "-m", f"{printed}: modules run with -m, so that imports are found"
    assert find_spec(module) is not None
    missing = [w for w in rest if w.startswith("tests/") and not (ROOT / w.split("::")[0]).exists()]
    assert not missing, f"{printed}: no {', '.join(missing)}"


@pytest.mark.parametrize("printed", of("make"), ids=str)
def test_every_printed_target_is_one_of_the_makefile(printed: Printed):
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {word for word in printed.words[1:] if "=" not in word} <= set(targets), str(printed)


def test_every_variable_that_a_page_names_is_read_somewhere():
    source = "".join(
        path.read_text()
        for folder in ("latentvla_core", "pipelines", "benchmarks", "tests", "deploy")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".yml", ".sh")
    ) + "".join((ROOT / name).read_text() for name in ("Makefile", "docker-compose.yml"))
    named = {
        name
        for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
        for name in re.findall(r"\bLATENTVLA_[A-Z_]+[A-Z]\b", page.read_text())
    }
    unread = sorted(name for name in named if name not in source)
    assert named and not unread, f"no code reads {', '.join(unread)}"


def test_a_command_with_a_wrong_option_a_missing_module_or_a_gone_target_is_found():
    page = (
        "Say `latentvla sql --loud` or `latentvla fly`.\n\n"
        "```sh\nFEW=1 python -m benchmarks.score --sceens 4   # a slip\n"
        "latentvla score --root R && make nothing\n```\n"
    )
    found = commands_of("page", page)
    assert [c.words[:3] for c in found] == [
        ("python", "-m", "benchmarks.score"),
        ("latentvla", "score", "--root"),
        ("make", "nothing"),
        ("latentvla", "sql", "--loud"),
        ("latentvla", "fly"),
    ]
    assert found[0].variables == (("FEW", "1"),) and found[0].words[-1] == "4"
    for words in (found[3].words, found[4].words):
        with pytest.raises(click.UsageError, match=r"--loud|fly"):
            parse(command_line(), list(words[1:]))
    with pytest.raises(click.MissingParameter):
        parse(command_line(), list(found[1].words[1:]))


def test_a_page_may_leave_words_to_the_reader_but_not_the_name_of_the_command():
    assert commands_of("p", "`latentvla score … --metric epdms`")[0].is_shortened
    assert commands_of("p", "`latentvla lake compact [TABLE …]`")[0].words[-1] == "TABLE"
    assert not commands_of("p", "`latentvla drive --planner ipad --out runs`")[0].is_shortened
    assert commands_of("p", "`latentvla_core/data/` and `make_batches(x)` and it's") == []


def test_pages_print_enough_commands_for_this_test_to_mean_something():
    assert len(of("latentvla")) > 40 and len(modules()) > 15 and len(of("make")) >= 4
    assert Path(ROOT / "README.md").name in {c.page for c in printed_commands()}
