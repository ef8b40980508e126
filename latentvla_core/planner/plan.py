"""Plans for scenes: records (and VLM embeddings) in, poses out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentvla_core.planner.baselines import EgoStatusInputs, EgoStatusMlp
from latentvla_core.planner.inputs import Inputs, VlmFeatures, VlmInputs
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
    faults: list[str] | None = None,
) -> Array:
    """(N, 8, 3) float32 poses x, y, yaw in the ego frame, 0.5 s apart, yaw in (-π, π).

    Args:
        features: VLM or student embeddings of the same records, in the same order; ignored by an
        unfused planner.
            A fused planner without them plans as if the VLM had not answered.
        scratch: folder for decoded pictures when they do not fit into memory.
        faults: gets one text per record: "", or which picture or point cloud cannot be read. Its
        plan is NaN.
    """
    inputs = inputs_of(planner, records, scratch)
    batches = with_features(planner, inputs, records, features)
    planner.to(device).eval()
    parts = [np.zeros((0, PLAN_STEPS, 3), np.float32)]
    with torch.inference_mode():
        for first in range(0, len(records), batch_size):
            batch = batches(np.arange(first, min(first + batch_size, len(records))))
            parts.append(planner(to_device(batch, device))["poses"].float().cpu().numpy())
    poses = np.concatenate(parts)
    poses[np.array(inputs.faults, bool)] = (
        np.nan
    )  # never a plan from black pictures that passes for one
    if faults is not None:
        faults.extend(inputs.faults)
    return poses


def make_batches(
    planner: Planner | EgoStatusMlp,
    records: Sequence[SceneRecord],
    features: VlmFeatures | None,
    scratch: Path | None = None,
) -> Batches:
    """A function from (B,) indices to the planner's input batch."""
    return with_features(planner, inputs_of(planner, records, scratch), records, features)


def inputs_of(
    planner: Planner | EgoStatusMlp, records: Sequence[SceneRecord], scratch: Path | None = None
) -> Inputs:
    """What the planner sees of the records, without VLM features."""
    if isinstance(planner, EgoStatusMlp):
        return EgoStatusInputs(records)
    return HOSTS[planner.name].inputs(planner.config, records, scratch)


def with_features(
    planner: Planner | EgoStatusMlp,
    inputs: Inputs,
    records: Sequence[SceneRecord],
    features: VlmFeatures | None,
) -> Batches:
    """Batches of `inputs`, with VLM embeddings if the planner takes them."""
    if isinstance(planner, EgoStatusMlp) or planner.fusion is None:
        return inputs.batch
    vlm = VlmInputs(features, records, planner.fusion.feature_dim)
    return lambda indices: {**inputs.batch(indices), "vlm": vlm.batch(indices)}
