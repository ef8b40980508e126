"""The comparisons that have their controls: what job `evidence` left in the lake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from latentvla_core.errors import SetupError
from latentvla_core.evidence.summary import Difference, chains, comparisons
from latentvla_core.lake.store import Lake
from latentvla_core.tables import TABLES

Rows = list[dict[str, Any]]
ROLES = {"test": "test logs of the same towns", "test_towns": "test logs of other towns"}


@dataclass(frozen=True, slots=True)
class Study:
    """What the study's tables say."""

    arms: Rows
    """Rows of `evidence_summary`."""
    differences: tuple[Difference, ...]
    """Every comparison whose arms were run, held-out roles first."""
    chain: tuple[tuple[bool, str], ...]
    """(holds, sentence) of host < student ≤ teacher."""
    refused: str = ""
    """Why it could not be read."""

    @property
    def held(self) -> list[Difference]:
        """Those whose whole interval is above zero."""
        return [d for d in self.differences if d.verdict == "holds"]


def rows_of(lake: Lake, table: str) -> Rows:
    """Rows of a table; none where it is not known or not there."""
    return lake.rows(table) if table in TABLES and lake.version(table) >= 0 else []


def read_study(lake: Lake) -> Study | None:
    """None where job `evidence` has not run."""
    arms, runs = rows_of(lake, "evidence_summary"), rows_of(lake, "evidence_runs")
    roles = [role for role in ROLES if any(row["role"] == role for row in arms)]
    if not roles:
        return None
    try:
        found = tuple(d for role in roles for d in comparisons(runs, role))
        chain = tuple(said for role in roles for said in chains(runs, role))
    except SetupError as error:
        return Study(arms, (), (), str(error))
    return Study(arms, found, chain)
