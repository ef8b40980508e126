"""Training of a host or a fused planner with the host's own losses (latentvla.md §4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.errors import DataError, SetupError
from latentvla_core.planner.augment import augmented
from latentvla_core.planner.config import PlannerTrainConfig
from latentvla_core.planner.inputs import Inputs, Maps
from latentvla_core.planner.model import HOSTS, Planner
from latentvla_core.planner.plan import View, inputs_of, viewed, with_features
from latentvla_core.training.loop import FitResult, default_param_groups, fit
from latentvla_core.training.sinks import MetricSink
from latentvla_core.types import PLAN_STEPS, Array, SceneRecord
from latentvla_core.vlm.features import VlmFeatures


def train_planner(
    planner: Planner,
    records: Sequence[SceneRecord],
    config: PlannerTrainConfig,
    *,
    worlds: Sequence[Any] | None = None,
    maps: Maps | None = None,
    features: VlmFeatures | None = None,
    fine_tune: bool | None = None,
    sink: MetricSink | None = None,
    checkpoint_dir: Path | None = None,
    scratch: Path | None = None,
    device: str = "cpu",
    until: int | None = None,
    view: View | None = None,
) -> FitResult:
    """Train in place and leave the planner in eval mode.

    Args:
        worlds: pdms.World or None per record; iPad scores its proposals in them. Not needed by
        Transfuser.
        maps: MapStore or dict by location, for Transfuser's semantic target; without it that loss
        is zero.
        features: VLM embeddings of the same records in the same order; read by fused planners only,
        never changed.
        fine_tune: fine-tuning schedule (shorter, slow backbone). Default: for fused planners. True
        for an unfused
            host is the control "baseline trained equally long from the same checkpoint".
        scratch: folder for decoded pictures when they do not fit into memory.
        until: stop after this many steps of the run and go on later from `checkpoint_dir`.
        view: what is done to each input batch before the planner sees it; a control's black
        pictures.
    """
    if planner.fusion is not None and features is None:
        raise SetupError(
            "a fused planner is trained without VLM features; pass features, or train the host alone"
        )
    tune = planner.fusion is not None if fine_tune is None else fine_tune
    seen = inputs_of(planner, records, scratch)
    inputs = viewed(with_features(planner, seen, records, features), view)
    usable = readable(seen)
    _explain_codes(planner, records, features)
    host = HOSTS[planner.name]
    targets = host.targets(planner.config, records, maps).batch
    simulate = host.simulator(worlds, config.simulation_processes) if host.simulator else None
    loss = host.loss(planner, simulate)

    cameras = getattr(planner.config, "cameras", ())

    def collate(indices: Array, rng: np.random.Generator) -> dict[str, Any]:
        batch = {**inputs(indices), "targets": targets(indices), "index": indices}
        return augmented(batch, config.augment, rng, cameras)

    result = fit(
        planner,
        num_samples=len(usable),
        collate=lambda indices, rng: collate(usable[indices], rng),
        loss=loss,
        config=config.training_of(tune),
        param_groups=param_groups(planner, config, tune),
        sink=sink,
        checkpoint_dir=checkpoint_dir,
        device=device,
        until=until,
    )
    if host.last_phase is None or until is not None:
        return result
    host.last_phase(
        planner,
        inputs,
        usable,
        simulate,
        config.choosing,
        seed=config.training.seed,
        checkpoint_dir=checkpoint_dir,
        device=device,
    )
    return result


def _explain_codes(
    planner: Planner, records: Sequence[SceneRecord], features: VlmFeatures | None
) -> None:
    """Let a fusion learn from the training scenes which motion each answered code goes with; a
    planner that knows it already (a student's) keeps it.
    """
    path = None if planner.fusion is None else planner.fusion.motion
    if path is None or features is None or bool(path.decoder.any()):
        return
    codes = np.asarray(features.codes, np.int64)
    known = [
        i
        for i, record in enumerate(records)
        if (codes[i] >= 0).all() and record.num_future >= PLAN_STEPS
    ]
    if known:
        poses = np.stack([records[i].future_poses[:PLAN_STEPS] for i in known])
        path.learn_codes(codes[known], poses)


def readable(inputs: Inputs) -> Array:
    """(n,) int64 the records whose pictures can be read; the others are left out of the training."""
    usable = np.array([i for i, fault in enumerate(inputs.faults) if not fault], np.int64)
    if not len(usable) and inputs.faults:
        raise DataError(
            f"not one of {len(inputs.faults)} scenes has inputs that can be read; first: {inputs.faults[0]}"
        )
    return usable


def param_groups(
    planner: Planner, config: PlannerTrainConfig, fine_tune: bool
) -> list[dict[str, Any]]:
    """AdamW groups: gates at their own rate, and the ResNets at a lower one when fine-tuning."""
    knobs = config.training_of(fine_tune)
    groups = default_param_groups(planner, knobs.weight_decay)
    rate = knobs.learning_rate
    gates = {id(p) for name, p in planner.named_parameters() if name.endswith("_gate")}
    slow = {id(p) for p in planner.backbone_parameters()} if fine_tune else set()
    scales = (
        (1.0, lambda p: id(p) not in gates | slow),
        (config.fine_tune_backbone_scale, lambda p: id(p) in slow),
        (config.gate_rate_scale, lambda p: id(p) in gates),
    )
    split: list[dict[str, Any]] = []
    for group in groups:
        for scale, inside in scales:
            chosen = [p for p in group["params"] if inside(p)]
            split += [{**group, "params": chosen, "lr": rate * scale}] if chosen else []
    return split
