"""Latency of teacher, student and planner in one run: every row is there, timed in turn, and the
plan that is timed hears what is said.
"""

from __future__ import annotations

import json
import sys

import pytest
import torch

from benchmarks import student_vs_teacher as bench

torch.set_num_threads(1)
CPU = torch.device("cpu")
ROWS = ["teacher", "student", "student, parallel"]


def test_one_run_times_all_three_alone_and_with_the_planner(monkeypatch, capsys):
    words = ["student_vs_teacher", "--size", "debug", "--device", "cpu", "--repeats", "2"]
    monkeypatch.setattr(sys, "argv", words)
    bench.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(found) == [*ROWS, *(f"{name} + iPad" for name in ROWS), "iPad alone"]
    assert found["teacher"]["speed_up"] == 1.0
    for row in found.values():
        assert 0 < row["median_ms"] <= row["p95_ms"]
        assert row["median_cpu_ms"] > 0
    for name in ROWS:
        assert found[f"{name} + iPad"]["parameters"] > found[name]["parameters"]


def test_runs_take_turns_and_the_first_three_do_not_count():
    order: list[str] = []
    runs = {name: (lambda name=name: order.append(name)) for name in "ab"}
    times = bench.side_by_side(runs, 4, CPU)
    assert order == ["a", "b"] * 7
    assert [len(times[name].wall) for name in "ab"] == [4, 4]


def test_the_percentile_is_a_measured_time():
    assert bench.percentile([float(i) for i in range(100)]) == 94.0
    assert bench.percentile([5.0]) == 5.0


@pytest.mark.parametrize("answers", [True, False])
def test_the_plan_that_is_timed_hears_the_answer(answers):
    """With open gates another answer moves it; a planner alone has no fusion to hear with."""
    torch.manual_seed(0)
    said = [
        torch.zeros(1, 12),
        *(torch.randn(shape) for shape in ((1, 12, 16), (1, 4, 8), (1, 12, 8))),
    ]
    drive = bench.Drive(
        "debug", 8 if answers else 0, CPU, (lambda: said) if answers else None, False
    )
    first = drive().clone()
    if not answers:
        assert drive.planner.fusion is None
        return
    for layer in drive.planner.fusion.layers:
        torch.nn.init.ones_(layer.attention_gate)
    open_gates = drive().clone()
    said[3] = said[3] + 3.0
    assert not torch.equal(open_gates, first)
    assert not torch.equal(drive(), open_gates)
