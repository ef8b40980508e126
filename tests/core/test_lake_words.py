"""The small rooms of the lake: conditions in SQL and Arrow, what a statement may be, storage errors
in our words, tables on the screen, versions and places as users name them.
"""

from __future__ import annotations

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from label_rows import label

from latentvla_core.errors import DataError, SetupError
from latentvla_core.lake.partitions import as_written, condition, matches, values_of
from latentvla_core.lake.places import home_folder, lake_root, usable_folder
from latentvla_core.lake.printing import printable, write_table
from latentvla_core.lake.statements import check_reads
from latentvla_core.lake.storage import explained, first_lines, storage_remedy
from latentvla_core.lake.store import Lake
from latentvla_core.lake.versions import versions_of

# ---- conditions


@pytest.mark.parametrize(
    ("where", "sql"),
    [
        ({}, None),
        ({"shard": 3}, "shard IN (3)"),
        ({"split": "train", "shard": 0}, "split IN ('train') AND shard IN (0)"),
        ({"split": ("a", "b")}, "split IN ('a', 'b')"),
        ({"split": ""}, "(split IN ('') OR split IS NULL)"),
        ({"split": ["", "x"]}, "(split IN ('', 'x') OR split IS NULL)"),
        ({"split": "o'clock"}, "split IN ('o''clock')"),
        ({"split": "x' OR 'a' = 'a"}, "split IN ('x'' OR ''a'' = ''a')"),
    ],
)
def test_a_condition_is_one_term_a_column_and_quotes_stay_text(where, sql):
    assert condition(where) == sql


def test_one_value_and_several_are_asked_for_alike():
    assert values_of("abc") == ["abc"]
    assert values_of(("a", "b")) == values_of(["a", "b"]) == ["a", "b"]
    assert values_of({7}) == [7] and values_of([]) == []


def kept(value, columns=("split",)) -> list:
    rows = ds.dataset(pa.table({"split": ["a", "", None, "b"]}))
    return rows.to_table(filter=matches("split", value, columns))["split"].to_pylist()


def test_the_empty_text_finds_null_where_delta_writes_it_so():
    assert kept("a") == ["a"]
    assert kept("") == ["", None]
    assert kept(["", "b"]) == ["", None, "b"]
    assert kept("", columns=()) == [""]


def test_null_in_a_partition_comes_back_as_the_empty_text_and_nowhere_else():
    table = pa.table({"split": ["a", None], "note": [None, "x"], "shard": pa.array([1, None])})
    back = as_written(table, ["split", "shard", "absent"])
    assert back.to_pydict() == {"split": ["a", ""], "note": [None, "x"], "shard": [1, None]}
    assert as_written(back, ["split"]) == back


def test_a_scan_that_asks_for_none_of_no_values_has_no_rows(tmp_path: Path):
    lake = Lake(str(tmp_path))
    lake.replace(
        "latent_actions", [label("a")], {"split": "train", "shard": 0, "model_version": "m"}
    )
    assert lake.scan("latent_actions", {"split": []}).collect().height == 0
    assert lake.scan("latent_actions", {"split": ["train", "x"]}).collect().height == 1
    names = lake.scan("latent_actions", columns=["scene_token", "step"]).collect().columns
    assert names == ["scene_token", "step"]


# ---- statements


def plan(text: str = "TableScan: scenes"):
    """An engine that plans everything alike, and keeps what it was asked."""
    asked: list[str] = []

    def plan_of(query: str) -> str:
        asked.append(query)
        return text

    return plan_of, asked


@pytest.mark.parametrize(
    "query",
    [
        "select 1",
        "  \n -- a note\n/* and * more / of it */ SELECT 1",
        "with x as (select 1) select * from x",
        "values (1)",
        "(select 1) union (select 2)",
        "((select 1))",
        "from scenes select *",
        "explain select 1",
        "EXPLAIN ANALYZE verbose select 1",
        "explain format tree /* x */ select 1",
    ],
)
def test_what_begins_with_a_reading_word_is_planned_and_passes(query: str):
    plan_of, asked = plan()
    check_reads(query, plan_of)
    assert len(asked) == 1 and not asked[0].lower().startswith("explain")


