"""The lake: rows go in and come out, shards are replaced whole, wrong rows are refused with their
place named.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from label_rows import label

from latentvla_core.errors import DataError, LatentVLAError, SetupError
from latentvla_core.lake.maintenance import compact
from latentvla_core.lake.store import Lake
from latentvla_core.schema import restore
from latentvla_core.tables import TABLES, to_arrow, to_rows

PLACE = {"split": "train", "shard": 0, "model_version": "m"}


def test_a_shard_is_replaced_whole_and_the_others_stay(tmp_path: Path):
    lake = Lake(str(tmp_path))
    lake.replace("latent_actions", [label("a"), label("b")], PLACE)
    lake.replace("latent_actions", [label("c", shard=1)], {**PLACE, "shard": 1})
    lake.replace("latent_actions", [label("d")], PLACE)
    assert [row["scene_token"] for row in lake.rows("latent_actions")] == ["c", "d"]


def test_several_partitions_are_replaced_in_one_transaction_and_no_other_file_is_touched(
    tmp_path: Path,
):
    lake, shard = Lake(str(tmp_path)), {"split": "train", "shard": 0}
    models = ("m", "n", "o")
    for model in models:
        lake.replace(
            "latent_actions", [label("a", model_version=model)], {**shard, "model_version": model}
        )
    table = lake.delta("latent_actions")
    assert table is not None
    untouched = [uri for uri in table.file_uris() if "model_version=o" in uri]
    before = lake.version("latent_actions")
    rows = [label("b", model_version="m"), label("c", model_version="m")]
    assert (
        lake.replace("latent_actions", rows, {**shard, "model_version": ("m", "n")}) == before + 1
    )
    left = {(r["scene_token"], r["model_version"]) for r in lake.rows("latent_actions")}
    assert left == {("b", "m"), ("c", "m"), ("a", "o")}
    table.update_incremental()
    assert set(untouched) <= set(table.file_uris())
    with pytest.raises(DataError, match="column model_version holds"):
        lake.replace(
            "latent_actions",
            [label("d", model_version="o")],
            {**shard, "model_version": ("m", "n")},
        )


def test_no_rows_empty_a_shard(tmp_path: Path):
    lake = Lake(str(tmp_path))
    lake.replace("latent_actions", [label("a")], PLACE)
    lake.replace("latent_actions", [], PLACE)
    assert lake.read("latent_actions").num_rows == 0


def test_a_table_that_was_never_written_reads_as_empty(tmp_path: Path):
    lake = Lake(str(tmp_path))
    assert lake.version("scenes") == -1
    assert lake.read("scenes", {"split": "train"}, ["scene_token"]).num_rows == 0


@pytest.fixture
def two_logs(tmp_path: Path) -> Lake:
    """Labels of logs `first` in shard 0 and `second` in shard 1; `logs` knows both."""
    lake = Lake(str(tmp_path))
    texts = dict.fromkeys(
        ("format", "path", "sensor_root", "maps_root", "content_key", "made_by"), ""
    )
    for shard, name in enumerate(("first", "second")):
        lake.replace(
            "latent_actions", [label("a", log_name=name, shard=shard)], {**PLACE, "shard": shard}
        )
        lake.append(
            "logs", [{**texts, "split": "train", "shard": shard, "log_name": name, "size_bytes": 1}]
        )
    return lake


def test_a_log_is_read_from_its_shard_alone(two_logs: Lake):
    (other,) = Path(two_logs.uri("latent_actions")).glob("*/shard=0/*/*.parquet")
    other.unlink()
    place = two_logs.place_of_log("second")
    assert place == {"log_name": "second", "split": ["train"], "shard": [1]}
    assert two_logs.read("latent_actions", place, ["log_name"])["log_name"].to_pylist() == [
        "second"
    ]


def test_by_its_name_alone_a_log_is_found_in_every_shard_it_ever_lay_in(two_logs: Lake):
    again = [label("a", log_name="first", shard=7, model_version="later")]
    two_logs.replace("latent_actions", again, {**PLACE, "shard": 7, "model_version": "later"})
    assert two_logs.read("latent_actions", {"log_name": "first"})["shard"].to_pylist() == [7, 0]


def test_a_phase_of_a_sequence_lies_where_its_sequence_lies(two_logs: Lake):
    two_logs.append("latent_actions", [label("a", log_name="second@3", shard=1)])
    assert two_logs.read("latent_actions", two_logs.place_of_log("second@3"))[
        "log_name"
    ].to_pylist() == ["second@3"]
    with pytest.raises(DataError, match="'second@typo' is not in table logs"):
        two_logs.place_of_log("second@typo")


def test_a_log_that_is_not_there_is_told(two_logs: Lake):
    with pytest.raises(DataError, match="'third' is not in table logs"):
        two_logs.place_of_log("third")


def test_any_of_no_values_is_no_row(tmp_path: Path):
    lake = Lake(str(tmp_path))
    lake.replace("latent_actions", [label("a")], PLACE)
    assert lake.read("latent_actions", {"split": []}).num_rows == 0


def refusal(file: str, split: str = "", shard: int = 0) -> dict[str, Any]:
    return {
        "stage": "logs",
        "split": split,
        "shard": shard,
        "file": file,
        "frame": "",
        "field": "",
        "reason": "",
        "made_by": "f",
    }


@pytest.fixture(params=["", "compacted"], ids=["as written", "compacted"])
def refusals(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    """Refusals of the whole table `logs` and of a split. The log says '' for no split, and null
    once files were joined.
    """
    lake = Lake(str(tmp_path))
    for row in (
        refusal("b"),
        refusal("a"),
        refusal("t", "train"),
        refusal("v", "val"),
        refusal("s", shard=1),
    ):
        lake.append("quarantine", [row])
    if request.param:
        assert compact(lake, ["quarantine"])[0].files_after == 4
    return lake


def files(lake: Lake, **where: Any) -> list[str]:
    return [row["file"] for row in lake.rows("quarantine", where)]


def test_rows_of_a_partition_without_a_name_are_found_and_come_back_as_written(refusals: Lake):
    assert files(refusals, split="", shard=0) == ["a", "b"]
    assert files(refusals, split=["", "train"]) == ["a", "b", "s", "t"]
    assert files(refusals, split="train") == ["t"]
    assert files(refusals, stage="") == []
    asked = refusals.sql("select file from quarantine where coalesce(split, '') = '' order by file")
    assert asked["file"].to_pylist() == ["a", "b", "s"], "docs/operations.md"
    assert [row["split"] for row in refusals.rows("quarantine")] == ["", "", "", "train", "val"]
    assert (
        refusals.read("quarantine", {"split": ""}, ["file", "split"])["split"].to_pylist()
        == [""] * 3
    )


def test_a_partition_without_a_name_is_counted_under_the_empty_text(refusals: Lake):
    assert refusals.counts("quarantine", ("split", "shard")) == {
        ("", 0, "f"): 2, ("", 1, "f"): 1, ("train", 0, "f"): 1, ("val", 0, "f"): 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("split", "rows", "left"),
    [
        ("", [], ["s", "t", "v"]),
        ("", [refusal("n")], ["n", "s", "t", "v"]),
        ("train", [], ["a", "b", "s", "v"]),
        (("", "train"), [refusal("n"), refusal("o", "train")], ["n", "o", "s", "v"]),
    ],
)
def test_a_partition_without_a_name_is_replaced_like_any_other(
    refusals: Lake, split: Any, rows: list[dict[str, Any]], left: list[str]
):
    before = refusals.version("quarantine")
    refusals.replace("quarantine", rows, {"stage": "logs", "split": split, "shard": 0})
    assert files(refusals) == left
    assert [row["file"] for row in refusals.rows("quarantine", {"split": ""}, version=before)] == [
        "a",
        "b",
        "s",
    ]


def test_a_partition_without_a_name_is_compacted_again(refusals: Lake):
    refusals.append("quarantine", [refusal("c")])
    assert compact(refusals, ["quarantine"])[0].files_after == 4
    assert files(refusals, split="", shard=0) == ["a", "b", "c"]


def test_an_old_version_can_be_read_again(tmp_path: Path):
    lake = Lake(str(tmp_path))
    first = lake.replace("latent_actions", [label("a")], PLACE)
    lake.replace("latent_actions", [label("b")], PLACE)
    assert lake.read("latent_actions", version=first)["scene_token"].to_pylist() == ["a"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([label("a"), label("a")], "not unique"),
        ([label("a", shard=3)], "column shard holds"),
        ([label("a", reason=None)], "null values"),
        ([{k: v for k, v in label("a").items() if k != "valid"}], "missing"),
    ],
    ids=["key", "partition", "null", "column"],
)
def test_wrong_rows_are_refused_and_nothing_is_written(
    tmp_path: Path, rows: list[dict[str, Any]], message: str
):
    lake = Lake(str(tmp_path))
    lake.replace("latent_actions", [label("z")], PLACE)
    with pytest.raises(DataError, match=message):
        lake.replace("latent_actions", rows, PLACE)
    assert [row["scene_token"] for row in lake.rows("latent_actions")] == ["z"]


def test_sql_answers_and_explains(tmp_path: Path):
    lake = Lake(str(tmp_path))
    lake.replace("latent_actions", [label("a")], PLACE)
    assert lake.sql("select ego_codes from latent_actions limit 5").to_pylist() == [
        {"ego_codes": list(range(4))}
    ]
    with pytest.raises(SetupError, match="names no table"):
        lake.sql("select 1")
    with pytest.raises(SetupError, match="does not exist yet"):
        lake.sql("select * from scenes")
    with pytest.raises(DataError, match="nope"):
        lake.sql("select nope from latent_actions")


def group_sizes(lake: Lake) -> list[list[int]]:
    """Rows of each row group of each data file."""
    table = lake.delta("latent_actions")
    assert table is not None
    files = [pq.ParquetFile(uri).metadata for uri in table.file_uris()]
    return [[file.row_group(i).num_rows for i in range(file.num_row_groups)] for file in files]


def test_a_file_is_written_in_groups_that_can_be_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("latentvla_core.lake.layout.ROWS_PER_GROUP", 4)
    lake = Lake(str(tmp_path))
    lake.replace(
        "latent_actions", [label(f"{i}", log_name=f"log-{i // 4}") for i in range(10)], PLACE
    )
    assert group_sizes(lake) == [[4, 4, 2]]
    lake.append("latent_actions", [label("10", log_name="log-3")])
    compact(lake, ["latent_actions"])
    assert sorted(group_sizes(lake)[0]) == [3, 4, 4]
    found = lake.rows("latent_actions", {"log_name": "log-1"})
    assert [row["scene_token"] for row in found] == ["4", "5", "6", "7"]


def test_a_table_is_opened_from_a_checkpoint_not_from_every_commit(tmp_path: Path):
    lake = Lake(str(tmp_path))
    for i in range(21):
        lake.append("latent_actions", [label(f"{i}")])
    assert list(tmp_path.glob("latent_actions/_delta_log/*.checkpoint.parquet"))
    assert lake.read("latent_actions").num_rows == 21


def test_arrays_of_a_part_of_a_table_are_those_of_its_rows():
    spec = TABLES["latent_actions"]
    table = to_arrow(
        spec,
        [
            label("a", ego_codes=[1, 2, 3, 4]),
            label("b", ego_codes=[]),
            label("c", ego_codes=[5, 6]),
        ],
    )
    codes = [row["ego_codes"].tolist() for row in to_rows(spec, table.slice(1))]
    assert codes == [[], [5, 6]]


def test_arrays_come_back_in_their_declared_shape():
    spec = TABLES["scenes"]
    full = {c.name: _example(c) for c in spec.columns}
    row = to_rows(spec, to_arrow(spec, [full]))[0]
    assert row["history_poses"].shape == (4, 3)
    assert row["object_boxes"].shape == (0, 7)
    assert row["camera_names"] == ("a", "b")


def test_a_wrong_shape_names_table_row_and_column():
    spec = TABLES["scenes"]
    full = {c.name: _example(c) for c in spec.columns}
    with pytest.raises(DataError, match=r"table scenes.*history_poses.*\(4, 2\)"):
        to_arrow(spec, [{**full, "history_poses": np.zeros((4, 2))}])


def test_a_number_that_does_not_fit_its_column_is_refused_not_wrapped():
    with pytest.raises(
        DataError, match=r"table latent_actions.*environment_codes.*200 … 200 do not fit int8"
    ):
        to_arrow(
            TABLES["latent_actions"], [label("a", environment_codes=np.array([200, 200], np.int16))]
        )
    kept = to_arrow(
        TABLES["latent_actions"], [label("a", environment_codes=np.array([127, 0], np.int16))]
    )
    assert kept["environment_codes"].to_pylist() == [[127, 0]]


def _example(column: Any) -> Any:
    if column.name == "object_boxes":
        return np.zeros((0, 7))
    if column.shape is None:
        return {"string": "x", "bool": True}.get(column.dtype, 1)
    if column.dtype == "string":
        return ("a", "b")
    return np.zeros([4 if s == -1 else s for s in column.shape])


def test_rows_survive_json():
    spec = TABLES["scenes"]
    row = restore(spec, {"history_poses": [[1.0, 2.0, 3.0]], "object_boxes": [], "split": "train"})
    assert row["history_poses"].shape == (1, 3)
    assert row["object_boxes"].shape == (0, 7)
    assert row["split"] == "train"


@pytest.mark.parametrize("name", list(TABLES))
def test_every_table_is_described(name: str):
    spec = TABLES[name]
    assert len({c.name for c in spec.columns}) == len(spec.columns)
    assert set(spec.key) <= set(spec.names)
    assert set(spec.partition_by) <= set(spec.names)
    assert set(spec.order) <= set(spec.names) - set(spec.partition_by), (
        "all rows of a partition agree in its columns"
    )
    for column in spec.columns:
        assert len(column.doc) > 2, f"{name}.{column.name} says nothing"
    if name != "materialisations":
        assert "made_by" in spec.names


def test_the_tables_page_is_generated_from_the_schemas():
    from latentvla_core.tables import tables_page

    written = (Path(__file__).resolve().parents[2] / "docs" / "tables.md").read_text()
    assert written == tables_page(), "run: python -m latentvla_core.tables > docs/tables.md"


@pytest.mark.parametrize(
    ("query", "told"),
    [
        (
            "select * from latent_action",
            "latent_action: no such table .did you mean latent_actions",
        ),
        (
            "select * from latent_actions join scene on true",
            "scene: no such table .did you mean scenes",
        ),
        ("select 1", "names no table of the lake; there are: logs"),
        ("select foo from latent_actions", "No field named foo"),
        ("select * from quarantine", "quarantine does not exist yet in .*: nothing was refused"),
        (
            "select * from scenes",
            r"scenes does not exist yet in .*; materialise it first \(latentvla demo\)",
        ),
    ],
)
def test_a_query_that_cannot_run_says_which_name_is_wrong(tmp_path: Path, query: str, told: str):
    lake = Lake(str(tmp_path))
    lake.replace("latent_actions", [label("a")], PLACE)
    with pytest.raises(LatentVLAError, match=told):
        lake.sql(query)


def test_an_empty_lake_says_that_it_may_be_the_wrong_one(tmp_path: Path):
    with pytest.raises(
        SetupError,
        match="nor does any other: make them.*or name the lake that has them with LATENTVLA_LAKE",
    ):
        Lake(str(tmp_path)).sql("select * from scenes")


def test_a_version_that_a_table_never_had_is_told_with_those_it_has(tmp_path: Path):
    lake = Lake(str(tmp_path))
    latest = lake.replace("latent_actions", [label("a")], PLACE)
    with pytest.raises(
        SetupError, match=f"table latent_actions has versions 0 to {latest}; 99 was asked for"
    ):
        lake.sql("select * from latent_actions", {"latent_actions": 99})
    with pytest.raises(
        DataError, match="'nobody' is no model of table models; there are: none yet"
    ):
        lake.trained_on("nobody")


def test_tables_are_read_by_file_systems_that_need_no_interpreter(tmp_path: Path, monkeypatch):
    """Else a process that ends right after a reading is aborted now and then."""
    from pyarrow.fs import PyFileSystem

    from latentvla_core.lake.storage import dataset_of, native_files

    lake = Lake(str(tmp_path))
    place = {"split": "a b", "shard": 0, "model_version": "%2F"}
    lake.replace("latent_actions", [{**label("a"), **place}], place)
    table = lake.delta("latent_actions")
    assert table is not None
    assert not isinstance(dataset_of(table).filesystem, PyFileSystem)
    assert dataset_of(table).to_table(columns=["scene_token"]).num_rows == 1
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1/")
    for uri, kind in (("s3://bucket/lake/t", "s3"), ("file:///lake/t", "local"), ("/a/t", "local")):
        found = native_files(uri)
        assert found is not None and found.base_fs.type_name == kind
    assert native_files("gs://bucket/lake/t") is None
