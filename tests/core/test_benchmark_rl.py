"""The benchmark of learning from the score, whole, on a world of two logs."""

from __future__ import annotations

import csv

import pytest
import torch

from benchmarks import rl, rl_share
from latentvla_core.planner.hosts.transfuser import TransfuserConfig
from latentvla_core.planner.model import load
from latentvla_core.training.config import with_training
from latentvla_core.world.write import WorldConfig

pytestmark = pytest.mark.slow
torch.set_num_threads(1)

SMALL = WorldConfig(
    seed=21, logs_train=1, logs_val=0, logs_test=1, seconds_per_log=9.0, picture_wh=(96, 54)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The command with a small world and short trainings; its folder."""
    out = tmp_path_factory.mktemp("rl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rl, "WORLD", SMALL)
        patch.setattr(rl, "IMITATION", with_training(rl.IMITATION, steps=2, batch_size=2))
        rl.main(["--out", str(out), "--seeds", "2", "--steps", "2"])
    return out


def test_it_runs_whole_and_every_arm_of_every_seed_has_a_row_and_a_model(run):
    rows = list(csv.DictReader((run / "rl.csv").open()))
    assert [(r["seed"], r["arm"]) for r in rows] == [
        (seed, arm) for seed in "01" for arm in ("cloned", "one_plan", "shaped")
    ]
    for row in rows:
        low, mean, high = (float(row[f"score_{n}"]) for n in ("low", "gain", "high"))
        assert low <= mean <= high and 0.0 <= float(row["score"]) <= 1.0
    assert load(run / "planners" / "one_plan-1").name == "transfuser"


def test_the_share_of_scoring_is_a_part_of_the_time_and_is_held_against_its_target(
    run, monkeypatch, capsys
):
    tiny = rl_share.Setting("tiny", TransfuserConfig.debug(), "planner", 2, 2)
    monkeypatch.setattr(rl_share, "WORLD", SMALL)
    monkeypatch.setattr(rl_share, "SETTINGS", (tiny,))
    assert 0.0 < rl_share.share(tiny, rl.read(run / "world", "trainval", 1)) < 1.0
    for found, verdict in ((0.05, "5.0% of the time, target 10% held"), (0.2, "not held")):
        monkeypatch.setattr(rl_share, "share", lambda setting, taught, found=found: found)
        rl_share.main(["--out", str(run)])
        assert verdict in capsys.readouterr().out


def test_the_summary_counts_the_seeds_that_hold(capsys):
    row = {"arm": "one_plan", "score_gain": 4.0, "score_low": 1.0}
    rl.summary([row, {**row, "score_low": -0.1}, {**row, "score_gain": 2.0}])
    assert "one_plan: +3.3 points on average; +3 held in 1 of 3 seeds" in capsys.readouterr().out
