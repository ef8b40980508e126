"""A table whose last commit was cut off says which file it is; without that file it is whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from label_rows import label

from latentvla_core.errors import SetupError
from latentvla_core.lake.storage import cut_commit
from latentvla_core.lake.store import Lake


@pytest.fixture
def table(tmp_path):
    """Of two rows, each with a commit of its own; and the last commit."""
    lake = Lake(str(tmp_path))
    for token in "ab":
        lake.append("latent_actions", [label(token)])
    return lake, sorted(Path(lake.uri("latent_actions"), "_delta_log").glob("*.json"))[-1]


@pytest.mark.parametrize("part", [0.01, 0.5, 0.98])
def test_a_commit_that_was_cut_off_is_named_with_the_remedy(table, part):
    lake, commit = table
    whole = commit.read_bytes()
    commit.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(SetupError, match=rf"{commit.name} was cut off.*delete that file"):
        lake.read("latent_actions")
    commit.unlink()
    assert [row["scene_token"] for row in lake.rows("latent_actions")] == ["a"]


def test_a_table_that_is_whole_has_nothing_cut_off(table):
    lake, _ = table
    assert cut_commit(lake.uri("latent_actions")) == ""
    assert cut_commit(lake.uri("scenes")) == "", "a table that is not there"


def test_another_fault_keeps_its_own_remedy(table):
    lake, _ = table
    for file in Path(lake.uri("latent_actions")).rglob("*.parquet"):
        file.write_bytes(b"no parquet")
    with pytest.raises(SetupError, match="if the table is damaged, move its folder away"):
        lake.read("latent_actions")
