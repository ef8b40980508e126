"""One training on two processes is the training of one process."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from torch import nn
from two_processes import CONFIG, Net, codebook, start_two, train, weights

from latentvla_core.errors import SetupError
from latentvla_core.training.config import FitConfig
from latentvla_core.training.devices.group import Launch, divided, launched
from latentvla_core.training.devices.passes import Keeper, together
from latentvla_core.training.devices.spread import repeated_blocks

pytestmark = pytest.mark.slow

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes found; checkpoints of one process lie ready for them."""
    folder = tmp_path_factory.mktemp("two")
    for name in ("by_one", "by_one_too"):
        train(Net(), checkpoint_dir=folder / name, until=2)
    return start_two(folder), folder


@pytest.fixture(scope="module")
def alone():
    net = Net()
    return train(net), weights(net)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_equal_one(two, alone, strategy):
    found, (losses, after) = two[0][strategy], alone
    assert len(found["losses"]) == CONFIG.steps
    assert found["losses"] == pytest.approx(losses, abs=1e-6)
    assert found["weights"] == pytest.approx(after, abs=1e-5)
    assert after != pytest.approx(weights(Net()), abs=1e-3), "nothing was trained"


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_model_comes_back_as_it_went_in(two, strategy):
    assert two[0][strategy]["as_it_came"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_go_on_from_a_checkpoint_of_one(two, alone, strategy):
    found = two[0][f"{strategy}_from_one"]
    assert found["losses"] == pytest.approx(alone[0][2:], abs=1e-6)
    assert found["weights"] == pytest.approx(alone[1], abs=1e-5)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_process_goes_on_from_a_checkpoint_of_two(two, alone, strategy):
    net = Net()
    losses = train(net, checkpoint_dir=two[1] / f"by_{strategy}")
    assert losses == pytest.approx(alone[0][2:], abs=1e-6)
    assert weights(net) == pytest.approx(alone[1], abs=1e-5)


def test_a_checkpoint_of_parts_is_checked_before_it_is_read(two, tmp_path):
    newest = tmp_path / "by" / "step_00000002"
    shutil.copytree(two[1] / "by_fsdp" / newest.name, newest)
    sums = json.loads((newest / "progress.json").read_text())["sha256"]
    assert any(name.startswith("parts/__1_") for name in sums), "the second process wrote nothing"
    (newest / sorted(name for name in sums if "__" in name)[0]).write_bytes(b"damaged")
    with pytest.raises(Exception, match="damaged"):
        train(Net(), checkpoint_dir=tmp_path / "by")


def test_codes_stay_the_same_in_every_process(two):
    assert two[0]["codebook"]["apart"] == 0


def test_codes_of_two_processes_are_those_of_one_that_does_the_same_passes(two, tmp_path):
    passes = FitConfig(steps=5, batch_size=6, accumulate=2, log_every=1)
    one = codebook(tmp_path, passes)
    assert two[0]["codebook"]["kept"] == pytest.approx(one["kept"], abs=1e-6)
    assert two[0]["codebook"]["revived"] > 0, "no code was brought back in these steps"
    at_once = codebook(tmp_path, dataclasses.replace(passes, batch_size=12, accumulate=1))
    assert one["kept"] != pytest.approx(at_once["kept"], abs=1e-3), "passes do not matter here"


class Counting(Keeper):
    def __init__(self):
        super().__init__()
        self.seen = []

    def follow(self, rows):
        self.seen.append(rows.tolist())


def test_what_passes_bring_is_followed_once_a_step_and_at_once_without_passes():
    keeper = Counting()
    keeper.keep(torch.tensor([1]))
    with together(nn.Sequential(keeper), 1) as alone:
        keeper.keep(torch.tensor([2]))
    assert (alone, keeper.seen) == ([], [[1], [2]])
    with together(nn.Sequential(keeper), 2) as held:
        keeper.keep(torch.tensor([3]))
        keeper.keep(torch.tensor([4, 5]))
        assert keeper.seen == [[1], [2]]
        held[0].settle()
        held[0].settle()
    assert keeper.seen[2:] == [[3, 4, 5]]
    keeper.keep(torch.tensor([6]))
    assert keeper.seen[-1] == [6], "afterwards it follows at once again"


def test_a_broken_sample_of_one_process_stops_all_at_that_step(two):
    assert two[0]["diverging"] == {"stopped_at": 1}


def test_the_effective_batch_stays_whatever_the_number_of_processes():
    assert divided(6, 2, 1) == (6, 2)
    assert divided(6, 2, 2) == (6, 2)
    assert divided(32, 1, 4) == (8, 4)
    assert divided(4, 3, 2) == (3, 4)
    with pytest.raises(SetupError, match="7 x 1 = 7 samples cannot be shared by 2"):
        divided(7, 1, 2)
    with pytest.raises(SetupError, match="use ddp"):
        Launch(strategy="pipeline")  # pyright: ignore


def test_recomputed_activations_change_no_loss_and_leave_no_trace(alone):
    net = Net()
    with launched(Launch(recompute=True)):
        assert train(net) == pytest.approx(alone[0], abs=1e-6)
    assert all("forward" not in block.__dict__ for block in net.blocks)


def test_blocks_with_batch_statistics_are_not_run_twice():
    net = Net()
    net.blocks.append(nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16)))
    with launched(Launch(recompute=True)):
        train(net, FitConfig(steps=2, batch_size=6))
    counted = net.blocks[-1][1].num_batches_tracked  # pyright: ignore
    assert int(counted) == 2


def test_repeated_blocks_are_the_outermost_layers_of_lists():
    net = nn.Module()
    net.inner = nn.Module()
    net.inner.layers = nn.ModuleList([Net(), nn.ModuleList([nn.Linear(2, 2)]), nn.GELU()])
    kinds = [type(block).__name__ for block in repeated_blocks(net)]
    assert kinds == ["Net", "Linear"]
