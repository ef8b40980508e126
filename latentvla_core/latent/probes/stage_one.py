"""Does stage 1 use what it is given? The trajectory, without which its codes cannot be free of ego motion; and the codes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latentvla_core.latent.change import change
from latentvla_core.latent.model import LatentActionModel, Told
from latentvla_core.latent.pairs import Pairs
from latentvla_core.latent.probes.numbers import Report


@torch.no_grad()
def stage_one_use(model: LatentActionModel, pairs: Pairs, *, batch_size: int = 256, seed: int = 0) -> Report:
    """Relative increase of stage 1's error when something of another transition is put in its place; 0 = not looked at.

    `trajectory_use`: the trajectory, of its error on the second frame; large by construction where frames are compensated.
    `environment_use`: its codes, of its error on where and how much the unexpected happens (`latent.change`); only of models
    that predict that. `compensated_share`: of transitions whose camera is calibrated. Nothing for models without that stage.
    """
    if model.config.environment_positions == 0:
        return {}
    other = np.random.default_rng(seed).permutation(len(pairs))
    sums = np.zeros(4)
    for first in range(0, len(pairs), batch_size):
        index = np.arange(first, min(first + batch_size, len(pairs)))
        sums += _errors(model, pairs, index, other[index])
    seen = model.environment.can_compensate(torch.from_numpy(pairs.projections))
    report = {
        "trajectory_use": float(sums[1] / max(sums[0], 1e-12) - 1),
        "compensated_share": float(seen.float().mean()),
    }
    if model.config.change_weight > 0:
        report["environment_use"] = float(sums[3] / max(sums[2], 1e-12) - 1)
    return report


def told_at(model: LatentActionModel, pairs: Pairs, index: np.ndarray) -> Told:
    """What stage 1 is told of some transitions."""
    return Told(*(torch.from_numpy(a).to(model.device) for a in pairs.told(index)))


def _errors(model: LatentActionModel, pairs: Pairs, index: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(4,) summed squared errors: second frame with the right and the other trajectory, change with right and other codes."""
    stage = model.environment
    pictures = np.concatenate([pairs.pictures(index), pairs.pictures(other)])
    x, foreign = model.features(torch.from_numpy(pictures).to(model.device)).chunk(2)
    told, told_other = told_at(model, pairs, index), told_at(model, pairs, other)
    codes, codes_other = stage.codes(x, told), stage.codes(foreign, told_other)
    elsewhere = told_other._replace(projections=told.projections)  # another drive of the same camera
    frames = [_frame_error(model, x, codes, t) for t in (told, elsewhere)]
    if model.config.change_weight == 0:
        return np.array([*frames, 0.0, 0.0])
    return np.array([*frames, *(_change_error(model, x, c, told) for c in (codes, codes_other))])


def _frame_error(model: LatentActionModel, x: Tensor, codes: Tensor, told: Told) -> float:
    stage = model.environment
    seen, condition = stage.look(x, told)
    predicted = stage.decoder(seen[:, 0], stage.quantizer.lookup(codes), condition)
    return float((predicted - x[:, 1]).square().sum())


def _change_error(model: LatentActionModel, x: Tensor, codes: Tensor, told: Told) -> float:
    stage = model.environment
    seen, condition = stage.look(x, told)
    hidden = stage.decoder.hidden(seen[:, 0], stage.quantizer.lookup(codes), condition)
    return float((stage.change(hidden) - change(seen[:, 0], x[:, 1], model.config.features)).square().sum())
