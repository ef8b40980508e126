"""Closed loop as assets, debug size: who drives is an asset, runs are stored, scores come from what
is stored.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import latentvla_core.closed_loop.stored as stored
from latentvla_core.closed_loop.config import ClosedLoopConfig, ClosedLoopGate
from latentvla_core.closed_loop.drivers.baselines import FLOORS as CORE_FLOORS
from latentvla_core.closed_loop.scenes.prepared import open_prepared
from latentvla_core.closed_loop.scenes.sets import freeze, spec_of
from latentvla_core.closed_loop.scenes.situations import DANGEROUS, USUAL
from latentvla_core.closed_loop.scores.score import score_run
from latentvla_core.closed_loop.steps import run_of
from latentvla_core.errors import SetupError
from latentvla_core.planner.baselines import EgoStatusConfig, EgoStatusMlp
from latentvla_core.planner.model import save
from latentvla_core.viz.site.export import export_site
from latentvla_core.viz.site.files import read_data
from latentvla_core.viz.site.options import ViewOptions
from pipelines.assets.closed_loop import DRIVES, PLANNERS, stored_runs
from pipelines.assets.registry import PLANNERS as JUDGED
from pipelines.checks import verify
from pipelines.demo import work_left
from pipelines.jobs import AT_THE_WHEEL, JOBS
from pipelines.registry.wheel import driven_scores, refusal
from pipelines.settings import Settings
from pipelines.stages import STAGES
from pipelines.steps.drives import (
    FLOORS,
    drives_of,
    scene_set,
    seat_of,
    stored_run,
    worst_rows,
)
from pipelines.steps.engine import Engine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from chromium import Browser, chromium_path

pytestmark = pytest.mark.slow

DROVE = ("human", "constant_velocity", "stand_still", "ego_status_mlp")
BLIND = "ego_status_mlp"


def engine(home: Path) -> Engine:
    env = {"LATENTVLA_HOME": str(home), "LATENTVLA_RECIPE": "debug", "LATENTVLA_WORKERS": "1"}
    return Engine(Settings.from_env(env), STAGES, say=lambda text: None)


def plant(line: Engine, version: str, *, broken: bool = False) -> None:
    """A planner as a finished training leaves it; a broken one answers NaN."""
    torch.manual_seed(0)
    model = EgoStatusMlp(EgoStatusConfig.debug())
    if broken:
        with torch.no_grad():
            next(model.parameters()).fill_(math.nan)
    folder = line.settings.models / BLIND / version
    save(model, folder)
    (folder / "summary.json").write_text(json.dumps({"family": "planner", "parts": {}}))
    row = dict.fromkeys(("partition", "inputs", "recipe", "code_version", "commit", "run_id"), "")
    numbers = {"delta_version": 0, "rows": 1, "quarantined": 0, "seconds": 0.0}
    at = {"finished_us": line.ledger.next_us(0), "table_name": "models"}
    line.ledger.record({**row, **numbers, **at, "asset": BLIND, "made_by": version})


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A set of two scenes that three floors and a planner have driven."""
    line = engine(tmp_path_factory.mktemp("wheel"))
    plant(line, "v1")
    line.execute("closed_loop_scenes")
    for driver in DROVE:
        line.execute(f"closed_loop_{driver}")
    line.execute("closed_loop_scores")
    line.execute("closed_loop_summary")
    return line


# ---- what there is -----------------------------------------------------------------------------


def test_every_floor_and_every_planner_is_an_asset_outside_the_whole_line():
    assert set(FLOORS) == set(CORE_FLOORS)
    assert set(PLANNERS) == set(JUDGED)
    assert set(DRIVES) == {f"closed_loop_{name}" for name in (*FLOORS, *PLANNERS)}
    assert set(DRIVES) < set(AT_THE_WHEEL)
    assert not set(AT_THE_WHEEL) & set(JOBS["whole_line"][0])
    assert set(JOBS["closed_loop"][0]) == set(JOBS["whole_line"][0]) | set(AT_THE_WHEEL)
    needs_models = set(PLANNERS) | {f"closed_loop_{name}" for name in PLANNERS}
    assert not set(JOBS["closed_loop_floors"][0]) & needs_models


