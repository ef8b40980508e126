"""The page of a driven set, written beside its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from latentvla_core.closed_loop import report
from latentvla_core.closed_loop.scenes.sets import SceneSet
from latentvla_core.closed_loop.steps import Run, run_of
from latentvla_core.viz.drives.page import key_of, render
from latentvla_core.viz.drives.video import video_name, write_video
from latentvla_core.viz.html import write_page

WORST = 6
"""Runs that are drawn, shared out among the planners."""


def write_drive_page(
    scenes: SceneSet,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    asked: int,
    out: Path,
    videos: int = 0,
) -> Path:
    """`index.html` in the folder of the tables, and so many of the worst runs in `videos/`.

    Args:
        asked: how many of the drivers, from the first on, the page is about; the others are floors.
    """
    last = report.whole(rows["closed_loop_scores"])
    names = list(dict.fromkeys(row["driver"] for row in last))[:asked]
    worst = [
        (run, stored_run(rows, out, {**row, "driver": "human"}))
        for name in names
        for row in report.worst(last, name, max(WORST // len(names), 1))
        if (run := stored_run(rows, out, row)) is not None
    ]
    filmed = {key_of(run): film(run, rows, out) for run, _ in worst[:videos]}
    return write_page(out / "index.html", render(scenes, rows, _title(names), worst, filmed))


def _title(names: Sequence[str]) -> str:
    """What the page is about, short enough for a phone."""
    return " and ".join(names) if len(names) < 3 else f"{len(names)} planners beside the floors"


def film(run: Run, rows: Mapping[str, Sequence[Mapping[str, Any]]], out: Path) -> str:
    """Writes a run's video; its address from the page."""
    own = [r for r in rows["closed_loop_infractions"] if all(r[k] == v for k, v in run.key.items())]
    return f"videos/{write_video(out / 'videos' / video_name(run), run, own).name}"


def stored_run(
    rows: Mapping[str, Sequence[Mapping[str, Any]]], out: Path, wanted: Mapping[str, Any]
) -> Run | None:
    """One run from the Parquet files; None where it, or its steps, were not kept."""
    import pyarrow.parquet as pq

    key = ("scene", "driver", "traffic", "seed")
    match = [r for r in rows["closed_loop_runs"] if all(r[k] == wanted[k] for k in key)]
    if not match:
        return None
    path = out / "closed_loop_steps.parquet"
    filters = [(k, "==", wanted[k]) for k in key]
    steps = pq.read_table(path, filters=filters).to_pylist()
    return run_of(match[0], steps) if steps else None
