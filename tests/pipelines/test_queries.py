"""docs/queries.md cannot rot: its very blocks run against a small lake, and their answers are
looked at.

`LATENTVLA_HOME=DIR PYTHONPATH=tests python tests/pipelines/test_queries.py` writes the answers of a
demo's lake into the page.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_rows import label

from latentvla_core.lake.places import lake_root
from latentvla_core.lake.printing import write_table
from latentvla_core.lake.store import Lake
from latentvla_core.tables import TABLES, TableSpec

QUERIES = Path(__file__).resolve().parents[2] / "docs" / "queries.md"
PAGE = QUERIES.read_text()
pytestmark = pytest.mark.slow
ANSWERED = re.compile(r"```(sql|python)\n(.*?)\n```\n\n```(csv|text)\n(.*?)\n```", re.DOTALL)
SQL = [(question, answer) for kind, question, _, answer in ANSWERED.findall(PAGE) if kind == "sql"]
PYTHON = [question for kind, question, _, _ in ANSWERED.findall(PAGE) if kind == "python"]
CURRENT = "current_labels"
OF_ONE_MODEL = [query for query, _ in SQL if CURRENT in query]
SCENES = 40  # with labels; one more has none
SHARD = {"split": "train", "shard": 0}


def blank(spec: TableSpec) -> dict[str, Any]:
    """A row of empty values that fit the declaration."""
    plain = {"string": "", "bool": True}
    return {
        c.name: plain.get(c.dtype, 0) if c.shape is None
        else () if c.dtype == "string" else np.zeros([0 if s == -1 else s for s in c.shape])
        for c in spec.columns
    }  # fmt: skip


def labels(model: str) -> list[dict[str, Any]]:
    """Scene i drives 5 + 0.08 i m/s and loses i / 10 m/s in each second; its codes are i % 3 and
    three times 3.

    The last scene says 0, then 1, then 2, and one behind it brakes hardest and says nothing. Models
    other than "new" had half as many scenes, and only say 15.
    """
    scenes = range(SCENES if model == "new" else SCENES // 2)
    said = [[i % 3 if i < SCENES - 1 else step for step in range(3)] for i in scenes]
    where: dict[str, Any] = {"model_version": model, "made_by": f"labels-{model}"}
    rows = [
        label(
            f"s{i:02d}",
            step=step,
            **where,
            log_name=f"log-{i // 10}",
            timestamp_us=start_us(i) + step * 1_000_000,
            speed_mps=5 + (0.8 - step) * i / 10,
            delta_speed_mps=-i / 10,
            ego_codes=[said[i][step], 3, 3, 3] if model == "new" else [15] * 4,
            ego_confidence=[1 - i / SCENES, 1, 1, 1],
        )
        for i in scenes
        for step in range(3)
    ]
    nothing = {
        "ego_codes": [],
        "ego_distances": [],
        "ego_confidence": [],
        "valid": False,
        "reason": "no picture",
    }
    dark = [
        label(f"s{SCENES}", step=step, **where, delta_speed_mps=-9, **nothing) for step in range(3)
    ]
    return [*rows, *dark]


def start_us(scene: int) -> int:
    return 1_620_000_000_000_000 + scene * 500_000


def label_with(lake: Lake, model: str) -> None:
    lake.replace("latent_actions", labels(model), {**SHARD, "model_version": model})


def finish(lake: Lake, asset: str, made_by: str, finished_us: int) -> None:
    work = {**blank(TABLES["materialisations"]), "inputs": json.dumps({})}
    lake.append(
        "materialisations",
        [{**work, "asset": asset, "made_by": made_by, "finished_us": finished_us}],
    )


def make_atlas(lake: Lake, model: str, finished_us: int) -> None:
    empty = {**blank(TABLES["latent_codes"]), "model_version": model, "made_by": f"atlas-{model}"}
    lake.replace(
        "latent_codes", [{**empty, "code": code} for code in range(16)], {"model_version": model}
    )
    finish(lake, "latent_codes", f"atlas-{model}", finished_us)


def scores(planner: str) -> list[dict[str, Any]]:
    """Only constant velocity, by v1.1, keeps its distance, where three does not divide the number
    of the scene; scene 1 has no score.
    """
    empty = {**blank(TABLES["pdm_scores"]), **SHARD, "trajectory_id": planner}
    return [
        {
            **empty,
            "scene_token": f"s{i:02d}",
            "metric_version": metric,
            "valid": i != 1,
            "time_to_collision_within_bound": float(
                i % 3 > 0 and planner == "constant_velocity" and metric == "pdms-v1.1"
            )
            if i != 1
            else np.nan,
        }
        for i in range(SCENES + 1)
        for metric in ("pdms-v1.1", "epdms-v2.2")
    ]


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """Models "first", "old" and "new" labelled, in this order, written in another; "stopped",
    trained last, may not label.
    """
    monkeypatch.setenv("LATENTVLA_LAKE", str(tmp_path / "lake"))
    lake = Lake(str(tmp_path / "lake"))
    for model, finished_us in (("old", 4), ("new", 6), ("first", 2)):
        label_with(lake, model)
        make_atlas(lake, model, finished_us)
    for model, trained_us in (("old", 3), ("new", 5), ("stopped", 7), ("first", 1)):
        finish(lake, "latent_action_model", model, trained_us)
    finish(lake, "latent_quality", "quality-of-stopped", 8)
    scenes = [
        {
            **blank(TABLES["scenes"]),
            **SHARD,
            "scene_token": f"s{i:02d}",
            "log_name": f"log-{i // 10}",
            "command": i % 2,
            "map_location": ("us-ma-boston", "sg-one-north")[i // 20 % 2],
            "timestamp_us": 1,
        }
        for i in range(SCENES + 1)
    ]
    lake.replace("scenes", scenes, SHARD)
    for planner in ("constant_velocity", "human"):
        lake.replace("pdm_scores", scores(planner), {**SHARD, "trajectory_id": planner})
    return lake


def answers(lake: Lake, words: str) -> list[dict[str, Any]]:
    """Rows of the one query of the page that contains these words."""
    (query,) = [query for query, _ in SQL if words in query]
    return lake.sql(query).to_pylist()


def printed(words: str) -> list[str]:
    """Lines that the one Python block with these words prints about the lake of this test."""
    (block,) = [block for block in PYTHON if words in block]
    return run(block).split("\n")[:-1]


def run(block: str) -> str:
    return said_by(lambda: exec(compile(block, "queries.md", "exec"), {}))


def said_by(act: Callable[[], object]) -> str:
    """What is printed meanwhile."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        act()
    return out.getvalue()


