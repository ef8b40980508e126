"""Which hosts there are. A third one is one file that ends in `HOST = Host(…)`, and one line here.

Only names stand here, so that a list of hosts costs no import of torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from latentvla_core.errors import SetupError

MODULES: dict[str, str] = {
    "transfuser": "latentvla_core.planner.hosts.transfuser_loss",
    "ipad": "latentvla_core.planner.hosts.ipad_loss",
    "flow": "latentvla_core.planner.hosts.flow",
}
"""Host → module whose `HOST` it is."""

CAMERAS_ONLY = frozenset({"ipad", "flow"})
"""Hosts that open no point cloud: one that changed leaves them true. Others may open any file."""


def files_of(host: str) -> str:
    """Which sensor files a host reads: "cameras", or "sensors" for all of them."""
    return "cameras" if host in CAMERAS_ONLY else "sensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """What one host consists of."""

    network: Callable[..., Any]
    """(config, fusion config or None, feature_dim) → the planner, an nn.Module: `name`, `config`,
    `fusion`, `backbone_parameters()`; an input batch → dict with `poses` (B, 8, 3).
    """
    config: type
    """Frozen dataclass with the sizes `debug()`, `mini()`, `single_gpu()` and `paper()`."""
    inputs: Callable[..., Any]
    """(config, records, scratch folder or None) → planner.inputs.Inputs: what it sees."""
    targets: Callable[..., Any]
    """(config, records, maps or None) → object with `batch(indices)`: what training aims at."""
    loss: Callable[..., Any]
    """(planner, simulator or None) → function of (batch, step) → (loss, its parts)."""
    simulator: Callable[..., Any] | None = None
    """(worlds or None, processes) → what scores its proposals; None: it is not trained on scores."""
    last_phase: Callable[..., Any] | None = None
    """planner.choosing.train_choice, or None: a phase of training after the first."""


def host_of(name: str) -> Host:
    """The host of that name. Raises SetupError that lists the known ones."""
    if name not in MODULES:
        raise SetupError(f"host {name!r} is unknown; choose one of {', '.join(MODULES)}")
    return import_module(MODULES[name]).HOST
