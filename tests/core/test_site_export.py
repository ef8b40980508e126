"""The browser's data: what a site holds, small enough, true to the lake, and safe to write."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pdms_little_worlds import straight_plan, straight_road
from pdms_little_worlds import with_object as with_box

from benchmarks.site_lake import PLANNERS, write_lake
from latentvla_core.errors import DataError, SetupError
from latentvla_core.lake.store import Lake
from latentvla_core.pdms.metrics import METRIC_VERSIONS
from latentvla_core.pdms.score import score_trajectories
from latentvla_core.viz.canvas import PLAN_COLOURS, SPARE_COLOURS, colour_of
from latentvla_core.viz.site.code_pages import CodePages
from latentvla_core.viz.site.command import pages_of, told
from latentvla_core.viz.site.export import export_site
from latentvla_core.viz.site.files import (
    centimetres,
    figure,
    file_name,
    packed,
    read_data,
    unpacked,
    write_data,
)
from latentvla_core.viz.site.index import NO_SCORE, SCORE_STEPS, stored
from latentvla_core.viz.site.options import ViewOptions, cameras_named
from latentvla_core.viz.site.pictures import scaled
from latentvla_core.viz.site.plans import plan_data
from latentvla_core.viz.site.roads import STEPS, object_data, road_data
from latentvla_core.viz.site.sentences import MISSING, agreement, predicted, sentence, softmax

SCENES = 30


@pytest.fixture(scope="module")
def little(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, Path]:
    """A lake of 30 scenes in two logs, with pictures, and its site."""
    root = tmp_path_factory.mktemp("site")
    lake = write_lake(root / "lake", SCENES, pictures=root / "pictures")
    export_site(lake, ViewOptions(out=root / "site"))
    return lake, root / "site"


def index_of(site: Path) -> dict:
    return read_data(site / "data" / "index.js")


def test_numbers_survive_packing():
    values = np.array([0, 1, 255, 65535])
    assert unpacked(packed(values, "u2"), "u2").tolist() == values.tolist()
    assert centimetres(np.array([[1.234, -0.006]])) == [123, -1]
    assert figure(math.nan) is None


def test_any_name_becomes_a_file_name_of_its_own(tmp_path):
    names = ["a/b", "a~2Fb", "../x", ".", "", "log@0", "log 0", "log~200", "Straße"]
    safe = [file_name(name) for name in names]
    assert len(set(safe)) == len(names)
    assert all("/" not in name and not name.startswith(".") and name for name in safe)
    assert file_name("oak@0") == "oak@0"
    assert write_data(tmp_path, f"scenes/{safe[2]}", 1).parent == tmp_path / "data" / "scenes"


def test_a_value_no_browser_can_read_is_refused_not_written(tmp_path):
    with pytest.raises(ValueError):
        write_data(tmp_path, "index", {"score": math.nan})


def test_the_index_holds_every_scene_once_in_order_of_log_and_time(little):
    lake, site = little
    index = index_of(site)
    rows = lake.read("scenes", columns=["split", "log_name", "timestamp_us", "scene_token"])
    order = sorted(rows.to_pylist(), key=lambda r: (r["split"], r["log_name"], r["timestamp_us"]))
    assert index["tokens"] == [row["scene_token"] for row in order]
    logs = unpacked(index["columns"]["log"], "u2")
    assert [index["logs"][i]["name"] for i in logs] == [row["log_name"] for row in order]


def test_scores_and_lost_sub_scores_of_the_index_are_those_of_the_lake(little):
    lake, site = little
    index = index_of(site)
    assert {(s["planner"], s["metric"]) for s in index["scores"]} == {
        (planner, version) for planner in PLANNERS for version in METRIC_VERSIONS.values()
    }
    assert all(index["colours"][planner].startswith("#") for planner in PLANNERS)
    number = {token: i for i, token in enumerate(index["tokens"])}
    found = {(s["planner"], s["metric"]): s for s in index["scores"]}
    for row in lake.rows("pdm_scores"):
        column = found[row["trajectory_id"], row["metric_version"]]
        i = number[row["scene_token"]]
        kept = unpacked(column["score_u8"], "u1")[i] / SCORE_STEPS
        assert kept == pytest.approx(row["score"], abs=0.5 / SCORE_STEPS + 1e-9)
        bits = unpacked(column["lost_u16"], "u2")[i]
        names = index["metrics"][row["metric_version"]]
        lost = {name for bit, name in enumerate(names) if bits >> bit & 1}
        page = read_data(site / "data" / "scenes" / f"{row['scene_token']}.js")
        sub = page["plans"][row["trajectory_id"]]["scores"][row["metric_version"]]["sub"]
        assert lost == {name for name, value in sub.items() if value is not None and value < 1}


def test_every_planner_has_a_colour_of_its_own_and_a_strangers_stays_the_same():
    assert len(set(PLAN_COLOURS.values())) == len(PLAN_COLOURS)
    assert {"flow", "flow_latent", "flow_student"} <= set(PLAN_COLOURS)
    assert colour_of("mine") == colour_of("mine") and colour_of("mine") in SPARE_COLOURS
    assert not set(SPARE_COLOURS) & set(PLAN_COLOURS.values())


def test_a_score_is_never_rounded_to_perfect_or_to_nothing():
    assert stored(1.0) == SCORE_STEPS and stored(0.9999) == SCORE_STEPS - 1
    assert stored(0.0) == 0 and stored(1e-4) == 1
    assert stored(1.0) < NO_SCORE


def test_ten_thousand_scenes_stay_below_two_megabytes(little):
    """By extrapolation: what a scene adds to the index, times 10 000."""
    _, site = little
    index = index_of(site)
    fixed = len(json.dumps({**index, "tokens": [], "columns": {}, "scores": []}))
    each = ((site / "data" / "index.js").stat().st_size - fixed) / SCENES
    assert fixed + 10_000 * each < 1.8e6


def test_a_scene_page_says_what_its_window_shows(little):
    lake, site = little
    token = index_of(site)["tokens"][3]
    page = read_data(site / "data" / "scenes" / f"{token}.js")
    row = lake.rows("scenes", {"scene_token": token})[0]
    assert page["time_s"][row["history_poses"].shape[0] - 1] == 0.0
    assert len(page["frames"]) == len(row["front_paths"]) == len(page["path"]) // 3
    assert page["path"][-3:-1] == centimetres(row["future_poses"][-1][:2])
    assert (site / "pictures" / page["log"] / "CAM_F0" / f"{page['frames'][0]}.jpg").is_file()
    assert page["cameras"]["CAM_F0"]["size_px"] == [64, 36]
    assert (
        page["codes"]["label"]["codes"]
        == np.concatenate(
            [r["ego_codes"] for r in lake.rows("latent_actions", {"scene_token": token})]
        ).tolist()
    )
    assert page["road"] is None and page["no_world"]


def test_codes_are_sorted_by_distance_and_a_transition_counts_once(little):
    lake, site = little
    rows = lake.rows("latent_actions")
    once = {(r["log_name"], r["timestamp_us"]) for r in rows}
    pages = [read_data(site / "data" / "codes" / f"{code}.js") for code in range(16)]
    assert sum(page["count"] for page in pages) == 4 * len(once)
    for page in pages:
        assert (np.diff(unpacked(page["distance_f4"], "f4")) >= 0).all()
        scenes = unpacked(page["scene_u4"], "u4")
        assert scenes.max() < SCENES
    assert CodePages().data(3)["count"] == 0


def test_a_drive_page_has_the_codes_of_each_moment(little):
    lake, site = little
    name = index_of(site)["logs"][0]["name"]
    page = read_data(site / "data" / "drives" / f"{name}.js")
    first = lake.rows("latent_actions", {"scene_token": page["scenes"][0]["token"], "step": 0})
    assert page["codes"]["label"][0] == first[0]["ego_codes"].tolist()
    assert len(page["scenes"]) == len(page["codes"]["teacher"])
    assert page["time_s"][0] == 0.0 and len(page["time_s"]) == len(page["frames"])


def test_where_is_a_condition_or_a_whole_select(little, tmp_path):
    lake, site = little
    left = {r["scene_token"] for r in lake.read("scenes", {"command": 0}).to_pylist()}
    export_site(lake, ViewOptions(out=tmp_path / "a", where="command = 0", scenes=False))
    assert set(index_of(tmp_path / "a")["tokens"]) == left
    low = "select scene_token from pdm_scores where score < 0.8 and trajectory_id = 'ipad'"
    export_site(lake, ViewOptions(out=tmp_path / "b", where=low, scenes=False))
    assert set(index_of(tmp_path / "b")["tokens"]) == set(lake.sql(low)["scene_token"].to_pylist())


def test_one_log_alone_and_what_does_not_exist_is_named(little, tmp_path):
    lake, site = little
    name = index_of(site)["logs"][1]["name"]
    done = export_site(lake, ViewOptions(out=tmp_path / "a", log=name, width_px=0, scenes=False))
    assert (done.logs, done.scenes) == (1, SCENES - 25)
    with pytest.raises(DataError, match="no_such_log"):
        export_site(lake, ViewOptions(out=tmp_path / "b", log="no_such_log"))
    with pytest.raises(DataError, match="command = 9"):
        export_site(lake, ViewOptions(out=tmp_path / "b", where="command = 9"))
    with pytest.raises(SetupError, match="scene_token"):
        export_site(lake, ViewOptions(out=tmp_path / "b", where="select log_name from scenes"))


def test_a_folder_of_other_things_is_not_touched(little, tmp_path):
    lake, _ = little
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(SetupError, match="holds other files"):
        export_site(lake, ViewOptions(out=tmp_path))
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    export_site(lake, ViewOptions(out=tmp_path / "new", scenes=False, width_px=0))
    export_site(lake, ViewOptions(out=tmp_path / "new", scenes=False, width_px=0))  # a site may


def test_missing_pictures_are_counted_per_camera_and_stop_nothing(tmp_path):
    lake = write_lake(tmp_path / "lake", 3, pictures=tmp_path / "pictures")
    gone = sorted((tmp_path / "pictures").rglob("*.jpg"))[:2]
    gone[0].unlink()
    gone[1].write_bytes(b"no picture")
    done = export_site(lake, ViewOptions(out=tmp_path / "site"))
    assert len(done.refused) == 1 and "CAM_F0: 2 of 16" in done.refused[0]
    assert done.refused[0] in told(done.refused) and told([]) == "all pictures read"


def test_pictures_are_scaled_down_never_up(little, tmp_path):
    from PIL import Image

    Image.new("RGB", (640, 360), "red").save(tmp_path / "wide.jpg")
    Image.new("RGB", (640, 360), "red").save(tmp_path / "wide.png")
    for name in ("wide.jpg", "wide.png"):
        (tmp_path / "small.jpg").write_bytes(scaled(str(tmp_path), name, 160))
        with Image.open(tmp_path / "small.jpg") as small:
            assert (small.size, small.format) == ((160, 90), "JPEG")
    same = (tmp_path / "wide.jpg").read_bytes()
    assert scaled(str(tmp_path), "wide.jpg", 4000) == same


def test_options_refuse_what_cannot_be_meant(tmp_path):
    with pytest.raises(SetupError, match="CAM_X"):
        ViewOptions(out=tmp_path, cameras=cameras_named("CAM_F0,CAM_X"))
    with pytest.raises(SetupError, match="-1"):
        ViewOptions(out=tmp_path, width_px=-1)
    assert cameras_named("none") == () and len(cameras_named("all")) == 8


def test_chapters_are_the_newest_pages_of_the_home(little, tmp_path):
    lake, _ = little
    home = tmp_path / "home"
    (home / "reports").mkdir(parents=True)
    (home / "report.html").write_text("the report")
    (home / "reports" / "latent_codes-a.html").write_text("the atlas")
    export_site(lake, ViewOptions(out=tmp_path / "s", scenes=False), chapters=pages_of(home))
    chapters = {c["name"]: c["path"] for c in index_of(tmp_path / "s")["chapters"]}
    assert set(chapters) == {"report", "atlas"}
    assert (tmp_path / "s" / chapters["atlas"]).read_text() == "the atlas"


def test_agreement_counts_only_codes_that_both_know():
    label = np.array([1, 2, MISSING, 4])
    assert agreement(label, np.array([1, 3, 9, 4])) == 2
    assert agreement(np.full(4, MISSING), label) == MISSING
    assert predicted(None).tolist() == [MISSING] * 12
    assert sentence([]).tolist() == [MISSING] * 12
    assert softmax(np.array([[0.0, 0.0]])).tolist() == [[0.5, 0.5]]


def plan_row(poses: np.ndarray, name: str = "ipad") -> dict:
    told = {"valid": True, "reason": "", "model_version": "m"}
    return {"trajectory_id": name, "poses": poses, **told}


def score_rows(world, poses, name: str = "ipad") -> list[dict]:
    table = score_trajectories([world], [poses[None]], metric="pdms")
    return [{**table.rows()[0], "trajectory_id": name}]


def test_a_crash_is_marked_where_and_when_it_happens():
    world = with_box(straight_road(10.0), (18.0, 0.0))
    poses = straight_plan(10.0)
    plan = plan_data([plan_row(poses)], score_rows(world, poses), world)["ipad"]
    failures = {f["sub"]: f for f in plan["why"][METRIC_VERSIONS["pdms"]]}
    hit = failures["NC"]
    assert "hits" in hit["text"] and 5 <= hit["step"] <= 20
    assert 900 < hit["place_cm"][0] < 2500 and abs(hit["place_cm"][1]) < 200
    assert len(plan["driven"]) == 41 * 3
    times = [f["step"] for f in plan["why"][METRIC_VERSIONS["pdms"]]]
    assert times == sorted(times, key=lambda step: (step < 0, step))


def test_a_perfect_plan_has_nothing_to_explain():
    world = straight_road()
    poses = straight_plan(8.0)
    rows = score_rows(world, poses)
    assert rows[0]["score"] == 1.0
    plan = plan_data([plan_row(poses)], rows, world)["ipad"]
    assert not plan["why"]


def test_a_plan_that_could_not_be_made_keeps_its_reason():
    row = plan_row(np.full((8, 3), np.nan)) | {"valid": False, "reason": "no picture"}
    plan = plan_data([row], [], straight_road())["ipad"]
    assert plan["reason"] == "no picture" and "xy_cm" not in plan


def test_roads_and_road_users_are_in_the_ego_frame():
    world = with_box(straight_road(), (30.0, 0.0))
    road, users = road_data(world), object_data(world)
    rings = [np.reshape(ring, (-1, 2)) for _, ring in road["polygons"]]
    assert rings and all(np.abs(ring).max() <= 8000 for ring in rings)
    assert any(ring[:, 0].min() < 0 < ring[:, 0].max() for ring in rings)
    standing = users[0]
    assert len(standing["poses"]) == 3 and standing["steps"][1] < STEPS
    moved = replace(world, ego_state=np.asarray(world.ego_state) + np.eye(11)[0] * 5.0)
    assert object_data(moved)[0]["poses"][0] == standing["poses"][0] - 500