def with_answers(page: str, lake: Lake) -> str:
    """The page with what this lake answers; Python blocks ask the lake of the environment."""

    def answer(block: re.Match[str]) -> str:
        kind, question, form, _ = block.groups()
        shown = (
            run(question)
            if kind == "python"
            else said_by(lambda: write_table(lake.sql(question), "csv", None))
        )
        lines = "\n".join(shown.splitlines()).rstrip()
        return f"```{kind}\n{question}\n```\n\n```{form}\n{lines}\n```"

    return ANSWERED.sub(answer, page)


def test_the_page_covers_what_people_ask():
    assert len(SQL) >= 9
    assert len(PYTHON) == 3


@pytest.mark.parametrize("number", range(len(SQL)))
def test_every_query_answers_with_the_columns_the_page_shows(lake: Lake, number: int):
    query, shown = SQL[number]
    answer = lake.sql(query)
    assert answer.num_rows > 0
    assert shown.splitlines()[0].split(",") == answer.column_names
    assert len(shown.splitlines()) > 1, "the page shows no answer"


def test_every_query_but_the_list_of_labels_names_the_current_model():
    assert [query for query, _ in SQL if CURRENT not in query] == [SQL[0][0]]
    assert len(OF_ONE_MODEL) == len(SQL) - 1


@pytest.mark.parametrize("query", OF_ONE_MODEL)
def test_the_current_model_is_the_one_that_labelled_last_not_the_one_trained_last(
    lake: Lake, query: str
):
    def of(model: str) -> Any:
        named = f"(select * from latent_actions where model_version = '{model}')"
        query_of_it = re.sub(r"\bcurrent_labels (?=where|group)", f"{named} l ", query)
        return lake.sql(query_of_it.replace(CURRENT, named)).to_pylist()

    answer = lake.sql(query).to_pylist()
    assert answer == of("new")
    assert answer != of("old")
    assert of("stopped") == []


def test_a_model_that_labels_still_is_not_yet_current_and_one_that_labels_again_is(lake: Lake):
    def current() -> list[Any]:
        return lake.sql("select distinct model_version from current_labels")[0].to_pylist()

    finish(lake, "latent_action_model", "begun", 9)
    label_with(lake, "begun")
    assert current() == ["new"]
    make_atlas(lake, "begun", 10)
    assert current() == ["begun"]
    finish(lake, "latent_codes", "atlas-old", 11)
    assert current() == ["old"]


