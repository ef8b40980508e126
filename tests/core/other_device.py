"""A device that is another one in name only: its tensors refuse to be mixed with those of the CPU,
as a GPU's do, and hold real numbers.

    with pretended():
        model.to(OTHER)

It finds forgotten `.to(device)` and `.cpu()` where there is no GPU. What it cannot find: wrong
kernels, memory, autocast of CUDA. Importing this registers the device for the whole process
(PyTorch's Python backends, experimental), so tests run it in one of their own.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

OTHER = "elsewhere"
aten = torch.ops.aten
MOVES = {aten._to_copy.default, aten.copy_.default, aten._local_scalar_dense.default}
INDEXING = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]


backend_registration._setup_privateuseone_for_python_backend(OTHER, _Module())


class Away(torch.Tensor):
    """A tensor of the other device around one of the CPU."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor):
        layout = {
            "strides": here.stride(),
            "storage_offset": here.storage_offset(),
            "dtype": here.dtype,
        }
        made = torch.Tensor._make_wrapper_subclass(
            cls, here.shape, device=torch.device(OTHER, 0), **layout
        )
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def __getitem__(self, index):
        return super().__getitem__(_index(index))

    def __setitem__(self, index, value):
        super().__setitem__(_index(index), value)

    def __reduce_ex__(self, protocol):
        return self.here.__reduce_ex__(protocol)  # files hold what the CPU would write

    def tolist(self):
        return self.here.tolist()

    def new_tensor(self, data, **options):
        return torch.tensor(data, dtype=options.get("dtype", self.dtype)).to(OTHER)


class _Pretend(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


@contextmanager
def pretended():
    """Inside, OTHER is a device. `torch.tensor` and inference mode, which need real backends, are
    replaced meanwhile.
    """
    tensor, inference = torch.tensor, torch.inference_mode
    torch.tensor = lambda data, *, device=None, **more: tensor(data, **more).to(device or "cpu")  # type: ignore[assignment]
    torch.inference_mode = torch.no_grad  # type: ignore[assignment,misc]
    try:
        with _Pretend():
            yield
    finally:
        torch.tensor, torch.inference_mode = tensor, inference  # type: ignore[misc]


def _index(index: Any) -> Any:
    """Lists and arrays as tensors, which an index may have on the CPU."""
    if isinstance(index, tuple):
        return tuple(_index(part) for part in index)
    return torch.as_tensor(index) if isinstance(index, list | np.ndarray) else index


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on the CPU, its result on the device where PyTorch would put it."""
    flat, tree = tree_flatten((args, kwargs))
    away = any(isinstance(x, Away) for x in flat)
    if away and func not in MOVES:
        _refuse_mixed(func, args, flat)
    if func is aten.copy_.default:
        _here(args[0]).copy_(_here(args[1]))
        return args[0]
    inner, named = tree_unflatten([_here(x) for x in flat], tree)
    out = func(*inner, **named)
    asked = kwargs.get("device")
    there = away if asked is None else torch.device(asked).type == OTHER
    if func is aten._local_scalar_dense.default or not there:
        return out
    out = tree_map(lambda x: Away(x) if isinstance(x, torch.Tensor) else x, out)
    return (
        out
        if asked is not None or not away
        else return_and_correct_aliasing(func, args, kwargs, out)
    )


def _here(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.here if isinstance(value, Away) else value


def _refuse_mixed(func: Any, args: Any, flat: list[Any]) -> None:
    """CUDA's rule: single numbers and indices may come from the CPU, nothing else."""
    strange = [
        x for x in flat if isinstance(x, torch.Tensor) and not isinstance(x, Away) and x.dim() > 0
    ]
    if func in INDEXING and isinstance(args[0], Away):
        strange = [x for x in strange if x.dtype not in (torch.long, torch.bool)]
    if strange:
        raise RuntimeError(
            f"{func}: tensors of the CPU, {[tuple(x.shape) for x in strange]}, meet those of {OTHER}"
        )
