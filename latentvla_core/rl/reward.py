"""The PDM score as a reward: prepared scenes in memory, no cache of scores.

Legend: S scenes, B scenes of a batch, M plans of a scene.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentvla_core.errors import DataError, SetupError
from latentvla_core.pdms import aggregate
from latentvla_core.pdms.measure import score_scene_v1
from latentvla_core.pdms.metrics import METRIC_VERSIONS, SUB_SCORES, Metric
from latentvla_core.pdms.tensors.torch_score import TorchWorlds
from latentvla_core.pdms.tensors.torch_scores import Reason, TorchScores

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


Score = Callable[[Tensor, Tensor], TorchScores]
"""(B,) scene numbers, (B, M, 8, 3) plans → scores (B, M)."""


@dataclass(slots=True)
class Reward:
    """Scores plans of the scenes it was made for, by their number.

    >>> reward = Reward.of(worlds, "pdms")
    >>> reward(torch.tensor([3, 7]), plans).value        # plans (2, M, 8, 3) → (2, M)
    """

    score: Score
    rows: Tensor
    """(S,) number among the scenes that can be scored, -1 for others."""
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
        """Of S scenes. PDMS on a CPU comes from the compiled scorer, a scene at a time (half the
        time of torch's there); all else from prepared tensors, about 1 MB a scene. Raises
        SetupError without a valid scene.
        """
        known = [i for i, w in enumerate(worlds) if w is not None and w.valid]
        if not known:
            raise SetupError(
                f"not one of {len(worlds)} scenes has a valid world, so no plan has a reward; "
                "materialise scene_worlds, or pass worlds=[pdms.world.build(scene, road_map), ...]"
            )
        rows = torch.full((len(worlds),), -1, dtype=torch.long, device=device)
        rows[known] = torch.arange(len(known), device=device)
        if metric == "pdms" and torch.device(device).type == "cpu":
            score: Score = partial(compiled_scores, worlds)
        else:
            table = TorchWorlds.from_worlds([worlds[i] for i in known], device, metric=metric)
            score = partial(_tensor_scores, table, rows)
        made = Reward(score, rows, progress_weight, torch.zeros(0, device=device))
        made.human = made._of_humans(worlds, known)
        return made

    def _of_humans(self, worlds: Sequence[Any], known: list[int]) -> Tensor:
        """(S,) rewards of the logged drives."""
        out = torch.full((len(worlds),), torch.nan, dtype=torch.float64, device=self.rows.device)
        drove = [i for i in known if worlds[i].human_valid]
        if drove:
            plans = torch.from_numpy(np.stack([worlds[i].human_poses for i in drove])[:, None])
            scenes = torch.tensor(drove, device=self.rows.device)
            found = self.score(scenes, plans.to(self.rows.device))
            out[scenes] = self._reward(found).where(found.valid, torch.nan)[:, 0]
        return out

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
        found = self.score(scenes, plans.detach())
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


def _tensor_scores(table: TorchWorlds, rows: Tensor, scenes: Tensor, plans: Tensor) -> TorchScores:
    return table.score(plans, rows[scenes])


def compiled_scores(worlds: Sequence[Any], scenes: Tensor, plans: Tensor) -> TorchScores:
    """PDMS of (B, M, 8, 3) plans from the scorer that judges benchmarks, scene by scene."""
    names = (*SUB_SCORES["pdms"], "score")
    shape = tuple(plans.shape[:2])
    columns = {name: torch.full(shape, torch.nan, dtype=torch.float64) for name in names}
    valid = torch.zeros(shape, dtype=torch.bool)
    for row, (scene, own) in enumerate(
        zip(scenes.tolist(), plans.double().cpu().numpy(), strict=True)
    ):
        world = worlds[scene]
        if world is None or not world.valid:
            continue
        scored = score_scene_v1(world, own)
        valid[row] = torch.from_numpy(scored.valid)
        for name in names:
            columns[name][row] = torch.from_numpy(np.asarray(scored.columns[name], np.float64))
    columns = {name: column.where(valid, torch.nan) for name, column in columns.items()}
    reason = torch.where(valid, int(Reason.SCORED), int(Reason.SCENE)).to(torch.int8)
    return TorchScores("pdms", METRIC_VERSIONS["pdms"], columns, valid, reason)
