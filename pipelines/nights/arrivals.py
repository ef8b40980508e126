"""When an upload is over: a log counts as arrived once it is whole and has been quiet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.steps.lineage import digest

QUIET_S = 120.0
GIVEN_UP_S = 3600.0
"""A log that is still incomplete after so long without a change is left to ingest, which says what
is wrong with it."""


@dataclass(slots=True)
class Arrivals:
    """What the sensor remembers from one tick to the next; its cursor."""

    seen: dict[str, tuple[str, float]] = field(default_factory=dict)
    """log → content key, time of its last change in seconds."""
    asked: str = ""
    """Digest of the logs of the last run that was asked for."""
    runs: int = 0
    """Runs asked for. It is part of a run's key, so that logs that were taken away and brought back
    are a new run and not a known one.
    """

    @staticmethod
    def read(cursor: str | None) -> Arrivals:
        """From a cursor; from nothing where there is none or one of another version."""
        try:
            content = json.loads(cursor or "")
            seen = {str(k): (str(key), float(at)) for k, (key, at) in content["seen"].items()}
            return Arrivals(seen, str(content["asked"]), int(content["runs"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            return Arrivals()

    def written(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True, slots=True)
class Decision:
    """A run to ask for, or why none is."""

    run_key: str = ""
    reason: str = ""


def decide(
    before: Arrivals, listing: Sequence[Mapping[str, Any]], now_s: float
) -> tuple[Arrivals, Decision]:
    """One tick: `listing` is `sources.list_logs` of this moment. While one log is on its way none
    is asked for, so that an upload of many files is one run.
    """
    seen = {}
    for row in listing:
        key, at = before.seen.get(row["log_name"], ("", now_s))
        same = key == row["content_key"]
        seen[row["log_name"]] = row["content_key"], at if same else now_s
    known = Arrivals(seen, before.asked, before.runs)
    key = digest(sorted((name, content) for name, (content, _) in seen.items()))
    if not seen:
        return known, Decision(reason="no logs")
    if key == before.asked:
        return known, Decision(reason=f"{len(seen)} logs, none of them new")
    coming = [row["log_name"] for row in listing if _on_its_way(row, seen, now_s)]
    if coming:
        return known, Decision(
            reason=f"{len(coming)} of {len(seen)} logs are on their way, {sorted(coming)[0]} first"
        )
    asked = Arrivals(seen, key, before.runs + 1)
    return asked, Decision(run_key=f"logs-{asked.runs}-{key}")


def _on_its_way(
    row: Mapping[str, Any], seen: Mapping[str, tuple[str, float]], now_s: float
) -> bool:
    quiet_s = now_s - seen[row["log_name"]][1]
    return quiet_s < QUIET_S or (quiet_s < GIVEN_UP_S and not is_whole(Path(row["path"])))


def is_whole(path: Path) -> bool:
    """Whether the end of a log is there: a pickle ends with its stop mark, a table of poses with a
    line's end. What else may be wrong with it is for ingest to say.
    """
    file = path / "poses.csv" if path.is_dir() else path
    try:
        with file.open("rb") as opened:
            opened.seek(-1, 2)
            last = opened.read(1)
    except OSError:
        return False
    return last == (b"\n" if path.is_dir() else b".")
