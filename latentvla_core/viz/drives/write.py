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


def write_drive_page(
    scenes: SceneSet,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    planner: str,
    out: Path,
    videos: int = 0,
) -> Path:
    """`index.html` in the folder of the tables, and so many of the worst runs in `videos/`."""
    last = report.whole(rows["closed_loop_scores"])
    name = planner if any(r["driver"] == planner for r in last) else last[0]["driver"]
    worst = [
        (run, stored_run(rows, out, {**row, "driver": "human"}))
        for row in report.worst(last, name, WORST)
        if (run := stored_run(rows, out, row)) is not None
    ]
    filmed = {key_of(run): film(run, rows, out) for run, _ in worst[:videos]}
    return write_page(out / "index.html", render(scenes, rows, name, worst, filmed))


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
