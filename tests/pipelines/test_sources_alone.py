"""A first try with one split of own drives is answered before any work."""

from __future__ import annotations

import pytest

from latentvla_core.errors import SetupError
from pipelines.demo import _check_splits
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
