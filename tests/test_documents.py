"""What is cited is here: every page and every section that code or pages name exists."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = re.compile(r"(?<![\w.*{<])([A-Za-z][\w/-]*\.md)\b(?!\()")
SECTION = re.compile(r"([a-z][a-z0-9_-]*)\.md,? (§[§\d., and]*\d)")
NUMBER = re.compile(r"\d+(?:\.\d+)*")
WIDEST = 100


@cache
def listed() -> tuple[Path, ...]:
    """Files that git tracks or would, of kinds that cite pages."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    paths = [ROOT / name for name in done.stdout.split("\n") if name]
    return tuple(p for p in paths if p.suffix in (".py", ".md", ".yaml", ".toml") and p.is_file())


@cache
def pages() -> dict[str, list[Path]]:
    """Pages by name; `closed_loop.md` is one of the design and one of the results."""
    found: dict[str, list[Path]] = {}
    for path in listed():
        if path.suffix == ".md":
            found.setdefault(path.name, []).append(path)
    return found


@cache
def sections_of(page: Path) -> frozenset[str]:
    """Numbers of the headings of a page, and of its numbered pitfalls: `7`, `8.9`."""
    return frozenset(re.findall(r"^#+ (\d+(?:\.\d+)*)", page.read_text(), re.MULTILINE))


def missing_pages(text: str) -> list[str]:
    return sorted({n for n in PAGE.findall(text) if Path(n).name not in pages()})


def missing_sections(text: str) -> list[str]:
    wrong = []
    for name, told in SECTION.findall(text):
        known = {n for page in pages().get(f"{name}.md", []) for n in sections_of(page)}
        wrong += [f"{name}.md §{n}" for n in NUMBER.findall(told) if n not in known]
    return wrong


@pytest.mark.parametrize("path", listed(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_cited_page_and_section_is_in_the_repository(path: Path):
    text = path.read_text()
    assert not missing_pages(text), f"no page of that name: {missing_pages(text)}"
    assert not missing_sections(text), f"no section of that number: {missing_sections(text)}"


def test_a_page_or_a_section_that_is_not_there_is_found():
    assert missing_pages("see " + "nowhere" + ".md") == ["nowhere" + ".md"]
    assert missing_sections("as pdms" + ".md §8.9 and stack" + ".md §99 say") == [
        "stack" + ".md §99"
    ]


def test_prose_of_pages_is_at_most_a_hundred_columns_wide():
    """Tables, code blocks and links may be wider: they cannot be wrapped."""
    wide = []
    for page in (page for same in pages().values() for page in same):
        code = False
        for number, line in enumerate(page.read_text().splitlines(), 1):
            code ^= line.lstrip().startswith("```")
            if (
                len(line) > WIDEST
                and not code
                and not line.lstrip().startswith(("|", "!", "#", "<"))
            ):
                wide.append(f"{page.name}:{number}")
    assert not wide, "\n".join(wide)
