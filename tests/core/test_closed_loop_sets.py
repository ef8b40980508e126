"""Scene sets, drives of many scenes, their tables and their page."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from latentvla_core.closed_loop import report
from latentvla_core.closed_loop.drive import TABLES, DriveConfig, drive_set
from latentvla_core.closed_loop.scenes.scene import open_scene
from latentvla_core.closed_loop.scenes.scripts import driver_of
from latentvla_core.closed_loop.scenes.sets import (
    HELD_OUT,
    SceneSet,
    Search,
    Verdict,
    candidates,
    judge,
    spec_of,
)
from latentvla_core.closed_loop.scenes.situations import DANGEROUS, SITUATIONS, USUAL, situation
from latentvla_core.closed_loop.scores import contacts
from latentvla_core.errors import DataError, SetupError
from latentvla_core.statistics import Interval

pytestmark = pytest.mark.slow


def search(wanted: int, good: set[int], ahead: int = 0) -> SceneSet:
    """A search in which only candidates of some numbers are scenes, read `ahead` of the verdicts."""
    found, waiting = Search(("merge", "bend"), wanted, 0), []
    for spec in found.specs():
        waiting.append(spec)
        while len(waiting) > ahead:
            first = waiting.pop(0)
            found.take(Verdict(first, "" if first.seed in good else "no"))
    for spec in waiting:
        found.take(Verdict(spec, "" if spec.seed in good else "no"))
    return found.result


def test_a_set_is_balanced_and_says_how_many_candidates_were_refused():
    chosen = search(2, {1, 3, 4})
    assert [v.spec.seed for v in chosen.scenes] == [1, 3, 1, 3]
    assert chosen.tried == {"merge": 4, "bend": 4}
    assert chosen.rejection_rate == 0.5 and chosen.reasons == {"no": 4}


def test_reading_ahead_changes_nothing():
    assert search(2, {1, 3, 4}, ahead=5) == search(2, {1, 3, 4})


def test_a_small_set_is_the_beginning_of_a_larger_one():
    small, large = search(1, {1, 3, 4}), search(3, {1, 3, 4})
    of = lambda s: [v.spec.token for v in s.scenes if v.spec.situation == "merge"]  # noqa: E731
    assert of(large)[:1] == of(small)


def test_a_search_without_end_is_given_up_with_the_counts(monkeypatch):
    monkeypatch.setattr("latentvla_core.closed_loop.scenes.sets.MOST_TRIES", 3)
    with pytest.raises(DataError, match="0 of 1 scenes in 3 candidates"):
        search(1, set())


def test_candidates_lie_in_towns_that_no_training_world_uses():
    specs = list(islice(candidates("bend", 0), 40))
    assert min(s.world_seed for s in specs) >= HELD_OUT
    assert len({s.location for s in specs}) == 4 and len({s.style for s in specs}) == 3
    assert len({s.token for s in specs}) == 40


def test_there_are_nine_situations_and_three_dangers():
    assert (len(USUAL), len(DANGEROUS)) == (9, 3)
    with pytest.raises(SetupError, match="red_light"):
        situation("red_lihgt")


def first_scene(name: str, seconds: float = 8.0) -> Verdict:
    return next(v for s in islice(candidates(name, 0), 40) if not (v := judge(s, seconds)).reason)


@pytest.mark.parametrize("name", ["cut_in", "danger_cut_in"])
def test_a_car_cuts_in_often_enough_for_a_set_of_twenty(name: str):
    """It was one candidate in 20, and one in 160: the ego stood on a road of one lane, or the other
    car was gone before it could come over.
    """
    tried = [judge(spec, 8.0) for spec in islice(candidates(name, 0), 12)]
    assert sum(not v.reason for v in tried) >= 2, [v.reason for v in tried]


def test_the_scene_begins_with_the_other_car_beside_and_a_little_ahead():
    seen = 0
    for spec in islice(candidates("cut_in", 0), 8):
        try:
            simulation = open_scene(spec).simulation
        except DataError:
            continue
        ego, cutter = simulation.driver, driver_of(simulation, "cutter")
        lanes = simulation.network.neighbours(ego.lane(simulation.network).id)
        seen += cutter.chain[cutter.at] in lanes and 4.0 < cutter.s_m - ego.s_m < 30.0
    assert seen >= 2


def test_somebody_who_does_not_react_crashes_in_a_dangerous_scene():
    verdict = first_scene("danger_lead", 12.0)
    assert SITUATIONS[verdict.spec.situation].is_dangerous
    assert verdict.reference_impact_mps > 0.5


def test_a_set_comes_back_from_its_file(tmp_path: Path):
    spec = next(candidates("merge", 0))
    saved = SceneSet([Verdict(spec, "", 3.5), Verdict(spec, "")], {"merge": 3}, {"no": 1})
    saved.save(tmp_path / "scenes.json")
    back = SceneSet.load(tmp_path / "scenes.json")
    assert [v.spec for v in back.scenes] == [spec, spec]
    assert back.scenes[0].reference_impact_mps == 3.5
    assert np.isnan(back.scenes[1].reference_impact_mps)
    assert spec_of(spec.to_row()) == spec
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(SetupError, match="no scene set"):
        SceneSet.load(tmp_path / "broken.json")


# ------------------------------------------------------------------ many scenes, tables, page

CONFIG = DriveConfig(
    drivers=("constant_velocity", "human", "stand_still"), traffic=("reactive", "log"), seconds=5.0
)


@pytest.fixture(scope="module")
def driven(tmp_path_factory) -> tuple[Path, SceneSet, dict]:
    out = tmp_path_factory.mktemp("drive")
    return out, *drive_set(("bend", "red_light"), 1, 0, CONFIG, out, workers=1)


def test_the_same_command_gives_the_same_bytes_from_scratch_and_after_a_kill(driven, tmp_path):
    out, _, _ = driven
    drive_set(("bend", "red_light"), 1, 0, CONFIG, tmp_path, workers=1)
    parts = sorted((tmp_path / "parts").rglob("*.json.gz"))
    parts[-1].unlink()  # as if killed before the last one
    drive_set(("bend", "red_light"), 1, 0, CONFIG, tmp_path, workers=1)
    for name in (*(f"{t}.parquet" for t in TABLES), "scenes.json"):
        assert (out / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_every_driver_has_a_row_in_both_kinds_of_traffic(driven):
    _, scenes, rows = driven
    last = report.whole(rows["closed_loop_scores"])
    lines = report.table(last)
    assert [(x.traffic, x.driver) for x in lines] == [
        (t, d) for t in CONFIG.traffic for d in CONFIG.drivers
    ]
    assert all(x.runs == len(scenes.scenes) == 2 for x in lines)
    human = next(x for x in lines if x.driver == "human")
    assert known(human.values["ds"]).mean == 100.0


def test_prefixes_come_from_the_same_run(driven):
    _, _, rows = driven
    lengths = sorted({r["prefix_s"] for r in rows["closed_loop_scores"]})
    assert lengths == [4.0, 5.0]
    assert set(report.by_length(rows["closed_loop_scores"])) == {4.0, 5.0}


def test_the_page_shows_every_run_and_every_infraction(driven):
    from latentvla_core.viz.drives.write import write_drive_page

    out, scenes, rows = driven
    text = write_drive_page(scenes, rows, 2, out).read_text()
    assert "Closed loop: constant_velocity and human</h1>" in text
    for row in rows["closed_loop_runs"]:
        assert row["scene"] in text
    for row in rows["closed_loop_infractions"]:
        assert row["kind"].replace("_", " ") in text
    assert text.count("<svg") >= 4 and text.count("data:image/jpeg") >= 10
    for told in ("More is better", "Floors need no training", "the human's path is green"):
        assert told in text  # a stranger has nobody to ask
    assert "refused" in text and "http" not in text.replace("http-equiv", "").split("</style>")[1]


def test_how_two_touched_is_said_in_words():
    from latentvla_core.viz.drives.page import HOW, _sentence

    row = {"kind": "collision_vehicle", "partner": "v3", "at_fault": False, "time_s": 2.0,
           "x_m": 1.0, "y_m": 2.0, "detail": "side_in_lane, 1.8 m/s"}  # fmt: skip
    told = _sentence(row)
    assert "sideways, the ego in its lane, 1.8 m/s" in told and "not at fault" in told
    rules = Path(contacts.__file__).read_text()
    assert all(f'"{why}"' in rules for why in HOW)
    assert "26 of 155 m" in _sentence({**row, "kind": "timeout", "detail": "26 of 155 m"})


def known(value: Interval | None) -> Interval:
    assert value is not None
    return value


def scores(**by_driver: list[float]) -> list[dict]:
    return [
        {"scene": f"s{k}", "driver": d, "traffic": "reactive", "seed": 0, "situation": "bend",
         "prefix_s": 20.0, "valid": v >= 0, "cls": max(v, 0.0), "ds": 0.0}
        for d, values in by_driver.items()
        for k, v in enumerate(values)
    ]  # fmt: skip


def test_a_failed_run_counts_zero_and_is_counted():
    line = report.table(scores(a=[1.0, -1.0]), ("cls",))[0]
    assert (line.runs, line.crashed, known(line.values["cls"]).mean) == (2, 1, 0.5)


def test_pairs_are_compared_scene_by_scene():
    """Scenes differ much, drivers little: the pair shows it, the means do not."""
    base = np.linspace(0.0, 0.9, 30)
    rows = scores(a=list(base + 0.1), b=list(base))
    pair = report.difference(rows, "a", "b", "cls", "reactive")
    assert pair.low == pytest.approx(0.1) and pair.high == pytest.approx(0.1)
    alone = known(report.mean_of([r for r in rows if r["driver"] == "b"], "cls"))
    assert alone.high - alone.low > 0.1


def test_files_and_lake_have_the_same_columns_and_the_scores_own_names():
    from latentvla_core.closed_loop.columns import COLUMNS, parquet_fields
    from latentvla_core.closed_loop.scores.score import SCORES, TERMS
    from latentvla_core.closed_loop.steps import STATE_COLUMNS
    from latentvla_core.tables import TABLES as OF_LAKE
    from latentvla_core.tables.closed_loop import LAKE_ONLY

    for name, columns in COLUMNS.items():
        assert set(OF_LAKE[name].names) - set(columns) <= set(LAKE_ONLY)
        assert [f.name for f in parquet_fields()[name]] == list(columns)
    assert {*TERMS, *SCORES} <= set(COLUMNS["closed_loop_scores"])
    assert set(STATE_COLUMNS) <= set(COLUMNS["closed_loop_steps"])
