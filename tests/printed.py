"""Commands that pages print: lines of shell blocks and code spans, without comments and prompts."""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
SHELLS = ("", "sh", "bash", "console")
PROGRAMS = ("latentvla", "python", "make")
LEFT_OUT = re.compile(r"…|\.\.\.|[\[\]|]")  # what a reader fills in, or may leave away


@dataclass(frozen=True)
class Printed:
    """A command as words, and the variables that are set for it alone."""

    page: str
    words: tuple[str, ...]
    variables: tuple[tuple[str, str], ...] = ()
    is_shortened: bool = False  # a reader has to fill something in

    def __str__(self) -> str:
        return f"{self.page}: {shlex.join(self.words)}"


@cache
def printed_commands() -> tuple[Printed, ...]:
    """Every command of the README and of the pages, each once."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    found = {}
    for name in sorted(set(done.stdout.split()) - {"CHANGELOG.md"}):  # it names what was, too
        if (ROOT / name).is_file():
            for command in commands_of(name, (ROOT / name).read_text()):
                found.setdefault((command.words, command.variables), command)
    return tuple(found.values())


def commands_of(page: str, text: str) -> list[Printed]:
    lines = [
        line
        for kind, body in BLOCK.findall(text)
        if kind in SHELLS
        for line in body.replace("\\\n", " ").splitlines()
    ]
    spans = SPAN.findall(BLOCK.sub("", text))
    return [c for line in lines + spans for part in parts_of(line) if (c := command(page, part))]


def parts_of(line: str) -> list[str]:
    """A line cut at `&&` outside of quotes, without its comment."""
    told = re.sub(r"\s#.*$", "", line.strip().removeprefix("$ "))
    return [part.strip() for part in told.split("&&")]


def command(page: str, text: str) -> Printed | None:
    """None for what is not a command of ours."""
    try:
        words = shlex.split(text)
    except ValueError:
        return None  # a lone apostrophe: prose
    variables = []
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        name, value = words.pop(0).split("=", 1)
        variables.append((name, value))
    kept = tuple(word for word in words if word and not LEFT_OUT.fullmatch(word.strip("[]")))
    if len(kept) < 2 or Path(kept[0]).name not in PROGRAMS or text.startswith(f"{kept[0]}/"):
        return None
    shortened = len(kept) < len(words) or not any(word.startswith("-") for word in kept[1:])
    kept = tuple(word.strip("[]") for word in kept)
    return Printed(page, (Path(kept[0]).name, *kept[1:]), tuple(variables), shortened)
