"""The one training loop: deterministic samples, cosine schedule, accumulation, clipping, exact
resume.

Everything random in step n depends on (seed, n) alone: the samples, collate's generator and torch's
global generator are set from it before every backward pass. That makes a resumed run equal to an
uninterrupted one without storing any RNG, and a run on many devices (`training/devices`) equal to
one that does the same backward passes one after the other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from latentvla_core.errors import LatentVLAError
from latentvla_core.training import without_free
from latentvla_core.training.batches import Batches
from latentvla_core.training.config import FitConfig
from latentvla_core.training.devices import group
from latentvla_core.training.devices.passes import Keeper, together
from latentvla_core.training.devices.spread import Alone, spread
from latentvla_core.training.sinks import MetricSink, NullSink
from latentvla_core.types import Array

Collate = Callable[[Array, np.random.Generator], Any]
Loss = Callable[[Any, int], tuple[Tensor, Mapping[str, float]]]
AfterStep = Callable[[int], Mapping[str, float] | None]
NO_DECAY = ("codebook", "queries", "position", "embedding", "gate")
"""Parts of names whose parameters are not pulled towards zero (latentvla.md §2.2, trap 6)."""


class DivergedError(LatentVLAError):
    """Loss or gradients stopped being finite."""

    def __init__(self, step: int, what: str, last: Mapping[str, float]) -> None:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in last.items()) or "none yet"
        super().__init__(
            f"step {step}: the {what} is not finite; last metrics: {shown}. Lower learning_rate or clip_norm, "
            "or look for broken samples"
        )
        self.step, self.last = step, dict(last)


@dataclass(frozen=True, slots=True)
class FitResult:
    """How a run went."""

    step: int
    """Finished steps, those of earlier runs included."""
    resumed_from: int
    """Step of the checkpoint it went on from; 0 = from scratch."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Last logged metrics; empty when there was nothing left to do."""
    seconds: float = 0.0
    """Wall time of this call."""


class SampleOrder:
    """Which samples step n sees: one shuffled pass over all samples after the other, from (seed,
    pass) alone.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int) -> None:
        if num_samples < 1:
            raise ValueError(
                "num_samples is 0; there is nothing to train on: check the split and the quarantine"
            )
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self._passes: dict[int, Array] = {}

    def at(self, batch: int) -> Array:
        """(B,) sample indices of a batch; a batch at the end of a pass goes on in the next pass."""
        positions = np.arange(batch * self.batch_size, (batch + 1) * self.batch_size)
        passes = positions // self.num_samples
        self._passes = {k: p for k, p in self._passes.items() if k >= passes[0]}
        return np.array(
            [
                self._pass(int(k))[i]
                for k, i in zip(passes, positions % self.num_samples, strict=True)
            ]
        )

    def _pass(self, number: int) -> Array:
        if number not in self._passes:
            self._passes[number] = np.random.default_rng([self.seed, number]).permutation(
                self.num_samples
            )
        return self._passes[number]


def default_param_groups(
    model: nn.Module, weight_decay: float, no_decay: Sequence[str] = NO_DECAY
) -> list[dict[str, Any]]:
    """Trainable parameters in two AdamW groups: matrices decay; vectors and parameters named like
    `no_decay` do not.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    free = [p for name, p in named if p.ndim < 2 or any(part in name for part in no_decay)]
    kept = {id(p) for p in free}
    decayed = [p for _, p in named if id(p) not in kept]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": free, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def rate_factor(config: FitConfig, step: int) -> float:
    """Learning rate of step 0 … steps-1 as a part of the peak."""
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return 1.0
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    low = config.final_lr_fraction
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def to_device(batch: Any, device: torch.device | str) -> Any:
    """The batch with every tensor in its dicts, lists and tuples on the device; other values as
    they are.
    """
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple | list):
        moved = [to_device(value, device) for value in batch]
        return type(batch)(*moved) if hasattr(batch, "_fields") else type(batch)(moved)
    return batch