@pytest.mark.parametrize("query", ["describe scenes", "DESC scenes;", 'describe "scenes" ; '])
def test_a_description_needs_no_plan(query: str):
    plan_of, asked = plan("DropTable")
    check_reads(query, plan_of)
    assert asked == []


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("delete from scenes", "DELETE"),
        ("describe scenes; drop table scenes", "DESCRIBE"),
        ("explain explain select 1", "EXPLAIN"),
        ("selection from scenes", "SELECTION"),
        ("", "nothing"),
        ("-- only a note", "nothing"),
        ("12 + 3", "12 + 3"),
        ("/* a /* b */ c */ select 1", "/* a /* b */ c */ se"),  # engines differ about these
    ],
)
def test_any_other_statement_is_named_and_never_planned(query: str, kind: str):
    plan_of, asked = plan()
    with pytest.raises(DataError, match="queries of the lake read and nothing else") as caught:
        check_reads(query, plan_of)
    assert f"the statement is {kind};" in str(caught.value) and asked == []


@pytest.mark.parametrize(
    "step", ["CopyTo: format=csv", "  Dml: op=[Insert]", "CreateView: v", "DataSinkExec: sink"]
)
def test_a_plan_that_writes_is_refused_however_the_query_begins(step: str):
    plan_of, _ = plan(f"Projection: 1\n{step}\n  TableScan")
    with pytest.raises(DataError, match="the statement is"):
        check_reads("select 1", plan_of)
    check_reads("select 1", plan("Projection: CopyTo, Dml")[0])  # columns of such names


# ---- storage


def test_a_native_error_is_one_line_without_colours_and_frames():
    raw = "\x1b[31mGeneric S3 error\x1b[0m\n  ↳ no bucket\n   0: core::panic\n at src/lib.rs\nno bucket"
    assert first_lines(Exception(raw)) == "Generic S3 error: no bucket"
    assert len(first_lines(Exception("x" * 9999))) == 400
    assert first_lines(Exception("")) == ""


def test_remedies_are_those_of_the_kind_of_store():
    assert "AWS_ENDPOINT_URL" in storage_remedy("s3://bucket/lake/scenes")
    assert "must name a folder that can be written" in storage_remedy("/data/lake/scenes")


def test_failures_of_the_storage_name_the_table_and_others_pass():
    with pytest.raises(SetupError, match="28. no space; LATENTVLA_L"), explained("/lake/scenes"):
        raise OSError(28, "no space")
    with pytest.raises(SetupError, match="/lake/scenes: bad page"), explained("/lake/scenes"):
        raise pa.ArrowInvalid("bad page")
    with pytest.raises(KeyError), explained("/lake/scenes"):
        raise KeyError("mine")


def test_a_commit_that_lost_every_time_wrote_nothing_and_says_so():
    from deltalake.exceptions import CommitFailedError

    with pytest.raises(SetupError) as caught, explained("/lake/scenes"):
        raise CommitFailedError("version 7 exists")
    assert "20 commits failed against other writers (version 7 exists)" in str(caught.value)
    assert "nothing was written, run again when the others are done" in str(caught.value)


# ---- on the screen and in files


def test_a_table_on_the_screen_has_short_numbers_and_long_lists_cut(capsys):
    write_table(
        pa.table({"n": [1.23456789], "many": [list(range(30))], "none": [None], "s": ["a\tb"]}),
        "table",
        None,
    )
    out = capsys.readouterr().out
    assert "1.23457" in out and "23 … (30)" in out and "None" in out and "a\\tb" in out
    assert out.rstrip().endswith("1 rows")


def test_a_list_of_structs_on_the_screen_shows_its_first_two_and_how_many_there_are(capsys):
    poses = [{"x_m": 0.5, "yaw_rad": 1 / 3}, {"x_m": 1.0, "yaw_rad": 0.0}, {"x_m": 9.0}]
    write_table(pa.table({"plan": [poses]}), "table", None)
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "x_m=0.5 yaw_rad=0.333333; x_m=1 yaw_rad=0 … (3)" in out and "x_m=9" not in out


