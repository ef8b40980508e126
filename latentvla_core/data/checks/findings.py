"""What the data doctor reports: findings, gathered by kind so that one cause is one line, and how
they print.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from latentvla_core.lake.printing import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

EXAMPLES = 3
"""Places named per finding; the count tells how many there are."""


class Level(IntEnum):
    """How bad it is. FAIL: something will break or be wrong. WARN: something will be missing. OK:
    for information.
    """

    OK = 0
    WARN = 1
    FAIL = 2


COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


@dataclass(slots=True)
class Finding:
    """One kind of finding and where it was seen."""

    level: Level
    check: str
    """Which check: root, logs, frames, time, scenes, sensors, maps, route, splits, environment."""
    message: str
    """What was found, in words that hold for all its places."""
    remedy: str = ""
    count: int = 0
    """How many things are affected."""
    num_places: int = 0
    places: list[str] = field(default_factory=list)
    """The first few of `num_places`: file, frame, field and value."""


class Findings:
    """Collects findings; the same message counts up."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str], Finding] = {}

    def add(
        self,
        level: Level,
        check: str,
        message: str,
        *,
        remedy: str = "",
        place: str = "",
        count: int = 1,
    ) -> None:
        finding = self._by_key.setdefault((check, message), Finding(level, check, message, remedy))
        finding.count += count
        finding.num_places += bool(place)
        if place and len(finding.places) < EXAMPLES:
            finding.places.append(place)

    def all(self) -> tuple[Finding, ...]:
        """Worst first, otherwise in the order found."""
        return tuple(sorted(self._by_key.values(), key=lambda finding: -finding.level))


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The doctor's result."""

    root: str
    split: str
    counts: dict[str, int]
    """logs, frames, quarantined frames, scenes, … in the order they are shown."""
    findings: tuple[Finding, ...]

    @property
    def level(self) -> Level:
        return max((finding.level for finding in self.findings), default=Level.OK)

    @property
    def exit_code(self) -> int:
        """0 unless something failed; warnings do not stop a pipeline."""
        return 1 if self.level is Level.FAIL else 0

    def print(self, console: Console | None = None) -> None:
        """The report as two tables: counts, and findings with where they are and what to do."""
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console() if console is None else console
        console.print(Text(printable(f"{self.root} · split {self.split}"), style="bold"))
        counts = Table(box=None, show_header=False)
        for name, value in self.counts.items():
            counts.add_row(name, Text(f"{value:,}", justify="right"))
        console.print(counts)
        table = Table("", "check", "finding", show_lines=True)
        for f in self.findings:
            table.add_row(Text(f.level.name, style=COLOURS[f.level]), f.check, self._describe(f))
        if self.findings:
            console.print(table)
        console.print(Text(f"result: {self.level.name}", style=f"bold {COLOURS[self.level]}"))

    def _describe(self, finding: Finding) -> Text:
        """Headline, places (paths below the root shortened), remedy; what files say steers no
        terminal.
        """
        from rich.text import Text

        text = Text(
            printable(finding.message) + (f" ({finding.count:,} x)" if finding.count > 1 else "")
        )
        for place in finding.places:
            text.append(
                "\n  " + printable(place.replace(f"{self.root}/", "") if self.root else place),
                style="dim",
            )
        if finding.num_places > len(finding.places):
            text.append(f"\n  … and {finding.num_places - len(finding.places):,} more", style="dim")
        return text.append(f"\n→ {printable(finding.remedy)}") if finding.remedy else text
