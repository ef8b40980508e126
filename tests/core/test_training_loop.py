"""The training loop: resume is exact, order is a function of the seed, faults are named."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch
from torch import nn

from latentvla_core.errors import DataError
from latentvla_core.training import checkpoint
from latentvla_core.training.batches import Batches
from latentvla_core.training.checkpoint import CheckpointError
from latentvla_core.training.config import FitConfig
from latentvla_core.training.loop import (
    DivergedError,
    SampleOrder,
    default_param_groups,
    fit,
    rate_factor,
    to_device,
)
from latentvla_core.training.sinks import ListSink

torch.set_num_threads(1)
X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
Y = X @ torch.arange(6.0)[:, None] + 1


class Net(nn.Module):
    """Dropout draws from torch's generator; the buffer is changed after every step, as an EMA is."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(0.3), nn.Linear(16, 1))
        self.average: torch.Tensor
        self.register_buffer("average", torch.zeros(16, 6))


def train(net: Net, config: FitConfig, **kwargs):
    def collate(indices, rng):
        return {
            "x": X[indices] + 0.01 * torch.from_numpy(rng.normal(size=(len(indices), 6))).float(),
            "y": Y[indices],
        }

    def loss(batch, step):
        error = (net.body(batch["x"]) - batch["y"]).square().mean()
        return error, {"mse": float(error.detach())}

    def after(step):
        net.average.lerp_(net.body[0].weight.detach(), 0.1)

    return fit(
        net, num_samples=40, collate=collate, loss=loss, config=config, after_step=after, **kwargs
    )


CONFIG = FitConfig(
    steps=4, batch_size=7, learning_rate=0.01, warmup_steps=1, accumulate=2, checkpoint_every=2
)


def test_two_steps_then_resume_equals_four_straight(tmp_path):
    straight = Net()
    train(straight, CONFIG)
    first = Net()
    assert train(first, CONFIG, checkpoint_dir=tmp_path, until=2).step == 2
    torch.randn(100)  # what happens between the calls must not matter
    resumed = Net()
    result = train(resumed, CONFIG, checkpoint_dir=tmp_path)
    assert (result.resumed_from, result.step) == (2, 4)
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_a_kill_between_steps_resumes_from_the_last_checkpoint(tmp_path):
    class Killed(Exception):
        pass

    class KillingSink:
        def log(self, step, metrics):
            if step == 3:
                raise Killed

    config = FitConfig(steps=4, batch_size=7, checkpoint_every=1, log_every=1)
    with pytest.raises(Killed):
        train(Net(), config, checkpoint_dir=tmp_path, sink=KillingSink())
    straight, resumed = Net(), Net()
    train(straight, config)
    assert train(resumed, config, checkpoint_dir=tmp_path).resumed_from == 2
    assert torch.equal(straight.body[0].weight, resumed.body[0].weight)


def test_a_finished_run_is_not_run_again(tmp_path):
    first = Net()
    train(first, CONFIG, checkpoint_dir=tmp_path)
    sink, again = ListSink(), Net()
    result = train(again, CONFIG, checkpoint_dir=tmp_path, sink=sink)
    assert result.step == result.resumed_from == 4
    assert sink.rows == []
    assert torch.equal(first.body[0].weight, again.body[0].weight)


def test_what_after_step_measures_is_logged_with_that_step():
    sink, net = ListSink(), Net()
    loss = {
        "collate": lambda index, rng: X[index],
        "loss": lambda x, step: (net.body(x).square().mean(), {}),
    }
    config = FitConfig(steps=6, batch_size=4, log_every=2)
    fit(
        net,
        num_samples=40,
        config=config,
        sink=sink,
        after_step=lambda step: {"at": step} if step == 3 else None,
        **loss,
    )
    assert [(step, row.get("at")) for step, row in sink.rows] == [(2, None), (4, 3.0), (6, None)]


