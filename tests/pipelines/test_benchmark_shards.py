"""The benchmark of shards side by side: what it compares, and that its stages need nothing else."""

from __future__ import annotations

import pytest

from benchmarks import shards
from benchmarks.shards import MEASURED, STAGES, Run, compared


def test_one_worker_is_compared_with_many_by_medians():
    runs = [
        *(Run(1, wall, 60.0, 3.0) for wall in (60.0, 64.0, 200.0)),
        *(Run(2, wall, 66.0, 5.0) for wall in (32.0, 32.0, 99.0)),
    ]
    found = compared(runs)
    assert found["times_as_fast"] == pytest.approx(2.0), "an outlier decides nothing"
    assert found["cpu_times"] == pytest.approx(1.1)
    assert found["at_most"] == pytest.approx(2 / 1.1), "what CPU seconds leave room for"
    assert found["workers"] == 2 and found["load"] == 5.0


def test_measured_stages_stand_in_a_line_of_their_own():
    assert set(MEASURED) <= set(STAGES)
    for name, stage in STAGES.items():
        assert {*stage.deps, *stage.after} <= set(STAGES), name
        assert not stage.gates, "labels would wait for a report"
    module, _, name = shards.AT.partition(":")
    assert (module, name) == ("benchmarks.shards", "STAGES"), "worker processes find them by it"


def test_logs_are_written_once_and_no_name_is_in_both_splits(tmp_path):
    settings = shards.deployment(tmp_path, 1, 8.0, 2)
    made = {s.split: {p.name for p in (tmp_path / s.logs).glob("*.pkl")} for s in settings.sources}
    assert [len(made[name]) for name in ("train", "test", "more")] == [1, 1, 2]
    assert not made["train"] & made["more"]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pkl")}
    assert shards.deployment(tmp_path, 1, 8.0, 2) == settings
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.pkl")} == before
