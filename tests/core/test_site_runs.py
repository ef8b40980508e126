"""Closed-loop runs and older model versions in the browser."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from benchmarks.site_lake import write_lake
from latentvla_core.closed_loop.columns import SPECS, as_stored, parquet_fields
from latentvla_core.closed_loop.scenes.spec import SceneSpec
from latentvla_core.closed_loop.scenes.town import open_town
from latentvla_core.errors import DataError, SetupError
from latentvla_core.viz.runs.pages import pictured, write_runs
from latentvla_core.viz.runs.road import in_start_frame, lights_of, road_of, town_of
from latentvla_core.viz.runs.source import Folder, sources_of
from latentvla_core.viz.site.export import export_site
from latentvla_core.viz.site.files import read_data
from latentvla_core.viz.site.options import ViewOptions

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from chromium import Browser, chromium_path

pytestmark = pytest.mark.slow

KEY = {"scene": "s1", "driver": "ipad", "traffic": "reactive", "seed": 3}
BLANK: dict[str, Any] = {"string": "", "int64": 0, "double": 0.0, "bool": True}
FIELDS = {
    table: {f.name: str(f.type) for f in fields} for table, fields in parquet_fields().items()
}
SPEED_MPS = 5.0


def blank(table: str, **changes: Any) -> dict[str, Any]:
    return {n: BLANK.get(kind, []) for n, kind in FIELDS[table].items()} | KEY | changes


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
    facts = write_runs(tmp_path / "site", [Folder(runs)])
    assert facts[0]["scores"]["cls"] == 0.5 and facts[0]["infractions"] == 1
    run = read_data(tmp_path / "site" / "data" / "runs" / "0.js")
    assert run["path"][:3] == [0, 0, 0] and run["path"][-3:] == [1000, 0, 0]
    assert [other["name"] for other in run["others"]] == ["car"]  # the far one is left out
    assert run["others"][0]["poses"][:3] == [1200, 0, 0] and len(run["others"][0]["at"]) == 21
    assert run["marks"][0]["place_cm"] == [900, 0] and "rear" in run["marks"][0]["text"]
    assert set(run["plans"]) == {"0", "5", "10", "15", "20"}


def test_a_folder_without_runs_is_named(tmp_path):
    with pytest.raises(SetupError, match="closed_loop_runs.parquet"):
        Folder(tmp_path)


@pytest.mark.slow
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


@pytest.fixture(scope="module")
def spec() -> SceneSpec:
    return SceneSpec(situation="lead_brakes", world_seed=7, location="us-ma-boston")


def on_a_lane(spec: SceneSpec, count: int) -> tuple[np.ndarray, str]:
    """Poses (count, 3) along the end of a lane of the scene's town, and a connector that it leads
    to.
    """
    network = open_town(spec.world_seed, spec.location, spec.layout).network
    connector = next(a for a in network.lanes.values() if a.from_lane and a.turn == "straight")
    lane = network.lanes[connector.from_lane]
    rows = np.linspace(max(0, len(lane.path_m) - 25), len(lane.path_m) - 1, count).astype(int)
    return np.column_stack([lane.path_m[rows, :2], lane.yaw_rad[rows]]), connector.id


def test_the_road_lies_under_the_way_and_far_streets_are_left_out(spec):
    poses, _ = on_a_lane(spec, 21)
    town = town_of(json.dumps(spec.to_row()))
    road = road_of(town, poses)
    assert {kind for kind, _ in road} == {0, 1} and len(road) < len(town.shapes) / 2
    surface = shapely.union_all(
        [shapely.Polygon(np.reshape(ring, (-1, 2)) / 100) for kind, ring in road if kind]
    )
    way = in_start_frame(poses[0], poses)
    assert way[0].tolist() == [0, 0]
    assert shapely.contains_xy(surface, way[1:]).all()
    assert town_of("") is None


def test_a_light_is_told_with_the_steps_at_which_it_is_red(spec):
    poses, light = on_a_lane(spec, 6)
    colours = ["red", "red", "green", "green", "yellow", "red"]
    steps = [{"light_ids": [light], "light_colours": [colour]} for colour in colours]
    town = town_of(json.dumps(spec.to_row()))
    far = poses + [1e5, 0, 0]
    assert lights_of(town, steps, far) == []
    (told,) = lights_of(town, steps, poses)
    assert told["spans"] == [[0, 1, "red"], [4, 4, "yellow"], [5, 5, "red"]]
    green = [{"light_ids": [light], "light_colours": ["green"]}] * 6
    assert lights_of(town, green, poses) == []


def test_the_worst_run_of_each_driver_and_scene_is_drawn_planners_before_floors():
    runs = [
        {"driver": driver, "scene": scene, "spec": told}
        for driver, scene, told in (
            ("blind", "a", "{}"), ("human", "a", "{}"), ("ipad", "a", "{}"), ("ipad", "a", "{}"),
            ("ipad", "b", ""), ("ipad", "c", "{}"),
        )
    ]  # fmt: skip
    assert pictured(runs, 9) == {0, 2, 5} and pictured(runs, 2) == {2, 5} and not pictured(runs, 0)


@pytest.mark.skipif(
    not chromium_path(), reason="Chromium is not installed (apt-get install chromium)"
)
def test_a_run_with_its_spec_shows_its_road_and_what_its_cameras_saw(runs, spec, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    poses, light = on_a_lane(spec, 21)
    states = dict(zip(("x_m", "y_m", "yaw_rad"), poses.T, strict=True))
    changes = {
        "closed_loop_runs": [{"spec": json.dumps(spec.to_row())}],
        "closed_loop_steps": [
            {n: float(v[step]) for n, v in states.items()}
            | {"light_ids": [light], "light_colours": ["red"], "actor_tokens": [],
               "actor_classes": [], "actor_boxes": [], "actor_velocities": []}
            for step in range(21)
        ],
    }  # fmt: skip
    for name, fresh in changes.items():
        path = runs / f"{name}.parquet"
        table = pq.read_table(path)
        rows = [row | new for row, new in zip(table.to_pylist(), fresh, strict=True)]
        pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    lake = write_lake(tmp_path / "lake", 3)
    export_site(lake, ViewOptions(out=tmp_path / "site", runs=runs, run_pictures=1))
    run = read_data(tmp_path / "site" / "data" / "runs" / "0.js")
    assert run["frames"] == [0, 5, 10, 15, 20] and run["pictures"]
    seen = sorted(p.name for p in (tmp_path / "site" / "pictures" / "run-0" / "CAM_F0").iterdir())
    assert seen == ["0.jpg", "10.jpg", "15.jpg", "20.jpg", "5.jpg"]
    with Browser() as page:
        url = (tmp_path / "site" / "index.html").as_uri()
        page.open(f"{url}#/run/0?t=1.2", "document.body && document.body.dataset.ready")
        page.wait("document.querySelector('.view img').naturalWidth === 384")
        assert page.js("document.querySelector('.view img').src").endswith("/CAM_F0/10.jpg")
        page.click(".strip button:nth-child(2)")
        page.wait("document.querySelector('.view img').src.includes('CAM_L0')")
        road = page.js(
            "(() => { const c = document.querySelector('canvas.above'), p = c.getContext('2d')"
            ".getImageData(0, 0, c.width, c.height).data; let n = 0; for (let i = 0; i < p.length;"
            " i += 4) n += p[i] === 227 && p[i + 1] === 231 && p[i + 2] === 236; return n; })()"
        )
        assert road > 5_000  # --road in light colours
        assert page.errors == []


@pytest.mark.skipif(
    not chromium_path(), reason="Chromium is not installed (apt-get install chromium)"
)
def test_the_list_of_runs_leads_to_the_first_infraction_and_says_when_there_are_none(
    runs, tmp_path
):
    lake = write_lake(tmp_path / "lake", 3)
    export_site(lake, ViewOptions(out=tmp_path / "site", width_px=0, runs=runs))
    export_site(lake, ViewOptions(out=tmp_path / "none", width_px=0))
    ready = "document.body && document.body.dataset.ready"
    with Browser() as page:
        page.open((tmp_path / "site" / "index.html").as_uri() + "#/runs", ready)
        assert "1 of 1 runs, mean CLS 0.500" in page.js(
            "document.querySelector('#count').textContent"
        )
        assert "1: collision" in page.js("document.querySelector('td.kinds').textContent")
        page.click("td a")
        page.wait("document.querySelector('.clock output')?.textContent === '1.4 s'")
        assert "at=lost" not in page.js("location.hash")  # the moment itself, to be sent
        page.open((tmp_path / "none" / "index.html").as_uri() + "#/runs", ready)
        assert "latentvla drive" in page.js("document.querySelector('main').textContent")
        assert page.errors == []


def test_runs_of_the_lake_are_shown_as_those_of_a_folder(runs, tmp_path):
    lake = write_lake(tmp_path / "lake", 3)
    told = {"model_version": "m9", "run_made_by": "b", "made_by": "b"}
    for table, fields in FIELDS.items():
        known = {name: value for name, value in told.items() if name in SPECS[table].names}
        rows = [
            as_stored(table, {n: row[n] for n in fields}, **known)
            for row in Folder(runs).rows(table)
        ]
        lake.replace(table, rows, {"driver": "ipad"})
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    of_folder = write_runs(tmp_path / "a", [Folder(runs)])
    of_lake = write_runs(tmp_path / "b", sources_of(lake, None))
    assert [each | {"model": ""} for each in of_lake] == of_folder
    assert of_lake[0]["model"] == "m9"
    pages = [read_data(tmp_path / n / "data" / "runs" / "0.js") | {"model": ""} for n in "ab"]
    assert pages[0] == pages[1] and pages[0]["marks"]
    assert len(sources_of(lake, runs)) == 2


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
    if chromium_path():
        with Browser() as opened:
            _compare_versions(opened, (tmp_path / "site" / "index.html").as_uri())
    with pytest.raises(DataError, match="m1, newer"):
        export_site(lake, ViewOptions(out=tmp_path / "site", also=("ipad@x",)))
    with pytest.raises(SetupError, match="PLANNER@VERSION"):
        ViewOptions(out=tmp_path, also=("ipad",))


def _compare_versions(page: Browser, url: str) -> None:
    """Two versions of one planner: scene by scene, then one scene twice on one clock."""
    ready = "document.body && document.body.dataset.ready"
    page.open(f"{url}#/compare?a=ipad@m1&b=ipad", ready)
    assert "5 scenes" in page.js("document.querySelector('main').textContent")
    assert page.js("document.querySelectorAll('svg.plot circle').length") == 5
    page.click("tbody td a")
    page.wait("document.querySelectorAll('canvas.above').length === 2")
    shown = page.js("[...document.querySelectorAll('figcaption b')].map(b => b.textContent)")
    assert shown == ["ipad@m1", "ipad"]
    assert page.errors == []
