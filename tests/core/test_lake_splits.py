"""A split that no source offers any more is named, and goes as a whole when asked to."""

from pathlib import Path

import pytest
from label_rows import label
from typer.testing import CliRunner

from latentvla_core.cli import app
from latentvla_core.errors import SetupError
from latentvla_core.lake.splits import drop_split, rows_by_split, strays
from latentvla_core.lake.store import Lake


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """Two labels and a refusal of split old, one label of split train."""
    monkeypatch.setenv("LATENTVLA_LAKE", str(tmp_path))
    lake = Lake(str(tmp_path))
    for split, tokens in (("old", "ab"), ("train", "c")):
        place = {"split": split, "shard": 0, "model_version": "m"}
        lake.replace("latent_actions", [label(token, **place) for token in tokens], place)
    where = {"stage": "frames", "split": "old", "shard": 0}
    fault = dict.fromkeys(("file", "frame", "field", "reason", "made_by"), "x")
    lake.replace("quarantine", [{**fault, **where}], where)
    return lake


def test_rows_are_counted_by_split_and_table(lake: Lake):
    assert rows_by_split(lake) == {
        "old": {"latent_actions": 2, "quarantine": 1},
        "train": {"latent_actions": 1},
    }
    assert strays(lake, ["train", "val"]).keys() == {"old"}
    assert strays(lake, ["train", "old"]) == {}


def test_a_dropped_split_is_gone_from_every_answer_and_nothing_else_is(lake: Lake):
    before = lake.version("latent_actions")
    assert drop_split(lake, "old") == {"latent_actions": 2, "quarantine": 1}
    assert [row["scene_token"] for row in lake.rows("latent_actions")] == ["c"]
    assert lake.rows("quarantine") == []
    assert len(lake.rows("latent_actions", version=before)) == 3
    assert strays(lake, ["train"]) == {}


def test_a_split_that_is_not_there_is_told_with_those_that_are(lake: Lake):
    with pytest.raises(SetupError, match="'older'; there are: old, train"):
        drop_split(lake, "older")


def test_the_command_says_what_it_would_drop_and_does_it_only_when_told(lake: Lake):
    said = CliRunner().invoke(app, ["lake", "drop-split", "old"]).stdout
    assert "latent_actions     2 rows would be deleted" in said
    assert rows_by_split(lake)["old"]["latent_actions"] == 2
    assert (
        "2 rows deleted" in CliRunner().invoke(app, ["lake", "drop-split", "old", "--yes"]).stdout
    )
    assert "old" not in rows_by_split(lake)
