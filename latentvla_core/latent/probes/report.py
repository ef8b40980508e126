"""The quality report of latentvla.md §2.8, from frames the model was not trained on.

Linear probes go from one-hot codes to standardised ego motion by ridge regression; every prediction
is made by a probe fitted on *other logs* (or other stretches of a single log), so overlapping
scenes cannot help.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from latentvla_core.latent.environment.agents import AGENT_AXES
from latentvla_core.latent.model import LatentActionModel
from latentvla_core.latent.pairs import AXES, Pairs, collect_pairs, require_change
from latentvla_core.latent.probes.linear import (
    cross_predict,
    folds_of,
    one_hot,
    predict,
    r_squared,
    ridge,
)
from latentvla_core.latent.probes.numbers import Report, code_numbers, motion_information
from latentvla_core.latent.probes.run import Coded, all_codes, code, stage_one_codes
from latentvla_core.latent.probes.stage_one import stage_one_use
from latentvla_core.training.images import ImageCache
from latentvla_core.types import Array, SceneRecord

TURNING_RAD = 0.05  # transitions with less change of heading have no sign of turning to agree with
FEWEST = 40  # transitions with an agent, below which a probe of agents would say nothing


@dataclass(frozen=True, slots=True)
class Sample:
    """What a probe is fitted on or judged by: n transitions."""

    inputs: dict[str, Array]
    """One-hot codes (n, …) by kind: "ego", "environment", "joint"."""
    motion: Array
    """(n, 3) ego motion."""
    agents: Array
    """(n, A) what others do, NaN where unknown."""
    logs: Array


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
        probe_records: scenes of *other* logs to fit the probes on, best the training scenes: a
        handful of logs is
            enough to test a probe, but not to fit its 64 weights. None: cross-validation over logs
            of `records`.
    """
    config = model.config
    cache = cache or ImageCache(config.features.image_size_wh)
    pairs = collect_pairs(records, config.gap_frames, cache)
    require_change(pairs)
    others = (
        None if probe_records is None else collect_pairs(probe_records, config.gap_frames, cache)
    )
    return report_on(model.to(device).eval(), pairs, others, batch_size=batch_size, seed=seed)


def report_on(
    model: LatentActionModel,
    pairs: Pairs,
    others: Pairs | None = None,
    *,
    batch_size: int = 256,
    seed: int = 0,
) -> Report:
    """`evaluate` on transitions.

    Args:
        others: transitions of *other* logs to fit the probes on; None: cross-validation over logs
        of `pairs`.
    """
    coded = code(model, pairs, batch_size, np.random.default_rng(seed))
    judged, fitted = _sample(model, (coded.ego, coded.environment), pairs), None
    if others is not None:
        _disjoint(pairs, others)
        fitted = _sample(model, all_codes(model, others, batch_size), others)
    own = (
        coded.environment if model.config.env_source == "stage1_frozen" else None
    )  # else they are not stage 1's
    report = (
        _size(pairs)
        | _reconstruction(coded)
        | stage_one_use(model, pairs, codes=own, batch_size=batch_size)
    )
    for name, codes in (("ego", coded.ego), ("environment", coded.environment)):
        report |= _told_by(name, codes, model, judged, fitted)
    return (
        report
        | motion_probes(judged, fitted)
        | agent_probes(judged, fitted)
        | _transfer(coded, judged, fitted, model)
    )


def report_on_stage_one(
    model: LatentActionModel, pairs: Pairs, others: Pairs | None = None, *, batch_size: int = 256
) -> Report:
    """What of the report can be told before stage 2 begins: what stage 1 uses, and what its own
    codes know.

    Args:
        others: as for `report_on`.
    """
    codes, judged = _stage_one_sample(model, pairs, batch_size)
    fitted = None
    if others is not None:
        _disjoint(pairs, others)
        fitted = _stage_one_sample(model, others, batch_size)[1]
    report = _size(pairs) | stage_one_use(model, pairs, codes=codes, batch_size=batch_size)
    report |= _told_by("environment", codes, model, judged, fitted)
    return report | motion_probes(judged, fitted) | agent_probes(judged, fitted)


