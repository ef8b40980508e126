"""Training of a host or a fused planner with the host's own losses (latentvla.md §4.4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from latentvla_core.errors import DataError, SetupError
from latentvla_core.planner.hosts.ipad import Ipad
from latentvla_core.planner.hosts.ipad_loss import ipad_loss
from latentvla_core.planner.hosts.proposal_targets import Simulator
from latentvla_core.planner.hosts.transfuser import Transfuser
from latentvla_core.planner.hosts.transfuser_loss import transfuser_loss
from latentvla_core.planner.inputs import (
    Inputs,
    Maps,
    TrajectoryTargets,
    TransfuserTargets,
    VlmFeatures,
)
from latentvla_core.planner.model import Planner
from latentvla_core.planner.plan import Batches, inputs_of, with_features
from latentvla_core.training.loop import FitConfig, FitResult, Loss, default_param_groups, fit
from latentvla_core.training.sinks import MetricSink
from latentvla_core.types import Array, SceneRecord


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannerTrainConfig:
    """One training of one planner; one schema for every recipe. Defaults are `mini`."""

    steps: int = 80
    """Optimiser steps of a host from scratch."""
    fine_tune_steps: int = 30
    """Optimiser steps from a host checkpoint: the fused planner, and the control without VLM."""
    batch_size: int = 16
    """Scenes per backward pass."""
    accumulate: int = 1
    """Backward passes per optimiser step."""
    learning_rate: float = 2e-3
    """Peak rate from scratch."""
    fine_tune_learning_rate: float = 1e-3
    """Peak rate of planner and fusion when fine-tuning."""
    fine_tune_backbone_scale: float = 0.1
    """Rate of the ResNets when fine-tuning, as a part of the planner's."""
    weight_decay: float = 0.0
    """The hosts were trained by Adam without decay."""
    warmup_steps: int = 20
    """Steps of linear increase."""
    clip_norm: float = 5.0
    """Largest global gradient norm; the trajectory's weight of 10 makes norms above 1 normal."""
    precision: str = "fp32"
    """fp32 or bf16 (autocast)."""
    simulation_processes: int = 0
    """Processes that simulate iPad's proposals; 0 or 1: none besides the training itself."""
    seed: int = 0
    """Of sample order and dropout."""
    checkpoint_every: int = 0
    """Steps between checkpoints; 0 = only at the end."""
    log_every: int = 25
    """Steps per line of metrics."""

    @classmethod
    def debug(cls) -> PlannerTrainConfig:
        return cls(steps=2, fine_tune_steps=2, batch_size=2, warmup_steps=0, log_every=1)

    @classmethod
    def mini(cls) -> PlannerTrainConfig:
        return cls()

    @classmethod
    def single_gpu(cls) -> PlannerTrainConfig:
        return cls(
            steps=32_000,
            fine_tune_steps=8_000,
            batch_size=64,
            learning_rate=1e-4,
            fine_tune_learning_rate=1e-4,
            warmup_steps=500,
            precision="bf16",
            checkpoint_every=1_000,
            log_every=50,
            simulation_processes=16,
        )

    @classmethod
    def paper(cls) -> PlannerTrainConfig:
        """20 epochs of navtrain at batch 64, as iPad; Transfuser's own recipe allows up to 100."""
        return cls(
            steps=32_280,
            fine_tune_steps=32_280,
            batch_size=64,
            learning_rate=1e-4,
            fine_tune_learning_rate=1e-4,
            warmup_steps=500,
            precision="bf16",
            checkpoint_every=1_000,
            log_every=50,
            simulation_processes=16,
        )


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
    """
    if planner.fusion is not None and features is None:
        raise SetupError(
            "a fused planner is trained without VLM features; pass features, or train the host alone"
        )
    tune = planner.fusion is not None if fine_tune is None else fine_tune
    seen = inputs_of(planner, records, scratch)
    inputs = with_features(planner, seen, records, features)
    usable = readable(seen)
    targets = make_targets(planner, records, maps)
    loss = make_loss(planner, worlds, config.simulation_processes)

    def collate(indices: Array) -> dict[str, Any]:
        return {**inputs(indices), "targets": targets(indices), "index": indices}

    return fit(
        planner,
        num_samples=len(usable),
        collate=lambda indices, rng: collate(usable[indices]),
        loss=loss,
        config=fit_config(config, tune),
        param_groups=param_groups(planner, config, tune),
        sink=sink,
        checkpoint_dir=checkpoint_dir,
        device=device,
        until=until,
    )


def readable(inputs: Inputs) -> Array:
    """(n,) int64 the records whose pictures can be read; the others are left out of the training."""
    usable = np.array([i for i, fault in enumerate(inputs.faults) if not fault], np.int64)
    if not len(usable) and inputs.faults:
        raise DataError(
            f"not one of {len(inputs.faults)} scenes has inputs that can be read; first: {inputs.faults[0]}"
        )
    return usable


def fit_config(config: PlannerTrainConfig, fine_tune: bool) -> FitConfig:
    """The loop's settings for training from scratch or fine-tuning."""
    return FitConfig(
        steps=config.fine_tune_steps if fine_tune else config.steps,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        learning_rate=config.fine_tune_learning_rate if fine_tune else config.learning_rate,
        weight_decay=config.weight_decay,
        warmup_steps=config.warmup_steps,
        clip_norm=config.clip_norm,
        seed=config.seed,
        precision="bf16" if config.precision == "bf16" else "fp32",
        checkpoint_every=config.checkpoint_every,
        log_every=config.log_every,
    )


