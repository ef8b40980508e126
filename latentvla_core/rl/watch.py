"""Figures of the plans that a planner really makes, on scenes that are looked at again and again:
the metric it trains on, one it does not, comfort between two plans, and the detectors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from latentvla_core.pdms.tensors.torch_score import EXTENDED, TorchWorlds
from latentvla_core.planner.plan import Batches
from latentvla_core.rl import pitfalls
from latentvla_core.rl.advantages import advantages
from latentvla_core.rl.config import RlConfig
from latentvla_core.rl.policy import draw, proposals_of
from latentvla_core.rl.reward import CRASHES, Rewards
from latentvla_core.training.loop import to_device
from latentvla_core.types import Array, SceneRecord

MOST_SCENES = 256
MOST_DRAWN = 96
"""Scenes that plans are drawn in at a look: hundreds of plans each, for hosts with many proposals."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Scenes that are planned and scored at each look."""

    batches: Batches
    scenes: Array
    """(n,) indices of records."""
    pdms: TorchWorlds
    epdms: TorchWorlds

    @staticmethod
    def of(
        records: Sequence[SceneRecord],
        worlds: Sequence[Any],
        batches: Batches,
        scenes: Array | None = None,
        most: int = MOST_SCENES,
    ) -> Watch:
        """Whole stretches of logs from the first on, so that scenes have the one before them."""
        chosen = np.arange(len(records)) if scenes is None else scenes
        known = [int(i) for i in chosen if worlds[int(i)] is not None and worlds[int(i)].valid]
        known = sorted(known, key=lambda i: (records[i].log_name, records[i].timestamp_us))[:most]
        own = [worlds[i] for i in known]
        pdms, epdms = (TorchWorlds.from_worlds(own, metric=m) for m in ("pdms", "epdms"))
        return Watch(batches, np.array(known, np.int64), pdms, epdms)

    def look(self, planner: Any, device: str = "cpu", prefix: str = "") -> dict[str, float]:
        """Figures of the plans of now; names begin with `prefix`."""
        plans = self.plans(planner, device)
        found = self.scores(plans)
        figures = {name: float(column.nanmean()) for name, column in found.items()}
        figures["reversing"] = float(pitfalls.reversing(plans).float().mean())
        figures["jumping"] = float(pitfalls.jumping(plans).float().mean())
        return {prefix + name: value for name, value in figures.items() if np.isfinite(value)}

    @torch.no_grad()
    def drawn(self, planner: Any, config: RlConfig, device: str = "cpu") -> dict[str, float]:
        """Detectors of what a training would draw around the planner as it is now: dead groups,
        collapse, where the advantage falls. Every k-th scene, the same draws at each call.
        """
        rows = np.arange(0, len(self.scenes), max(1, -(-len(self.scenes) // MOST_DRAWN)))
        means = self._asked(planner, rows, lambda out: proposals_of(out)[-1], device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.training.seed)
            plans = draw(means, config.samples, config.noise).flatten(1, 2)
        found = self.pdms.score(plans, torch.from_numpy(rows))
        value, nobody = found["score"], torch.full((len(rows),), torch.nan, dtype=torch.float64)
        crashed = torch.stack([found[name] == 0 for name in CRASHES]).any(0)
        rewards = Rewards(value, value, found.valid, crashed, nobody)
        gain = advantages(rewards, means.shape[1], config)
        figures = {
            "dead_groups": float(gain.dead.float().mean()),
            "collapsed": pitfalls.collapsed(value),
            "easy_share": pitfalls.easy_share(value, gain.raw.flatten(1)),
        }
        return {name: value for name, value in figures.items() if np.isfinite(value)}

    def scores(self, plans: Tensor) -> dict[str, Tensor]:
        """(n, 8, 3) plans → per scene (n,) PDMS `score`, `epdms` and `extended_comfort`, NaN where
        there is none.
        """
        late = self.epdms.score(plans, previous=self._before(plans))
        return {
            "score": self.pdms.score(plans)["score"],
            "progress": self.pdms.score(plans)["ego_progress"],
            "epdms": late["score"],
            "extended_comfort": late[EXTENDED],
        }

    def _before(self, plans: Tensor) -> Tensor:
        """(n, 8, 3) what the same planner said half a second before; rows without one are not read."""
        return plans[self.epdms.previous.clamp(min=0)]

    def plans(self, planner: Any, device: str = "cpu") -> Tensor:
        """(n, 8, 3) float64 plans of the planner as it is now, on the CPU."""
        rows = np.arange(len(self.scenes))
        return self._asked(planner, rows, lambda out: out["poses"], device)

    @torch.no_grad()
    def _asked(
        self, planner: Any, rows: Array, answer: Callable[[dict[str, Tensor]], Tensor], device: str
    ) -> Tensor:
        """(n, ..., 8, 3) float64 of what the planner says of rows of `scenes`."""
        training = planner.training
        planner.eval()
        parts = []
        for first in range(0, len(rows), 32):
            asked = self.scenes[rows[first : first + 32]]
            batch = to_device(self.batches(asked), device)
            parts.append(answer(planner(batch)).double().cpu())
        planner.train(training)
        return torch.cat(parts) if parts else torch.zeros(0, 8, 3, dtype=torch.float64)