def test_training_leaves_the_callers_generator_alone():
    net = Net()
    before = torch.random.get_rng_state()
    train(net, CONFIG)
    assert torch.equal(before, torch.random.get_rng_state())
    assert net.training is False


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "progress.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "delete"])
def test_a_damaged_checkpoint_is_refused_with_the_remedy(tmp_path, name, damage):
    train(Net(), CONFIG, checkpoint_dir=tmp_path)
    file = tmp_path / "step_00000004" / name
    data = file.read_bytes()
    if damage == "delete":
        file.unlink()
    else:
        changed = (
            data[: len(data) // 2]
            if damage == "truncate"
            else data[:-5] + bytes([data[-5] ^ 255]) + data[-4:]
        )
        file.write_bytes(changed)
    if (name, damage) == ("progress.json", "flip"):
        file.write_text(data.decode()[:-1] + "x")
    with pytest.raises(CheckpointError, match=r"step_00000004.*delete this folder"):
        train(Net(), CONFIG, checkpoint_dir=tmp_path)
    for leftover in (tmp_path / "step_00000004").iterdir():
        leftover.unlink()
    (tmp_path / "step_00000004").rmdir()
    assert train(Net(), CONFIG, checkpoint_dir=tmp_path).resumed_from == 2


def test_resume_refuses_other_settings_and_other_models(tmp_path):
    train(Net(), CONFIG, checkpoint_dir=tmp_path)
    with pytest.raises(CheckpointError, match="seed was 0, is 1"):
        train(Net(), FitConfig(**{**_fields(CONFIG), "seed": 1}), checkpoint_dir=tmp_path)
    other = Net()
    other.extra = nn.Linear(2, 2)
    with pytest.raises(CheckpointError, match="do not belong"):
        train(other, CONFIG, checkpoint_dir=tmp_path)


def test_an_unfinished_checkpoint_is_not_seen(tmp_path):
    (tmp_path / ".step_00000009.123").mkdir()
    assert train(Net(), CONFIG, checkpoint_dir=tmp_path).resumed_from == 0


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    train(Net(), FitConfig(steps=6, batch_size=4, checkpoint_every=1), checkpoint_dir=tmp_path)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["step_00000005", "step_00000006"]


def test_frozen_parameters_stay_and_are_not_in_the_checkpoint(tmp_path):
    net = Net()
    net.body[0].requires_grad_(False)
    before = net.body[0].weight.clone()
    train(net, CONFIG, checkpoint_dir=tmp_path)
    assert torch.equal(before, net.body[0].weight)
    from safetensors.torch import load_file

    saved = load_file(tmp_path / "step_00000004" / "model.safetensors")
    assert sorted(saved) == ["average", "body.3.bias", "body.3.weight"]


def test_nan_loss_names_the_step_and_the_last_metrics():
    net = Net()

    def loss(batch, step):
        value = net.body(X[:4]).mean() * (math.nan if step == 3 else 1.0)
        return value, {"marker": 7.5}

    with pytest.raises(
        DivergedError, match=r"step 3: the loss is not finite.*marker 7\.5"
    ) as caught:
        fit(
            net,
            num_samples=4,
            collate=lambda i, r: {},
            loss=loss,
            config=FitConfig(steps=9, log_every=1),
        )
    assert caught.value.step == 3


def test_infinite_gradients_stop_before_they_reach_the_weights():
    net = Net()

    def loss(batch, step):
        return (net.body(X[:4]).mean() * 0).sqrt(), {}  # value 0, derivative infinite

    with pytest.raises(DivergedError, match="gradient norm"):
        fit(net, num_samples=4, collate=lambda i, r: {}, loss=loss, config=FitConfig(steps=2))
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_accumulation_equals_the_large_batch():
    def run(batch_size, accumulate):
        net = nn.Linear(6, 1)
        nn.init.zeros_(net.weight)
        nn.init.zeros_(net.bias)

        def loss(batch, step):
            return (net(X[batch]) - Y[batch]).square().mean(), {}

        config = FitConfig(steps=3, batch_size=batch_size, accumulate=accumulate, log_every=1)
        fit(net, num_samples=40, collate=lambda i, r: torch.from_numpy(i), loss=loss, config=config)
        return net.weight

    torch.testing.assert_close(run(8, 1), run(2, 4))


def test_every_pass_sees_every_sample_once():
    order = SampleOrder(10, 4, seed=3)
    seen = np.concatenate([order.at(i) for i in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert list(SampleOrder(10, 4, seed=3).at(4)) == list(seen[16:])
    assert not np.array_equal(seen[:10], seen[10:])
    with pytest.raises(ValueError, match="nothing to train on"):
        SampleOrder(0, 4, seed=0)


def test_the_rate_warms_up_and_falls_to_its_end():
    config = FitConfig(steps=100, warmup_steps=10, final_lr_fraction=0.1)
    rates = [rate_factor(config, s) for s in range(100)]
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) == rates[10] == 1.0
    assert rates[99] == pytest.approx(0.1, abs=1e-3)
    assert rate_factor(FitConfig(steps=100, schedule="constant"), 99) == 1.0


def test_vectors_and_codebooks_do_not_decay():
    net = Net()
    net.codebook = nn.Parameter(torch.zeros(16, 4))
    decayed, free = default_param_groups(net, 0.05)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    assert len(decayed["params"]) == 2
    assert any(p is net.codebook for p in free["params"])


def test_bf16_trains_with_float32_weights():
    net, seen = Net(), []

    def loss(batch, step):
        out = net.body(X[:8])
        seen.append(out.dtype)
        return out.float().square().mean(), {}

    fit(
        net,
        num_samples=8,
        collate=lambda i, r: {},
        loss=loss,
        config=FitConfig(steps=2, precision="bf16"),
    )
    assert seen[0] == torch.bfloat16
    assert net.body[0].weight.dtype == torch.float32


def test_metrics_carry_rate_progress_and_means():
    sink = ListSink()
    train(Net(), FitConfig(steps=5, batch_size=4, log_every=2), sink=sink)
    assert [step for step, _ in sink.rows] == [2, 4, 5]
    assert sink.series("progress") == [0.4, 0.8, 1.0]
    assert all(rate > 0 for rate in sink.series("samples_per_s"))
    assert sink.series("mse") == pytest.approx(sink.series("loss"))


def test_batches_move_as_nests():
    batch = {"a": [torch.zeros(1), {"b": (torch.ones(1), "text")}], "n": None}
    moved = to_device(batch, "meta")
    assert moved["a"][0].device.type == moved["a"][1]["b"][0].device.type == "meta"
    assert moved["a"][1]["b"][1] == "text"


def test_settings_are_checked():
    with pytest.raises(ValueError, match="batch_size is 0"):
        FitConfig(steps=1, batch_size=0)
    with pytest.raises(ValueError, match="schedule 'cosin'"):
        FitConfig(steps=1, schedule="cosin")  # pyright: ignore[reportArgumentType]


def test_checkpoint_of_nothing_is_step_zero(tmp_path):
    net = Net()
    assert checkpoint.load(tmp_path / "none", net, torch.optim.AdamW(net.parameters()), {}) == 0


def _fields(config):
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def test_batches_made_ahead_come_in_order_and_hold_few_in_memory():
    made, lock = [], threading.Lock()

    def make(samples, number):
        with lock:
            made.append(number)
        return samples * number

    with Batches(range(4, 10), lambda number: np.array([number]), make, ahead=3) as batches:
        taken = [int(batches.take(number)[0]) for number in range(4, 7)]
        assert max(made) <= 6 + 3
        with pytest.raises(ValueError, match="take them in order"):
            batches.take(9)
    assert taken == [16, 25, 36]


def test_a_fault_in_a_thread_reaches_the_one_who_waits():
    def broken(samples, number):
        raise DataError("the picture is truncated", file="a.jpg")

    with (
        Batches(range(5), lambda number: np.array([0]), broken, ahead=2) as batches,
        pytest.raises(DataError, match=r"a\.jpg"),
    ):
        batches.take(0)
