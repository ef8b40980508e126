"""Which hosts there are, how one is built (alone or fused), saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latentvla_core.errors import SetupError
from latentvla_core.planner.baselines import EgoStatusConfig, EgoStatusMlp
from latentvla_core.planner.fusion import FusionConfig
from latentvla_core.planner.hosts.registry import MODULES, Host, host_of

Planner = Any
"""The network of a host (hosts/registry.py says what it offers)."""
HOSTS: dict[str, Host] = {name: host_of(name) for name in MODULES}

PROJECTIONS = ("fusion.visual_pool.key_value.", "fusion.action_pool.key_value.")
"""What depends on the width of the VLM's embeddings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannerSpec:
    """Everything needed to build a planner before its weights are loaded."""

    host: str
    """A name of HOSTS, or "ego_status_mlp"."""
    config: Any
    """Its configuration."""
    fusion: FusionConfig | None = None
    """None: the host alone."""
    feature_dim: int = 0
    """D, width of the VLM embeddings; 0 without fusion."""


def build_planner(
    host: str,
    config: Any = None,
    *,
    fused: bool = False,
    fusion: FusionConfig | None = None,
    feature_dim: int = 0,
    seed: int = 0,
) -> Planner:
    """A planner with random weights (its gates at zero when fused); mini size unless configs say
    otherwise.

    Args:
        feature_dim: width of the VLM embeddings the fusion will read; the student's may differ from
        the teacher's.
    """
    if fused and feature_dim < 1:
        raise SetupError(
            f"feature_dim is {feature_dim}; a fused planner needs the width of its VLM embeddings"
        )
    found = host_of(host)
    config = config or found.config.mini()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return found.network(config, (fusion or FusionConfig()) if fused else None, feature_dim)


def fuse(host: Planner, fusion: FusionConfig, feature_dim: int, seed: int = 0) -> Planner:
    """A fused planner that starts as a trained host: its weights copied, the gates at zero
    (latentvla.md §4.4).
    """
    config = host.config
    fused = build_planner(
        host.name, config, fused=True, fusion=fusion, feature_dim=feature_dim, seed=seed
    )
    copy_weights(host, fused, fresh=("fusion.",))
    return fused


def refuse(planner: Planner, feature_dim: int, seed: int = 0) -> Planner:
    """A fused planner for other embeddings (the student's), everything copied.

    A student imitates the teacher's states, so embeddings of the teacher's width keep the learned
    input projections and can be swapped in without training; only another width starts those anew.
    """
    if planner.fusion is None:
        raise SetupError(f"this {planner.name} has no fusion to keep; use fuse() on a host")
    fusion = planner.fusion.config
    fused = build_planner(
        planner.name, planner.config, fused=True, fusion=fusion, feature_dim=feature_dim, seed=seed
    )
    same = feature_dim == planner.fusion.feature_dim
    copy_weights(planner, fused, fresh=() if same else PROJECTIONS)
    return fused


def copy_weights(source: nn.Module, target: nn.Module, fresh: tuple[str, ...] = ()) -> None:
    """Load `source` into `target` but for tensors whose names start with `fresh`; everything else
    must fit.
    """
    weights = {k: v for k, v in source.state_dict().items() if not k.startswith(fresh or ("\0",))}
    missing, unexpected = target.load_state_dict(weights, strict=False)
    lost = [name for name in missing if not name.startswith(fresh or ("\0",))] + list(unexpected)
    if lost:
        raise SetupError(
            f"{lost[0]} (of {len(lost)}) does not exist on both sides; the planners differ in more than "
            f"{fresh or 'nothing'}: use the same host configuration"
        )


def spec_of(planner: Planner | EgoStatusMlp) -> PlannerSpec:
    """The spec that builds this planner again."""
    fusion = None if isinstance(planner, EgoStatusMlp) else planner.fusion
    if fusion is None:
        return PlannerSpec(host=planner.name, config=planner.config)
    return PlannerSpec(
        host=planner.name,
        config=planner.config,
        fusion=fusion.config,
        feature_dim=fusion.feature_dim,
    )


def save(
    planner: Planner | EgoStatusMlp, folder: Path | str, extra: Mapping[str, Any] | None = None
) -> Path:
    """Write config.json and model.safetensors."""
    from latentvla_core.training.artifacts import save_model

    return save_model(folder, planner, spec_of(planner), extra)


def load(folder: Path | str) -> Planner | EgoStatusMlp:
    """The planner of a folder, ready to plan."""
    from latentvla_core.training.artifacts import load_weights

    spec = load_spec(folder)
    planner = EgoStatusMlp(spec.config) if spec.host == EgoStatusMlp.name else _build(spec)
    load_weights(folder, planner)
    return planner.eval()


def load_spec(folder: Path | str) -> PlannerSpec:
    """What a folder's planner is made of. Folders saved before hosts were a list hold the
    configuration under the host's name, and those of the others as null.
    """
    from latentvla_core.training.artifacts import from_dict, load_fields

    saved = load_fields(folder, PlannerSpec)
    name = str(saved.get("host"))
    fields = {k: v for k, v in saved.items() if k not in (*HOSTS, EgoStatusMlp.name)}
    spec = from_dict(PlannerSpec, {"config": saved.get(name), **fields})
    kind = EgoStatusConfig if name == EgoStatusMlp.name else host_of(name).config
    return replace(spec, config=from_dict(kind, spec.config))


def _build(spec: PlannerSpec) -> Planner:
    return build_planner(
        spec.host,
        spec.config,
        fused=spec.fusion is not None,
        fusion=spec.fusion,
        feature_dim=spec.feature_dim,
    )
