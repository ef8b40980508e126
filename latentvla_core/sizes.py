"""How large a recipe is: every network built on the meta device, without memory, weights or
downloads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from latentvla_core.recipes import Recipe


def parameter_counts(recipe: Recipe) -> dict[str, int]:
    """Parameters of every model of the recipe, by asset name (fused planners read features of the
    VLM's width).
    """
    import torch

    from latentvla_core.distill.network import StudentNetwork
    from latentvla_core.latent.model import LatentActionModel
    from latentvla_core.planner.model import build_planner
    from latentvla_core.vlm.network import build_meta

    width = recipe.vlm.text.hidden_size
    counts = {"vlm": _count(build_meta(recipe.vlm))}
    with torch.device("meta"):
        counts["latent_action_model"] = _count(LatentActionModel(recipe.latent))
        counts["student"] = _count(StudentNetwork(recipe.student))
        for host in ("transfuser", "ipad"):
            config, fusion = recipe.planner.host(host), recipe.planner.fusion
            counts[host] = _count(build_planner(host, config))
            fused = build_planner(host, config, fused=True, fusion=fusion, feature_dim=width)
            counts[f"{host}_latent"] = _count(fused)
    return counts


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
