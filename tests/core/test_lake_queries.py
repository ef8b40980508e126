"""Asking the lake: queries read and nothing else, views say things in people's words, Polars scans
what it needs, and the prompt goes on after an error.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_rows import label

from latentvla_core.errors import DataError, SetupError
from latentvla_core.lake.maintenance import compact
from latentvla_core.lake.store import Lake
from latentvla_core.prompt import ask, reader_of
from latentvla_core.schema import TableSpec
from latentvla_core.scoring.plans import read_trajectories
from latentvla_core.tables import TABLES
from latentvla_core.tables.views import VIEWS, ZONES
from latentvla_core.types import MAP_LOCATIONS, ObjectClass

PLACE = {"split": "train", "shard": 0}
NOON_US = 1_620_043_200_000_000  # 2021-05-03 12:00 UTC
PLAN = np.arange(24.0).reshape(8, 3)


def blank(spec: TableSpec, **values: Any) -> dict[str, Any]:
    plain = {"string": "", "bool": True}
    empty = {
        c.name: plain.get(c.dtype, 0) if c.shape is None
        else () if c.dtype == "string" else np.zeros([0 if s == -1 else s for s in c.shape])
        for c in spec.columns
    }  # fmt: skip
    return {**empty, **PLACE, **values}


def scene(token: str, city: str = "us-ma-boston") -> dict[str, Any]:
    return blank(
        TABLES["scenes"],
        scene_token=token,
        map_location=city,
        timestamp_us=NOON_US,
        command=2,
        ego_velocity_mps=np.array([3.0, 4.0]),
        ego_pose=np.array([1.0, 2.0, 0.5]),
    )


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Scenes a in Boston and b in Singapore; a has labels, a plan and two scores, b has none."""
    lake = Lake(str(tmp_path / "lake"))
    lake.replace("scenes", [scene("a"), scene("b", "sg-one-north")], PLACE)
    labels = [label("a", step=step, ego_codes=[step, 5, 6, 7]) for step in range(3)]
    other = [label("a", step=0, model_version="old", ego_codes=[9] * 4)]
    for model, rows in (("m", labels), ("old", other)):
        lake.replace("latent_actions", rows, {**PLACE, "model_version": model})
    for at, model in enumerate(("old", "m")):
        atlas = blank(TABLES["latent_codes"], model_version=model, made_by=f"atlas-{model}")
        lake.replace("latent_codes", [atlas], {"model_version": model})
        done = blank(TABLES["materialisations"], made_by=f"atlas-{model}", finished_us=at)
        lake.append("materialisations", [{**done, "inputs": "{}"}])
    plan = blank(TABLES["trajectories"], scene_token="a", trajectory_id="ipad", poses=PLAN)
    lake.replace("trajectories", [plan], {**PLACE, "trajectory_id": "ipad"})
    scores = [
        blank(
            TABLES["pdm_scores"],
            scene_token="a", trajectory_id="ipad", metric_version=metric, score=score,
        )
        for metric, score in (("pdms-v1.1", 0.5), ("epdms-v2.2", 0.25))
    ]  # fmt: skip
    lake.replace("pdm_scores", scores, {**PLACE, "trajectory_id": "ipad"})
    return lake


WRITING = [
    "copy scenes to '{file}'",
    "COPY (select * from scenes) TO '{file}' STORED AS CSV",
    "explain analyze copy scenes to '{file}'",
    "explain analyze verbose copy scenes to '{file}'",
    "/* /* */ select */ copy scenes to '{file}'",
    "-- select\ncopy scenes to '{file}'",
    "explain /* x */ analyze copy scenes to '{file}'",
    "insert into scenes select * from scenes",
    "with x as (select * from scenes) insert into scenes select * from x",
    "create external table e stored as csv location '{file}' /* scenes */",
    "create table t as select * from scenes",
    "create view v as select * from scenes",
    "drop table scenes",
    "delete from scenes",
    "update scenes set split = 'x'",
    "truncate table scenes",
    "set datafusion.execution.batch_size = 1 -- scenes",
    "prepare p as select * from scenes",
    "select 1 from scenes; copy scenes to '{file}'",
]


@pytest.mark.parametrize("statement", WRITING)
def test_what_is_no_query_is_refused_and_nothing_is_written(
    lake: Lake, tmp_path: Path, statement: str
):
    file = tmp_path / "precious.csv"
    file.write_text("mine")
    before = {name: lake.version(name) for name in TABLES}
    with pytest.raises(DataError, match="queries of the lake read|was refused"):
        lake.sql(statement.format(file=file))
    assert file.read_text() == "mine"
    assert {name: lake.version(name) for name in TABLES} == before
    assert {path.name for path in tmp_path.iterdir()} == {"lake", "precious.csv"}