def test_csv_is_read_back_by_anybody(tmp_path: Path, capsys):
    table = pa.table({"name": ['say "hi", you', "東\nwest"], "n": [1, 2]})
    write_table(table, "csv", tmp_path / "t.csv")
    with (tmp_path / "t.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["name", "n"], ['say "hi", you', "1"], ["東\nwest", "2"]]
    write_table(table.slice(0, 0), "csv", None)
    assert capsys.readouterr().out.strip() == "name,n"


def test_parquet_keeps_types(tmp_path: Path):
    table = pa.table({"poses": [[1.0, 2.0]], "shard": pa.array([3], pa.int32())})
    write_table(table, "parquet", tmp_path / "t.parquet")
    assert pq.read_table(tmp_path / "t.parquet").equals(table)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("\r\x1b[1A", "\\r\\x1b[1A"), ("a\u200bb", "a\\u200bb"), ("tab\t", "tab\\t"), ("é\n", "é\n")],
)
def test_what_would_steer_a_terminal_is_written_out(text: str, shown: str):
    assert printable(text) == shown


# ---- versions and places


class Trained:
    """A lake that knows what two models were trained on."""

    def trained_on(self, model: str, version: str = "") -> dict[str, int]:
        return {"scenes": len(version), "latent_actions": len(model)}


def test_versions_are_numbers_or_those_of_a_model_and_the_last_word_counts():
    assert versions_of(Trained(), []) == {}
    assert versions_of(Trained(), ["scenes=7"]) == {"scenes": 7}
    assert versions_of(Trained(), ["vlm"]) == {"scenes": 0, "latent_actions": 3}
    assert versions_of(Trained(), ["vlm/abcd"])["scenes"] == 4
    assert versions_of(Trained(), ["vlm", "scenes=9"])["scenes"] == 9


@pytest.mark.parametrize(
    "text", ["scene=7", "scenes=", "scenes=-1", "scenes=1.5", "=3", "scenes=²"]
)
def test_a_version_that_is_none_is_refused_with_the_form_wanted(text: str):
    with pytest.raises(SetupError, match=f"--at is '{text}'; use TABLE=VERSION .*MODEL/VERSION"):
        versions_of(Trained(), [text])


def test_the_lake_lies_where_it_is_told_else_below_home_else_here(monkeypatch, tmp_path: Path):
    assert (
        lake_root({"LATENTVLA_LAKE": "s3://bucket/lake", "LATENTVLA_HOME": "/h"})
        == "s3://bucket/lake"
    )
    assert lake_root({"LATENTVLA_HOME": "/h"}) == "/h/lake"
    monkeypatch.chdir(tmp_path)
    assert home_folder({}) == home_folder({"LATENTVLA_HOME": ""}) == tmp_path / ".latentvla"
    assert lake_root({}) == str(tmp_path / ".latentvla" / "lake")
    monkeypatch.setenv("LATENTVLA_HOME", "/from/environment")
    assert home_folder() == Path("/from/environment")


def test_a_folder_that_no_database_could_address_is_refused_by_its_variable():
    with pytest.raises(SetupError, match=r"DAGSTER_HOME is '/a\?b'; '\?' means something else"):
        usable_folder("DAGSTER_HOME", "/a?b")


def test_the_rows_a_version_had_can_be_counted_without_reading_a_file(tmp_path: Path):
    lake = Lake(str(tmp_path))
    place = {"split": "train", "shard": 0, "model_version": "m"}
    lake.replace("latent_actions", [label("a"), label("b")], place)
    for file in tmp_path.glob("latent_actions/**/*.parquet"):
        file.unlink()
    assert lake.counts("latent_actions", ()).total() == 2
    assert lake.counts("latent_actions", ["split"]) == {("train", "f"): 2}
    assert lake.counts("latent_actions", ["log_name"]) == {}  # no column of its partitions
    assert lake.counts("scenes", ["split"]) == {}


def test_keys_come_sorted_whatever_the_order_of_writing(tmp_path: Path):
    lake = Lake(str(tmp_path))
    place = {"split": "train", "shard": 0, "model_version": "m"}
    lake.replace("latent_actions", [label("b"), label("a", step=1), label("a")], place)
    found = lake.read("latent_actions", columns=["scene_token", "step"])
    assert found.to_pydict() == {"scene_token": ["a", "a", "b"], "step": [0, 1, 0]}
    assert pc.all(pc.is_valid(found["step"])).as_py()