def _stage_one_sample(
    model: LatentActionModel, pairs: Pairs, batch_size: int
) -> tuple[Array, Sample]:
    codes = stage_one_codes(model, pairs, batch_size)
    inputs = {"environment": one_hot(codes, model.config.environment.codebook_size)}
    return codes, Sample(inputs, pairs.motion, pairs.agents, pairs.logs)


def _size(pairs: Pairs) -> Report:
    return {"transitions": float(len(pairs)), "logs": float(len(np.unique(pairs.logs)))}


def _told_by(
    name: str, codes: Array, model: LatentActionModel, judged: Sample, fitted: Sample | None
) -> Report:
    """What is counted of one kind of codes; nothing if the model has no such codes."""
    if name not in judged.inputs:
        return {}
    size = getattr(model.config, name).codebook_size
    guess = _guess(judged, fitted, name, judged.motion)
    return code_numbers(name, codes, size) | motion_information(
        name, codes, size, judged.motion, guess
    )


def motion_probes(judged: Sample, fitted: Sample | None) -> Report:
    """R² of the ego motion, per kind of code and axis."""
    report: Report = {}
    for name in judged.inputs:
        r2 = r_squared(judged.motion, _guess(judged, fitted, name, judged.motion))
        report |= {f"{name}_r2_{axis}": float(v) for axis, v in zip(AXES, r2, strict=True)}
    return report


def agent_probes(judged: Sample, fitted: Sample | None) -> Report:
    """R² of what others do, per kind of code; each figure over the transitions that have such an
    agent.

    `agent_r2_<codes>` is the mean over `AGENT_AXES`, `agent_advantage` that of environment codes
    less that of ego codes, or less 0 if those know nothing: codes that say nothing have no
    advantage. Nothing where fewer than 40 transitions tell.
    """
    usable = [s.agents for s in (judged, fitted) if s is not None]
    report: Report = {"agent_transitions": float(np.isfinite(judged.agents).any(axis=1).sum())}
    known = [
        i
        for i in range(len(AGENT_AXES))
        if all(np.isfinite(a[:, i]).sum() >= FEWEST for a in usable)
    ]
    for name in judged.inputs if known else ():
        values = {AGENT_AXES[i]: _agent_r2(judged, fitted, name, i) for i in known}
        report |= {f"agent_r2_{name}_{axis}": value for axis, value in values.items()}
        report[f"agent_r2_{name}"] = float(np.mean(list(values.values())))
    if "agent_r2_ego" in report and "agent_r2_environment" in report:
        report["agent_advantage"] = report["agent_r2_environment"] - max(
            0.0, report["agent_r2_ego"]
        )
    return report


def _agent_r2(judged: Sample, fitted: Sample | None, name: str, column: int) -> float:
    judged = _where_known(judged, column)
    fitted = None if fitted is None else _where_known(fitted, column)
    target = judged.agents[:, [column]]
    return float(r_squared(target, _guess(judged, fitted, name, target, "agents", column))[0])


def _where_known(sample: Sample, column: int) -> Sample:
    use = np.isfinite(sample.agents[:, column])
    inputs = {name: values[use] for name, values in sample.inputs.items()}
    return Sample(inputs, sample.motion[use], sample.agents[use], sample.logs[use])


def _guess(
    judged: Sample,
    fitted: Sample | None,
    name: str,
    target: Array,
    what: str = "motion",
    column: int | None = None,
) -> Array:
    """(n, targets) predictions by a probe from codes of kind `name`, fitted on other logs."""
    if fitted is None:
        return cross_predict(judged.inputs[name], target, folds_of(judged.logs))
    known = getattr(fitted, what) if column is None else getattr(fitted, what)[:, [column]]
    return predict(ridge(fitted.inputs[name], known.astype(np.float64)), judged.inputs[name])


def _sample(model: LatentActionModel, codes: tuple[Array, Array], pairs: Pairs) -> Sample:
    sizes = model.config.ego.codebook_size, model.config.environment.codebook_size
    kinds = zip(("ego", "environment"), codes, sizes, strict=True)
    inputs = {name: one_hot(c, size) for name, c, size in kinds if c.shape[1]}
    inputs["joint"] = np.concatenate(list(inputs.values()), axis=1)
    return Sample(inputs, pairs.motion, pairs.agents, pairs.logs)


