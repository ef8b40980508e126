"""The benchmark of the scorer's own phase on the study's world: it writes its logs once, trains on
some, judges on others.
"""

from __future__ import annotations

import pytest
import torch

from benchmarks.choice import compare, of_study, study_logs

pytestmark = pytest.mark.slow

torch.set_num_threads(1)


def test_an_ipad_of_the_study_is_trained_on_its_own_logs_and_judged_on_others(tmp_path, capsys):
    logs = study_logs(tmp_path, 1, 1)
    assert [log.role for log in logs] == ["labelled", "test"]
    stamps = [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.jpg"))]
    assert study_logs(tmp_path, 1, 1) == logs
    assert [path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*.jpg"))] == stamps
    planner, taught, seen = of_study(logs, steps=1, seed=0)
    names = [{record.log_name for record in part[0]} for part in (taught, seen)]
    assert names == [{logs[0].name}, {logs[1].name}]
    taught, seen = ((records[:6], worlds[:6]) for records, worlds in (taught, seen))
    compare(planner, taught, seen, lengths=[2], seeds=1)
    told = capsys.readouterr().out
    assert "6 training scenes, 6 judged, 1 logs" in told
    assert "without the phase, by the total:" in told
    assert "2 steps, seed 0, " in told
