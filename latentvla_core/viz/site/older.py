"""Plans and scores of an older model version, from the history of the tables, under a name of
their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from latentvla_core.errors import DataError
from latentvla_core.lake.store import Lake
from latentvla_core.viz.site.read import LogRows

Rows = list[dict[str, Any]]
Older = dict[str, dict[str, dict[str, Rows]]]
"""PLANNER@VERSION → table → scene token → rows, renamed."""


def older_versions(lake: Lake, also: Sequence[str]) -> Older:
    """The rows of each "PLANNER@VERSION"; VERSION may be the start of a model version.

    Raises DataError with the versions there were when none fits.
    """
    return {name: _rows(lake, *name.split("@", 1)) for name in also}


def _rows(lake: Lake, planner: str, version: str) -> dict[str, dict[str, Rows]]:
    found: dict[str, dict[str, Rows]] = {"trajectories": {}, "pdm_scores": {}}
    for table, by_scene in found.items():
        known: set[str] = set()
        for at in range(lake.version(table), -1, -1):
            rows = lake.rows(table, {"trajectory_id": planner}, version=at)
            known |= {row["model_version"] for row in rows}
            fits = [row for row in rows if row["model_version"].startswith(version)]
            for row in fits:
                fresh = {
                    (r["scene_token"], r.get("metric_version"))
                    for r in by_scene.get(row["scene_token"], [])
                }
                if (row["scene_token"], row.get("metric_version")) not in fresh:
                    row["trajectory_id"] = f"{planner}@{row['model_version'][:8]}"
                    by_scene.setdefault(row["scene_token"], []).append(row)
            if by_scene and not fits:
                break  # before this version had a row
        if not by_scene:
            told = ", ".join(sorted(known)) or "none"
            raise DataError(
                f"--also {planner}@{version}: table {table} never held that version; of {planner} "
                f"there were: {told}"
            )
    return found


def add_older(log: LogRows, older: Older) -> None:
    """Put the older plans and scores of a log's scenes beside today's."""
    tokens = {record.scene_token for record in log.records}
    for tables in older.values():
        for table, kept in (("trajectories", log.plans), ("pdm_scores", log.scores)):
            for token, rows in tables[table].items():
                if token in tokens:
                    kept.setdefault(token, []).extend(rows)