def test_the_set_is_the_humans_choice_and_every_refused_candidate_says_why(line: Engine):
    rows = line.lake.rows("closed_loop_scenes")
    config = line.recipe.closed_loop
    chosen = freeze(config.situations, config.per_situation, 0, seconds=config.seconds, workers=1)
    assert {r["scene"] for r in rows if r["is_scene"]} == {v.spec.token for v in chosen.scenes}
    assert all(bool(row["reason"]) != row["is_scene"] for row in rows)
    told = scene_set(rows)
    assert (told.tried, told.reasons) == (chosen.tried, chosen.reasons)
    assert told.rejection_rate == chosen.rejection_rate
    assert all(row["is_dangerous"] == row["scene"].startswith("danger") for row in rows)
    impacts = {r["scene"]: r["reference_impact_mps"] for r in rows if r["is_scene"]}
    assert all(math.isfinite(v) == name.startswith("danger") for name, v in impacts.items())


def test_tables_hold_what_was_declared_and_joined_by_their_keys(line: Engine):
    for name in AT_THE_WHEEL:
        if line.ledger.made_by(name, "") != "absent":
            outcome = line.execute(name)
            assert outcome.skipped, name
            assert verify(line.lake, STAGES[name], {"": outcome}).faults == [], name
    runs = line.lake.rows("closed_loop_runs")
    assert {row["driver"] for row in runs} == set(DROVE)
    assert {row["model_version"] for row in runs if row["driver"] == BLIND} == {"v1"}
    assert {row["model_version"] for row in runs if row["driver"] != BLIND} == {""}
    steps = line.lake.read("closed_loop_steps", columns=["scene", "driver"]).to_pylist()
    for row in runs:
        own = [s for s in steps if (s["scene"], s["driver"]) == (row["scene"], row["driver"])]
        assert len(own) == row["steps"] + 1
    made_by = {row["driver"]: row["made_by"] for row in runs}
    for row in line.lake.rows("closed_loop_scores"):
        assert row["run_made_by"] == made_by[row["driver"]]


def test_a_check_sees_a_table_beside_that_is_not_what_was_declared(line: Engine, tmp_path: Path):
    from deltalake import write_deltalake

    from latentvla_core.lake.store import Lake

    lake = Lake(str(tmp_path))
    steps = line.lake.read("closed_loop_steps").drop_columns(["vx_mps"])
    write_deltalake(lake.uri("closed_loop_steps"), steps)
    faults = verify(lake, STAGES["closed_loop_human"], {}).faults
    assert any("vx_mps is missing" in fault for fault in faults)


def test_what_is_left_of_the_floors_is_known_without_a_world(line: Engine):
    left = {name for name, _ in work_left(line.settings, "closed_loop_floors") or ()}
    assert {"closed_loop_pdm_closed", "closed_loop_blind", "closed_loop_scores"} <= left
    assert not {"closed_loop_scenes", "closed_loop_human"} & left
    assert not (line.settings.home / "world").exists()


# ---- driving -----------------------------------------------------------------------------------


def test_a_stored_run_is_the_run_that_was_driven(line: Engine):
    scene = next(r for r in line.lake.rows("closed_loop_scenes") if r["is_scene"])
    spec = spec_of(json.loads(scene["spec"]))
    prepared, ground, _ = open_prepared(spec, line.recipe.closed_loop.seconds)
    driver = seat_of(line, BLIND).driver()
    driven = stored.run_episode(driver, prepared, traffic="reactive")
    kept = {row["driver"]: (row, steps) for row, steps in stored_runs(line, spec.token)}
    again = run_of(*kept[BLIND])
    assert np.array_equal(again.states, driven.states)
    assert all(np.array_equal(plan, driven.plans[k]) for k, plan in again.plans.items())
    fresh = score_run(driven, prepared, ground, reference_impact_mps=scene["reference_impact_mps"])
    where = {"scene": spec.token, "driver": BLIND}
    scores = line.lake.rows("closed_loop_scores", where)
    for name, value in fresh.whole.items():
        same = scores[-1][name] == value or (value != value and scores[-1][name] != value)
        assert same or name == "driver", name
    assert len(scores) == len(fresh.rows)
    told = line.lake.rows("closed_loop_infractions", where)
    assert [r["kind"] for r in told] == sorted(i.kind for i in fresh.infractions)


def test_a_drive_goes_on_where_it_was_killed(line: Engine, monkeypatch: pytest.MonkeyPatch):
    seat = seat_of(line, "stand_still")
    whole = list(drives_of(line, seat))
    folder = next((line.settings.home / "closed_loop" / "stand_still").iterdir())
    parts = sorted(folder.glob("*.json.gz"))
    parts[0].unlink()
    (folder / "half.partial").write_bytes(b"half a scene")
    driven: list[str] = []
    drive = stored.run_episode

    def counted(driver: Any, scene: Any, **more: Any) -> Any:
        driven.append(scene.spec.token)
        return drive(driver, scene, **more)

    monkeypatch.setattr(stored, "run_episode", counted)
    assert list(drives_of(line, seat)) == whole
    assert driven == [parts[0].name.removesuffix(".json.gz")]


