from pathlib import Path

import pytest

from latentvla_core.errors import SetupError
from pipelines.settings import Settings, Source


def test_an_empty_environment_means_the_embedded_world(tmp_path: Path):
    settings = Settings.from_env({"LATENTVLA_HOME": str(tmp_path)})
    assert settings.embedded
    assert settings.splits == ("train", "val", "test")
    assert settings.lake == str(tmp_path / "lake")
    assert settings.partitions == ("train-00", "train-01", "val-00", "val-01", "test-00", "test-01")


def test_two_variables_point_the_same_line_at_a_navsim_tree():
    settings = Settings.from_env(
        {"OPENSCENE_DATA_ROOT": "/data/openscene", "NUPLAN_MAPS_ROOT": "/data/maps"}
    )
    assert not settings.embedded
    assert settings.source("train").logs == "/data/openscene/navsim_logs/trainval"
    assert settings.source("test").filter == "navtest"
    assert settings.source("val").maps == "/data/maps"
    assert len(settings.partitions) == 3 * 64


def test_train_and_val_share_a_folder_but_no_log():
    settings = Settings.from_env({"OPENSCENE_DATA_ROOT": "/data"})
    (low, cut), (start, high) = settings.source("train").part, settings.source("val").part
    assert (low, high) == (0.0, 1.0)
    assert cut == start


def test_a_sources_file_may_add_splits_to_the_embedded_world(tmp_path: Path):
    path = tmp_path / "sources.yaml"
    path.write_text(
        "embedded_world: true\nsplits:\n  real: {format: frames_poses, logs: '${DRIVES}/seq'}\n"
    )
    env = {"LATENTVLA_SOURCES": str(path), "DRIVES": "/d", "LATENTVLA_HOME": str(tmp_path)}
    settings = Settings.from_env(env)
    assert settings.embedded
    assert settings.splits == ("train", "val", "test", "real")
    assert settings.source("real").logs == "/d/seq"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("splits: {}", "at least one split"),
        ("splits: {a: {log: x}}", "unknown fields"),
        ("splits: {a: {format: navsim}}", "`logs` is missing"),
        ("splits: {a: {logs: '${NOT_SET}/x'}}", "not set"),
        ("splits: {a: {logs: x, format: csv}}", "navsim or frames_poses"),
        ("just text", "mapping `splits:`"),
        (":", "readable YAML"),
    ],
    ids=["empty", "typo", "no logs", "variable", "format", "not a mapping", "not YAML"],
)
def test_a_wrong_sources_file_says_what_to_mend(tmp_path: Path, text: str, message: str):
    path = tmp_path / "sources.yaml"
    path.write_text(text)
    with pytest.raises(SetupError, match=message):
        Settings.from_env({"LATENTVLA_SOURCES": str(path)})


def test_a_missing_sources_file_is_named():
    with pytest.raises(SetupError, match="nowhere.yaml"):
        Settings.from_env({"LATENTVLA_SOURCES": "/nowhere.yaml"})


@pytest.mark.parametrize("text", ["0", "-1", "many", "1000"])
def test_shards_must_be_a_sensible_number(text: str):
    with pytest.raises(SetupError, match="LATENTVLA_SHARDS"):
        Settings.from_env({"LATENTVLA_SHARDS": text})


def test_a_part_must_be_an_interval():
    with pytest.raises(SetupError, match="part"):
        Source(split="train", logs="x", part=(0.5, 0.5))


def test_fields_of_a_source_that_are_no_texts_are_told_as_any_other(tmp_path: Path):
    (tmp_path / "sources.yaml").write_text("splits: {a: {logs: x, 7: y, odd: z, null: w}}")
    with pytest.raises(SetupError, match=r"unknown fields \['7', 'None', 'odd'\]"):
        Settings.from_env({"LATENTVLA_SOURCES": str(tmp_path / "sources.yaml")})