def test_labels_are_listed_by_model(lake: Lake):
    rows = answers(lake, "some_data_version")
    counted = [
        (row["model_version"], row["split"], row["transitions"], row["labelled"]) for row in rows
    ]
    half = 3 * SCENES // 2
    assert counted == [
        ("first", "train", half + 3, half),
        ("new", "train", 2 * half + 3, 2 * half),
        ("old", "train", half + 3, half),
    ]


def test_hard_braking_is_sorted_and_only_of_the_current_model(lake: Lake):
    rows = answers(lake, "as mps2")
    assert [row["mps2"] for row in rows] == pytest.approx([-3.9, -3.8, -3.7, -3.6, -3.5])
    assert [row["speed_mps"] for row in rows] == pytest.approx([8.1, 8.0, 8.0, 7.9, 7.8])
    assert [row["ego_codes"] for row in rows] == [[code, 3, 3, 3] for code in (0, 2, 1, 0, 2)]


def test_sentences_are_twelve_codes_counted_per_scene(lake: Lake):
    rows = answers(lake, "as sentence")
    same = [(" ".join([f"{code} 3 3 3"] * 3), 13) for code in range(3)]
    assert [tuple(row.values()) for row in rows] == [*same, ("0 3 3 3 1 3 3 3 2 3 3 3", 1)]


def test_the_histogram_knows_city_and_situation(lake: Lake):
    rows = answers(lake, "hour_local")
    found = [(row["city"], row["code"], row["times"]) for row in rows]
    assert found == [
        ("sg-one-north", 3, 60), ("sg-one-north", 0, 7), ("sg-one-north", 2, 7),
        ("us-ma-boston", 3, 60), ("us-ma-boston", 0, 7), ("us-ma-boston", 1, 7),
    ]  # fmt: skip
    hours = {row["city"]: row["hour_local"] for row in rows}
    assert hours == {"sg-one-north": 7, "us-ma-boston": 19}  # of 1970-01-01 00:00 UTC
    paces = [tuple(row.values()) for row in answers(lake, "as pace")]
    assert paces == [(command, "drives", 3, 0.75, 80) for command in (0, 1)]


def test_transitions_count_pairs_of_one_model(lake: Lake):
    rows = answers(lake, "a.ego_codes[1] as code")
    assert [tuple(row.values()) for row in rows] == [(0, 0, 13), (1, 1, 13), (2, 2, 13), (0, 1, 1)]
    assert answers(lake, "as now") == [{"now": "0 3 3 3", "next": "1 3 3 3", "times": 1}]


def test_the_code_before_a_low_ttc_comes_first(lake: Lake):
    rows = [(row["code"], row["times"], row["ttc"]) for row in answers(lake, "as ttc")]
    assert rows == [(0, 14, 0.0), (3, 117, 0.641), (1, 12, 1.0), (2, 13, 1.0)]


def test_labels_to_look_at_are_the_least_certain(lake: Lake):
    rows = [
        (row["timestamp_us"], row["code"], row["confidence"])
        for row in answers(lake, "as confidence")
    ]
    assert rows == [(start_us(39), 0, 0.025), (start_us(38), 2, 0.05), (start_us(37), 1, 0.075)]


def test_polars_makes_the_matrix_of_the_current_model(lake: Lake):
    assert printed("import polars") == ["code,0,1,2", "0,13,1,0", "1,0,13,0", "2,0,0,13", ""]
    finish(lake, "latent_codes", "atlas-old", 9)
    assert printed("import polars") == ["code,15", f"15,{SCENES // 2}", ""]


def test_duckdb_counts_codes_of_each_second_once_and_of_the_current_model(lake: Lake):
    pytest.importorskip("duckdb")
    rows = [ast.literal_eval(line) for line in printed("import duckdb")]
    assert rows == [("train", 3, 120), ("train", 0, 14), ("train", 1, 13)]


def test_the_engine_of_delta_rs_sees_the_scenes_that_brake(lake: Lake):
    hard = [5 + 0.08 * i for i in range(SCENES) if i > 10]
    told = [ast.literal_eval(line) for line in printed("braking =")]
    assert told == [[{"transitions": len(hard)}], [{"from_mps": round(sum(hard) / len(hard), 1)}]]


def test_answers_of_a_lake_are_written_beside_their_questions_and_nothing_else_changes(lake: Lake):
    page = with_answers(PAGE, lake)
    assert ANSWERED.sub("", page) == ANSWERED.sub("", PAGE)
    asked = [block[:3] for block in ANSWERED.findall(PAGE)]
    assert [block[:3] for block in ANSWERED.findall(page)] == asked
    assert "0 3 3 3,1 3 3 3,1" in page
    assert "[{'from_mps': " in page


if __name__ == "__main__":
    QUERIES.write_text(with_answers(PAGE, Lake(lake_root())))
