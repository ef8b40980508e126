"""The processes of one training: started by torchrun, known to the loop, alone by default."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch import distributed as dist

from latentvla_core.errors import SetupError

STRATEGIES = ("ddp", "fsdp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Launch:
    """How a training is spread. It changes memory and time and not the result, so it belongs to no
    checkpoint's identity.
    """

    strategy: Literal["ddp", "fsdp"] = "ddp"
    """ddp: every process holds the whole model. fsdp: every process holds a part of it (FSDP2)."""
    recompute: bool = False
    """Activations of repeated blocks are computed again in the backward pass instead of kept."""
    compile: bool = False
    """torch.compile of the loss; the first step takes minutes."""

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise SetupError(
                f"strategy is {self.strategy!r}; use ddp (whole model everywhere) or fsdp (parts)"
            )


_PLAIN = Launch()
_LAUNCH: ContextVar[Launch] = ContextVar("launch", default=_PLAIN)


def current() -> Launch:
    """What `launched` was given around this call; plain replicas by default."""
    return _LAUNCH.get()


@contextmanager
def launched(launch: Launch, device: torch.device | str = "cpu") -> Iterator[None]:
    """Inside, every `fit` is spread over the processes that torchrun started (none: one process).

    gloo on the CPU, NCCL on CUDA, where each process takes the card of its LOCAL_RANK.
    """
    token = _LAUNCH.set(launch)
    joins = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    on_gpu = torch.device(device).type == "cuda"
    if on_gpu and joins:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if joins:
        dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield
    finally:
        _LAUNCH.reset(token)
        if joins:
            dist.destroy_process_group()


def rank() -> int:
    """Number of this process; 0 alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes; 1 alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def from_first(value: Any) -> Any:
    """The first process's value, everywhere; any picklable object."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def mean_of(numbers: Mapping[str, float], device: torch.device | str) -> dict[str, float]:
    """Means over all processes, which must have the same names."""
    if world_size() == 1 or not numbers:
        return dict(numbers)
    values = torch.tensor(list(numbers.values()), dtype=torch.float64, device=device)
    dist.all_reduce(values)
    return dict(zip(numbers, (values / world_size()).tolist(), strict=True))


@torch.no_grad()
def everyone(rows: Tensor) -> Tensor:
    """(B, ...) of this process → (W·B, ...) of all, in order of rank; without gradient."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def divided(batch_size: int, accumulate: int, processes: int) -> tuple[int, int]:
    """(samples per backward pass, backward passes per step over all processes) with the same
    effective batch, so that each process gets equally many passes.

    Raises SetupError where the effective batch does not divide.
    """
    total = batch_size * accumulate
    if total % processes:
        raise SetupError(
            f"an effective batch of {batch_size} x {accumulate} = {total} samples cannot be shared"
            f" by {processes} processes; use a number of processes that divides it"
        )
    share = total // processes
    largest = max(size for size in range(1, batch_size + 1) if share % size == 0)
    return largest, total // largest


def shared_config(config: Any) -> Any:
    """The loop's settings with `batch_size` and `accumulate` for the processes there are."""
    size, passes = divided(config.batch_size, config.accumulate, world_size())
    return dataclasses.replace(config, batch_size=size, accumulate=passes)
