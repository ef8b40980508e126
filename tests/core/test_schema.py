"""How a table is declared, written and read back: types, shapes, faults by row and column, pages."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from latentvla_core.errors import DataError, DataFaults
from latentvla_core.lake.store import faults_of
from latentvla_core.schema import (
    TableSpec,
    flag,
    integer,
    markdown,
    page,
    real,
    restore,
    single,
    text,
    to_arrow,
    to_rows,
    wrapped,
)
from latentvla_core.tables.sentences import sentences

SPEC = TableSpec(
    "drives",
    "one drive",
    (
        text("split", "which part"),
        integer("shard", "hash", dtype="int32"),
        text("name", "its key"),
        real("path", "where it went", "m, m, rad", (-1, 3)),
        single("corners", "boxes", "m", (2, -1, 4, 2)),
        integer("codes", "what was said", "", (-1,), "int8"),
        flag("seen", "whether somebody looked", (-1,)),
        text("cameras", "names", (-1,)),
        flag("valid", "usable"),
    ),
    key=("name",),
)


def row(**change):
    base = {
        "split": "train",
        "shard": 0,
        "name": "a",
        "path": np.zeros((2, 3)),
        "corners": np.zeros((2, 1, 4, 2)),
        "codes": [1, 2],
        "seen": [True],
        "cameras": ("CAM_F0", "カメラ"),
        "valid": True,
    }
    return base | change


def through(**change):
    return to_rows(SPEC, to_arrow(SPEC, [row(**change)]))[0]


laws = settings(max_examples=25, deadline=None)


@laws
@given(st.integers(0, 5).flatmap(lambda n: arrays.arrays(np.float64, (n, 3))))
def test_any_path_comes_back_bit_by_bit(path):
    back = through(path=path)["path"]
    assert back.shape == path.shape and back.dtype == np.float64
    assert back.tobytes() == path.tobytes()


@laws
@given(st.lists(st.text()), st.text())
def test_any_text_comes_back(cameras, name):
    back = through(cameras=cameras, name=name)
    assert back["cameras"] == tuple(cameras) and back["name"] == name


@laws
@given(st.integers(0, 3).flatmap(lambda n: arrays.arrays(np.float32, (2, n, 4, 2))))
def test_a_length_in_the_middle_comes_back(corners):
    back = through(corners=corners)["corners"]
    assert back.dtype == np.float32
    if corners.size:
        assert back.shape == corners.shape
    np.testing.assert_array_equal(back.ravel(), corners.ravel())


def test_scalars_of_numpy_are_plain_values():
    back = through(shard=np.int64(7), valid=np.bool_(False))
    assert back["shard"] == 7 and back["valid"] is False
    assert to_arrow(SPEC, [row()]).schema == SPEC.arrow_schema()


def test_no_rows_are_a_table_with_columns():
    empty = to_arrow(SPEC, [])
    assert empty.num_rows == 0 and empty.schema == SPEC.arrow_schema()
    assert to_rows(SPEC, empty) == []


def test_a_part_of_the_columns_is_read_alone():
    table = to_arrow(SPEC, [row(), row(name="b")]).select(["name", "codes"])
    found = to_rows(SPEC, table)
    assert [r["name"] for r in found] == ["a", "b"]
    assert found[1]["codes"].tolist() == [1, 2] and set(found[1]) == {"name", "codes"}


def test_rows_of_several_chunks_and_a_slice_keep_their_arrays():
    parts = [to_arrow(SPEC, [row(name=n, codes=[k] * k)]) for k, n in enumerate("abc")]
    whole = pa.concat_tables(parts)
    assert [r["codes"].tolist() for r in to_rows(SPEC, whole)] == [[], [1], [2, 2]]
    sliced = whole.combine_chunks().slice(1, 2)
    assert [r["codes"].tolist() for r in to_rows(SPEC, sliced)] == [[1], [2, 2]]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"path": np.zeros(3)}, r"field path: shape \(3,\) does not fit \(-1, 3\)"),
        ({"path": np.zeros((2, 4))}, r"shape \(2, 4\) does not fit \(-1, 3\)"),
        ({"corners": np.zeros((1, 1, 4, 2))}, r"shape \(1, 1, 4, 2\) does not fit \(2, -1, 4, 2\)"),
        ({"codes": [1, 300]}, "field codes: 1 … 300 do not fit int8"),
        ({"codes": [0.5, 1.0]}, "do not fit int8"),
    ],
)
def test_a_value_that_does_not_fit_names_table_row_and_column(change, told):
    with pytest.raises(DataError, match=r"table drives, row \('b',\)") as caught:
        to_arrow(SPEC, [row(), row(name="b", **change)])
    with pytest.raises(DataError, match=told):
        raise caught.value


def test_whole_numbers_stored_as_floats_are_whole_numbers():
    assert through(codes=np.array([3.0, -1.0]))["codes"].tolist() == [3, -1]


def test_a_missing_value_is_no_default():
    less = row()
    del less["seen"]
    with pytest.raises(DataError, match="field seen: the value is missing; every declared column"):
        to_arrow(SPEC, [less])


def test_json_gives_arrays_back_in_type_and_shape_and_leaves_the_rest():
    back = restore(
        SPEC, {"path": [[1, 2, 3]], "codes": [], "cameras": ["x"], "note": [1], "shard": 4}
    )
    assert back["path"].dtype == np.float64 and back["path"].shape == (1, 3)
    assert back["codes"].dtype == np.int8 and back["codes"].shape == (0,)
    assert (back["cameras"], back["note"], back["shard"]) == (("x",), [1], 4)


def test_a_page_says_the_row_the_key_the_type_and_the_unit():
    told = markdown(SPEC)
    assert told.startswith(
        "## drives\n\nOne row is one drive. Key: name. Partitions: split, shard."
    )
    assert "| path | float64[n, 3] | m, m, rad | where it went |" in told
    assert "| corners | float32[2, n, 4, 2] | m | boxes |" in told
    assert "| name | string |  | its key |" in told
    whole = page({"drives": SPEC}, ["## a view\n"])
    assert whole.startswith("# Tables") and whole.endswith("## a view\n")


def test_other_tools_are_told_meaning_unit_and_shape():
    told = SPEC.told_schema()
    assert told.field("path").metadata == {
        b"comment": b"where it went",
        b"unit": b"m, m, rad",
        b"shape": b"-1, 3",
    }
    assert told.field("name").metadata == {b"comment": b"its key"}
    assert told.remove_metadata().names == SPEC.arrow_schema().names


def test_prose_is_wrapped_and_words_are_not_broken():
    long = "word-with-hyphens " * 20 + "x" * 120
    lines = wrapped(long).splitlines()
    assert all(len(line) <= 100 for line in lines[:-1]) and lines[-1] == "x" * 120
    assert " ".join(lines) == long


# ---- what may become a partition


def faults(*rows, **partition) -> str:
    return "; ".join(
        faults_of(SPEC, to_arrow(SPEC, rows), {"split": "train", "shard": 0} | partition)
    )


def test_rows_of_one_partition_with_their_own_keys_are_sound():
    assert faults(row(), row(name="b")) == ""
    assert faults() == ""
    assert faults(row(), row(name="b", shard=1), shard=(0, 1)) == ""


def test_everything_that_is_wrong_is_said_at_once():
    table = to_arrow(SPEC, [row(), row(shard=1), row(split="val")])
    table = table.set_column(8, "valid", pa.array([True, None, True]))
    told = "; ".join(faults_of(SPEC, table, {"split": "train"}))
    assert "partition ['split'] given, the table is partitioned by ['shard', 'split']" in told
    assert "column split holds ['train', 'val'], the partition is 'train'" in told
    assert "null values in ['valid']; use NaN with valid = false and a reason" in told
    assert "key ('name',) is not unique" in told


def test_faults_of_a_batch_are_one_error_that_lists_them():
    error = DataFaults([DataError("too far", file="T", frame="7", field="x"), DataError("gone")])
    assert str(error) == "2 fault(s):\n  - T, frame 7, field x: too far\n  - gone"
    first = error.faults[0]
    assert (first.file, first.frame, first.field, first.reason) == ("T", "7", "x", "too far")


# ---- twelve codes of a scene


def said(token: str, step: int, codes, valid: bool = True):
    return {"scene_token": token, "step": step, "valid": valid, "ego_codes": codes}


def labels(*rows) -> pa.Table:
    kinds = {"scene_token": pa.string(), "step": pa.int8(), "valid": pa.bool_()}
    kinds["ego_codes"] = pa.list_(pa.int8())
    return pa.Table.from_pylist(list(rows), pa.schema(list(kinds.items())))


def test_transitions_in_any_order_make_a_sentence_in_time():
    rows = [said("a", step, [step * 4 + k for k in range(4)]) for step in (2, 0, 1)]
    found = sentences(labels(*rows))
    assert found["a"].tolist() == list(range(12)) and found["a"].dtype == np.int8


def test_a_scene_with_a_transition_missing_or_not_valid_has_no_sentence():
    whole = [said("a", step, [0] * 4) for step in range(3)]
    part = [said("b", step, [0] * 4) for step in range(2)]
    broken = [said("c", step, [0] * 4 if step else [], bool(step)) for step in range(3)]
    assert set(sentences(labels(*whole, *part, *broken))) == {"a"}
    assert set(sentences(labels(*part), steps=2)) == {"b"}
    assert sentences(labels()) == {}
