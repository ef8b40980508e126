"""One of two gloo processes that train the same little network: run by test_training_devices.py.

Scenarios share one start of the processes, because importing torch is most of the time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from latentvla_core.training.config import FitConfig
from latentvla_core.training.devices.group import Launch, launched, rank
from latentvla_core.training.loop import fit
from latentvla_core.training.sinks import ListSink

X = torch.randn(48, 6, generator=torch.Generator().manual_seed(1))
Y = (X @ torch.arange(6.0)[:, None] + 1).sin()
CONFIG = FitConfig(
    steps=4, batch_size=6, accumulate=2, learning_rate=0.01, checkpoint_every=2, log_every=1
)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.line, self.drop = nn.Linear(16, 16), nn.Dropout(0.2)

    def forward(self, x):
        return x + self.drop(torch.tanh(self.line(x)))


class Net(nn.Module):
    """Repeated blocks, dropout, a frozen layer, one parameter without a gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 1)
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.frozen = nn.Linear(6, 16).requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(3, 2))

    def read(self, x):
        x = self.first(x) + self.frozen(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


def train(net: Net, config: FitConfig = CONFIG, **kwargs) -> list[float]:
    """The losses of every step. The loss enters the network by a method, not by its forward."""

    def collate(rows, rng):
        noise = torch.from_numpy(rng.normal(size=(len(rows), 6))).float()
        return {"x": X[rows] + 0.01 * noise, "y": Y[rows]}

    def loss(batch, step):
        error = (net.read(batch["x"]) - batch["y"]).square().mean()
        return error, {"mse": float(error.detach())}

    sink = ListSink()
    fit(net, num_samples=48, collate=collate, loss=loss, config=config, sink=sink, **kwargs)
    return sink.series("loss")


def weights(net: nn.Module) -> list[float]:
    return torch.cat([p.detach().flatten() for p in net.parameters()]).tolist()


def start_two(folder: Path) -> dict:
    """Both processes run `main` with this folder; what the first one found."""
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    places = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    root = str(Path(__file__).resolve().parents[2])
    env = {**os.environ, **places, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, str(folder)]
    both = [
        subprocess.Popen(
            command, env={**env, "RANK": str(k), "LOCAL_RANK": str(k)}, stderr=subprocess.PIPE
        )
        for k in range(2)
    ]
    told = [process.communicate(timeout=300)[1].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], "\n".join(told)[-3000:]
    return json.loads((folder / "found.json").read_text())


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    found = {name: scenario(folder) for name, scenario in SCENARIOS.items()}
    if rank() == 0:
        (folder / "found.json").write_text(json.dumps(found))


def straight(strategy):
    def run(folder: Path) -> dict:
        net = Net()
        tensor = net.first.weight
        with launched(Launch(strategy=strategy, recompute=strategy == "fsdp")):
            losses = train(net)
        same = net.first.weight is tensor and type(net) is Net and type(net.blocks[0]) is Block
        return {"losses": losses, "weights": weights(net), "as_it_came": same}

    return run


def first_half(strategy):
    def run(folder: Path) -> dict:
        with launched(Launch(strategy=strategy)):
            return {"losses": train(Net(), checkpoint_dir=folder / f"by_{strategy}", until=2)}

    return run


def second_half(strategy, made):
    def run(folder: Path) -> dict:
        net = Net()
        with launched(Launch(strategy=strategy)):
            losses = train(net, checkpoint_dir=folder / made)
        return {"losses": losses, "weights": weights(net)}

    return run


def codebook(folder: Path, plan: FitConfig | None = None) -> dict:
    """Each process shows other outputs to the quantiser; its codes must stay the same in both."""
    from latentvla_core.latent.quantizer import QuantizerConfig, build_quantizer
    from latentvla_core.training.devices.group import everyone

    config = QuantizerConfig(
        codebook_size=4, code_dim=3, revive_every=2, dead_fraction=0.9, statistics="running"
    )
    with launched(Launch()):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(6, 3))
        net.quantizer = build_quantizer(config, 1)  # pyright: ignore

        def loss(batch, step):
            made = net.quantizer(net[0](batch)[:, None])  # pyright: ignore
            revived = net.quantizer.learn(made)  # pyright: ignore
            return (made.values - 1).square().mean() + made.loss, {"revived": float(revived)}

        plan, sink = plan or FitConfig(steps=5, batch_size=12, log_every=1), ListSink()
        fit(
            net, num_samples=48, collate=lambda rows, rng: X[rows], loss=loss, config=plan,
            sink=sink,
        )  # fmt: skip
        own = net.quantizer  # pyright: ignore
        assert own.standardise is not None
        kept = torch.cat([own.codebook.flatten(), own.counts, own.standardise.mean.flatten()])
        both = everyone(kept[None])
    apart = float((both[0] - both[-1]).abs().max())
    return {"apart": apart, "kept": kept.tolist(), "revived": sum(sink.series("revived"))}


def diverging(folder: Path) -> dict:
    """Only the second process meets a broken sample; both must stop."""
    from latentvla_core.training.loop import DivergedError

    net = nn.Linear(6, 1)

    def loss(batch, step):
        broken = np.nan if rank() == 1 and step == 1 else 1.0
        return net(batch).square().mean() * broken, {}

    with launched(Launch()):
        try:
            plan = FitConfig(steps=3, batch_size=8)
            fit(net, num_samples=48, collate=lambda rows, rng: X[rows], loss=loss, config=plan)
        except DivergedError as error:
            return {"stopped_at": error.step}
    return {"stopped_at": None}


SCENARIOS = {
    "ddp": straight("ddp"),
    "fsdp": straight("fsdp"),
    "half_ddp": first_half("ddp"),
    "half_fsdp": first_half("fsdp"),
    "ddp_from_one": second_half("ddp", "by_one"),
    "fsdp_from_one": second_half("fsdp", "by_one_too"),
    "codebook": codebook,
    "diverging": diverging,
}

if __name__ == "__main__":
    from torch import distributed as dist

    dist.init_process_group("gloo")
    main(Path(sys.argv[1]))
    dist.destroy_process_group()
