"""Closed-loop runs and older model versions in the browser."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.site_lake import write_lake
from latentvla_core.closed_loop.columns import COLUMNS, parquet_fields
from latentvla_core.errors import DataError, SetupError
from latentvla_core.viz.site.export import export_site
from latentvla_core.viz.site.files import read_data
from latentvla_core.viz.site.options import ViewOptions
from latentvla_core.viz.site.runs import write_runs

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from chromium import Browser, chromium_path

KEY = {"scene": "s1", "driver": "ipad", "traffic": "reactive", "seed": 3}
BLANK: dict[str, Any] = {"string": "", "int64": 0, "double": 0.0, "bool": True}
SPEED_MPS = 5.0


def blank(table: str, **changes: Any) -> dict[str, Any]:
    return {n: BLANK.get(kind, []) for n, kind in COLUMNS[table].items()} | KEY | changes


def step_row(step: int) -> dict[str, Any]:
    """The ego drives north at 5 m/s from (100, 200); one car stands 12 m ahead of its start."""
    return blank(
        "closed_loop_steps",
        step=step,
        time_s=round(step * 0.1, 1),
        x_m=100.0,
        y_m=200.0 + SPEED_MPS * step * 0.1,
        yaw_rad=np.pi / 2,
        vx_mps=SPEED_MPS,
        plan=list(np.column_stack([np.arange(1, 9) * 2.5, np.zeros(8), np.zeros(8)]).ravel())
        if step % 5 == 0
        else [],
        actor_tokens=["car", "far away"],
        actor_classes=[0, 0],
        actor_boxes=[100.0, 212.0, np.pi / 2, 4.6, 1.9, 1.6, 900.0, 0.0, 0.0, 4.6, 1.9, 1.6],
        actor_velocities=[0.0] * 6,
    )


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder as `latentvla drive --out` writes it: one run of 2 s that ends in a crash."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    crash = {"kind": "collision", "step": 14, "time_s": 1.4, "x_m": 100.0, "y_m": 209.0}
    rows = {
        "closed_loop_runs": [blank("closed_loop_runs", steps=20, ended="time", situation="lead")],
        "closed_loop_steps": [step_row(step) for step in range(21)],
        "closed_loop_scores": [
            blank("closed_loop_scores", prefix_s=t, cls=t / 4) for t in (1.0, 2.0)
        ],
        "closed_loop_infractions": [
            blank("closed_loop_infractions", **crash, partner="car", at_fault=True, detail="rear")
        ],
    }
    folder = tmp_path / "runs"
    folder.mkdir()
    for name, fields in parquet_fields().items():
        table = pa.Table.from_pylist(rows[name], pa.schema(fields))
        pq.write_table(table, folder / f"{name}.parquet")
    return folder


def test_a_run_is_told_in_the_frame_of_its_start(runs, tmp_path):
    facts = write_runs(tmp_path / "site", runs)
    assert facts[0]["scores"]["cls"] == 0.5 and facts[0]["infractions"] == 1
    run = read_data(tmp_path / "site" / "data" / "runs" / "0.js")
    assert run["path"][:3] == [0, 0, 0] and run["path"][-3:] == [1000, 0, 0]
    assert [other["name"] for other in run["others"]] == ["car"]  # the far one is left out
    assert run["others"][0]["poses"][:3] == [1200, 0, 0] and len(run["others"][0]["at"]) == 21
    assert run["marks"][0]["place_cm"] == [900, 0] and "rear" in run["marks"][0]["text"]
    assert set(run["plans"]) == {"0", "5", "10", "15", "20"}


def test_a_folder_without_runs_is_named(tmp_path):
    with pytest.raises(SetupError, match="closed_loop_runs.parquet"):
        write_runs(tmp_path / "site", tmp_path)


@pytest.mark.skipif(
    not chromium_path(), reason="Chromium is not installed (apt-get install chromium)"
)
def test_a_run_plays_with_its_infractions_marked(runs, tmp_path):
    lake = write_lake(tmp_path / "lake", 3)
    export_site(lake, ViewOptions(out=tmp_path / "site", width_px=0, runs=runs))
    with Browser() as page:
        url = (tmp_path / "site" / "index.html").as_uri()
        page.open(f"{url}#/runs", "document.body && document.body.dataset.ready")
        page.click("td a")
        page.wait("document.querySelector('[data-mark]')")
        page.click("#why button")
        assert page.js("document.querySelector('.clock output').textContent") == "1.4 s"
        page.press("End")
        assert page.js("document.querySelector('.clock output').textContent") == "2.0 s"
        assert page.errors == []


def test_an_older_version_of_a_planner_stands_beside_todays(tmp_path):
    lake = write_lake(tmp_path / "lake", 5)
    place = {"split": "train", "shard": 0, "trajectory_id": "ipad"}
    for table in ("trajectories", "pdm_scores"):
        rows = lake.rows(table, place)
        for row in rows:
            row["model_version"] = "newer"
        lake.replace(table, rows, place)
    export_site(lake, ViewOptions(out=tmp_path / "site", width_px=0, also=("ipad@m",)))
    index = read_data(tmp_path / "site" / "data" / "index.js")
    page = read_data(tmp_path / "site" / "data" / "scenes" / f"{index['tokens'][0]}.js")
    assert page["plans"]["ipad@m1"]["model"] == "m1" and page["plans"]["ipad"]["model"] == "newer"
    assert "ipad@m1" in {column["planner"] for column in index["scores"]}
    with pytest.raises(DataError, match="m1, newer"):
        export_site(lake, ViewOptions(out=tmp_path / "site", also=("ipad@x",)))
    with pytest.raises(SetupError, match="PLANNER@VERSION"):
        ViewOptions(out=tmp_path, also=("ipad",))
