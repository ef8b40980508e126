"""iPad's scorer in a phase of its own: proposals stand still, five sub-scores are learned, the
formula of PDMS composes them.

While iPad trains, its scorer judges proposals that move away under it, and some four points of PDMS
are lost. Here every training scene is planned and simulated once; only the scorer learns. Where a
fusion has a path for decoded motion, that path learns here too.
Legend: S scenes, N proposals, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentvla_core.planner.config import ChoosingConfig
from latentvla_core.planner.evaluation import choice_report
from latentvla_core.planner.hosts.ipad import SCORES, Ipad
from latentvla_core.planner.hosts.proposal_targets import Simulate
from latentvla_core.planner.plan import Batches
from latentvla_core.training.loop import FitResult, fit, to_device
from latentvla_core.training.sinks import MetricSink
from latentvla_core.types import Array


@dataclass(frozen=True, slots=True)
class Frozen:
    """What the scorer reads and learns of every scene, made once."""

    inputs: dict[str, Tensor]
    """Each (S, ...): `pooled` (S, N, D), and what a fusion tells the scorer."""
    scores: Tensor
    """(S, N, 6) in [0, 1], columns `SCORES`."""
    valid: Tensor
    """(S, N) bool."""


def train_choice(
    planner: Ipad,
    batches: Batches,
    scenes: Array,
    simulate: Simulate,
    config: ChoosingConfig,
    *,
    seed: int = 0,
    sink: MetricSink | None = None,
    checkpoint_dir: Path | None = None,
    device: str = "cpu",
) -> FitResult:
    """Train the scorer in place on the proposals that the planner makes now; all else stays.

    Args:
        batches: (B,) indices → input batch.
        scenes: (S,) indices to learn from.
    """
    frozen = freeze(planner, batches, scenes, simulate, device)
    known = np.flatnonzero(frozen.valid.any(1).cpu().numpy())
    judge = Judge(planner)
    if not len(known) or not config.is_on:
        return FitResult(step=0, resumed_from=0)

    def loss(rows: Tensor, step: int) -> tuple[Tensor, dict[str, float]]:
        logits = judge({name: x[rows] for name, x in frozen.inputs.items()})
        keep = frozen.valid[rows]
        return F.binary_cross_entropy_with_logits(logits[keep], frozen.scores[rows][keep]), {}

    result = fit(
        judge,
        num_samples=len(known),
        collate=lambda indices, rng: torch.from_numpy(known[indices]),
        loss=loss,
        config=replace(config.training_of(len(known)), seed=seed),
        param_groups=judge.groups(config),
        sink=sink,
        checkpoint_dir=None if checkpoint_dir is None else checkpoint_dir / "choice",
        device=device,
    )
    planner.eval()
    return result


class Judge(nn.Module):
    """The parts of an iPad that only choose."""

    def __init__(self, planner: Ipad) -> None:
        super().__init__()
        self.scorer = planner.scorer
        fusion = planner.fusion
        self.motion = None if fusion is None else fusion.motion

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """`Frozen.inputs` of a batch → (B, N, 6) logits."""
        pooled = inputs["pooled"]
        if self.motion is not None:
            pooled = pooled + self.motion(inputs["answer"])[:, None]
        return self.scorer(pooled)

    def groups(self, config: ChoosingConfig) -> list[dict[str, Any]]:
        """AdamW groups: the path for motion decays faster."""
        groups = [
            {
                "params": list(self.scorer.parameters()),
                "weight_decay": config.training.weight_decay,
            },
        ]
        if self.motion is not None:
            own = {"params": list(self.motion.parameters())}
            groups.append({**own, "weight_decay": config.motion_weight_decay})
        return groups


@torch.no_grad()
def freeze(
    planner: Ipad, batches: Batches, scenes: Array, simulate: Simulate, device: str = "cpu"
) -> Frozen:
    """Plan and simulate every scene once."""
    planner.to(device).eval()
    rows: dict[str, list[Tensor]] = {"pooled": []}
    scores, valid = [], []
    for first in range(0, len(scenes), 32):
        indices = scenes[first : first + 32]
        batch = to_device(batches(indices), device)
        out = planner(batch)
        rows["pooled"].append(out["pooled"].float())
        if planner.fusion is not None and planner.fusion.motion is not None:
            rows.setdefault("answer", []).append(batch["vlm"].answer.float())
        plans = out["proposals"][-1].double().cpu().numpy()
        targets = simulate(indices.tolist(), plans, planner.config.collision_steps)
        scores.append(torch.from_numpy(targets.scores))
        valid.append(torch.from_numpy(targets.valid))
    inputs = {name: torch.cat(parts) for name, parts in rows.items()}
    return Frozen(inputs, torch.cat(scores).to(device), torch.cat(valid).to(device))


def score_menu(
    planner: Ipad, batches: Batches, scenes: Array, simulate: Simulate
) -> dict[str, Any]:
    """Every proposal of every scene simulated: `choice_report` of the planner as it is now."""
    frozen = freeze(planner, batches, scenes, simulate)
    with torch.no_grad():
        chosen = planner.choice(Judge(planner)(frozen.inputs)).argmax(1)
    total = frozen.scores[..., SCORES.index("score")]
    return choice_report(total.cpu().numpy(), chosen.cpu().numpy(), frozen.valid.cpu().numpy())
