"""A model in parts (FSDP2): sharding, gathering, undoing, and checkpoints that any number of
processes can read.

A checkpoint of parts has a folder `parts/` in torch's distributed format (DCP) in place of the two
files of a whole one. Either kind is read by either kind of run.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed as dist
from torch import nn

from latentvla_core.training import checkpoint
from latentvla_core.training.devices import group

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
)


def shard(root: nn.Module, blocks: Sequence[nn.Module]) -> nn.Module:
    """Split every block, then what is left, over all processes; in place."""
    from torch.distributed.fsdp import fully_shard

    for block in blocks:
        fully_shard(block)
    fully_shard(root)
    return root


@contextmanager
def gathered(root: nn.Module) -> Iterator[None]:
    """Inside, every parameter is whole, for reading."""
    from torch.distributed.fsdp import FSDPModule

    sharded = [module for module in root.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()


@torch.no_grad()
def same_buffers(model: nn.Module) -> None:
    """Buffers of the first process everywhere, as DDP does before every forward pass."""
    for buffer in model.buffers():
        dist.broadcast(buffer.view(torch.uint8) if buffer.dtype == torch.bool else buffer, src=0)


class Undo:
    """Remembers a model before it is sharded; `restore` gives it back with today's weights.

    The parameter objects of before come back, because closures and tied weights hold them; their
    memory is free in between.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.was = [(m, type(m), set(m.__dict__), self._dicts(m)) for m in model.modules()]

    @staticmethod
    def _dicts(module: nn.Module) -> dict[str, Any]:
        return {name: copy.copy(module.__dict__[name]) for name in ("_parameters", *_HOOKS)}

    @torch.no_grad()
    def restore(self) -> None:
        from torch.distributed.tensor import DTensor

        for module, kind, names, dicts in self.was:
            for name, parameter in dicts["_parameters"].items():
                live = module._parameters[name]
                if isinstance(live, DTensor):
                    parameter.data = live.full_tensor()
            module.__class__ = kind
            for name in set(module.__dict__) - names:
                del module.__dict__[name]
            module.__dict__.update(dicts)


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    settings: Mapping[str, Any],
) -> None:
    """Every process writes its part; the folder gets its name when all are through."""
    from torch.distributed.checkpoint.state_dict_saver import save as save_parts

    unfinished = folder / f".{checkpoint.PREFIX}{step:08d}.parts"
    if group.rank() == 0:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
    dist.barrier()
    save_parts(_state_of(model, optimizer), checkpoint_id=unfinished / "parts")
    mine = sorted((unfinished / "parts").glob(f"__{group.rank()}_*"))
    sums = {f"parts/{path.name}": checkpoint.file_sha256(path) for path in mine}
    every: list[Any] = [None] * group.world_size()
    dist.all_gather_object(every, sums)
    if group.rank() == 0:
        merged = {name: value for part in every for name, value in part.items()}
        merged["parts/.metadata"] = checkpoint.file_sha256(unfinished / "parts" / ".metadata")
        checkpoint.finish(unfinished, folder, step, settings, merged)
    dist.barrier()


def load(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, settings: Mapping[str, Any]
) -> int:
    """Restore the newest checkpoint, whole or of parts, into a model in parts; finished steps."""
    newest = checkpoint.newest(folder, settings)
    if newest is None:
        return 0
    if is_in_parts(newest.path):
        read_parts(newest.path, model, optimizer)
    else:
        _read_whole(newest.path, model, optimizer)
    return newest.step


def is_in_parts(path: Path) -> bool:
    """Whether a checkpoint was written by processes that each held a part."""
    return (path / "parts").is_dir()


def read_parts(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A checkpoint of parts into any model, whole or in parts, on any number of processes."""
    from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.state_dict import set_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load as load_parts

    state = _state_of(model, optimizer)
    reader = FileSystemReader(path / "parts")
    _all_weights(path, state["model"], reader.read_metadata().state_dict_metadata)
    # Parameters that never had a gradient have no state in the optimiser: part of it is enough.
    planner = DefaultLoadPlanner(allow_partial_load=True)
    load_parts(state, storage_reader=reader, planner=planner, no_dist=group.world_size() == 1)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=_options(),
    )


def _all_weights(path: Path, live: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    there = {name.removeprefix("model.") for name in saved if name.startswith("model.")}
    if differing := sorted(live.keys() ^ there):
        raise checkpoint.CheckpointError(
            f"{path}: {len(differing)} tensors do not belong to this model, first {differing[0]!r};"
            " a run resumes only with the model it began with: use another checkpoint_dir"
        )


def _state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    from torch.distributed.checkpoint.state_dict import get_state_dict

    weights, state = get_state_dict(model, optimizer, options=_options())
    return {"model": weights, "optimizer": state}


def _options(*, full: bool = False) -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    return StateDictOptions(full_state_dict=full, ignore_frozen_params=True, strict=False)


def _read_whole(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A whole checkpoint into a model in parts: the optimiser's numbers become names first."""
    from safetensors.torch import load_file
    from torch.distributed.checkpoint.state_dict import set_state_dict

    names = {id(p): name for name, p in model.named_parameters()}
    order = [names[id(p)] for g in optimizer.param_groups for p in g["params"]]
    saved = torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
    groups = [{**g, "params": [order[i] for i in g["params"]]} for g in saved["param_groups"]]
    state = {order[i]: values for i, values in saved["state"].items()}
    set_state_dict(
        model,
        optimizer,
        model_state_dict={**load_file(path / "model.safetensors")},
        optim_state_dict={"state": state, "param_groups": groups},
        options=_options(full=True),
    )