def fit(
    model: nn.Module,
    *,
    num_samples: int,
    collate: Collate,
    loss: Loss,
    config: FitConfig,
    sink: MetricSink | None = None,
    checkpoint_dir: Path | str | None = None,
    param_groups: Sequence[dict[str, Any]] | None = None,
    device: torch.device | str = "cpu",
    after_step: AfterStep | None = None,
    until: int | None = None,
    identity: Mapping[str, Any] | None = None,
    ahead: int = 0,
) -> FitResult:
    """Train in place; resumes from `checkpoint_dir` when it holds a checkpoint of the same
    settings.

    Args:
        collate: ((B,) sample indices, generator) → any nest of tensors; moved to the device by the
        loop.
        loss: (batch, step) → scalar loss and numbers to log. Closes over the model; called under
        autocast.
        param_groups: AdamW groups; a group's own "lr" is its peak rate. Default:
        `default_param_groups`.
        after_step: called with the number of the step just finished (0-based), before a checkpoint
        is written; numbers that it
            returns are logged with that step's.
        until: stop after this many steps of the run (a time slice); the schedule stays that of
        config.steps.
        identity: what else makes it the same run (the model's configuration, the data), as JSON; a
        checkpoint of another
            identity is refused.
        ahead: batches that threads make while the model works on one; collate must then draw from
            its generator only. Same numbers as 0; `load_s` of a step is what it still waited.
    """
    model.to(device).train()
    config = config.for_samples(num_samples)
    groups = (
        default_param_groups(model, config.weight_decay)
        if param_groups is None
        else list(param_groups)
    )
    settings = without_free(asdict(config))
    settings |= {"num_samples": num_samples, **(identity or {})}
    folder = group.from_first(None if checkpoint_dir is None else Path(checkpoint_dir))
    last = config.steps if until is None else min(until, config.steps)
    sink = sink if sink and group.rank() == 0 else NullSink()
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with (
        spread(model, loss, groups) as held,
        torch.random.fork_rng(devices=devices),
        ExitStack() as stack,
    ):
        run = _Run(held, group.shared_config(config), str(device))
        run.keepers = stack.enter_context(together(model, run.config.accumulate))
        first = held.load(folder, run.optimizer, settings) if folder else 0
        run.batches = stack.enter_context(run.prepare(collate, num_samples, first, last, ahead))
        meter, saved = _Meter(sink, config, first), first
        for step in range(first, last):
            metrics = run.step(step, meter.last)
            meter.add(step + 1, metrics | run.measure(step, after_step), final=step + 1 == last)
            due = step + 1 == last or (
                config.checkpoint_every and (step + 1) % config.checkpoint_every == 0
            )
            if folder and due and saved < step + 1:
                held.save(folder, run.optimizer, step + 1, settings)
                saved = step + 1
    model.eval()
    return FitResult(max(first, last), first, meter.last, meter.seconds)