@pytest.mark.parametrize(
    "query",
    [
        "select count(*) from scenes",
        "  -- a comment\n/* another */ SELECT count(*) FROM scenes;",
        "(select count(*) from scenes)",
        "with n as (select count(*) from scenes) select * from n",
        "explain select * from scenes",
        "explain analyze select * from scenes",
        "describe scenes",
        "select 'copy scenes to x' from scenes limit 1",
        "select scene_token as copy from scenes",
    ],
)
def test_what_reads_is_answered(lake: Lake, query: str):
    assert lake.sql(query).num_rows > 0


def test_a_refusal_names_the_kind_and_how_to_save_an_answer(lake: Lake):
    with pytest.raises(DataError, match=r"is COPY; .*--format csv\|parquet --out FILE"):
        lake.sql("copy scenes to 'x.csv'")


def test_a_scene_overview_has_label_plans_and_scores_in_one_row(lake: Lake):
    a, b = lake.sql("select * from scene_overview order by scene_token").to_pylist()
    assert a["time_utc"].isoformat() == "2021-05-03T12:00:00+00:00"
    assert (a["hour_local"], b["hour_local"]) == (8, 20)
    assert (a["command"], a["speed_mps"]) == ("right", 5.0)
    assert a["ego_pose"] == {"x_m": 1.0, "y_m": 2.0, "yaw_rad": 0.5}
    assert a["sentence"] == [0, 5, 6, 7, 1, 5, 6, 7, 2, 5, 6, 7]
    (plan,) = a["plans"]
    assert plan["planner"] == "ipad"
    assert [list(pose.values()) for pose in plan["poses"]] == PLAN.tolist()
    assert [(s["metric_version"], s["score"]) for s in a["scores"]] == [
        ("epdms-v2.2", 0.25),
        ("pdms-v1.1", 0.5),
    ]
    assert (b["sentence"], b["plans"], b["scores"]) == (None, None, None)


def test_current_labels_are_those_of_the_model_that_labelled_last(lake: Lake):
    rows = lake.sql("select model_version, time_utc from current_labels").to_pylist()
    assert [row["model_version"] for row in rows] == ["m"] * 3
    assert str(rows[0]["time_utc"].tzinfo) == "UTC"


def test_plan_points_have_a_time_and_a_name_for_each_number(lake: Lake):
    rows = lake.sql("select time_s, x_m, y_m, yaw_rad from plan_points order by time_s").to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (0.5 * (i + 1), *pose) for i, pose in enumerate(PLAN.tolist())
    ]


def test_objects_of_a_frame_are_rows_with_the_word_of_their_class(lake: Lake):
    boxes = np.arange(14.0).reshape(2, 7)
    frame = blank(
        TABLES["frames"],
        token="f",
        timestamp_us=NOON_US,
        object_boxes=boxes,
        object_classes=np.array([ObjectClass.BICYCLE, ObjectClass.VEHICLE]),
        object_velocities_mps=np.arange(6.0).reshape(2, 3),
        track_tokens=("t0", "t1"),
    )
    lake.replace("frames", [frame, blank(TABLES["frames"], token="empty")], PLACE)
    rows = lake.sql("select * from frame_objects order by track_token").to_pylist()
    assert [(row["track_token"], row["class"]) for row in rows] == [
        ("t0", "bicycle"),
        ("t1", "vehicle"),
    ]
    assert [rows[1][name] for name in ("x_m", "length_m", "yaw_rad", "vx_mps", "vy_mps")] == [
        7, 10, 13, 3, 4,
    ]  # fmt: skip


def test_every_city_has_a_zone_and_every_view_says_what_a_row_is():
    assert set(ZONES) == set(MAP_LOCATIONS)
    assert all(
        view.row and view.columns and set(view.tables) <= set(TABLES) for view in VIEWS.values()
    )


@pytest.mark.parametrize("name", ["scene_overview", "current_labels"])
def test_a_view_over_tables_that_do_not_exist_yet_has_no_rows_but_its_columns(
    lake: Lake, tmp_path: Path, name: str
):
    few = Lake(str(tmp_path / "few"))
    few.append("materialisations", [])
    answer = few.sql(f"select * from {name}")
    assert answer.num_rows == 0
    assert answer.column_names == lake.sql(f"select * from {name}").column_names


