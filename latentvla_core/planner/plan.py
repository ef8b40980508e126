"""Plans for scenes: records (and VLM embeddings) in, poses out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentvla_core.planner.baselines import EgoStatusInputs, EgoStatusMlp
from latentvla_core.planner.inputs import VlmFeatures, VlmInputs
from latentvla_core.planner.model import HOSTS, Planner
from latentvla_core.training.loop import to_device
from latentvla_core.types import PLAN_STEPS, Array, SceneRecord

Batches = Callable[[Array], dict[str, Any]]


def plan(
    planner: Planner | EgoStatusMlp,
    records: Sequence[SceneRecord],
    features: VlmFeatures | None = None,
    *,
    batch_size: int = 32,
    device: str = "cpu",
    scratch: Path | None = None,
) -> Array:
    """(N, 8, 3) float32 poses x, y, yaw in the ego frame, 0.5 s apart, yaw in (-π, π).

    Args:
        features: VLM or student embeddings of the same records, in the same order; ignored by an unfused planner.
            A fused planner without them plans as if the VLM had not answered.
        scratch: folder for decoded pictures when they do not fit into memory.
    """
    batches = make_batches(planner, records, features, scratch)
    planner.to(device).eval()
    parts = [np.zeros((0, PLAN_STEPS, 3), np.float32)]
    with torch.inference_mode():
        for first in range(0, len(records), batch_size):
            batch = batches(np.arange(first, min(first + batch_size, len(records))))
            parts.append(planner(to_device(batch, device))["poses"].float().cpu().numpy())
    return np.concatenate(parts)


def make_batches(
    planner: Planner | EgoStatusMlp,
    records: Sequence[SceneRecord],
    features: VlmFeatures | None,
    scratch: Path | None = None,
) -> Batches:
    """A function from (B,) indices to the planner's input batch."""
    if isinstance(planner, EgoStatusMlp):
        return EgoStatusInputs(records).batch
    inputs = HOSTS[planner.name].inputs(planner.config, records, scratch)
    if planner.fusion is None:
        return inputs.batch
    vlm = VlmInputs(features, records, planner.fusion.feature_dim)
    return lambda indices: {**inputs.batch(indices), "vlm": vlm.batch(indices)}