def test_other_weights_drive_again_and_floors_do_not(tmp_path: Path, line: Engine):
    seat = seat_of(line, BLIND)
    later = stored.Seat(name=BLIND, folder=seat.folder, model_version="v2")
    config = line.recipe.closed_loop
    assert seat.key(config) != later.key(config)
    assert seat.key(config) != seat.key(ClosedLoopConfig.mini())
    ours = line.fingerprint(STAGES["closed_loop_ego_status_mlp"], "")
    floor = line.fingerprint(STAGES["closed_loop_human"], "")
    before = line.ledger.latest[BLIND, ""]
    try:
        line.ledger.latest[BLIND, ""] = {**before, "made_by": "v2"}
        assert line.fingerprint(STAGES["closed_loop_ego_status_mlp"], "") != ours
        assert line.fingerprint(STAGES["closed_loop_human"], "") == floor
    finally:
        line.ledger.latest[BLIND, ""] = before


def test_a_lost_table_of_steps_is_noticed(line: Engine, monkeypatch: pytest.MonkeyPatch):
    stage, version = STAGES["closed_loop_human"], line._table_version
    assert line.is_there(stage, "")
    monkeypatch.setattr(line, "_table_version", lambda t: -1 if t.endswith("steps") else version(t))
    assert "closed_loop_steps is not in" in line.why_gone(stage, "")


def test_a_planner_that_fails_counts_zero_and_says_so(tmp_path: Path, line: Engine):
    other = engine(tmp_path)
    plant(other, "bad", broken=True)
    other.lake.replace("closed_loop_scenes", line.lake.rows("closed_loop_scenes"), {})
    done = other.execute("closed_loop_ego_status_mlp")
    assert done.metadata["failed"] == done.rows == 2
    assert "NaN" in done.metadata["first_failure"]
    other.execute("closed_loop_scores")
    rows = other.lake.rows("closed_loop_scores")
    assert rows and all(not row["valid"] and row["cls"] == row["ds"] == 0.0 for row in rows)
    assert all("NaN" in row["reason"] for row in rows)


def test_the_gate_takes_scores_of_the_lake_and_lets_another_version_drive(
    line: Engine, monkeypatch: pytest.MonkeyPatch
):
    driven: list[str] = []
    drive = stored.run_episode

    def counted(driver: Any, scene: Any, **more: Any) -> Any:
        driven.append(scene.spec.token)
        return drive(driver, scene, **more)

    monkeypatch.setattr(stored, "run_episode", counted)
    ours = seat_of(line, BLIND)
    kept = driven_scores(line, ours)
    assert driven == []
    before = stored.Seat(name=BLIND, folder=ours.folder, model_version="v0")
    again = driven_scores(line, before)
    assert len(driven) == 2
    shown = ("scene", "traffic", "seed", "prefix_s", "cls", "ds")
    assert sorted([r[n] for n in shown] for r in kept) == sorted(
        [r[n] for n in shown] for r in again
    )
    assert refusal(kept, again, ClosedLoopGate(), "") == ""
    driven_scores(line, before)
    assert len(driven) == 2  # its drives are kept
    with pytest.raises(SetupError, match="job closed_loop"):
        driven_scores(engine(line.settings.home / "elsewhere"), ours)


# ---- what it says ------------------------------------------------------------------------------


def test_the_summary_is_the_mean_of_the_scores(line: Engine):
    scores = line.lake.rows("closed_loop_scores")
    found = line.lake.rows("closed_loop_summary")
    assert {row["scenes_of"] for row in found} == {"usual", "dangerous", "merge", "danger_lead"}
    for row in found:
        dangerous = row["scenes_of"] in ("dangerous", "danger_lead")
        own = [
            s["ds"]
            for s in scores
            if s["driver"] == row["driver"]
            and s["prefix_s"] == row["prefix_s"]
            and (s["situation"] == "danger_lead") == dangerous
        ]
        assert row["runs"] == row["scenes"] == len(own) == 1
        assert row["ds"] == pytest.approx(np.mean(own))
        assert math.isnan(row["ncap"]) != dangerous


def test_the_human_is_above_who_stands_still(line: Engine):
    longest = line.recipe.closed_loop.seconds
    of = {
        row["driver"]: row["ds"]
        for row in line.lake.rows("closed_loop_summary", {"scenes_of": "usual"})
        if row["prefix_s"] == longest
    }
    assert of["human"] == 100.0 > of["stand_still"]


