"""Old versions of tables: read by number or by model, kept by maintenance, given up only when
asked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from label_rows import label
from typer.testing import CliRunner

from latentvla_core.cli import app
from latentvla_core.errors import DataError, SetupError
from latentvla_core.lake.maintenance import compact, vacuum
from latentvla_core.lake.store import Lake

PLACE = {"split": "train", "shard": 0, "model_version": "m"}
QUERY = "select scene_token from latent_actions"


def model_row(version: str, inputs: dict[str, int]) -> dict[str, Any]:
    texts = dict.fromkeys(("recipe", "path", "metrics", "commit", "mlflow_uri"), "")
    return {
        **texts,
        "name": "student",
        "version": version,
        "inputs": json.dumps(inputs),
        "parameters": 1,
        "seconds": 1.0,
        "made_by": version,
    }


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    """Labels `old`, on which a student was trained, replaced by `middle` and then by `new`."""
    monkeypatch.setenv("LATENTVLA_LAKE", str(tmp_path / "lake"))
    lake = Lake(str(tmp_path / "lake"))
    trained = lake.replace("latent_actions", [label("old")], PLACE)
    lake.replace(
        "models",
        [model_row("s1", {"latent_actions": trained, "vlm": 3})],
        {"name": "student", "version": "s1"},
    )
    lake.replace("latent_actions", [label("middle")], PLACE)
    lake.replace("latent_actions", [label("new")], PLACE)
    return lake


def scenes(lake: Lake, version: int | None = None) -> list[str]:
    return [row["scene_token"] for row in lake.rows("latent_actions", version=version)]


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, [*arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_rows_and_sql_as_a_model_saw_them(lake: Lake):
    at = lake.trained_on("student")
    assert set(at) == {"latent_actions"}, "vlm is a model, no table"
    assert scenes(lake) == ["new"]
    assert scenes(lake, at["latent_actions"]) == ["old"]
    assert lake.sql(QUERY, at).to_pylist() == [{"scene_token": "old"}]


def test_the_latest_finished_model_is_meant_unless_a_version_is_named(lake: Lake):
    lake.replace("models", [model_row("s0", {"latent_actions": lake.version("latent_actions")})],
                 {"name": "student", "version": "s0"})  # fmt: skip
    finished = {
        "asset": "student",
        "partition": "",
        "table_name": "models",
        "delta_version": 1,
        "rows": 1,
        "quarantined": 0,
        "inputs": "{}",
        "recipe": "",
        "code_version": "",
        "commit": "",
        "run_id": "",
        "seconds": 1.0,
    }
    lake.append(
        "materialisations",
        [{**finished, "made_by": v, "finished_us": us} for v, us in (("s1", 1), ("s0", 2))],
    )
    assert scenes(lake, lake.trained_on("student")["latent_actions"]) == ["new"]
    assert scenes(lake, lake.trained_on("student", "s1")["latent_actions"]) == ["old"]
    with pytest.raises(DataError, match=r"version 's9'.*there are: s0, s1"):
        lake.trained_on("student", "s9")


def test_the_command_line_reads_old_versions(lake: Lake):
    version = lake.trained_on("student")["latent_actions"]
    assert "new" in run("sql", QUERY, "--format", "csv")
    assert "old" in run("sql", QUERY, "--at", f"latent_actions={version}", "--format", "csv")
    assert "old" in run("sql", QUERY, "--at", "student", "--format", "csv")
    assert "old" in run("sql", QUERY, "--at", "student/s1", "--format", "csv")
    with pytest.raises(SetupError, match="--at is 'latent_actions=x'"):
        run("sql", QUERY, "--at", "latent_actions=x")


def test_the_command_line_says_which_tables_it_reads_as_of_now(lake: Lake):
    joined = f"{QUERY} union select version from models"
    assert "models: as of now, because student says no version of it" in run(
        "sql", joined, "--at", "student"
    )
    assert "as of now" not in run("sql", QUERY, "--at", "student")
    assert "as of now" not in run("sql", joined)


def test_compaction_joins_files_and_changes_no_row(lake: Lake):
    for i in range(5):
        lake.append("latent_actions", [label(f"more-{i}")])
    before, rows = lake.version("latent_actions"), scenes(lake)
    (kept,) = compact(lake, ["latent_actions"])
    assert (kept.files_before, kept.files_after) == (6, 1)
    assert scenes(lake) == rows == scenes(lake, before)
    assert lake.counts("latent_actions", ("split", "shard")) == {("train", 0, "f"): 6}
    assert compact(lake, ["latent_actions"])[0].files_after == 1


def test_vacuum_keeps_what_a_model_was_trained_on(lake: Lake):
    trained = lake.trained_on("student")["latent_actions"]
    (kept,) = vacuum(lake, ["latent_actions"], keep_days=0)
    assert kept.deleted == 1
    assert kept.pinned == (trained,)
    assert scenes(lake, trained) == ["old"]
    assert scenes(lake) == ["new"]
    with pytest.raises(SetupError, match="latent_actions"):
        scenes(lake, trained + 1)


def test_vacuum_keeps_recent_versions_and_counts_without_deleting(lake: Lake):
    trained = lake.trained_on("student")["latent_actions"]
    assert vacuum(lake, ["latent_actions"], keep_days=30)[0].deleted == 0
    assert vacuum(lake, ["latent_actions"], keep_days=0, dry_run=True)[0].deleted == 1
    assert scenes(lake, trained + 1) == ["middle"]


def test_models_are_forgotten_only_when_asked(lake: Lake):
    trained = lake.trained_on("student")["latent_actions"]
    output = run("lake", "vacuum", "latent_actions", "--keep-days", "0", "--forget-models")
    assert "2 deleted" in output
    with pytest.raises(SetupError, match="latent_actions"):
        scenes(lake, trained)
    assert scenes(lake) == ["new"]


def test_old_versions_open_after_compaction_checkpoint_and_vacuum(lake: Lake):
    """Log entries are never cleaned up: a checkpoint must not cut the way to what a model was
    trained on.
    """
    trained = lake.trained_on("student")["latent_actions"]
    lake.append("latent_actions", [label("more")])
    compact(lake)
    table = lake.delta("latent_actions")
    assert table is not None
    assert table.metadata().configuration["delta.enableExpiredLogCleanup"] == "false"
    table.create_checkpoint()
    table.cleanup_metadata()
    vacuum(lake, keep_days=0)
    assert scenes(lake, trained) == ["old"]


def test_a_word_that_is_a_table_elsewhere_is_no_table_here(lake: Lake):
    found = lake.sql("select 'scenes' as scores, count(*) as vlm_samples from latent_actions")
    assert found.to_pylist() == [{"scores": "scenes", "vlm_samples": 1}]
    with pytest.raises(SetupError, match="scenes does not exist yet"):
        lake.sql("select count(*) from latent_actions, scenes")


def test_names_that_are_no_tables_are_refused(lake: Lake):
    with pytest.raises(SetupError, match=r"no such table.*; there are: logs"):
        compact(lake, ["labels"])
