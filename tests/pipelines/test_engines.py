"""Shards side by side: the same tables as one after the other, and a killed process costs one unit."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import toy_shards

from latentvla_core.errors import DataError, SetupError
from latentvla_core.lake.store import Lake
from pipelines.engines import processes as processes_module
from pipelines.engines import shards as shards_module
from pipelines.engines.processes import WorkerDiedError, side_by_side
from pipelines.engines.shards import execute_shards
from pipelines.engines.unit import Unit, do
from pipelines.settings import Settings
from pipelines.steps.engine import Engine
from pipelines.steps.lineage import Ledger

pytestmark = pytest.mark.slow


class Line:
    """A deployment with six shards in a folder of its own."""

    def __init__(self, home: Path, **extra: str) -> None:
        env = {"LATENTVLA_HOME": str(home), "LATENTVLA_RECIPE": "debug", "LATENTVLA_WORKERS": "2"}
        self.settings = Settings.from_env(env | extra)
        self.orders, self.said = home / "orders", list[str]()
        self.orders.mkdir(parents=True)

    def order(self, name: str, text: str = "") -> None:
        (self.orders / name).write_text(text)

    def engine(self) -> Engine:
        return Engine(self.settings, toy_shards.STAGES, self.said.append)

    def run(self, **kwargs):
        engine = self.engine()
        stage = toy_shards.STAGES["toy"]
        return execute_shards(
            engine, stage, self.settings.partitions, stages=toy_shards.AT, **kwargs
        )

    def units(self) -> list[Unit]:
        return [
            Unit(
                settings=self.settings, stage="toy", partition=partition, batch="b",
                stages=toy_shards.AT,
            )
            for partition in self.settings.partitions
        ]  # fmt: skip

    def done(self) -> list[tuple[str, str]]:
        """(process, partition) of what was done, in order."""
        lines = (self.orders / "done").read_text().splitlines()
        return [tuple(line.split(maxsplit=1)) for line in lines]  # pyright: ignore

    def table(self):
        return Lake(self.settings.lake).read("latent_actions")


@pytest.fixture
def line(tmp_path):
    return Line(tmp_path / "line")


@pytest.fixture
def eager(monkeypatch):
    """Processes are started however little there is to do."""
    monkeypatch.setattr(shards_module, "START_S", -1.0)


def test_processes_leave_the_same_table_as_one_after_the_other_and_are_not_started_for_nothing(
    line, tmp_path, eager
):
    alone = Line(tmp_path / "alone", LATENTVLA_WORKERS="1")
    one, two = alone.run(), line.run()
    assert alone.table().equals(line.table()) and alone.table().num_rows == 6
    assert list(one) == list(two) == list(line.settings.partitions)
    assert [o.made_by for o in one.values()] == [o.made_by for o in two.values()]
    processes = {process for process, _ in line.done()}
    assert len(processes) == 3 and len({process for process, _ in alone.done()}) == 1
    assert "doing test-01" in line.said
    assert two["train-01"].metadata == {"of": "train-01"}
    again = line.run()
    assert all(outcome.skipped for outcome in again.values()) and len(line.done()) == 6


def test_short_work_is_done_without_starting_processes(line):
    line.run()
    assert len({process for process, _ in line.done()}) == 1


def test_shards_that_were_done_before_start_processes_at_once_and_the_longest_begin_first(
    line, eager, monkeypatch
):
    took = {"test-00": 9.0, "val-01": 8.0, "val-00": 2.0, "train-00": 1.0, "train-01": 3.0}
    handed: list[str] = []

    def noted(units, workers, say):
        handed.extend(unit.partition for unit in units)
        return {unit.partition: do(unit, say) for unit in units}

    monkeypatch.setattr(Ledger, "seconds_of", lambda self, asset: took)
    monkeypatch.setattr(shards_module, "side_by_side", noted)
    found = line.run(force=True)
    assert handed == ["test-01", "test-00", "val-01", "train-01", "val-00", "train-00"]
    assert list(found) == list(line.settings.partitions)
    took.clear()
    handed.clear()
    line.run(force=True)
    assert len(handed) == 5, "of what was never done one shard is tried here first"


def test_a_killed_process_costs_the_unit_it_had_and_a_fault_its_own(line):
    line.order("die-val-00", "1")
    for partition in ("val-01", "test-01"):
        line.order(f"refuse-{partition}")
    with pytest.raises(DataError, match="test-01 is refused") as found:
        side_by_side(line.units(), 2, line.said.append)
    assert (found.value.file, found.value.frame) == ("a.pkl", "7")
    assert any("val-01 is refused" in note for note in found.value.__notes__)
    assert line.table().num_rows == 4
    done = sorted(partition for _, partition in line.done())
    assert done == ["test-00", "train-00", "train-01", "val-00"]
    assert any("val-00: its process ended with 9; another one" in text for text in line.said)


def test_a_unit_that_kills_every_process_is_given_up(line, monkeypatch):
    monkeypatch.setattr(processes_module, "TRIES", 1)
    line.order("die-val-00", "99")
    units = [unit for unit in line.units() if unit.partition == "val-00"]
    with pytest.raises(WorkerDiedError, match="val-00: its process ended with 9, 1 times"):
        side_by_side(units, 2, line.said.append)


def test_an_engine_that_does_not_exist_is_refused():
    with pytest.raises(SetupError, match="LATENTVLA_ENGINE is 'dask'; use processes or ray"):
        Settings.from_env({"LATENTVLA_ENGINE": "dask"})
    with pytest.raises(SetupError, match="LATENTVLA_WORKERS is '0'"):
        Settings.from_env({"LATENTVLA_WORKERS": "0"})
    assert Settings.from_env({"LATENTVLA_ENGINE": "ray"}).engine == "ray"


def test_settings_travel(line):
    import pickle

    settings = dataclasses.replace(line.settings, shards=3)
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_a_worker_that_does_worlds_and_scores_does_not_pay_for_torch():
    asked = "import sys, pipelines.stages, pipelines.engines.unit; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False", (
        "a heavy import at the top of a module that is always read"
    )
