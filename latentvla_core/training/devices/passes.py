"""What a model keeps of its own outputs (codebooks, running means): learned once a step where a
step has several backward passes, from all of them and in their order.

Learned after every pass, two processes would differ from one: the second pass of one process sees
what the first has changed, the second process does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch import distributed as dist

from latentvla_core.training.devices.group import everyone, rank, world_size


class Keeper(nn.Module):
    """A module whose buffers follow its outputs. `follow` says how, `keep` says when."""

    held: list[tuple[Tensor, ...]] | None = None
    """What passes of this step brought; None where each pass is followed at once."""

    @torch.no_grad()
    def keep(self, *rows: Tensor) -> None:
        """Follow (B, ...) rows of this pass now, or hold them until the step's last pass is over."""
        if self.held is None:
            self.follow(*rows)
        else:
            self.held.append(tuple(part.detach() for part in rows))

    def follow(self, *rows: Tensor) -> None:
        """Change the buffers by (B, ...) rows."""
        raise NotImplementedError

    @torch.no_grad()
    def settle(self) -> None:
        """Follow what all passes of all processes brought, as one batch; the same everywhere."""
        passes, self.held = self.held or [], []
        if passes:
            by_name = zip(*passes, strict=True)
            self.follow(*(torch.cat([everyone(rows) for rows in part]) for part in by_name))

    @torch.no_grad()
    def as_the_first(self) -> None:
        """Take the buffers of the first process, which saw the step's first pass."""
        if world_size() > 1:
            for buffer in self.buffers(recurse=False):
                dist.broadcast(buffer, src=0)

    @property
    def starts(self) -> bool:
        """Whether this process begins what all begin with; the others take it by `as_the_first`."""
        return self.held is None or rank() == 0


@contextmanager
def together(model: nn.Module, passes: int) -> Iterator[list[Keeper]]:
    """Inside, keepers of the model hold what they are given; those to be settled after each step.
    None with one pass a step, where nothing is held.
    """
    keepers = [m for m in model.modules() if isinstance(m, Keeper)] if passes > 1 else []
    for keeper in keepers:
        keeper.held = []
    try:
        yield keepers
    finally:
        for keeper in keepers:
            keeper.held = None
