"""What scoring says when it is done: means only where they are whole, holes by name, and one row for
each plan that was given.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from latentvla_core.data.filters import SceneFilter
from latentvla_core.errors import SetupError
from latentvla_core.pdms.metrics import SUB_SCORES
from latentvla_core.pdms.two_stage import COLUMNS, StageGroup, StageScene, TwoStageScore
from latentvla_core.scoring import two_stage
from latentvla_core.scoring.plans import Plans
from latentvla_core.scoring.rows import blank_rows, in_order, schema
from latentvla_core.scoring.tree import (
    SHOWN_TRAJECTORIES,
    LogScores,
    Rules,
    _report,
    _unknown,
    check_choice,
)
from latentvla_core.scoring.two_stage import TwoStageReport

PLAN = np.zeros((8, 3))


@pytest.mark.parametrize(
    ("metric", "traffic", "told"),
    [
        ("pdm", "replay", r"metric is 'pdm'; must be one of \['epdms', 'pdms'\]"),
        ("epdms", "idm", "traffic is 'idm'; must be one of replay, reactive"),
        ("pdms", "reactive", "reactive traffic belongs to --metric epdms"),
    ],
)
def test_a_metric_or_traffic_that_is_none_is_refused_with_those_there_are(metric, traffic, told):
    with pytest.raises(SetupError, match=told):
        check_choice(metric, traffic)


@pytest.mark.parametrize("choice", [("pdms", "replay"), ("epdms", "replay"), ("epdms", "reactive")])
def test_what_exists_is_accepted(choice):
    check_choice(*choice)


def rules(metric: str = "epdms", traffic: str = "replay", plans: Plans | None = None) -> Rules:
    return Rules(
        maps_root="",
        scene_filter=SceneFilter(num_future_frames=8),
        plans=plans or Plans({}),
        metric=metric,
        traffic=traffic,
    )


def test_scores_in_reactive_traffic_are_another_version():
    assert rules("pdms").version == "pdms-v1.1"
    assert rules().version == "epdms-v2.2"
    assert rules(traffic="reactive").version == "epdms-v2.2-reactive"


def scored(*rows: tuple[str, str, float]):
    """Rows of (scene, planner, score); NaN is a row that could not be scored."""
    import pyarrow as pa

    made = [
        dict.fromkeys(SUB_SCORES["pdms"], 1.0)
        | {"scene_token": token, "trajectory_id": name, "score": score}
        | {"valid": bool(np.isfinite(score)), "metric_version": "pdms-v1.1"}
        | {"reason": "" if np.isfinite(score) else "no map"}
        for token, name, score in rows
    ]
    return pa.Table.from_pylist(made, schema("pdms"))


def report(table, expected: set[str], faults: tuple[str, ...] = ()) -> str:
    return str(_report(table, faults, expected, "pdms-v1.1", "S.parquet", "scenes of the filter"))


def test_one_planner_on_every_scene_has_means_of_every_column():
    told = report(scored(("a", "p", 0.5), ("b", "p", 1.0)), {"a", "b"})
    assert told.splitlines()[0] == "pdms-v1.1: scored 2 of 2 (scenes of the filter)"
    assert told.splitlines()[-2].split() == ["score", "0.750000"]
    assert told.splitlines()[-1] == "wrote 2 rows to S.parquet"
    assert len(told.splitlines()) == 2 + len(SUB_SCORES["pdms"]) + 1


def test_a_hole_means_no_mean_and_its_name():
    told = report(scored(("a", "p", 0.5), ("b", "p", np.nan)), {"a", "b", "c"})
    assert "scored 1 of 3; 1 without a trajectory (c); 1 invalid: no map" in told
    assert "no mean: not every scene is scored" in told
    assert "0.5" not in told


def test_a_scene_that_the_split_does_not_have_is_in_no_mean():
    told = report(scored(("a", "p", 0.5), ("x", "p", 0.0)), {"a"})
    assert "1 not in the split (x)" in told
    assert "0.500000" in told


def test_several_planners_have_a_line_each_in_the_order_of_their_names():
    rows = [("a", "slow", 0.25), ("a", "fast", 0.75), ("b", "fast", 0.25), ("b", "slow", np.nan)]
    lines = report(scored(*rows), {"a", "b"}).splitlines()
    assert lines[1].split() == ["fast", "0.500000"]
    assert lines[2].startswith("  slow")
    assert "no mean, scored 1 of 2; 1 invalid: no map" in lines[2]


def test_too_many_planners_to_show_have_one_mean_of_all():
    many = [("a", f"p{k}", 0.5) for k in range(2 * SHOWN_TRAJECTORIES + 1)]
    assert "p7" not in report(scored(*many), {"a"})
    assert "p7" in report(scored(*many[:-1]), {"a"})


def test_faults_of_logs_are_counted_and_the_first_is_told():
    told = report(scored(("a", "p", 0.5)), {"a"}, ("log x: frame 3", "log y"))
    assert "2 faults in the logs, first: log x: frame 3" in told


def test_parts_of_a_tree_come_together_and_no_part_is_an_empty_table():
    one = LogScores(scored(("a", "p", 0.5)), frozenset("ab"), ("one",))
    two = LogScores(scored(("c", "p", 0.5)), frozenset("c"), ("two", "three"))
    found = LogScores.of([one, two], "pdms")
    assert found.rows["scene_token"].to_pylist() == ["a", "c"]
    assert (found.tokens, found.faults) == (frozenset("abc"), ("one", "two", "three"))
    none = LogScores.of([], "pdms")
    assert none.rows.schema == schema("pdms") and none.rows.num_rows == 0


def test_a_plan_for_a_scene_that_does_not_exist_is_a_row_that_says_what_a_scene_needs():
    plans = Plans({"a": {"p": PLAN}, "x": {"p": PLAN, "q": PLAN}})
    found = LogScores(scored(("a", "p", 0.5)), frozenset("ab"), ("fault",))
    rows = _unknown(found, rules(plans=plans), "test").to_pylist()
    assert [(r["scene_token"], r["trajectory_id"]) for r in rows] == [("x", "p"), ("x", "q")]
    assert "split 'test' has no such scene" in rows[0]["reason"]
    assert "8 frames after it and 3 before" in rows[0]["reason"]
    assert rows[0]["reason"].endswith("its logs have 1 faults")
    whole = _unknown(replace(found, faults=()), rules(plans=plans), "test").to_pylist()
    assert "faults" not in whole[0]["reason"]


def test_rows_of_any_version_sort_by_scene_then_planner():
    made = blank_rows({"b": {"p": ""}, "a": {"q": "", "p": ""}}, "pdms-v1.1")
    rows = in_order([made]).to_pylist()
    keys = [(row["scene_token"], row["trajectory_id"]) for row in rows]
    assert keys == [("a", "p"), ("a", "q"), ("b", "p")]


SCENE = StageScene(
    dict.fromkeys(SUB_SCORES["epdms"], 1.0) | {"score": 0.9, "progress": 7.0},
    np.zeros(2),
    np.zeros(2),
    0,
    np.zeros((41, 11)),
)
GROUPS = [StageGroup("now", "before", (("later", "later before"),))]


def whole(value: float = 0.5) -> TwoStageScore:
    means = dict.fromkeys(COLUMNS, value)
    scenes = dict.fromkeys(("now", "before", "later", "later before"), means)
    return TwoStageScore(means, means, means, scenes, dict.fromkeys(scenes, 1.0))


def rows_of(result: TwoStageScore | str, scored: two_stage.Scored) -> dict[str, dict[str, Any]]:
    plans = Plans({token: {"p": PLAN} for token in (*scored, "unknown")} | {"other": {"q": PLAN}})
    stages = (frozenset({"now", "before"}), frozenset({"later", "later before"}))
    found = two_stage._rows("p", result, scored, plans, stages)
    return {row["scene_token"]: row for row in found}


def test_both_stages_are_rows_with_their_stage_and_weight():
    rows = rows_of(whole(), {t: {"p": SCENE} for t in ("now", "before", "later", "later before")})
    assert set(rows) == {"now", "before", "later", "later before", "unknown"}
    assert [rows[t]["stage"] for t in ("now", "before", "later", "unknown")] == [1, 1, 2, 0]
    assert rows["now"]["valid"] and rows["now"]["score"] == 0.5 and rows["now"]["weight"] == 1.0
    assert not rows["unknown"]["valid"] and np.isnan(rows["unknown"]["weight"])
    assert "neither the logs nor the synthetic scenes" in rows["unknown"]["reason"]


def test_a_scene_that_was_measured_keeps_its_numbers_when_the_whole_has_no_score():
    rows = rows_of("2 scenes are missing", {"now": {"p": SCENE}, "before": {"p": "no map"}})
    now, before = rows["now"], rows["before"]
    assert now["lane_keeping"] == 1.0 and np.isnan(now["score"])
    assert not now["valid"] and now["reason"] == "2 scenes are missing"
    assert "progress" not in now
    assert before["reason"] == "no map" and np.isnan(before["lane_keeping"])


@pytest.mark.parametrize(
    ("scored", "told"),
    [
        ({}, "4 of 4 scenes of the mapping are not scored (before, later, later before, now)"),
        (
            {"now": {"p": "no map"}, "before": {"p": "no lane"}, "x": {"q": "of another"}},
            "2 scenes cannot be scored, first before: no lane",
        ),
    ],
)
def test_a_planner_without_all_scenes_has_no_two_stage_score(scored, told):
    assert told in str(two_stage._aggregate("p", scored, GROUPS, Plans({})))


def test_planners_are_named_once_in_order():
    plans = Plans({"a": {"q": PLAN, "p": "broken"}, "b": {"p": PLAN}})
    assert two_stage._names(plans) == ["p", "q"]


def test_a_two_stage_report_has_three_means_of_each_column_or_the_reason():
    told = str(
        TwoStageReport(
            out="S.parquet",
            rows=9,
            expected=(2, 6),
            results={"p": whole(0.25), "q": "a hole"},
            faults=("scene x",),
        )
    )
    lines = told.splitlines()
    assert lines[0] == "epdms-v2.2-reactive, two stages: 2 + 6 scenes in the mapping"
    score = next(line for line in lines if line.split()[0] == "score")
    assert score.count("0.250000") == 3
    assert "  q: no score, a hole" in lines
    assert "1 faults in logs and scenes, first: scene x" in lines
    assert lines[-1] == "wrote 9 rows to S.parquet"
