"""Which hosts there are, how one is built (alone or fused), saved and loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from latentvla_core.errors import SetupError
from latentvla_core.planner.baselines import EgoStatusConfig, EgoStatusMlp
from latentvla_core.planner.fusion import FusionConfig
from latentvla_core.planner.hosts.ipad import Ipad, IpadConfig
from latentvla_core.planner.hosts.transfuser import Transfuser, TransfuserConfig
from latentvla_core.planner.inputs import IpadInputs, TransfuserInputs

HostConfig = TransfuserConfig | IpadConfig
Planner = Transfuser | Ipad


class Host(NamedTuple):
    """What one host consists of."""

    model: Callable[..., Any]
    config: type
    inputs: Callable[..., Any]


HOSTS: dict[str, Host] = {
    "transfuser": Host(Transfuser, TransfuserConfig, TransfuserInputs),
    "ipad": Host(Ipad, IpadConfig, IpadInputs),
}

PROJECTIONS = ("fusion.visual_pool.key_value.", "fusion.action_pool.key_value.")
"""What depends on the width of the VLM's embeddings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannerSpec:
    """Everything needed to build a planner before its weights are loaded."""

    host: str
    """"transfuser", "ipad" or "ego_status_mlp"."""
    transfuser: TransfuserConfig | None = None
    """Its configuration, if that is the host."""
    ipad: IpadConfig | None = None
    """Its configuration, if that is the host."""
    ego_status_mlp: EgoStatusConfig | None = None
    """Its configuration, if that is the planner."""
    fusion: FusionConfig | None = None
    """None: the host alone."""
    feature_dim: int = 0
    """D, width of the VLM embeddings; 0 without fusion."""


def build_planner(
    host: str,
    config: HostConfig | None = None,
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
    if host not in HOSTS:
        raise SetupError(f"host {host!r} is unknown; choose one of {', '.join(HOSTS)}")
    if fused and feature_dim < 1:
        raise SetupError(
            f"feature_dim is {feature_dim}; a fused planner needs the width of its VLM embeddings"
        )
    config = config or HOSTS[host].config.mini()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return HOSTS[host].model(config, (fusion or FusionConfig()) if fused else None, feature_dim)


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
    configs: Mapping[str, Any] = {planner.name: planner.config}
    fusion = None if isinstance(planner, EgoStatusMlp) else planner.fusion
    if fusion is None:
        return PlannerSpec(host=planner.name, **configs)
    return PlannerSpec(
        host=planner.name, fusion=fusion.config, feature_dim=fusion.feature_dim, **configs
    )


def save(
    planner: Planner | EgoStatusMlp, folder: Path | str, extra: Mapping[str, Any] | None = None
) -> Path:
    """Write config.json and model.safetensors."""
    from latentvla_core.training.artifacts import save_model

    return save_model(folder, planner, spec_of(planner), extra)


def load(folder: Path | str) -> Planner | EgoStatusMlp:
    """The planner of a folder, ready to plan."""
    from latentvla_core.training.artifacts import load_config, load_weights

    spec = load_config(folder, PlannerSpec)
    planner = EgoStatusMlp(spec.ego_status_mlp) if spec.ego_status_mlp else _build(spec)
    load_weights(folder, planner)
    return planner.eval()


def _build(spec: PlannerSpec) -> Planner:
    config = spec.ipad if spec.host == "ipad" else spec.transfuser
    return build_planner(
        spec.host,
        config,
        fused=spec.fusion is not None,
        fusion=spec.fusion,
        feature_dim=spec.feature_dim,
    )