def test_page_and_pictures_show_every_driver_and_the_worst_drives(line: Engine):
    page = next((line.settings.home / "reports").glob("closed_loop-*.html")).read_text()
    assert all(f">{driver}</b>" in page for driver in DROVE)
    assert "data:image/jpeg;base64," in page
    worst = worst_rows(line.lake.rows("closed_loop_scores"), 3)
    assert {row["driver"] for row in worst} == {BLIND}
    run = stored_run(line, worst[0])
    assert run is not None and run.scene == worst[0]["scene"]
    for name in ("closed_loop_scores", "closed_loop_summary"):
        draw = STAGES[name].picture
        assert draw is not None
        drawn = draw(line, [""])
        for png in [drawn] if isinstance(drawn, bytes) else drawn:
            assert png.startswith(b"\x89PNG")


def test_the_browser_plays_what_was_driven_with_every_infraction_marked(
    line: Engine, tmp_path: Path
):
    """Rows of real drives, not made-up ones: the list, one run to its first infraction, play."""
    done = export_site(line.lake, ViewOptions(out=tmp_path / "site", run_pictures=1))
    runs = line.lake.rows("closed_loop_runs")
    assert done.scenes == 0
    index = read_data(tmp_path / "site" / "data" / "index.js")["runs"]
    assert {(r["driver"], r["scene"]) for r in index} == {(r["driver"], r["scene"]) for r in runs}
    whole = [r for r in line.lake.rows("closed_loop_scores") if r["prefix_s"] == 6.0]
    scores = {(r["driver"], r["scene"]): r["cls"] for r in whole}
    for told in index:
        assert told["scores"]["cls"] == pytest.approx(
            scores[told["driver"], told["scene"]], abs=1e-4
        )
        page = read_data(tmp_path / "site" / "data" / "runs" / f"{told['run']}.js")
        place = {name: told[name] for name in ("driver", "scene", "traffic")}
        marks = sorted((m["kind"], m["step"]) for m in page["marks"])
        rows = line.lake.rows("closed_loop_infractions", place)
        assert marks == sorted((row["kind"], row["step"]) for row in rows)
        assert page["road"] and len(page["time_s"]) == round(told["seconds"] * 10) + 1
    if chromium_path():
        with Browser() as page:
            watch(page, (tmp_path / "site" / "index.html").as_uri(), index)


def watch(page: Browser, url: str, index: list[dict[str, Any]]) -> None:
    """From the first page to the first infraction of the worst run, and on."""
    ready = "document.body && document.body.dataset.ready"
    page.open(url, ready)
    assert page.js("document.querySelectorAll('tbody tr').length") == len(index)
    worst = next(told for told in index if told["infractions"])
    page.click(f"tbody a[href*='run/{worst['run']}?at=lost']")
    page.wait("document.querySelectorAll('#why .mark').length")
    marks = page.js("document.querySelectorAll('[data-mark]').length")
    assert marks == page.js("document.querySelectorAll('#why li').length") == worst["infractions"]
    lost = float(page.js("document.querySelector('.clock output').textContent").split()[0])
    assert f"{lost:.1f} s" == page.js("document.querySelector('#why li button').textContent")
    page.press("Home")
    page.click("#play")
    page.wait("parseFloat(document.querySelector('.clock output').textContent) > 0.2")
    drawn = next(told["run"] for told in index if told["pictures"])
    page.open(f"{url}#/run/{drawn}?t=1", ready)
    page.wait("document.querySelector('.view img').naturalWidth > 100")
    assert page.errors == []


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"situations": ("flying",)}, "use some of lead_brakes"),
        ({"traffic": ("none",)}, "reactive, log, or both"),
        ({"per_situation": 0}, "without scenes"),
        ({"seconds": 2.0}, "a plan alone is 4 s"),
    ],
)
def test_a_set_that_nobody_can_drive_is_refused(change: dict[str, Any], rule: str):
    with pytest.raises(ValueError, match=rule):
        ClosedLoopConfig(**change)


def test_every_situation_is_driven_by_every_recipe_but_the_smallest():
    for size in ("mini", "single_gpu", "paper"):
        assert set(getattr(ClosedLoopConfig, size)().situations) == {*USUAL, *DANGEROUS}


def test_a_gate_that_asks_for_nothing_is_refused():
    with pytest.raises(ValueError, match="use some of cls"):
        ClosedLoopGate(scores=("speed",))
    with pytest.raises(ValueError, match="positive"):
        ClosedLoopGate(tolerance=-0.1)
