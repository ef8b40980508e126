"""Do the codes mean motion? The quality report of latentvla.md §2.8, from frames the model was not trained on.

Linear probes go from one-hot codes to standardised ego motion by ridge regression; every prediction is made by a probe
fitted on *other logs* (or other stretches of a single log), so overlapping scenes cannot help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from latentvla_core.errors import LatentVLAError
from latentvla_core.latent.model import LatentActionModel
from latentvla_core.latent.pairs import Pairs, collect_pairs
from latentvla_core.latent.quantizer import histogram, perplexity
from latentvla_core.training.images import ImageCache
from latentvla_core.types import Array, SceneRecord

AXES = ("longitudinal", "lateral", "yaw")
USED_SHARE = 0.002  # a code below 0.2 % of all uses counts as unused
FOLDS = 5
TURNING_RAD = 0.05  # transitions with less change of heading have no sign of turning to agree with

Report = dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityGate:
    """What a model must reach before its labels are used. NaN in a report fails."""

    usage: int = 16
    """Ego codes in use."""
    perplexity: float = 10.0
    """Of the ego codes."""
    gain_over_copy: float = 0.3
    """1 − MSE / MSE of copying the first frame."""
    longitudinal_r2: float = 0.7
    """Probe from ego codes."""
    yaw_r2: float = 0.5
    """Probe from ego codes."""
    environment_r2: float = 0.1
    """Largest probe R² from environment codes."""
    shuffle_ego: float = 0.05
    """Relative increase of the error when ego codes are shuffled."""
    shuffle_environment: float = 0.05
    """Same for environment codes."""

    @classmethod
    def paper(cls) -> QualityGate:
        return cls()

    @classmethod
    def embedded_world(cls) -> QualityGate:
        """The design's targets for `mini(steps=2000)` on the embedded world."""
        return cls(gain_over_copy=0.2, longitudinal_r2=0.6, yaw_r2=0.4, environment_r2=0.2, shuffle_environment=-1.0)

    @classmethod
    def tiny(cls) -> QualityGate:
        """For a minute of training; only what collapses or encodes nothing fails."""
        return cls(
            usage=10,
            perplexity=6.0,
            gain_over_copy=0.2,
            longitudinal_r2=0.4,
            yaw_r2=-1.0,
            environment_r2=0.3,
            shuffle_environment=-1.0,
        )

    def faults(self, report: Report) -> list[str]:
        """One line per threshold missed; empty = pass."""
        at_most = {"environment_r2": max(report[f"environment_r2_{axis}"] for axis in AXES)}
        at_least = {
            "usage": report["ego_usage"],
            "perplexity": report["ego_perplexity"],
            "gain_over_copy": report["gain_over_copy"],
            "longitudinal_r2": report["ego_r2_longitudinal"],
            "yaw_r2": report["ego_r2_yaw"],
            "shuffle_ego": report["shuffle_ego"],
            "shuffle_environment": report["shuffle_environment"],
        }
        limits = {f.name: getattr(self, f.name) for f in fields(self)}
        low = [f"{n} {v:.3g} < {limits[n]:g}" for n, v in at_least.items() if not v >= limits[n]]
        return low + [f"{n} {v:.3g} > {limits[n]:g}" for n, v in at_most.items() if not v <= limits[n]]


@dataclass(frozen=True, slots=True)
class _Coded:
    """Codes and errors of n transitions."""

    ego: Array
    """(n, N) int64."""
    environment: Array
    """(n, N_env) int64."""
    error: float
    copy_error: float
    shuffled_ego: float
    shuffled_environment: float
    transfer: Array
    """(n, N) ego codes read back from [frame of A, prediction from A with the ego codes of B]."""
    partner: Array
    """(n,) B of each A."""


