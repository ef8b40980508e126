"""A first try with one split of own drives is answered before any work."""

from __future__ import annotations

from dataclasses import replace

import pytest

from latentvla_core.errors import SetupError
from latentvla_core.recipes import Weights
from pipelines.demo import _check_splits, check_weights
from pipelines.settings import Settings


def settings(tmp_path, text: str) -> Settings:
    (tmp_path / "sources.yaml").write_text(text)
    env = {"LATENTVLA_SOURCES": str(tmp_path / "sources.yaml"), "LATENTVLA_HOME": str(tmp_path)}
    return Settings.from_env(env)


def test_a_job_that_trains_needs_a_split_to_train_on(tmp_path):
    alone = settings(tmp_path, "splits: {real: {format: frames_poses, logs: drives}}")
    with pytest.raises(SetupError, match="split named train .* embedded_world: true"):
        _check_splits(alone, "labels")
    _check_splits(alone, "ingest_and_label")  # trains nothing
    both = settings(tmp_path, "embedded_world: true\nsplits: {real: {logs: drives}}")
    _check_splits(both, "labels")


def test_a_recipe_whose_weights_are_not_there_is_refused_before_any_work(tmp_path):
    paper = replace(settings(tmp_path, "splits: {train: {logs: drives}}"), recipe="paper")
    with pytest.raises(SetupError) as caught:
        check_weights(paper, "whole_line")
    told = str(caught.value)
    assert "DINOv2 are not named; set LATENTVLA_DINOV2" in told
    assert "Qwen2.5-VL are not named; set LATENTVLA_QWEN" in told
    check_weights(paper, "baseline_scores")  # starts from no weights
    check_weights(replace(paper, recipe="mini"), "whole_line")


def test_weights_that_are_named_must_be_there_and_only_those_a_job_reads(tmp_path):
    here, nowhere = tmp_path / "here", tmp_path / "nowhere"
    here.mkdir()
    (here / "config.json").write_text("{}")
    paper = replace(settings(tmp_path, "splits: {train: {logs: drives}}"), recipe="paper")
    paper = replace(paper, weights=Weights(dinov2=str(here), qwen=str(nowhere)))
    check_weights(paper, "labels")
    with pytest.raises(SetupError, match=r"Qwen2.5-VL are not in .*nowhere, which has no config"):
        check_weights(paper, "whole_line")
