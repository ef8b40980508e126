"""Does stage 1 use what it is given? The trajectory, without which its codes cannot be free of ego
motion; and the codes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latentvla_core.latent.environment.change import change
from latentvla_core.latent.model import LatentActionModel, Told
from latentvla_core.latent.pairs import Pairs
from latentvla_core.latent.probes.numbers import Report
from latentvla_core.latent.probes.run import batches, features_of, stage_one_codes, told_at
from latentvla_core.types import Array


@torch.no_grad()
def stage_one_use(
    model: LatentActionModel,
    pairs: Pairs,
    *,
    codes: Array | None = None,
    batch_size: int = 256,
    seed: int = 0,
) -> Report:
    """Relative increase of stage 1's error when something of another transition is put in its
    place; 0 = not looked at.

    `trajectory_use`: the trajectory, of its error on the second frame; large by construction where
    frames are compensated. `environment_use`: its codes, of its error on where and how much the
    unexpected happens (`latent.change`); only of models that predict that. `compensated_share`: of
    transitions whose camera is calibrated. Nothing for models without that stage.

    Args:
        codes: (n, N_env) codes of stage 1's own encoder; None: they are made here.
    """
    if model.config.environment_positions == 0:
        return {}
    known = torch.from_numpy(
        stage_one_codes(model, pairs, batch_size) if codes is None else codes
    ).to(model.device)
    other = np.random.default_rng(seed).permutation(len(pairs))
    sums = np.zeros(4)
    for index in batches(len(pairs), batch_size):
        sums += _errors(model, pairs, known, index, other[index])
    seen = model.environment.can_compensate(torch.from_numpy(pairs.projections))
    report = {
        "trajectory_use": float(sums[1] / max(sums[0], 1e-12) - 1),
        "compensated_share": float(seen.float().mean()),
    }
    if model.config.change_weight > 0:
        report["environment_use"] = float(sums[3] / max(sums[2], 1e-12) - 1)
    return report


def _errors(
    model: LatentActionModel, pairs: Pairs, codes: Tensor, index: Array, other: Array
) -> Array:
    """(4,) summed squared errors: second frame with the right and the other trajectory, change with
    right and other codes.
    """
    x, told, told_other = (
        features_of(model, pairs, index),
        told_at(model, pairs, index),
        told_at(model, pairs, other),
    )
    elsewhere = told_other._replace(
        projections=told.projections
    )  # another drive of the same camera
    frame, changed = _error(model, x, codes[index], told)
    elsewhere_frame, _ = _error(model, x, codes[index], elsewhere)
    return np.array([frame, elsewhere_frame, changed, _error(model, x, codes[other], told)[1]])


def _error(model: LatentActionModel, x: Tensor, codes: Tensor, told: Told) -> tuple[float, float]:
    """Summed squared error of the second frame and of the change, 0 where the model predicts none."""
    stage = model.environment
    seen, condition = stage.look(x, told)
    frame, changed = stage.predict(seen[:, 0], stage.quantizer.lookup(codes), condition)
    missed = (
        0.0 if changed is None else changed - change(seen[:, 0], x[:, 1], model.config.features)
    )
    return float((frame - x[:, 1]).square().sum()), float(torch.as_tensor(missed).square().sum())
