"""Plans for scenes: records (and VLM embeddings) in, poses out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from latentvla_core.planner.baselines import EgoStatusInputs, EgoStatusMlp
from latentvla_core.planner.inputs import Inputs, VlmInputs
from latentvla_core.planner.model import HOSTS, Planner
from latentvla_core.training.loop import to_device
from latentvla_core.types import PLAN_STEPS, Array, SceneRecord
from latentvla_core.vlm.features import VlmFeatures

Batches = Callable[[Array], dict[str, Any]]
View = Callable[[dict[str, Any]], dict[str, Any]]
MENU = ("proposals", "scores", "chosen")
"""What a planner that chooses answers beside its poses."""


@dataclass(frozen=True, slots=True)
class Plans:
    """Answers of one planner to N scenes; NaN poses where a scene's inputs cannot be read."""

    poses: Array
    """(N, 8, 3) float32 x, y, yaw in the ego frame, 0.5 s apart, yaw in (-π, π)."""
    proposals: Array | None = None
    """(N, K, 8, 3) float32 what it chose from, yaw not wrapped; None: a planner of one plan."""
    logits: Array | None = None
    """(N, K, 6) float32 of `hosts.ipad.SCORES`."""
    chosen: Array | None = None
    """(N,) int64 the proposal that is the plan."""


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
    return plan_all(
        planner,
        records,
        features,
        batch_size=batch_size,
        device=device,
        scratch=scratch,
        faults=faults,
    ).poses


def plan_all(
    planner: Planner | EgoStatusMlp,
    records: Sequence[SceneRecord],
    features: VlmFeatures | None = None,
    *,
    batch_size: int = 32,
    device: str = "cpu",
    scratch: Path | None = None,
    faults: list[str] | None = None,
    view: View | None = None,
) -> Plans:
    """`plan`, with the proposals it was chosen from and their logits.

    Args:
        view: what is done to each batch before the planner sees it; a control's black pictures.
    """
    inputs = inputs_of(planner, records, scratch)
    batches = viewed(with_features(planner, inputs, records, features), view)
    planner.to(device).eval()
    parts: dict[str, list[Array]] = {"poses": [np.zeros((0, PLAN_STEPS, 3), np.float32)]}
    with torch.inference_mode():
        for first in range(0, len(records), batch_size):
            batch = batches(np.arange(first, min(first + batch_size, len(records))))
            out = planner(to_device(batch, device))
            for name, answer in _answers(out).items():
                parts.setdefault(name, []).append(answer)
    whole = {name: np.concatenate(found) for name, found in parts.items()}
    # never a plan from black pictures that passes for one
    whole["poses"][np.array(inputs.faults, bool)] = np.nan
    if faults is not None:
        faults.extend(inputs.faults)
    return Plans(whole["poses"], *(whole.get(name) for name in MENU))


def _answers(out: dict[str, Any]) -> dict[str, Array]:
    """What of a planner's output is kept: its plan, and what it was chosen from."""
    kept = {"poses": out["poses"].float()}
    if "chosen" in out:
        kept |= {"proposals": out["proposals"][-1].float(), "scores": out["scores"].float()}
        kept |= {"chosen": out["chosen"]}
    return {name: value.cpu().numpy() for name, value in kept.items()}


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


def viewed(batches: Batches, view: View | None) -> Batches:
    """Batches as `view` leaves them."""
    return batches if view is None else lambda indices: view(batches(indices))
