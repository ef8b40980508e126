"""Bringing work up to date, with toy stages: what is skipped, what is done again, what a kill leaves behind."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from label_rows import label

import pipelines.engine as engine_module
from latentvla_core.errors import DataError
from pipelines.engine import Engine, Output
from pipelines.lineage import Stage
from pipelines.settings import Settings


class Line:
    """One stage that writes `latent_actions`, one without partitions that only refuses, and what they were asked to do."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.rows = {"train-00": [label("a"), label("b")], "train-01": [label("c")]}
        self.faults: list[dict[str, str]] = []
        self.steps = 10
        self.version = "m"
        self.home = tmp_path
        monkeypatch.setattr(
            engine_module, "recipe_named", lambda name, weights: SimpleNamespace(name=name, latent=self.steps)
        )

    def engine(self) -> Engine:
        stage = Stage(
            name="toy",
            run=self.run,
            kind="shards",
            table="latent_actions",
            deps=(),
            group="g",
            doc="",
            recipe=("latent",),
        )
        settings = Settings.from_env({"LATENTVLA_HOME": str(self.home), "LATENTVLA_RECIPE": "toy"})
        whole = Stage(name="whole", run=self.refuse, kind="table", table="pdm_summary", deps=(), group="g", doc="")
        return Engine(settings, {"toy": stage, "whole": whole})

    def run(self, engine: Engine, partition: str) -> Output:
        self.calls.append(partition)
        return Output(self.rows[partition], self.faults, groups=(self.version,))

    def refuse(self, engine: Engine) -> Output:
        return Output([], self.faults)


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Line:
    return Line(tmp_path, monkeypatch)


def test_finished_work_is_not_done_again(line: Line):
    assert not line.engine().execute("toy", "train-00").skipped
    assert line.engine().execute("toy", "train-00").skipped
    assert line.calls == ["train-00"]


def test_force_does_it_again_and_leaves_one_copy(line: Line):
    line.engine().execute("toy", "train-00")
    line.engine().execute("toy", "train-00", force=True)
    assert line.calls == ["train-00"] * 2
    assert line.engine().lake.read("latent_actions").num_rows == 2


def test_a_changed_recipe_does_it_again(line: Line):
    first = line.engine().execute("toy", "train-00")
    line.steps = 11
    second = line.engine().execute("toy", "train-00")
    assert not second.skipped
    assert first.made_by != second.made_by
    assert {row["made_by"] for row in line.engine().lake.rows("latent_actions")} == {second.made_by}


def test_killed_between_rows_and_ledger_gives_the_same_table(line: Line, monkeypatch: pytest.MonkeyPatch):
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.lineage.Ledger.record", killed)
        with pytest.raises(KeyboardInterrupt):
            line.engine().execute("toy", "train-00")
    assert not line.engine().execute("toy", "train-00").skipped
    assert line.engine().lake.read("latent_actions")["scene_token"].to_pylist() == ["a", "b"]


def test_rows_say_what_made_them_and_the_ledger_says_the_rest(line: Line):
    outcome = line.engine().execute("toy", "train-01", run_id="run-7")
    (entry,) = line.engine().lake.rows("materialisations")
    assert entry["made_by"] == outcome.made_by
    assert entry["run_id"] == "run-7"
    assert entry["rows"] == 1
    found = line.engine().lake.sql(
        "select l.scene_token, m.asset from latent_actions l join materialisations m on l.made_by = m.made_by"
    )
    assert found.to_pylist() == [{"scene_token": "c", "asset": "toy"}]


def test_what_was_refused_is_in_quarantine_until_it_is_mended(line: Line):
    line.faults = [{"file": "a.pkl", "frame": "f", "field": "anns", "reason": "missing"}]
    assert line.engine().execute("toy", "train-00").quarantined == 1
    assert line.engine().lake.rows("quarantine")[0]["reason"] == "missing"
    line.faults = []
    line.engine().execute("toy", "train-00", force=True)
    assert line.engine().lake.rows("quarantine") == []


def test_what_a_stage_without_partitions_refused_is_gone_once_it_is_mended(line: Line):
    line.faults = [{"file": "a.pkl", "frame": "", "field": "", "reason": "missing"}]
    assert line.engine().execute("whole").quarantined == 1
    assert [(row["split"], row["file"]) for row in line.engine().lake.rows("quarantine")] == [("", "a.pkl")]
    line.faults = []
    line.engine().execute("whole", force=True)
    assert line.engine().lake.rows("quarantine") == []


def test_where_nothing_was_refused_and_nothing_is_nothing_is_written(line: Line):
    line.faults = [{"file": "a.pkl", "frame": "", "field": "", "reason": "missing"}]
    line.engine().execute("toy", "train-00")
    line.faults = []
    version = line.engine().lake.version("quarantine")
    line.engine().execute("whole")
    assert line.engine().lake.version("quarantine") == version


def test_bad_rows_are_refused_and_the_old_ones_stay(line: Line):
    line.engine().execute("toy", "train-00")
    line.rows["train-00"] = [label("z"), label("z")]
    with pytest.raises(DataError, match="not unique"):
        line.engine().execute("toy", "train-00", force=True)
    assert line.engine().lake.read("latent_actions")["scene_token"].to_pylist() == ["a", "b"]
