"""The report: intervals over logs, what is whole and what is not, causes, lineage; one file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pdms_little_worlds import straight_plan, straight_road, with_object

from benchmarks.site_lake import PLANNERS, write_lake
from latentvla_core.closed_loop.scenes.situations import DANGEROUS
from latentvla_core.evidence.summary import FIGURES
from latentvla_core.evidence.summary import table as summary_table
from latentvla_core.lake.store import Lake
from latentvla_core.pdms.metrics import SUB_SCORES
from latentvla_core.pdms.score import score_trajectories
from latentvla_core.statistics import Interval
from latentvla_core.viz.report.board import bar, first_of_hosts
from latentvla_core.viz.report.facts import kind_of, read_facts
from latentvla_core.viz.report.lineage import back_from, lineage, read_work
from latentvla_core.viz.report.page import codebooks, without_folders, write_report_page
from latentvla_core.viz.report.study import read_study
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
    rows = [s for s in facts.standings if (s.split, s.metric) == ("test", "pdms-v1.1")]
    assert first_of_hosts(rows) == {"ipad", "transfuser"}


def test_planners_are_never_ranked_and_a_study_that_was_not_run_is_named(lake, tmp_path):
    text = page_of(lake, tmp_path)
    assert "a ranking of planners" in text and "Job <code>evidence</code>" in text
    assert "Comparisons with their controls" not in text
    assert "No evidence: without" in text or "Fused planner" not in text


def study_rows(gain: float) -> list[dict]:
    """Two arms and their host on 40 logs with two seeds; the teacher adds `gain` to PDMS."""
    blank = dict.fromkeys(FIGURES, 0.5)
    added = {"menu": 0.0, "menu+blind_teacher": 0.01, "menu+teacher": gain}
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.02, (40, 2))
    return [
        {
            **blank, "variant": variant, "seed": seed, "labelled": 76, "role": "test",
            "log_name": f"log{n}", "situation": "cruise", "scenes": 5, "made_by": "b",
            "pdms": 0.6 + more + noise[n, seed],
        }
        for variant, more in added.items()
        for n in range(40)
        for seed in (0, 1)
    ]  # fmt: skip


def with_study(root: Path, gain: float) -> Lake:
    made = write_lake(root / "lake", 25)
    rows = study_rows(gain)
    for variant in {row["variant"] for row in rows}:
        own = [row for row in rows if row["variant"] == variant]
        made.replace("evidence_runs", own, {"variant": variant})
    made.replace(
        "evidence_summary", [r | {"made_by": "b"} for r in summary_table(rows, "test")], {}
    )
    return made


@pytest.mark.parametrize(("gain", "said"), [(0.05, "holds"), (-0.05, "the opposite")])
def test_a_comparison_with_its_controls_is_told_as_evidence_or_as_the_opposite(
    tmp_path, gain, said
):
    lake = with_study(tmp_path, gain)
    study = read_study(lake)
    assert study is not None and study.differences
    verdicts = {(d.a, d.b): d.verdict for d in study.differences}
    assert verdicts["menu+teacher", "menu+blind_teacher"] == ("holds" if gain > 0 else "against")
    text = page_of(lake, tmp_path)
    assert "Comparisons with their controls" in text and f"evidence: {said}" in text
    assert "a ranking of planners" in text and "makes the comparisons that could be" not in text
    told = next(d for d in study.differences if d.b == "menu+blind_teacher")
    assert f"{told.interval.mean:+.1f} [{told.interval.low:+.1f}" in text


def test_a_study_with_half_its_runs_says_so_and_the_report_is_written(tmp_path):
    lake = with_study(tmp_path, 0.05)
    own = [r for r in study_rows(0.05) if r["variant"] == "menu+teacher"]
    lake.replace("evidence_runs", own[:-1], {"variant": "menu+teacher"})
    assert "cannot be read: seeds of menu+teacher" in page_of(lake, tmp_path)


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
    assert "one scene: no interval" in bar(Interval(0.5, 0.5, 0.5, 20, 1), "ipad", "scene")
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


def driven(driver: str, scene: str, traffic: str, prefix_s: float, cls: float, **changes) -> dict:
    return {
        "driver": driver, "scene": scene, "traffic": traffic, "prefix_s": prefix_s, "valid": True,
        "cls": cls, "ds": 100 * cls, "success": cls == 1.0, "alpasim": cls, "ncap": np.nan,
        "situation": "lead_brakes",
    } | changes  # fmt: skip


def test_closed_loop_scores_stand_beside_the_open_ones(lake, tmp_path):
    runs = [
        driven("ipad", f"s{i}", traffic, t, v if traffic == "reactive" else 0.0)
        for i, v in enumerate((0.2, 0.4, 0.6))
        for t in (10.0, 20.0)
        for traffic in ("reactive", "log")
    ]
    failed = driven("blind", "s0", "reactive", 20.0, 0.0, valid=False)
    danger = driven("ipad", "d0", "reactive", 20.0, 1.0, situation=DANGEROUS[0], ncap=4.5)
    facts = read_facts(lake, [*runs, failed, danger])
    assert facts.closed["ipad"].mean == pytest.approx(0.4) and facts.closed["ipad"].count == 3
    assert facts.closed["blind"].mean == 0.0  # a driver that fails counts zero
    assert [line.driver for line in facts.drives["usual"]][:2] == ["blind", "ipad"]
    text = page_of(lake, tmp_path, closed=[*runs, failed, danger], site="site")
    assert "closed loop: CLS" in text and "not driven" in text and "1 failed" in text
    assert "staged dangers, where" in text and "4.50" in text
    assert "href='site/index.html#/runs'" in text
    bare = page_of(lake, tmp_path)
    assert "closed loop: CLS" not in bare and "<h2>Closed loop" not in bare


def test_an_empty_lake_says_what_to_do(tmp_path):
    assert "materialise pdm_scores" in page_of(Lake(str(tmp_path / "none")), tmp_path)


def test_as_a_chapter_the_report_links_into_the_site():
    text = inside("<a href='site/index.html#/x'>a</a><a href='reports/latent_codes-1.html'>b</a>")
    assert "target=_top href='../index.html#/x'" in text
    assert "target=_top href='../index.html#/chapter/atlas'" in text
