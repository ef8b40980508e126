"""What of the lake is worth a message: decisions of the promotion gate, and labels that are late."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipelines.nights.messages import Message
from pipelines.registry.gates import PROMOTED, REFUSED, ROLLED_BACK
from pipelines.steps.lineage import digest

EVENTS = {PROMOTED: "promoted", REFUSED: "refused", ROLLED_BACK: "rolled_back"}
"""Decision in `releases` → event. A champion that was kept is no event."""
NO_MODEL = ""
"""`version` of a decision about a planner that has not been trained."""
LATE_S = 24 * 3600.0
"""Work that has been stale for so long is told."""


def decisions_since(rows: Iterable[Mapping[str, Any]], since_us: int) -> list[Message]:
    """One message per decision after a time; a night that decides the same again tells nothing."""
    last: dict[str, tuple[str, ...]] = {}
    told = []
    for row in sorted(rows, key=lambda row: (row["decided_us"], row["name"])):
        what = (row["decision"], row["version"], _opponent(row))
        known, last[row["name"]] = last.get(row["name"]), what
        if row["decided_us"] > since_us and known != what and row["version"] != NO_MODEL:
            told += [_of_decision(row)] if row["decision"] in EVENTS else []
    return told


def _opponent(row: Mapping[str, Any]) -> str:
    """Whom the candidate met; its own version once it is champion."""
    return row["champion"] if row["decision"] != PROMOTED else ""


def _of_decision(row: Mapping[str, Any]) -> Message:
    event = EVENTS[row["decision"]]
    name, version = row["name"], row["version"]
    title = f"LatentVLA: {name} version {version} {row['decision']}"
    champion = f"champion is version {row['champion']}" if row["champion"] else "no champion"
    text = f"{row['reason']}; {champion}; {row['scenes']} scenes of split {row['split']}"
    key = f"{event}-{name}-{version}-{row['decided_us']}"
    return Message(event=event, title=title, text=text, key=key)


@dataclass(slots=True)
class Waiting:
    """What the freshness sensor remembers; its cursor."""

    since_s: dict[str, float] = field(default_factory=dict)
    """Work, `asset partition` → when it was first seen stale."""
    told: str = ""
    """Digest of the late work that the last message named."""

    @staticmethod
    def read(cursor: str | None) -> Waiting:
        """From a cursor; from nothing where there is none or one of another version."""
        try:
            content = json.loads(cursor or "")
            since = {str(k): float(v) for k, v in content["since_s"].items()}
            return Waiting(since, str(content["told"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            return Waiting()

    def written(self) -> str:
        return json.dumps(asdict(self))


def late(
    before: Waiting, stale: Sequence[tuple[str, str]], now_s: float
) -> tuple[Waiting, Message | None]:
    """One look: the message, when work has been stale for `LATE_S` and the last one named other."""
    names = [f"{asset} {partition}".strip() for asset, partition in stale]
    since = {name: before.since_s.get(name, now_s) for name in names}
    old = sorted(name for name, at in since.items() if now_s - at >= LATE_S)
    key = digest(old) if old else ""
    message = None
    if old and key != before.told:
        hours = (now_s - min(since[name] for name in old)) / 3600
        title = f"LatentVLA: {len(old)} pieces of work are late, {old[0]} first"
        text = (
            f"stale for up to {hours:.0f} h: {', '.join(old[:10])}. Is sensor new_logs on, and does"
            " a run fail? docs/operations.md, Which check is red"
        )
        message = Message(event="stale", title=title, text=text, key=f"stale-{key}")
    return Waiting(since, key), message