def test_polars_scans_a_table_with_a_condition_and_joins_it(lake: Lake):
    import polars as pl

    scores = lake.scan("pdm_scores", {"split": ["train", "val"], "valid": True})
    joined = scores.join(lake.scan("scenes", columns=["scene_token", "command"]), on="scene_token")
    mean = joined.group_by("command").agg(pl.col("score").mean()).collect()
    assert mean.rows() == [(2, 0.375)]
    assert lake.scan("pdm_scores", {"split": "test"}).collect().height == 0
    assert lake.scan("pdm_scores", {"score": []}).collect().height == 0


def test_a_scan_opens_no_file_of_another_partition(lake: Lake):
    (other,) = Path(lake.uri("latent_actions")).glob("*/*/model_version=old/*.parquet")
    other.unlink()
    found = lake.scan("latent_actions", {"model_version": "m"}, ["step"]).collect()
    assert sorted(found["step"]) == [0, 1, 2]


def test_a_scan_of_a_table_that_was_never_written_is_empty_with_its_columns(lake: Lake):
    found = lake.scan("models").collect()
    assert found.height == 0
    assert tuple(found.columns) == TABLES["models"].names


def test_an_old_version_can_be_scanned(lake: Lake):
    before = lake.version("scenes")
    lake.replace("scenes", [], PLACE)
    assert lake.scan("scenes").collect().height == 0
    assert lake.scan("scenes", version=before).collect().height == 2


def test_columns_tell_their_meaning_unit_and_shape_to_any_tool(lake: Lake):
    table = lake.delta("scenes")
    assert table is not None
    told = {field.name: field.metadata for field in table.schema().fields}
    assert told["history_poses"]["comment"].startswith("relative to the current pose")
    assert told["history_poses"]["unit"] == "m, m, rad"
    assert told["history_poses"]["shape"] == "-1, 3"


def test_a_table_of_an_older_release_gets_the_comments_when_it_is_compacted(tmp_path: Path):
    from deltalake import DeltaTable

    spec, lake = TABLES["quarantine"], Lake(str(tmp_path))
    DeltaTable.create(lake.uri("quarantine"), spec.arrow_schema(), partition_by=spec.partition_by)
    compact(lake, ["quarantine"])
    table = lake.delta("quarantine")
    assert table is not None
    assert all(field.metadata["comment"] for field in table.schema().fields)
    version = table.version()
    compact(lake, ["quarantine"])
    assert lake.version("quarantine") == version


def prompted(lake: Lake, text: str) -> list[Any]:
    """What is shown and said."""
    out: list[Any] = []
    session = lake.session()
    ask(
        session.run,
        lambda rows: out.append(rows.to_pylist()),
        out.append,
        reader_of(text.splitlines()),
    )
    return out[1:]


def test_the_prompt_answers_statement_after_statement_and_goes_on_after_an_error(lake: Lake):
    said = prompted(
        lake,
        "select count(*) as n\nfrom scenes;\ndrop table scenes;\nselect command from scene_overview limit 1;\n"
        "quit\nselect 1 from scenes;",
    )
    assert said[0] == [{"n": 2}]
    assert said[1].startswith("error: the statement is DROP")
    assert said[2:] == [[{"command": "right"}]]


def test_the_prompt_lists_tables_and_their_columns_and_ends_with_its_input(lake: Lake):
    tables, columns, rows = prompted(
        lake, "tables\ndescribe trajectories\nselect count(*) as n from scenes"
    )
    assert "scene_overview" in tables
    assert "8 poses, 0.5 s apart" in columns
    assert rows == [{"n": 2}]


@pytest.mark.parametrize("query", ["select scene_token, trajectory_id, poses from trajectories",
    "select scene_token, 'ipad' as trajectory_id, plans[1]['poses'] as poses from scene_overview"
    " where plans is not null"])  # fmt: skip
def test_plans_out_of_the_lake_can_be_scored_as_they_come(lake: Lake, tmp_path: Path, query: str):
    import pyarrow.parquet as pq

    pq.write_table(lake.sql(query), tmp_path / "plans.parquet")
    found = read_trajectories(tmp_path / "plans.parquet").of_scene["a"]["ipad"]
    assert np.array_equal(found, PLAN)


def test_an_answer_is_not_written_into_the_lake(lake: Lake, monkeypatch: pytest.MonkeyPatch):
    from typer.testing import CliRunner

    from latentvla_core.cli import app

    monkeypatch.setenv("LATENTVLA_LAKE", lake.root)
    (log,) = Path(lake.uri("scenes")).glob("_delta_log/*0.json")
    before = log.read_bytes()
    command = ["sql", "select * from scenes", "--format", "csv", "--out", str(log)]
    assert isinstance(CliRunner().invoke(app, command).exception, SetupError)
    assert log.read_bytes() == before
