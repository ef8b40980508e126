"""docs/queries.md cannot rot: its very blocks run against a small lake, and their answers are looked at."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_rows import label

from latentvla_core.store import Lake
from latentvla_core.tables import TABLES, TableSpec

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "queries.md").read_text()
SQL = re.findall(r"```sql\n(.*?)\n```\n\n```csv\n(.*?)\n```", PAGE, re.DOTALL)
PYTHON = re.findall(r"```python\n(.*?)\n```", PAGE, re.DOTALL)
SCENES = 40


def blank(spec: TableSpec) -> dict[str, Any]:
    """A row of empty values that fit the declaration."""
    plain = {"string": "", "bool": True}
    return {
        c.name: plain.get(c.dtype, 0) if c.shape is None
        else () if c.dtype == "string" else np.zeros([0 if s == -1 else s for s in c.shape])
        for c in spec.columns
    }  # fmt: skip


def labels(model: str, code: int) -> list[dict[str, Any]]:
    """Scene i brakes by i / 10 m/s² in each second and says code i % 3; a scene of the other model says `code` only.

    The last scene says 0 first, then 1.
    """
    said = [[i % 3 if i < SCENES - 1 else int(step > 0) for step in range(3)] for i in range(SCENES)]
    return [
        label(f"s{i:02d}", step=step, model_version=model, made_by=f"labels-{model}", log_name=f"log-{i // 10}",
              timestamp_us=1_620_000_000_000_000 + i * 500_000 + step * 1_000_000, speed_mps=9.0, delta_speed_mps=-i / 10,
              ego_codes=np.full(4, said[i][step] if model == "new" else code), ego_confidence=np.full(4, i / SCENES))
        for i in range(SCENES) for step in range(3)
    ]  # fmt: skip


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setenv("LATENTVLA_LAKE", str(tmp_path / "lake"))
    lake = Lake(str(tmp_path / "lake"))
    shard = {"split": "train", "shard": 0}
    for model in ("old", "new"):
        lake.replace("latent_actions", labels(model, 15), {**shard, "model_version": model})
    scenes = [
        {**blank(TABLES["scenes"]), **shard, "scene_token": f"s{i:02d}", "log_name": f"log-{i // 10}", "command": i % 2,
         "map_location": ("us-ma-boston", "sg-one-north")[i // 20], "timestamp_us": 1} for i in range(SCENES)
    ]  # fmt: skip
    lake.replace("scenes", scenes, shard)
    scores = [
        {**blank(TABLES["pdm_scores"]), **shard, "scene_token": f"s{i:02d}", "trajectory_id": "constant_velocity",
         "metric_version": "pdms-v1.1", "time_to_collision_within_bound": float(i % 3 > 0), "valid": True} for i in range(SCENES)
    ]  # fmt: skip
    lake.replace("pdm_scores", scores, {**shard, "trajectory_id": "constant_velocity"})
    work = blank(TABLES["materialisations"]) | {"asset": "latent_action_model", "inputs": json.dumps({})}
    lake.append(
        "materialisations", [{**work, "made_by": "new", "finished_us": 2}, {**work, "made_by": "old", "finished_us": 1}]
    )
    return lake


def answers(lake: Lake, words: str) -> list[dict[str, Any]]:
    """Rows of the one query of the page that contains these words."""
    (query,) = [query for query, _ in SQL if words in query]
    return lake.sql(query).to_pylist()


@pytest.mark.parametrize("number", range(len(SQL)))
def test_every_query_answers_with_the_columns_the_page_shows(lake: Lake, number: int):
    query, shown = SQL[number]
    answer = lake.sql(query)
    assert answer.num_rows > 0
    assert shown.splitlines()[0].split(",") == answer.column_names
    assert len(shown.splitlines()) > 1, "the page shows no answer"


def test_the_page_covers_what_people_ask():
    assert len(SQL) >= 9
    assert len(PYTHON) == 3


@pytest.mark.parametrize("number", range(len(PYTHON)))
def test_every_python_block_runs(lake: Lake, number: int, capsys: pytest.CaptureFixture[str]):
    if "import duckdb" in PYTHON[number]:
        pytest.importorskip("duckdb")
    exec(compile(PYTHON[number], f"queries.md block {number}", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_hard_braking_is_sorted_and_only_of_the_current_model(lake: Lake):
    rows = answers(lake, "as mps2")
    assert [row["mps2"] for row in rows] == pytest.approx([-3.9, -3.8, -3.7, -3.6, -3.5])
    assert {code for row in rows for code in row["ego_codes"]} == {0, 1, 2}


def test_sentences_are_twelve_codes_counted_per_scene(lake: Lake):
    rows = answers(lake, "as sentence")
    assert rows[0] == {"sentence": " ".join(["0"] * 12), "scenes": 13}
    assert sum(row["scenes"] for row in rows) == SCENES


def test_the_histogram_knows_city_and_situation(lake: Lake):
    rows = answers(lake, "hour_utc")
    assert {row["city"] for row in rows} == {"us-ma-boston", "sg-one-north"}
    assert sum(row["times"] for row in rows) == 4 * SCENES
    assert {(row["command"], row["pace"]) for row in answers(lake, "as pace")} == {(0, "drives"), (1, "drives")}


def test_transitions_count_pairs_of_one_model(lake: Lake):
    rows = answers(lake, "a.ego_codes[1] as code")
    assert [tuple(row.values()) for row in rows] == [(0, 0, 13), (1, 1, 13), (2, 2, 13), (0, 1, 1)]
    assert answers(lake, "as now") == [{"now": "0 0 0 0", "next": "1 1 1 1", "times": 1}]


def test_the_code_before_a_low_ttc_comes_first(lake: Lake):
    rows = answers(lake, "as ttc")
    assert (rows[0]["code"], rows[0]["ttc"]) == (0, 0.0)
    assert [row["ttc"] for row in rows[1:]] == [1.0, 1.0]