def evaluate(
    records: Sequence[SceneRecord],
    model: LatentActionModel,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    cache: ImageCache | None = None,
    seed: int = 0,
    probe_records: Sequence[SceneRecord] | None = None,
) -> Report:
    """The quality report as numbers by name; give records of logs the model was not trained on.

    Args:
        probe_records: scenes of *other* logs to fit the probes on, best the training scenes: a handful of logs is
            enough to test a probe, but not to fit its 64 weights. None: cross-validation over logs of `records`.
    """
    config = model.config
    cache = cache or ImageCache(config.features.image_size_wh)
    pairs = collect_pairs(records, config.gap_frames, cache)
    model.to(device).eval()
    coded = _code(model, pairs, batch_size, np.random.default_rng(seed))
    size = config.ego.codebook_size, config.environment.codebook_size
    probes = _inputs((coded.ego, coded.environment), size)
    fit_on = None
    if probe_records is not None:
        others = collect_pairs(probe_records, config.gap_frames, cache)
        _disjoint(pairs, others)
        fit_on = _inputs(_all_codes(model, others, batch_size), size), others.motion
    report: Report = {"transitions": float(len(pairs)), "logs": float(len(np.unique(pairs.logs)))}
    report |= code_numbers("ego", coded.ego, size[0]) | code_numbers("environment", coded.environment, size[1])
    report["gain_over_copy"] = 1 - coded.error / max(coded.copy_error, 1e-12)
    report["shuffle_ego"] = coded.shuffled_ego / coded.error - 1
    report["shuffle_environment"] = coded.shuffled_environment / coded.error - 1
    for name, inputs in probes.items():
        if fit_on is None:
            predicted = cross_predict(inputs, pairs.motion, folds_of(pairs.logs))
        else:
            predicted = predict(ridge(fit_on[0][name], fit_on[1].astype(np.float64)), inputs)
        r2 = r_squared(pairs.motion, predicted)
        report |= {f"{name}_r2_{axis}": float(v) for axis, v in zip(AXES, r2, strict=True)}
    return report | _transfer(coded, pairs, probes["ego"], size[0])


def require(report: Report, gate: QualityGate) -> None:
    """Raise, naming every threshold missed."""
    faults = gate.faults(report)
    if faults:
        raise LatentVLAError(
            f"latent action model not good enough: {'; '.join(faults)}; see docs/latent-actions.md, remedies"
        )


def code_numbers(name: str, codes: Array, size: int) -> Report:
    """Usage, perplexity, largest share and redundancy between positions of (n, N) codes."""
    frequencies = histogram(torch.from_numpy(codes), size)
    return {
        f"{name}_usage": float((frequencies > USED_SHARE).sum()),
        f"{name}_perplexity": perplexity(frequencies),
        f"{name}_largest_share": float(frequencies.max()),
        f"{name}_redundancy": redundancy(codes, size),
    }


def redundancy(codes: Array, size: int) -> float:
    """Mean over pairs of positions of mutual information / smaller entropy: 1 = all positions say the same."""
    values = [_shared(codes[:, i], codes[:, j], size) for i, j in combinations(range(codes.shape[1]), 2)]
    return float(np.mean(values)) if values else 0.0


def _shared(a: Array, b: Array, size: int) -> float:
    joint = np.bincount(a * size + b, minlength=size * size).reshape(size, size) / len(a)
    entropies = [_entropy(joint.sum(1)), _entropy(joint.sum(0))]
    return (sum(entropies) - _entropy(joint.ravel())) / max(min(entropies), 1e-9)


def _entropy(p: Array) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def one_hot(codes: Array, size: int) -> Array:
    """(n, N) → (n, N · size) float64."""
    return np.eye(size)[codes].reshape(len(codes), -1)


def folds_of(logs: Array, folds: int = FOLDS) -> Array:
    """(n,) fold number; whole logs stay together, a single log is cut into stretches of time."""
    names, number = np.unique(logs, return_inverse=True)
    if len(names) >= folds:  # in random order: kinds of drives may follow each other in a cycle
        return (np.random.default_rng(0).permutation(len(names)) % folds)[number]
    return np.arange(len(logs)) * folds // len(logs)


def ridge(inputs: Array, targets: Array, penalty: float = 1.0) -> Array:
    """(inputs + 1, targets) weights, the last row being the intercept, which is not penalised."""
    mean_x, mean_y = inputs.mean(0), targets.mean(0)
    x, y = inputs - mean_x, targets - mean_y
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)
    return np.concatenate([weights, (mean_y - mean_x @ weights)[None]])


def predict(weights: Array, inputs: Array) -> Array:
    return inputs @ weights[:-1] + weights[-1]


def cross_predict(inputs: Array, targets: Array, folds: Array) -> Array:
    """(n, targets) predictions, each by a probe fitted on the other folds."""
    out = np.zeros(targets.shape)
    for fold in np.unique(folds):
        held = folds == fold
        out[held] = predict(ridge(inputs[~held], targets[~held].astype(np.float64)), inputs[held])
    return out


def r_squared(targets: Array, predictions: Array) -> Array:
    """(targets,) 1 − residual / total variance; NaN where the target does not vary."""
    total = np.square(targets - targets.mean(0)).sum(0)
    residual = np.square(targets - predictions).sum(0)
    return np.where(total > 1e-9, 1 - residual / np.maximum(total, 1e-12), np.nan)


