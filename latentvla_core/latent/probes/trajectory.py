"""Is the trajectory used? The one question about stage 1 that decides whether its codes can be free of ego motion."""

from __future__ import annotations

import numpy as np
import torch

from latentvla_core.latent.model import LatentActionModel
from latentvla_core.latent.pairs import Pairs


@torch.no_grad()
def trajectory_use(model: LatentActionModel, pairs: Pairs, *, batch_size: int = 256, seed: int = 0) -> float:
    """Relative increase of stage 1's error when trajectories are exchanged between transitions; 0 = not looked at.

    Codes are taken away, so that only the trajectory tells what moved. NaN for a model without that stage.
    """
    if model.config.environment_positions == 0:
        return float("nan")
    other = np.random.default_rng(seed).permutation(len(pairs))
    right = wrong = 0.0
    for first in range(0, len(pairs), batch_size):
        index = np.arange(first, min(first + batch_size, len(pairs)))
        x = model.features(torch.from_numpy(pairs.pictures(index)).to(model.device))
        errors = [_error(model, pairs, x, which) for which in (index, other[index])]
        right, wrong = right + errors[0], wrong + errors[1]
    return wrong / max(right, 1e-12) - 1


def _error(model: LatentActionModel, pairs: Pairs, x: torch.Tensor, which: np.ndarray) -> float:
    """Summed squared error of stage 1's decoder on features x (B, 2, P, D), told the trajectories of `which`."""
    stage, config = model.environment, model.config
    given = [torch.from_numpy(a[which]).to(model.device) for a in (pairs.waypoints, pairs.states)]
    silent = x.new_zeros(len(x), config.environment_codes, config.environment.dim)
    predicted = stage.decoder(x[:, 0], silent, stage.embed_condition(*given))
    return float((predicted - x[:, 1]).square().sum())
