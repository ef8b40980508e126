"""How the one loop sees its model: alone, as replicas (DDP), or in parts (FSDP2).

The loss of a training is a closure over its model. `_Losing` makes a module of both, whose forward
pass is the loss, so that DDP and FSDP2 see every parameter wherever the closure enters the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from latentvla_core.training import checkpoint
from latentvla_core.training.devices import group, parts

Loss = Callable[[Any, int], tuple[Tensor, Mapping[str, float]]]
Groups = Sequence[dict[str, Any]]


class Alone:
    """One process: the model and its optimiser's groups as they are."""

    def __init__(self, model: nn.Module, loss: Loss, groups: Groups) -> None:
        self.model, self.loss, self.groups = model, loss, list(groups)

    def accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        """Around forward and backward pass: only the last one of a step exchanges gradients."""
        return nullcontext()

    def whole(self) -> AbstractContextManager[Any]:
        """Inside, parameters can be read as in one process."""
        return nullcontext()

    def load(
        self, folder: Path, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
    ) -> int:
        found = checkpoint.newest(folder, settings)
        if found is not None and parts.is_in_parts(found.path):
            parts.read_parts(found.path, self.model, optimizer)
            return found.step
        return checkpoint.load(folder, self.model, optimizer, settings)

    def save(
        self, folder: Path, optimizer: torch.optim.Optimizer, step: int, settings: Mapping[str, Any]
    ) -> None:
        if group.rank() == 0:
            checkpoint.save(folder, self.model, optimizer, step, settings)
        if group.world_size() > 1:
            dist.barrier()

    def close(self) -> None:
        """The model as it was handed in, with the weights it has now."""


class Replicas(Alone):
    """DDP: every process holds the model, gradients are averaged; buffers are the first process's."""

    def __init__(self, model: nn.Module, loss: Loss, groups: Groups) -> None:
        super().__init__(model, loss, groups)
        self.ddp = nn.parallel.DistributedDataParallel(
            _Losing(model, loss), find_unused_parameters=True
        )
        self.loss = self.ddp

    def accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        return nullcontext() if last else self.ddp.no_sync()


class InParts(Alone):
    """FSDP2: every process holds a part of every weight; blocks are gathered as they are needed."""

    def __init__(self, model: nn.Module, loss: Loss, groups: Groups) -> None:
        names = {id(p): name for name, p in model.named_parameters()}
        self.undo = parts.Undo(model)
        self.root = parts.shard(_Losing(model, loss), repeated_blocks(model))
        live = dict(model.named_parameters())
        moved = [{**g, "params": [live[names[id(p)]] for p in g["params"]]} for g in groups]
        super().__init__(model, self._lose, moved)

    def _lose(self, batch: Any, step: int) -> tuple[Tensor, Mapping[str, float]]:
        parts.same_buffers(self.model)
        return self.root(batch, step)

    def accumulating(self, *, last: bool) -> AbstractContextManager[Any]:
        self.root.set_requires_gradient_sync(last)  # pyright: ignore[reportCallIssue]
        return nullcontext()

    def whole(self) -> AbstractContextManager[Any]:
        return parts.gathered(self.root)

    def load(
        self, folder: Path, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
    ) -> int:
        return parts.load(folder, self.model, optimizer, settings)

    def save(
        self, folder: Path, optimizer: torch.optim.Optimizer, step: int, settings: Mapping[str, Any]
    ) -> None:
        parts.save(folder, self.model, optimizer, step, settings)

    def close(self) -> None:
        self.undo.restore()


class _Losing(nn.Module):
    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any, step: int) -> tuple[Tensor, Mapping[str, float]]:
        return self.loss(batch, step)


def repeated_blocks(model: nn.Module) -> list[nn.Module]:
    """The outermost layers of module lists: what is gathered, or computed again, as one piece."""
    found: list[nn.Module] = []
    for child in model.children():
        if not isinstance(child, nn.ModuleList):
            found += repeated_blocks(child)
            continue
        for block in child:
            nested = isinstance(block, nn.ModuleList | nn.ModuleDict)
            found += repeated_blocks(nn.ModuleList([block])) if nested else [block]
    return [block for block in found if any(True for _ in block.parameters())]


@contextmanager
def spread(model: nn.Module, loss: Loss, groups: Groups) -> Iterator[Alone]:
    """The model as `group.launched` says; afterwards as it came, trained."""
    launch = group.current()
    kinds = {"ddp": Replicas, "fsdp": InParts}
    kind = kinds[launch.strategy] if group.world_size() > 1 else Alone
    with ExitStack() as stack:
        if launch.recompute:
            stack.enter_context(recomputing(repeated_blocks(model)))
        made = kind(model, compiled(loss) if launch.compile else loss, groups)
        stack.callback(made.close)
        yield made


def compiled(loss: Loss) -> Loss:
    """The loss by torch.compile, with the random numbers of the uncompiled one: the compiler's own
    generator drops other units, which moved losses by up to 0.1.
    """
    return torch.compile(loss, options={"fallback_random": True})


@contextmanager
def recomputing(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Inside, these blocks keep no activations for the backward pass. Blocks with batch statistics
    are left alone: they would count a batch twice.
    """
    chosen = [b for b in blocks if not any(isinstance(m, _COUNTING) for m in b.modules())]
    for block in chosen:
        block.forward = _recomputed(block.forward)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        for block in chosen:
            del block.forward


_COUNTING = (nn.modules.batchnorm._BatchNorm,)


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    from torch.utils.checkpoint import checkpoint as recompute

    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return recompute(forward, *args, use_reentrant=False, **kwargs)

    return run
