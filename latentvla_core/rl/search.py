"""Search at test time: cross-entropy over plans with a learned scorer as reward, no training.

Plans are bent out of a start in a few smooth ways; draws that score best say where to draw next.
The best plan of all that were scored is taken, the planner's own menu among them.
Legend: B scenes, M plans, K = 3 ways to bend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from latentvla_core.errors import SetupError
from latentvla_core.types import PLAN_STEPS

Score = Callable[[Tensor], Tensor]
"""(B, M, 8, 3) plans → (B, M) what they are worth; more is better."""
WAYS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """How long and how wide is searched."""

    rounds: int = 4
    plans: int = 64
    """Drawn per round."""
    best: int = 8
    """Of them say where the next round draws."""
    along_m: float = 3.0
    """First standard deviation along at 4 s, of speed and of how it comes."""
    across_m: float = 1.0
    """The same across."""
    keep: float = 0.2
    """Part of the last round's mean and spread that stays, so that nothing dies out at once."""
    margin: float = 0.05
    """The planner's own choice stays unless a plan is worth so much more: a scorer errs, and the
    best of many is where it errs upwards (docs/results/rl.md).
    """
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rounds < 1 or not 1 < self.best <= self.plans:
            raise ValueError(
                f"rounds {self.rounds}, best {self.best} of {self.plans} plans; needs a round, and "
                "at least 2 best plans among those that are drawn"
            )


def bend(start: Tensor, amounts: Tensor) -> Tensor:
    """(B, 8, 3) plans, (B, M, 3) metres at 4 s → (B, M, 8, 3): along evenly, along late and early
    (zero at 4 s), across. Headings turn with the path. Units: m, rad.
    """
    part = torch.linspace(1 / PLAN_STEPS, 1.0, PLAN_STEPS, device=start.device, dtype=start.dtype)
    even, early, aside = amounts.to(start.dtype)[..., None].unbind(-2)
    ahead = even * part + early * 4 * part * (1 - part)
    across = aside * part**2
    x, y, yaw = (start[:, None, :, i] for i in range(3))
    moved_x = x + ahead * yaw.cos() - across * yaw.sin()
    moved_y = y + ahead * yaw.sin() + across * yaw.cos()
    slope = 2 * aside * part / moved_x[..., -1:].abs().clamp(min=5.0)
    return torch.stack([moved_x, moved_y, yaw + slope.clamp(-0.5, 0.5)], -1)


@torch.no_grad()
def search(
    start: Tensor, score: Score, config: SearchConfig, menu: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The best plan found around (B, 8, 3) starts → (B, 8, 3) and (B,) its worth.

    Args:
        menu: (B, N, 8, 3) other plans that are judged too.
    """
    draws = torch.Generator().manual_seed(config.seed)
    first = start[:, None] if menu is None else torch.cat([start[:, None], menu], 1)
    worth = score(first)
    own, (best, value) = worth[:, 0], _best(first, worth)
    mean = torch.zeros(len(start), WAYS, dtype=start.dtype)
    spread = mean + torch.tensor([config.along_m, config.along_m / 2, config.across_m])
    for _ in range(config.rounds):
        noise = torch.randn(len(start), config.plans, WAYS, generator=draws, dtype=start.dtype)
        amounts = mean[:, None] + spread[:, None] * noise
        plans = bend(start, amounts.to(start.device))
        worth = score(plans)
        found, here = _best(plans, worth)
        better = here > value
        best, value = torch.where(better[:, None, None], found, best), here.maximum(value)
        top = worth.topk(config.best, 1).indices.cpu()
        kept = amounts.gather(1, top[..., None].expand(-1, -1, WAYS))
        mean = config.keep * mean + (1 - config.keep) * kept.mean(1)
        spread = config.keep * spread + (1 - config.keep) * kept.std(1)
    stays = value <= own + config.margin
    return torch.where(stays[:, None, None], start, best), torch.where(stays, own, value)


def _best(plans: Tensor, worth: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 8, 3), (B,)"""
    value, at = worth.max(1)
    return plans[torch.arange(len(plans), device=plans.device), at], value


class Searching(nn.Module):
    """A planner with a scorer that looks further than its own menu. It has no weights of its own,
    and answers as its host does.
    """

    def __init__(self, host: Any, config: SearchConfig | None = None) -> None:
        super().__init__()
        if not hasattr(host, "look") or getattr(host, "fusion", None) is not None:
            raise SetupError(
                f"host {getattr(host, 'name', host)} cannot be searched: it needs a scorer of plans"
                " and no fusion; use an iPad"
            )
        self.host, self.search = host, config or SearchConfig()
        self.name, self.config, self.fusion = host.name, host.config, None

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Batch of the host's inputs → poses (B, 8, 3) and their worth (B,)."""
        from latentvla_core.planner.hosts.ipad_judge import judge

        own, sight = self.host(batch), self.host.look(batch)
        menu = sight.proposals[-1].float()
        poses, worth = search(
            own["poses"].float(), lambda plans: judge(self.host, sight, plans), self.search, menu
        )
        heading = torch.atan2(poses[..., 2:].sin(), poses[..., 2:].cos())
        return {"poses": torch.cat([poses[..., :2], heading], -1), "worth": worth}

    def backbone_parameters(self) -> list[nn.Parameter]:
        return self.host.backbone_parameters()
