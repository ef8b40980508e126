"""A planner as a policy: proposals are means, plans are drawn around them.

Legend: B scenes, N proposals, G plans drawn per proposal, K refinements, T = 8 poses.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from latentvla_core.errors import SetupError
from latentvla_core.planner.plan import Batches
from latentvla_core.rl.config import NoiseConfig, RlConfig
from latentvla_core.training.loop import to_device
from latentvla_core.types import PLAN_STEPS, Array

HEADS = ("pose_head", "trajectory_head")
"""Names of the layers that answer poses, wherever they stand in a host."""
ADDED_UNIT_M = 10.0


class Policy(nn.Module):
    """The planner that learns, and the copies of it that do not.

    It stays in evaluation mode while it learns: with dropout the mean of the policy would be
    another at each look.
    """

    def __init__(self, planner: Any, config: RlConfig) -> None:
        super().__init__()
        self.planner = planner
        self.sampler = _frozen(planner) if config.inner_steps > 1 else None
        needs_start = config.imitate == "start" or config.shape > 0
        self.start = _frozen(planner) if needs_start else None
        chosen = trained_parameters(planner, config.trained)
        for name, parameter in planner.named_parameters():
            parameter.requires_grad_(name in chosen)

    def train(self, mode: bool = True) -> Policy:
        return super().train(False)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """(K, B, N, 8, 3) proposals, the last refinement last; K = 1 for hosts that plan once."""
        return proposals_of(self.planner(batch))

    @torch.no_grad()
    def drawn_from(self, batch: dict[str, Any]) -> Tensor:
        """(K, B, N, 8, 3) proposals of the copy that plans are drawn from."""
        assert self.sampler is not None
        return proposals_of(self.sampler(batch))

    @torch.no_grad()
    def at_start(self, batch: dict[str, Any]) -> Tensor:
        """(B, N, 8, 3) proposals of the planner before this training."""
        assert self.start is not None
        return proposals_of(self.start(batch))[-1]

    @torch.no_grad()
    def catch_up(self) -> None:
        """The copy that plans are drawn from becomes the planner of now."""
        if self.sampler is not None:
            self.sampler.load_state_dict(self.planner.state_dict())


def _frozen(planner: Any) -> Any:
    return copy.deepcopy(planner).requires_grad_(False).eval()


def trained_parameters(planner: Any, which: str) -> set[str]:
    """Names of the parameters that learn. Raises SetupError for a host without a known head."""
    names = [name for name, _ in planner.named_parameters()]
    if which == "head":
        chosen = {name for name in names if set(HEADS) & set(name.split("."))}
        if not chosen:
            raise SetupError(
                f"host {planner.name} has no layers named {' or '.join(HEADS)}; train more of it: "
                "trained='planner'"
            )
        return chosen
    if which == "decoder":
        return {name for name in names if not name.startswith("backbone.")}
    backbone = {id(p) for p in planner.backbone_parameters()}
    return {name for name, p in planner.named_parameters() if id(p) not in backbone}


def remembered(planner: Any, batches: Batches, rows: Array, device: str = "cpu") -> Batches:
    """Batches in which what the frozen backbone sees of `rows` is remembered: pictures are read and
    encoded once. Hosts that cannot plan from it (no `seen`), and fused ones, get their batches as
    they are.
    """
    if not hasattr(planner, "seen") or planner.fusion is not None or not len(rows):
        return batches
    training = planner.training
    planner.eval()
    parts = [
        planner.seen(to_device(batches(rows[first : first + 32]), device))
        for first in range(0, len(rows), 32)
    ]
    planner.train(training)
    kept = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
    at = {int(row): i for i, row in enumerate(rows)}

    def batch(indices: Array) -> dict[str, Any]:
        here = torch.tensor([at[int(i)] for i in indices])
        return {name: value[here] for name, value in kept.items()}

    return batch


def proposals_of(out: dict[str, Tensor]) -> Tensor:
    """(K, B, N, 8, 3) of a host's answer; one plan is one proposal refined once."""
    return out["proposals"] if "proposals" in out else out["poses"][None, :, None]


