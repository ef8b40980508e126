"""A model on transitions: its codes, and what its decoder makes of right, wrong and other cars'
codes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latentvla_core.latent.model import LatentActionModel, Told
from latentvla_core.latent.pairs import Pairs
from latentvla_core.latent.rows.familiar import MOST_MEASURED, describe
from latentvla_core.types import Array


@dataclass(frozen=True, slots=True)
class Coded:
    """Codes and errors of n transitions."""

    ego: Array
    """(n, N) int64."""
    environment: Array
    """(n, N_env) int64."""
    errors: dict[str, float]
    """Mean squared error of the prediction: "right"; "copy", when nothing is said to change; and
    "ego", "environment", "ego_<position>" …, with those codes taken from another transition.
    """
    transfer: Array
    """(n, N) ego codes read back from [frame of A, prediction from A with the ego codes of B]."""
    partner: Array
    """(n,) B of each A, of another log where there is more than one."""


@torch.no_grad()
def code(
    model: LatentActionModel,
    pairs: Pairs,
    batch_size: int,
    rng: np.random.Generator,
    judge: LatentActionModel | None = None,
) -> Coded:
    """Codes of all transitions, errors with the right codes and with codes of others, and the cycle
    over the partners.

    Args:
        judge: the model whose encoder reads the predictions back; None: the model itself.
    """
    ego, environment = (
        torch.from_numpy(c).to(model.device) for c in all_codes(model, pairs, batch_size)
    )
    partner = partners(pairs.logs, rng)
    sums: dict[str, float] = {}
    back: list[Tensor] = []
    for index in batches(len(pairs), batch_size):
        x, own, other = (
            features_of(model, pairs, index),
            (ego[index], environment[index]),
            partner[index],
        )
        foreign = ego[other], environment[other]
        predictions = {
            name: decode(model, x, *codes) for name, codes in _exchanged(own, foreign).items()
        }
        for name, prediction in (predictions | {"copy": x[:, 0]}).items():
            sums[name] = sums.get(name, 0.0) + float((prediction - x[:, 1]).square().mean()) * len(
                index
            )
        back.append(read_back(judge or model, x[:, 0], predictions["ego"]))
    errors = {name: value / len(pairs) for name, value in sums.items()}
    codes = ego.cpu().numpy(), environment.cpu().numpy()
    return Coded(*codes, errors, torch.cat(back).cpu().numpy(), partner)


@torch.no_grad()
def errors_of(model: LatentActionModel, pairs: Pairs, batch_size: int = 256) -> tuple[Array, Array]:
    """(n,) mean squared errors of each transition: of the prediction with its own codes, and of
    saying that nothing changes.
    """
    right, copy = np.zeros(len(pairs)), np.zeros(len(pairs))
    for index in batches(len(pairs), batch_size):
        x = features_of(model, pairs, index)
        predicted = decode(model, x, *_codes_of(model, pairs, index))
        for errors, made in ((right, predicted), (copy, x[:, 0])):
            errors[index] = (made - x[:, 1]).square().flatten(1).mean(1).cpu().numpy()
    return right, copy


def partners(logs: Array, rng: np.random.Generator) -> Array:
    """(n,) a transition of another log for each, of any other place if there is one log.

    Every one is used about once, as far as that goes: where one log has more than half of all,
    those of others are used again.
    """
    names, log = np.unique(logs, return_inverse=True)
    order = rng.permutation(len(log))
    if len(names) <= 1:
        return order
    for _ in range(20):
        same = np.flatnonzero(log[order] == log)
        if len(same) == 0:
            return order
        swap = rng.integers(0, len(log), len(same))
        for i, j in zip(same, swap, strict=True):
            order[i], order[j] = order[j], order[i]
    same = np.flatnonzero(log[order] == log)
    for crowded in np.unique(log[same]):
        here = same[log[same] == crowded]
        order[here] = rng.choice(np.flatnonzero(log != crowded), len(here))
    return order


def _exchanged(
    own: tuple[Tensor, Tensor], foreign: tuple[Tensor, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Ego and environment codes (B, N) and (B, N_env) by what was taken from the other transition."""
    ego, environment = own
    out = {"right": own, "ego": (foreign[0], environment)}
    if environment.shape[
        1
    ]:  # a model of one stage has nothing to exchange, which is not an error of 0
        out["environment"] = (ego, foreign[1])
    for i in range(ego.shape[1]):
        out[f"ego_{i}"] = (_with(ego, foreign[0], i), environment)
    for i in range(environment.shape[1]):
        out[f"environment_{i}"] = (ego, _with(environment, foreign[1], i))
    return out