class _Run:
    """The steps of one call of `fit`, of this process's share."""

    batches: Batches
    keepers: Sequence[Keeper] = ()

    def __init__(self, held: Alone, config: FitConfig, device: str) -> None:
        self.held, self.config, self.device = held, config, device
        self.optimizer = torch.optim.AdamW(
            held.groups,
            lr=config.learning_rate,
            betas=config.betas,
            weight_decay=config.weight_decay,
        )
        self.peak_rates = [float(g["lr"]) for g in self.optimizer.param_groups]

    @property
    def mine(self) -> range:
        """Backward passes of a step that are this process's."""
        return range(group.rank(), self.config.accumulate, group.world_size())

    def prepare(
        self, collate: Collate, num_samples: int, first: int, last: int, ahead: int
    ) -> Batches:
        """This process's batches of steps first … last - 1."""
        seed, passes = self.config.seed, self.config.accumulate
        numbers = (step * passes + micro for step in range(first, last) for micro in self.mine)

        def make(samples: Array, number: int) -> Any:
            return collate(samples, np.random.default_rng([seed, 1, number]))

        order = SampleOrder(num_samples, self.config.batch_size, seed)
        return Batches(numbers, order.at, make, ahead)

    def step(self, step: int, last: Mapping[str, float]) -> dict[str, float]:
        """One optimiser step; the metrics of its backward passes, averaged over all processes."""
        factor = rate_factor(self.config, step)
        for part, peak in zip(self.optimizer.param_groups, self.peak_rates, strict=True):
            part["lr"] = peak * factor
        self.optimizer.zero_grad(set_to_none=True)
        parts, mine = [], self.mine
        for micro in mine:
            with self.held.accumulating(last=micro == mine[-1]):
                parts.append(self._backward(step, micro, len(mine), last))
        names = parts[0]
        means = {name: sum(part[name] for part in parts) / len(parts) for name in names}
        metrics = group.mean_of(means, self.device)
        if not math.isfinite(metrics["loss"]):
            raise DivergedError(step, "loss", {**last, **metrics})
        norm = self._clip()
        if not math.isfinite(norm):
            raise DivergedError(step, "gradient norm", {**last, **metrics})
        self.optimizer.step()
        self._settle(step)
        return {**metrics, "gradient_norm": norm, "learning_rate": self.peak_rates[0] * factor}

    def _settle(self, step: int) -> None:
        """What modules keep of their outputs follows all passes of the step; every process draws
        the same.
        """
        if self.keepers:
            torch.manual_seed(_seed_of(self.config.seed, step, self.config.accumulate))
        for keeper in self.keepers:
            keeper.settle()

    def measure(self, step: int, after_step: AfterStep | None) -> dict[str, float]:
        """What the caller does and measures after a step; it sees whole parameters."""
        if after_step is None:
            return {}
        with self.held.whole():
            return dict(after_step(step) or {})

    def _backward(
        self, step: int, micro: int, passes: int, last: Mapping[str, float]
    ) -> dict[str, float]:
        number = step * self.config.accumulate + micro
        torch.manual_seed(_seed_of(self.config.seed, step, micro))
        began = time.perf_counter()
        batch = to_device(self.batches.take(number), self.device)
        bf16 = self.config.precision == "bf16"
        with (
            torch.autocast(torch.device(self.device).type, torch.bfloat16)
            if bf16
            else nullcontext()
        ):
            loss, metrics = self.held.loss(batch, step)
        value = float(loss.detach())
        if not math.isfinite(value) and group.world_size() == 1:
            raise DivergedError(step, "loss", {**last, **metrics})
        (loss / passes).backward()
        numbers = {"loss": value, **{name: float(v) for name, v in metrics.items()}}
        if not self.batches.ahead:
            return numbers
        spent = time.perf_counter() - began
        return numbers | {"load_s": self.batches.waited_s, "step_s": spent}

    def _clip(self) -> float:
        parameters = [p for part in self.optimizer.param_groups for p in part["params"]]
        limit = self.config.clip_norm if self.config.clip_norm > 0 else math.inf
        norm = nn.utils.clip_grad_norm_(parameters, limit)
        return float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)  # pyright: ignore


def _seed_of(seed: int, step: int, micro: int) -> int:
    """Of what torch draws in one backward pass, whichever process does it."""
    if micro == 0:
        return (seed << 32) + step
    return int(np.random.SeedSequence([seed, step, micro]).generate_state(1, np.uint64)[0])


class _Meter:
    """Averages metrics over `log_every` steps and adds rate and progress."""

    def __init__(self, sink: MetricSink, config: FitConfig, first: int) -> None:
        self.sink, self.config, self.last = sink, config, dict[str, float]()
        self.window: list[dict[str, float]] = []
        self.began = self.window_began = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.began

    def add(self, done: int, metrics: dict[str, float], *, final: bool) -> None:
        self.window.append(metrics)
        if not (final or done % self.config.log_every == 0):
            return
        now = time.perf_counter()
        names = dict.fromkeys(name for row in self.window for name in row)
        values = {n: float(np.mean([row[n] for row in self.window if n in row])) for n in names}
        samples = len(self.window) * self.config.batch_size * self.config.accumulate
        rate = samples / max(now - self.window_began, 1e-9)
        self.last = {**values, "samples_per_s": rate, "progress": done / max(1, self.config.steps)}
        self.sink.log(done, self.last)
        self.window, self.window_began = [], now