@torch.no_grad()
def _code(model: LatentActionModel, pairs: Pairs, batch_size: int, rng: np.random.Generator) -> _Coded:
    """Codes of all transitions, and errors with the right codes, with codes shuffled over the whole set."""
    ego, environment = (torch.from_numpy(c).to(model.device) for c in _all_codes(model, pairs, batch_size))
    partner = rng.permutation(len(pairs))
    sums, back = np.zeros(4), []
    for index in _batches(len(pairs), batch_size):
        x, other = _features_of(model, pairs, index), partner[index]
        wrong_ego, wrong_environment = ego[other], environment[other]
        transferred = _decode(model, x, wrong_ego, environment[index])
        predictions = (
            _decode(model, x, ego[index], environment[index]),
            x[:, 0],
            transferred,
            _decode(model, x, ego[index], wrong_environment),
        )
        sums += [float((p - x[:, 1]).square().mean()) * len(index) for p in predictions]
        z = model.ego.encode(torch.stack([x[:, 0], transferred], dim=1))[0]
        back.append(model.ego.quantizer.nearest(z).cpu())
    right, copy, wrong_ego, wrong_environment = sums / len(pairs)
    transfer = torch.cat(back).numpy()
    codes = ego.cpu().numpy(), environment.cpu().numpy()
    return _Coded(*codes, right, copy, wrong_ego, wrong_environment, transfer, partner)


@torch.no_grad()
def _all_codes(model: LatentActionModel, pairs: Pairs, batch_size: int) -> tuple[Array, Array]:
    """(n, N) ego codes and (n, N_env) environment codes."""
    coded = [_codes_of(model, pairs, index) for index in _batches(len(pairs), batch_size)]
    ego, environment = (torch.cat([c[i] for c in coded]).cpu().numpy() for i in range(2))
    return ego, environment


def _batches(count: int, size: int) -> list[Array]:
    return [np.arange(i, min(i + size, count)) for i in range(0, count, size)]


def _inputs(codes: tuple[Array, Array], sizes: tuple[int, int]) -> dict[str, Array]:
    """What each probe sees."""
    ego, environment = (one_hot(c, size) for c, size in zip(codes, sizes, strict=True))
    return {"ego": ego, "environment": environment, "joint": np.concatenate([ego, environment], axis=1)}


def _disjoint(judged: Pairs, fitted: Pairs) -> None:
    shared = np.intersect1d(judged.logs, fitted.logs)
    if len(shared):
        raise ValueError(f"log {shared[0]} is in records and probe_records; a probe must be judged on other logs")


def _features_of(model: LatentActionModel, pairs: Pairs, index: Array) -> Tensor:
    return model.features(torch.from_numpy(pairs.pictures(index)).to(model.device))


def _codes_of(model: LatentActionModel, pairs: Pairs, index: Array) -> tuple[Tensor, Tensor]:
    x = _features_of(model, pairs, index)
    z = model.ego.encode(x)
    if len(z) > 1:
        environment = model.environment.quantizer.nearest(z[1])
    else:
        given = [torch.from_numpy(a[index]).to(model.device) for a in (pairs.waypoints, pairs.states)]
        environment = model.environment.codes(x, *given)
    return model.ego.quantizer.nearest(z[0]), environment


def _decode(model: LatentActionModel, x: Tensor, ego: Tensor, environment: Tensor) -> Tensor:
    vectors = model.ego.quantizer.lookup(ego), model.environment.quantizer.lookup(environment)
    return model.ego.decode(x[:, 0], *vectors)


def _transfer(coded: _Coded, pairs: Pairs, ego: Array, size: int) -> Report:
    """Does A's frame, driven by B's ego codes, move as B did? Judged by reading the prediction back (a cycle).

    Signs are of the motion relative to its mean (longitudinal), and of the change of heading where there is one (yaw).
    """
    weights = ridge(ego, pairs.motion.astype(np.float64))
    moved = predict(weights, one_hot(coded.transfer, size))
    wanted = pairs.motion[coded.partner]
    mean = pairs.motion.mean(0)
    same = np.sign(moved - mean) == np.sign(wanted - mean)
    turning = np.abs(wanted[:, 2]) > TURNING_RAD
    yaw = (np.sign(moved[:, 2]) == np.sign(wanted[:, 2]))[turning]
    return {
        "transfer_longitudinal": float(same[:, 0].mean()),
        "transfer_yaw": float(yaw.mean()) if turning.any() else float("nan"),
    }