def _with(codes: Tensor, foreign: Tensor, position: int) -> Tensor:
    mixed = codes.clone()
    mixed[:, position] = foreign[:, position]
    return mixed


@torch.no_grad()
def all_codes(model: LatentActionModel, pairs: Pairs, batch_size: int = 256) -> tuple[Array, Array]:
    """(n, N) ego codes and (n, N_env) environment codes, int64."""
    coded = [_codes_of(model, pairs, index) for index in batches(len(pairs), batch_size)]
    ego, environment = (torch.cat([c[i] for c in coded]).cpu().numpy() for i in range(2))
    return ego, environment


def _codes_of(model: LatentActionModel, pairs: Pairs, index: Array) -> tuple[Tensor, Tensor]:
    x = features_of(model, pairs, index)
    z = model.ego.encode(x)
    if len(z) > 1:
        environment = model.environment.quantizer.nearest(z[1])
    else:
        environment = model.environment.codes(x, told_at(model, pairs, index))
    return model.ego.quantizer.nearest(z[0]), environment


@torch.no_grad()
def stage_one_codes(
    model: LatentActionModel, pairs: Pairs, batch_size: int = 256, *, mirrored: bool = False
) -> Array:
    """(n, N_env) int64 codes of stage 1's own encoder, also where stage 2 encodes the environment
    itself.
    """
    coded = []
    for index in batches(len(pairs), batch_size):
        flip = np.full(len(index), mirrored)
        x, told = features_of(model, pairs, index, flip), told_at(model, pairs, index, flip)
        coded.append(model.environment.codes(x, told))
    return torch.cat(coded).cpu().numpy()


def features_of(
    model: LatentActionModel, pairs: Pairs, index: Array, flip: Array | None = None
) -> Tensor:
    """(B, 2, P, D); left and right exchanged where flip (B,)."""
    pictures = np.ascontiguousarray(pairs.pictures(index, flip))
    return model.features(torch.from_numpy(pictures).to(model.device))


def told_at(
    model: LatentActionModel, pairs: Pairs, index: Array, flip: Array | None = None
) -> Told:
    """What stage 1 is told of some transitions; left and right exchanged where flip (B,)."""
    return Told(*(torch.from_numpy(a).to(model.device) for a in pairs.told(index, flip)))


def decode(model: LatentActionModel, x: Tensor, ego: Tensor, environment: Tensor) -> Tensor:
    """Features (B, 2, P, D) and codes (B, N), (B, N_env) → predicted features of the second frame
    (B, P, D).
    """
    vectors = model.ego.quantizer.lookup(ego), model.environment.quantizer.lookup(environment)
    return model.ego.decode(x[:, 0], *vectors)


def read_back(model: LatentActionModel, first: Tensor, second: Tensor) -> Tensor:
    """(B, N) ego codes that the model sees between two frames' features (B, P, D)."""
    return model.ego.quantizer.nearest(model.ego.encode(torch.stack([first, second], dim=1))[0])


def batches(count: int, size: int) -> list[Array]:
    """Index ranges of at most `size`."""
    return [np.arange(i, min(i + size, count)) for i in range(0, count, size)]


@torch.no_grad()
def learn_what_is_familiar(model: LatentActionModel, pairs: Pairs, batch_size: int = 256) -> None:
    """Note what the training's pictures are like, of transitions evenly spread over them."""
    chosen = np.linspace(0, len(pairs) - 1, min(len(pairs), MOST_MEASURED)).astype(np.int64)
    parts = [chosen[i : i + batch_size] for i in range(0, len(chosen), batch_size)]
    described = [describe(features_of(model, pairs, part)).cpu() for part in parts]
    model.familiar.measure(torch.cat(described))