def param_groups(
    planner: Planner, config: PlannerTrainConfig, fine_tune: bool
) -> list[dict[str, Any]]:
    """AdamW groups; when fine-tuning, the ResNets' own at the lower rate."""
    groups = default_param_groups(planner, config.weight_decay)
    if not fine_tune:
        return groups
    slow = {id(p) for p in planner.backbone_parameters()}
    rate = config.fine_tune_learning_rate
    split: list[dict[str, Any]] = []
    for group in groups:
        for lr, inside in ((rate, False), (rate * config.fine_tune_backbone_scale, True)):
            chosen = [p for p in group["params"] if (id(p) in slow) == inside]
            split += [{**group, "params": chosen, "lr": lr}] if chosen else []
    return split


def make_targets(planner: Planner, records: Sequence[SceneRecord], maps: Maps | None) -> Batches:
    """A function from (B,) indices to the host's target batch."""
    if isinstance(planner, Ipad):
        return TrajectoryTargets(records).batch
    return TransfuserTargets(planner.config, records, maps).batch


def make_loss(planner: Planner, worlds: Sequence[Any] | None, processes: int = 0) -> Loss:
    """(batch, step) → (loss, parts) of the host."""
    if isinstance(planner, Transfuser):
        return lambda batch, step: transfuser_loss(planner.config, planner(batch), batch["targets"])
    if worlds is None or not any(world is not None and world.valid for world in worlds):
        raise SetupError(
            "iPad learns to score its proposals in simulated scenes, and not one valid world is given; "
            "pass worlds=[pdms.world.build(scene, road_map), ...]"
        )
    simulator = Simulator(worlds, processes)

    def loss(batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, float]]:
        simulate = simulator if step % planner.config.score_every == 0 else None
        return ipad_loss(planner.config, planner(batch), batch, simulate)

    return loss


def displacement_errors(poses: Array, records: Sequence[SceneRecord]) -> dict[str, float]:
    """Mean distance to the logged future, metres: over all 8 poses (`ade_m`) and at 4 s (`fde_m`)."""
    truth = np.array([r.future_poses[: poses.shape[1], :2] for r in records])
    distance = np.linalg.norm(poses[..., :2] - truth, axis=-1)
    return {"ade_m": float(distance.mean()), "fde_m": float(distance[:, -1].mean())}