def _disjoint(judged: Pairs, fitted: Pairs) -> None:
    shared = np.intersect1d(judged.logs, fitted.logs)
    if len(shared):
        raise ValueError(
            f"log {shared[0]} is in records and probe_records; a probe must be judged on other logs"
        )


def _reconstruction(coded: Coded) -> Report:
    """Gain over copying, and how much worse it gets with all or one of the codes taken from another
    transition.
    """
    errors = coded.errors
    report = {
        "gain_over_copy": 1 - errors["right"] / errors["copy"] if errors["copy"] else math.nan
    }
    exchanged = {name: value for name, value in errors.items() if name not in ("right", "copy")}
    return report | {
        f"shuffle_{name}": value / max(errors["right"], 1e-12) - 1
        for name, value in exchanged.items()
    }


def _transfer(
    coded: Coded, judged: Sample, fitted: Sample | None, model: LatentActionModel
) -> Report:
    """Does A's frame, driven by B's ego codes, move as B did? Judged by reading the prediction back
    (a cycle).

    Signs are of the motion relative to its mean (longitudinal), and of the change of heading where
    there is one (yaw). `transfer_ceiling_…`: the same agreement when B's own, real pictures are
    read instead of a prediction.
    """
    size, wanted = model.config.ego.codebook_size, judged.motion[coded.partner]
    moved = read_by_others(one_hot(coded.transfer, size), coded.partner, judged, fitted)
    real = read_by_others(one_hot(coded.ego[coded.partner], size), coded.partner, judged, fitted)
    mean = judged.motion.mean(0)
    return sign_agreement("transfer", moved, wanted, mean) | sign_agreement(
        "transfer_ceiling", real, wanted, mean
    )


def read_by_others(inputs: Array, partner: Array, judged: Sample, fitted: Sample | None) -> Array:
    """(n, 3) motion read from one-hot codes by a probe that saw no transition of the partner's log
    (or stretch of one).
    """
    if fitted is not None:
        return predict(ridge(fitted.inputs["ego"], fitted.motion.astype(np.float64)), inputs)
    folds = folds_of(judged.logs)
    return cross_predict(judged.inputs["ego"], judged.motion, folds, inputs, folds[partner])


def sign_agreement(name: str, moved: Array, wanted: Array, mean: Array) -> Report:
    """Share of (n, 3) motions with the sign of the wanted ones."""
    faster = np.sign(moved[:, 0] - mean[0]) == np.sign(wanted[:, 0] - mean[0])
    turning = np.abs(wanted[:, 2]) > TURNING_RAD
    yaw = (np.sign(moved[:, 2]) == np.sign(wanted[:, 2]))[turning]
    return {
        f"{name}_longitudinal": float(faster.mean()),
        f"{name}_yaw": float(yaw.mean()) if turning.any() else float("nan"),
    }


def transfer(
    model: LatentActionModel,
    judge: LatentActionModel,
    records: Sequence[SceneRecord],
    *,
    probe_records: Sequence[SceneRecord],
    cache: ImageCache,
    batch_size: int = 256,
) -> Report:
    """The transfer of one model as another model's encoder sees it: both must have the same
    observation space.

    A decoder may learn to signal codes to its own encoder by something that is no motion; a
    stranger cannot read that.

    Args:
        probe_records: scenes of *other* logs to fit the probe on.
    """
    pairs, others = (
        collect_pairs(r, model.config.gap_frames, cache) for r in (records, probe_records)
    )
    _disjoint(pairs, others)
    own = code(model, pairs, batch_size, np.random.default_rng(0), judge=judge)
    size, seen = judge.config.ego.codebook_size, all_codes(judge, others, batch_size)[0]
    weights = ridge(one_hot(seen, size), others.motion.astype(np.float64))
    moved = predict(weights, one_hot(own.transfer, size))
    return sign_agreement("transfer_judged", moved, pairs.motion[own.partner], pairs.motion.mean(0))
