"""The report: intervals over logs, what is whole and what is not, causes, lineage; one file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pdms_little_worlds import straight_plan, straight_road, with_object

from benchmarks.site_lake import PLANNERS, write_lake
from latentvla_core.lake.store import Lake
from latentvla_core.pdms.metrics import SUB_SCORES
from latentvla_core.pdms.score import score_trajectories
from latentvla_core.statistics import Interval
from latentvla_core.viz.report.board import bar
from latentvla_core.viz.report.facts import kind_of, read_facts
from latentvla_core.viz.report.lineage import back_from, lineage, read_work
from latentvla_core.viz.report.page import codebooks, without_folders, write_report_page
from latentvla_core.viz.report.worst import least, worst_plans
from latentvla_core.viz.site.chapters import inside

PLACE = {"split": "test", "shard": 0}


def work(
    asset: str, at: int, inputs: str = "{}", seconds: float = 1.0, partition: str = ""
) -> dict:
    text = dict.fromkeys(("code_version", "run_id"), "1")
    numbers = {"delta_version": at, "rows": 10, "quarantined": 0, "finished_us": at}
    return {
        **text,
        **numbers,
        "asset": asset,
        "partition": partition,
        "made_by": f"{asset}{at}",
        "table_name": asset,
        "inputs": inputs,
        "recipe": "mini",
        "commit": "abcdef1234567",
        "seconds": seconds,
    }


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """75 scenes in three logs, one a split; a test scene with a crash; a ledger."""
    root = tmp_path_factory.mktemp("report")
    made = write_lake(root / "lake", 75, pictures=root / "pictures")
    scene = made.rows("scenes", {"split": "test"})[4]
    keys = {name: scene[name] for name in ("split", "shard", "scene_token", "log_name")}
    world = with_object(straight_road(10.0), (18.0, 0.0))
    world = replace(world, scene_token=keys["scene_token"], log_name=keys["log_name"])
    made.replace("scene_worlds", [world.to_row() | keys | {"made_by": "b"}], PLACE)
    crash = straight_plan(10.0)
    told = score_trajectories([world], [crash[None]], metric="pdms").rows()[0]
    for table, change in (("trajectories", {"poses": crash}), ("pdm_scores", told)):
        rows = made.rows(table, {**PLACE, "trajectory_id": "ipad"})
        for row in rows:
            same = row.get("metric_version", told["metric_version"]) == told["metric_version"]
            if row["scene_token"] == keys["scene_token"] and same:
                row.update(change, trajectory_id="ipad")
        made.replace(table, rows, {**PLACE, "trajectory_id": "ipad"})
    made.append(
        "materialisations",
        [
            work("frames", 0),
            work("scenes", 1, '{"frames": 0}'),
            work("ipad", 2, '{"scenes": 1}', seconds=60.0),
            work("pdm_scores", 3, '{"ipad": 2, "scenes": 1}'),
            work("pdm_scores", 4, '{"ipad": 2, "scenes": 1}', partition="test-0"),
            work("pdm_summary", 5, '{"pdm_scores": 4}'),
            work("latent_codes", 6),
        ],
    )
    return made


def page_of(lake: Lake, path: Path, **changes) -> str:
    options = {"recipe": "mini", "metrics": ("pdms",), "commit": "abc"} | changes
    return write_report_page(lake, path / "report.html", **options).read_text()


def test_a_mean_has_its_interval_over_logs_and_the_count_behind_it(lake):
    facts = read_facts(lake)
    rows = lake.rows("pdm_scores", {"split": "train", "trajectory_id": "ipad"})
    scores = [r["score"] for r in rows if r["metric_version"] == "pdms-v1.1"]
    found = next(
        s
        for s in facts.standings
        if (s.planner, s.split, s.metric) == ("ipad", "train", "pdms-v1.1")
    )
    assert found.score.mean == pytest.approx(np.mean(scores))
    assert (found.score.count, found.score.groups) == (25, 1)
    assert found.is_whole and set(found.sub) == set(SUB_SCORES["pdms"])


def test_the_order_of_rows_is_fixed_and_never_the_score(lake):
    facts = read_facts(lake)
    order = [s.planner for s in facts.standings if (s.split, s.metric) == ("test", "pdms-v1.1")]
    assert order == [
        "human", "constant_velocity", "ipad", "ipad_latent", "ipad_student", "transfuser"
    ]  # fmt: skip
    assert facts.standings[0].split == "test" and kind_of("human") < kind_of("ipad")
    assert set(order) == set(PLANNERS)


def test_nothing_is_ranked_until_a_comparison_has_its_controls(lake, tmp_path):
    text = page_of(lake, tmp_path)
    assert "a ranking of planners" in text and "has its controls" in text
    held = page_of(lake, tmp_path, comparisons=["host+student − host: +1.2 [+0.3, +2.1]"])
    assert "a ranking of planners" not in held and "+1.2 [+0.3, +2.1]" in held


def test_a_split_scored_in_part_is_never_shown_as_its_mean(tmp_path):
    lake = write_lake(tmp_path / "lake", 25)
    place = {"split": "train", "shard": 0, "trajectory_id": "ipad"}
    rows = lake.rows("pdm_scores", place)
    for row in rows[:2]:
        row.update(valid=False, score=np.nan, reason="no map")
    lake.replace("pdm_scores", rows, place)
    assert "of 25 scenes: not a mean of the split" in page_of(lake, tmp_path)


def test_one_log_alone_has_no_interval():
    assert "one log: no interval" in bar(Interval(0.5, 0.5, 0.5, 20, 1), "ipad")
    drawn = bar(Interval(0.5, 0.25, 0.75, 20, 4), "ipad")
    assert "[0.250, 0.750]" in drawn and "M52.5 9H157.5" in drawn
    assert "aria-label='ipad: 0.500, [0.250, 0.750]'" in drawn


def test_the_worst_plan_is_a_picture_with_its_cause(lake):
    found = worst_plans(lake, {"split": "test"}, "pdms", 1)
    assert found[0].planner == "ipad" and found[0].score == 0.0
    assert any("NC = 0: hits" in cause for cause in found[0].causes)
    assert found[0].above.startswith(b"\x89PNG") and found[0].seen.startswith(b"\xff\xd8")
    assert f"scene/{found[0].scene_token}?plan=ipad" in found[0].address


def test_shown_failures_differ_in_scene_and_kind():
    rows = [
        {"scene_token": s, "trajectory_id": "p", "score": v, "a": a, "b": b}
        for s, v, a, b in (("1", 0.0, 0, 1), ("1", 0.1, 1, 0), ("2", 0.0, 0, 1), ("3", 0.2, 1, 0))
    ]
    assert [row["scene_token"] for row in least(rows, ("a", "b"), 5)] == ["1", "3"]


def test_lineage_goes_from_the_score_down_to_frames(lake):
    ledger = read_work(lake)
    assert [w.asset for w in back_from(ledger, "pdm_summary")] == [
        "pdm_summary", "pdm_scores", "ipad", "scenes", "frames"
    ]  # fmt: skip
    assert ledger["pdm_scores"].rows == 20 and ledger["pdm_scores"].version == 4
    text = lineage(ledger)
    assert text.index("latent_codes") > text.index("beside the way")
    assert "ipad@2" in text and "60.0" in text


def test_a_circle_in_the_ledger_ends():
    from latentvla_core.viz.report.lineage import Work

    ring = {"a": Work("a", {"b": 1}), "b": Work("b", {"a": 1})}
    assert [w.asset for w in back_from(ring, "a")] == ["a", "b"]


def test_the_page_is_one_file_without_a_path_of_the_machine(lake, tmp_path):
    refused = {
        **PLACE,
        "stage": "frames",
        "file": f"{tmp_path}/logs/bad.pkl",
        "frame": "",
        "field": "ego",
        "reason": f"{tmp_path}/logs/bad.pkl: not a pickle",
        "made_by": "b",
    }
    lake.replace("quarantine", [refused], {**PLACE, "stage": "frames"})
    text = page_of(lake, tmp_path, figures=codebooks(lake, ["test"]), site="site")
    assert str(tmp_path) not in text and lake.root not in text and "bad.pkl: not a pickle" in text
    assert not re.findall(r"(?:src|href)='(?!data:|#|site/)", text)
    assert "<script" not in text
    images = re.findall(r"<img [^>]*>", text)
    assert len(images) >= 3 and all(re.search(r"alt='[^']{10,}'", image) for image in images)
    assert without_folders("no folder here", "x.pkl") == "no folder here"


def test_closed_loop_scores_stand_beside_the_open_ones(lake, tmp_path):
    runs = [
        {
            "driver": "ipad",
            "scene": f"s{i}",
            "traffic": traffic,
            "prefix_s": t,
            "valid": True,
            "cls": v if traffic == "reactive" else 0.0,
        }
        for i, v in enumerate((0.2, 0.4, 0.6))
        for t in (10.0, 20.0)
        for traffic in ("reactive", "log")
    ]
    facts = read_facts(lake, runs)
    assert facts.closed["ipad"].mean == pytest.approx(0.4) and facts.closed["ipad"].count == 3
    text = page_of(lake, tmp_path, closed=runs)
    assert "closed loop" in text and "not driven" in text
    assert "closed loop</th>" not in page_of(lake, tmp_path)


def test_an_empty_lake_says_what_to_do(tmp_path):
    assert "materialise pdm_scores" in page_of(Lake(str(tmp_path / "none")), tmp_path)


def test_as_a_chapter_the_report_links_into_the_site():
    text = inside("<a href='site/index.html#/x'>a</a><a href='reports/latent_codes-1.html'>b</a>")
    assert "target=_top href='../index.html#/x'" in text
    assert "target=_top href='../index.html#/chapter/atlas'" in text