def draw(means: Tensor, samples: int, noise: NoiseConfig) -> Tensor:
    """(..., N, 8, 3) means → (..., N, G, 8, 3) plans; headings turn as the path does."""
    wide = means[..., None, :, :].expand(*means.shape[:-2], samples, *means.shape[-2:])
    shape = (*wide.shape[:-2], 1)
    along, across = (
        torch.randn(shape, device=means.device, dtype=means.dtype) * std
        for std in (noise.along, noise.across)
    )
    x, y, yaw = wide.unbind(-1)
    if noise.kind == "scaled":
        turned = torch.atan2(yaw.sin() * (1 + across), yaw.cos() * (1 + along).clamp(min=0.1))
        return torch.stack([x * (1 + along), y * (1 + across), turned], -1)
    part = torch.linspace(1 / PLAN_STEPS, 1.0, PLAN_STEPS, device=means.device, dtype=means.dtype)
    ahead, aside = ADDED_UNIT_M * along * part, ADDED_UNIT_M * across * part**2
    moved_x = x + ahead * yaw.cos() - aside * yaw.sin()
    moved_y = y + ahead * yaw.sin() + aside * yaw.cos()
    # The offset's slope over the path's: a plan that is bent aside also heads there.
    slope = 2 * ADDED_UNIT_M * across * part / moved_x[..., -1:].abs().clamp(min=5.0)
    return torch.stack([moved_x, moved_y, yaw + slope.clamp(-0.5, 0.5)], -1)


def bent(plans: Tensor, start: Tensor) -> Tensor:
    """(..., 8, 3) plans against (..., 8, 3) starts → (..., 8, 3) what of the change `added` noise
    never tries: along, across (m) and heading (rad), without the two ramps. No reward tells of it.
    """
    part = torch.linspace(1 / PLAN_STEPS, 1.0, PLAN_STEPS, device=plans.device, dtype=plans.dtype)
    away, yaw = plans - start, start[..., 2]
    ahead = away[..., 0] * yaw.cos() + away[..., 1] * yaw.sin()
    aside = away[..., 1] * yaw.cos() - away[..., 0] * yaw.sin()
    rest, shares = [], []
    for change, ramp in ((ahead, part), (aside, part**2)):
        share = (change * ramp).sum(-1, keepdim=True) / ramp.square().sum()
        rest.append(change - share * ramp)
        shares.append(share)
    slope = 2 * shares[1] * part / plans[..., -1:, 0].detach().abs().clamp(min=5.0)
    return torch.stack([*rest, away[..., 2] - slope.clamp(-0.5, 0.5)], -1)


def spread_of(means: Tensor, noise: NoiseConfig) -> Tensor:
    """(..., 8, 3) standard deviations of x, y (m) and yaw (rad) in the log-probability, x and y not
    below the floor.
    """
    if noise.kind == "scaled":
        stds = means[..., :2].abs() * means.new_tensor([noise.along, noise.across])
    else:
        part = torch.linspace(
            1 / PLAN_STEPS, 1.0, PLAN_STEPS, device=means.device, dtype=means.dtype
        )
        grown = torch.stack([noise.along * part, noise.across * part**2], -1) * ADDED_UNIT_M
        stds = grown.expand(*means.shape[:-1], 2)
    stds = stds.clamp(min=noise.floor_m)
    return torch.cat([stds, torch.full_like(stds[..., :1], noise.floor_rad)], -1)


def log_probability(plans: Tensor, means: Tensor, spread: Tensor) -> Tensor:
    """(..., G, 8, 3) plans around (..., 8, 3) means with (..., 8, 3) spreads → (..., G), without
    the part that no mean changes; the mean over poses, not the sum, as both recipes have it.
    """
    away = (plans - means[..., None, :, :]) / spread[..., None, :, :]
    return -0.5 * away.square().mean((-1, -2))
