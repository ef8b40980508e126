"""From a score back to logs: the work that made it, stage by stage, with what each cost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

from latentvla_core.lake.store import Lake
from latentvla_core.viz.html import WIDE

BAR_W = 110.0
Rows = list[dict[str, Any]]


@dataclass
class Work:
    """What one asset did last, all its partitions together."""

    asset: str
    reads: dict[str, int] = field(default_factory=dict)
    """Upstream asset → Delta version."""
    version: int = -1
    rows: int = 0
    refused: int = 0
    seconds: float = 0.0
    commits: set[str] = field(default_factory=set)


def read_work(lake: Lake) -> dict[str, Work]:
    """Asset → its last finished work, from the ledger."""
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for row in lake.read("materialisations").to_pylist():
        key = (row["asset"], row["partition"])
        if key not in last or row["finished_us"] > last[key]["finished_us"]:
            last[key] = row
    found: dict[str, Work] = {}
    for (asset, _), row in last.items():
        work = found.setdefault(asset, Work(asset))
        for name, version in json.loads(row["inputs"] or "{}").items():
            work.reads[name] = max(int(version), work.reads.get(name, -1))
        work.version = max(work.version, row["delta_version"])
        work.rows += row["rows"]
        work.refused += row["quarantined"]
        work.seconds += row["seconds"]
        work.commits |= {row["commit"]} - {""}
    return found


def back_from(work: Mapping[str, Work], target: str) -> list[Work]:
    """The work a table rests on, itself first, then what it read, down to the logs."""
    depth: dict[str, int] = {}

    def visit(name: str, at: int, path: frozenset[str]) -> None:
        if name not in work or name in path or depth.get(name, -1) >= at:
            return
        depth[name] = at
        for upstream in work[name].reads:
            visit(upstream, at + 1, path | {name})

    visit(target, 0, frozenset())
    return [work[name] for name in sorted(depth, key=lambda name: (depth[name], name))]


def lineage(work: Mapping[str, Work], target: str = "pdm_summary") -> str:
    """A table of the work behind `target`, then of work nothing there rests on."""
    chain = back_from(work, target)
    beside = [w for name, w in sorted(work.items()) if w not in chain]
    longest = max((w.seconds for w in work.values()), default=0.0)
    head = ("stage", "Delta version", "reads", "rows", "refused", "seconds", "commit")
    rows = [_row(w, longest) for w in chain]
    if beside:
        rows.append(f"<tr><td colspan={len(head)} class=soft>beside the way to the score</td></tr>")
        rows += [_row(w, longest) for w in beside]
    cells = "".join(f"<th scope=col>{h}</th>" for h in head)
    total = sum(w.seconds for w in work.values())
    return (
        f"<p class=soft>Read downwards: each stage with what it read. All together {total:,.0f} s"
        " of work, models trained included.</p>"
        f"{WIDE}<table><thead><tr>"
        f"{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _row(work: Work, longest: float) -> str:
    reads = ", ".join(
        f"{name}@{version}" if version >= 0 else name
        for name, version in sorted(work.reads.items())
    )
    width = BAR_W * work.seconds / longest if longest else 0.0
    drawn = (
        f"<svg width='{BAR_W:g}' height='9' viewBox='0 0 {BAR_W:g} 9' aria-hidden=true>"
        f"<rect width='{width:.1f}' height='9' rx='2' fill='var(--bar)'/></svg>"
    )
    refused = f"<b class=bad-text>{work.refused:,}</b>" if work.refused else "0"
    commits = ", ".join(sorted(c[:10] for c in work.commits)) or "unknown"
    return (
        f"<tr><th scope=row>{escape(work.asset)}</th><td class=num>{work.version}</td>"
        f"<td class=reads>{escape(reads) or 'files'}</td><td class=num>{work.rows:,}</td>"
        f"<td class=num>{refused}</td><td class='num line'>{work.seconds:,.1f} {drawn}</td>"
        f"<td><code>{escape(commits)}</code></td></tr>"
    )
