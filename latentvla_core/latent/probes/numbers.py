"""What can be said of codes by counting them: usage, shared information, agreement between models."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import torch

from latentvla_core.latent.evaluation import USED_SHARE, histogram, perplexity
from latentvla_core.latent.pairs import AXES
from latentvla_core.types import Array

Report = dict[str, float]
"""Figures by name."""
BIN_EDGES: dict[str, tuple[float, ...]] = {
    "longitudinal": (
        0.5,
        2.0,
        4.0,
        6.0,
        8.0,
        10.0,
        12.0,
        15.0,
    ),  # m over a transition: 0.5 is standing
    "lateral": (-1.0, -0.3, -0.1, 0.1, 0.3, 1.0),
    "yaw": (-0.2, -0.1, -0.03, 0.03, 0.1, 0.2),
}
"""Bounds of the bins of ego motion. Physical and fixed: quantiles would tell apart the noise of
straight driving.
"""


def code_numbers(name: str, codes: Array, size: int) -> Report:
    """Usage, perplexity, largest share and redundancy between positions of (n, N) codes; nothing of
    continuous ones (n, N, d).
    """
    if codes.ndim == 3:
        return {}
    frequencies = histogram(torch.from_numpy(codes), size)
    return {
        f"{name}_usage": float((frequencies > USED_SHARE).sum()),
        f"{name}_perplexity": perplexity(frequencies),
        f"{name}_largest_share": float(frequencies.max()),
        f"{name}_redundancy": redundancy(codes, size),
    }


def redundancy(codes: Array, size: int) -> float:
    """Mean over pairs of positions of mutual information / smaller entropy: 1 = all positions say
    the same.
    """
    values = [
        _shared(codes[:, i], codes[:, j], size) for i, j in combinations(range(codes.shape[1]), 2)
    ]
    return float(np.mean(values)) if values else 0.0


def motion_bins(motion: Array) -> Array:
    """(n, 3) ego motion → (n, 3) bin numbers by `BIN_EDGES`."""
    return np.stack(
        [np.digitize(motion[:, i], BIN_EDGES[axis]) for i, axis in enumerate(AXES)], axis=1
    )


def motion_information(
    name: str, codes: Array, size: int, motion: Array, predicted: Array
) -> Report:
    """Mutual information of codes with binned ego motion, as a share 0 … 1 of the entropy of the
    bins.

    `mutual_information_<axis>` is of all codes together, by way of the linear probe's prediction
    (16⁴ combinations cannot be counted): a lower bound, because what follows from the codes cannot
    know more than they do. NaN where all motion falls into one bin: there is nothing to tell.
    `…_best_code` is the largest of the single positions, counted directly. Names of environment
    codes say so.
    """
    truth, guess = motion_bins(motion), motion_bins(predicted)
    prefix = "mutual_information" if name == "ego" else f"mutual_information_{name}"
    if codes.ndim == 3:
        return {f"{prefix}_{axis}{what}": math.nan for axis in AXES for what in ("", "_best_code")}
    report: Report = {}
    for i, axis in enumerate(AXES):
        entropy = _entropy(np.bincount(truth[:, i]) / len(truth)) or math.nan
        single = [
            mutual_information(codes[:, position], truth[:, i])
            for position in range(codes.shape[1])
        ]
        report[f"{prefix}_{axis}"] = mutual_information(guess[:, i], truth[:, i]) / entropy
        report[f"{prefix}_{axis}_best_code"] = max(single) / entropy
    return report


def mutual_information(a: Array, b: Array) -> float:
    """Nats shared by two (n,) label arrays, at least 0; Miller and Madow's correction for few
    samples.

    The plain estimate is too large by about (cells − rows − columns + 1) / 2n of those in use.
    """
    joint = np.zeros((int(a.max()) + 1, int(b.max()) + 1))
    np.add.at(joint, (a, b), 1)
    rows, columns = joint.sum(1), joint.sum(0)
    plain = _entropy(rows / len(a)) + _entropy(columns / len(a)) - _entropy(joint.ravel() / len(a))
    surplus = (joint > 0).sum() - (rows > 0).sum() - (columns > 0).sum() + 1
    return max(0.0, plain - float(surplus) / (2 * len(a)))


def stability(codes: Array, others: Array, size: int) -> Report:
    """Do two models say the same of the same transitions? (n, N) codes of each, up to names of
    codes and positions.

    Positions are matched by shared information, then codes within each position, both by optimal
    assignment. `agreement` is the share of equal codes after that, `agreement_by_chance` the same
    for transitions in another order, `shared` the mean over positions of mutual information /
    smaller entropy, which also sees one code split in two.
    """
    from scipy.optimize import linear_sum_assignment

    if codes.shape != others.shape:
        raise ValueError(
            f"codes {codes.shape} and {others.shape}; both models must code the same transitions"
        )
    positions = range(codes.shape[1])
    shared = np.array(
        [[_shared(codes[:, i], others[:, j], size) for j in positions] for i in positions]
    )
    pairs = list(zip(*linear_sum_assignment(-shared), strict=True))
    order = np.random.default_rng(0).permutation(len(codes))
    return {
        "agreement": float(np.mean([_matched(codes[:, i], others[:, j], size) for i, j in pairs])),
        "agreement_by_chance": float(
            np.mean([_matched(codes[:, i], others[order, j], size) for i, j in pairs])
        ),
        "shared": float(np.mean([shared[i, j] for i, j in pairs])),
    }


def _matched(a: Array, b: Array, size: int) -> float:
    """Share of transitions whose codes agree under the best one-to-one renaming."""
    from scipy.optimize import linear_sum_assignment

    joint = np.bincount(a * size + b, minlength=size * size).reshape(size, size)
    return float(joint[linear_sum_assignment(-joint)].sum() / len(a))


def _shared(a: Array, b: Array, size: int) -> float:
    joint = np.bincount(a * size + b, minlength=size * size).reshape(size, size) / len(a)
    entropies = [_entropy(joint.sum(1)), _entropy(joint.sum(0))]
    return (sum(entropies) - _entropy(joint.ravel())) / max(min(entropies), 1e-9)


def _entropy(p: Array) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())
