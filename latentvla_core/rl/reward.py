"""The PDM score as a reward: prepared scenes in memory, no cache of scores.

Legend: S scenes, B scenes of a batch, M plans of a scene.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentvla_core.errors import DataError, SetupError
from latentvla_core.pdms import aggregate
from latentvla_core.pdms.metrics import Metric
from latentvla_core.pdms.tensors.torch_score import TorchWorlds
from latentvla_core.pdms.tensors.torch_scores import TorchScores

CRASHES = ("no_at_fault_collisions", "drivable_area_compliance")


@dataclass(frozen=True, slots=True)
class Rewards:
    """What the plans of a batch are worth."""

    value: Tensor
    """(B, M) float64 in [0, 1]; NaN where not `valid`."""
    score: Tensor
    """(B, M) the metric itself; the same unless the reward weighs otherwise."""
    valid: Tensor
    """(B, M) bool."""
    crashed: Tensor
    """(B, M) bool: at-fault contact or off the road."""
    human: Tensor
    """(B,) reward of the logged drive, NaN where there is none."""


@dataclass(slots=True)
class Reward:
    """Scores plans of the scenes it was made for, by their number.

    >>> reward = Reward.of(worlds, "pdms")
    >>> reward(torch.tensor([3, 7]), plans).value        # plans (2, M, 8, 3) → (2, M)
    """

    table: TorchWorlds
    rows: Tensor
    """(S,) number among the prepared scenes, -1 for a scene that cannot be scored."""
    progress_weight: float
    human: Tensor
    """(S,)"""
    seconds: float = field(default=0.0)
    """Spent in scoring since it was made."""

    @staticmethod
    def of(
        worlds: Sequence[Any],
        metric: Metric = "pdms",
        *,
        progress_weight: float = 5.0,
        device: str = "cpu",
    ) -> Reward:
        """Prepare S scenes; about 1 MB each. Raises SetupError without a valid one."""
        known = [i for i, w in enumerate(worlds) if w is not None and w.valid]
        if not known:
            raise SetupError(
                f"not one of {len(worlds)} scenes has a valid world, so no plan has a reward; "
                "materialise scene_worlds, or pass worlds=[pdms.world.build(scene, road_map), ...]"
            )
        chosen = [worlds[i] for i in known]
        table = TorchWorlds.from_worlds(chosen, device, metric=metric)
        rows = torch.full((len(worlds),), -1, dtype=torch.long, device=device)
        rows[known] = torch.arange(len(known), device=device)
        made = Reward(table, rows, progress_weight, torch.zeros(0, device=device))
        plans = np.stack([np.nan_to_num(w.human_poses) for w in chosen])
        drives = table.score(torch.from_numpy(plans).to(device))
        there = drives.valid & torch.tensor([bool(w.human_valid) for w in chosen], device=device)
        human = made._reward(drives).where(there, torch.nan)
        made.human = torch.cat([human, human.new_full((1,), torch.nan)])[rows]
        return made

    @torch.no_grad()
    def __call__(self, scenes: Tensor, plans: Tensor) -> Rewards:
        """(B,) scene numbers, (B, M, 8, 3) plans. A plan without a score has no reward, not 0."""
        if plans.dim() != 4 or len(plans) != len(scenes):
            raise DataError(
                f"plans have shape {tuple(plans.shape)} for {len(scenes)} scenes; a batch of plans "
                "is (B, M, 8, 3)"
            )
        began = time.perf_counter()
        scenes = scenes.to(self.rows.device)
        found = self.table.score(plans.detach(), self.rows[scenes])
        crashed = torch.stack([found[name] == 0 for name in CRASHES]).any(0) & found.valid
        value = self._reward(found)
        self.seconds += time.perf_counter() - began
        return Rewards(value, found["score"], found.valid, crashed, self.human[scenes])

    def _reward(self, found: TorchScores) -> Tensor:
        """The metric, or the metric with progress weighed differently."""
        late = found.metric == "epdms"
        weights = dict(aggregate.WEIGHTS_V2 if late else aggregate.WEIGHTS_V1)
        if weights["ego_progress"] == self.progress_weight:
            return found["score"]
        weights["ego_progress"] = self.progress_weight
        factors = aggregate.MULTIPLIERS_V2 if late else aggregate.MULTIPLIERS_V1
        # Extended comfort is NaN without a plan before: it leaves with its weight, as in EPDMS.
        known = {name: weight * found[name].isfinite() for name, weight in weights.items()}
        total = torch.stack([known[n] * found[n].nan_to_num(0.0) for n in weights]).sum(0)
        product = torch.stack([found[name] for name in factors]).prod(0)
        return product * total / torch.stack(list(known.values())).sum(0)
