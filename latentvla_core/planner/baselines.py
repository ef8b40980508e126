"""Planners to beat: constant velocity, the logged human, and an MLP that sees the ego status only."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentvla_core.planner.features import ego_status
from latentvla_core.planner.inputs import TrajectoryTargets
from latentvla_core.training.config import FitConfig, with_training
from latentvla_core.training.loop import FitResult, fit
from latentvla_core.training.sinks import MetricSink
from latentvla_core.types import FRAME_INTERVAL_S, PLAN_STEPS, Array, SceneRecord


def constant_velocity(records: Sequence[SceneRecord]) -> Array:
    """(N, 8, 3) float32: straight ahead with the current speed |v|, as the devkit's agent
    (navsim_format.md §8.2).
    """
    velocity = np.array([r.ego_velocity_mps for r in records], np.float32).reshape(-1, 2)
    speed = np.sqrt((velocity**2).sum(-1))  # (N,) float32 like the devkit's
    times_s = np.arange(1, PLAN_STEPS + 1, dtype=np.float32) * np.float32(FRAME_INTERVAL_S)
    poses = np.zeros((len(records), PLAN_STEPS, 3), np.float32)
    poses[..., 0] = speed[:, None] * times_s
    return poses


def human(records: Sequence[SceneRecord]) -> Array:
    """(N, 8, 3) float32: the logged future; NaN where the log ends before the plan does."""
    whole = [i for i, record in enumerate(records) if len(record.future_poses) >= PLAN_STEPS]
    out = np.full((len(records), PLAN_STEPS, 3), np.nan, np.float32)
    if whole:
        out[whole] = TrajectoryTargets([records[i] for i in whole]).trajectory.numpy()
    return out


@dataclass(frozen=True, kw_only=True, slots=True)
class EgoStatusConfig:
    """The blind baseline of NAVSIM (`ego_status_mlp_agent.py`)."""

    hidden: int = 512
    """Width of its three hidden layers."""
    training: FitConfig = field(
        default_factory=lambda: FitConfig(steps=400, batch_size=64, weight_decay=0.0, log_every=50)
    )
    """Knobs of the training loop."""

    @classmethod
    def debug(cls) -> EgoStatusConfig:
        return with_training(cls(hidden=16), steps=2, batch_size=4)

    @classmethod
    def mini(cls) -> EgoStatusConfig:
        return cls()

    @classmethod
    def single_gpu(cls) -> EgoStatusConfig:
        return cls.paper()

    @classmethod
    def paper(cls) -> EgoStatusConfig:
        """50 epochs of navtrain at batch 64."""
        return with_training(cls(), steps=80_000, learning_rate=1e-4)


class EgoStatusMlp(nn.Module):
    """Command, velocity and acceleration → poses; three hidden layers."""

    name = "ego_status_mlp"

    def __init__(self, config: EgoStatusConfig) -> None:
        super().__init__()
        self.config = config
        widths = (8, config.hidden, config.hidden, config.hidden)
        hidden = [
            layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())
        ]
        self.layers = nn.Sequential(*hidden, nn.Linear(config.hidden, PLAN_STEPS * 3))

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """status (B, 8) → poses (B, 8, 3)"""
        return {"poses": self.layers(batch["status"]).unflatten(-1, (PLAN_STEPS, 3))}


class EgoStatusInputs:
    """status (B, 8)."""

    def __init__(self, records: Sequence[SceneRecord]) -> None:
        self.status = torch.from_numpy(ego_status(records))
        self.faults = [""] * len(records)

    def batch(self, indices: Array) -> dict[str, Any]:
        return {"status": self.status[indices]}


def train_ego_status(
    records: Sequence[SceneRecord],
    config: EgoStatusConfig,
    *,
    sink: MetricSink | None = None,
    checkpoint_dir: Path | None = None,
    device: str = "cpu",
) -> tuple[EgoStatusMlp, FitResult]:
    """The blind baseline trained by L1 on the logged futures."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        model = EgoStatusMlp(config)
    inputs, targets = EgoStatusInputs(records), TrajectoryTargets(records)

    def loss(batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, float]]:
        return F.l1_loss(model(batch)["poses"], batch["trajectory"]), {}

    result = fit(
        model,
        num_samples=len(records),
        collate=lambda indices, rng: {**inputs.batch(indices), **targets.batch(indices)},
        loss=loss,
        config=config.training,
        sink=sink,
        checkpoint_dir=checkpoint_dir,
        device=device,
    )
    return model, result
