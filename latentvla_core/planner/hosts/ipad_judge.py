"""iPad's scorer asked about plans that it did not propose.

The scorer reads queries, not poses. A plan is therefore written into the queries of the proposal
nearest to it, by the least change after which they say the plan; then they are refined and scored
as if iPad had proposed it.
Legend: B batch, N proposals, M plans, T = 8 poses, D width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from latentvla_core.errors import SetupError
from latentvla_core.planner.hosts.ipad import Ipad
from latentvla_core.planner.hosts.ipad_layer import Sight
from latentvla_core.types import PLAN_STEPS

WRITE_STEPS = 10
"""Newton steps; the pose head is linear piece by piece."""
WRITTEN_M = 0.3
"""A plan that no query near the proposal's says to within this, at every pose, is not judged."""
DAMPING = 1e-4


def judge(planner: Ipad, sight: Sight, plans: Tensor) -> Tensor:
    """(B, M, 8, 3) plans in metres and radians → (B, M) what iPad would choose them by; minus
    infinity where the plan cannot be said.

    Raises SetupError for a fused planner: its scorer is told of one answer per scene.
    """
    if planner.fusion is not None:
        raise SetupError(
            "a fused iPad's scorer is not asked about other plans; search with the host it was "
            "fused from"
        )
    count, size = plans.shape[1], planner.config.proposals
    padded = torch.cat([plans, plans[:, :1].expand(-1, -count % size, -1, -1)], 1)
    queries, said = write(planner, sight, padded)  # (B, M', T, D)
    parts = padded.shape[1] // size
    wide = _repeated(sight, parts)
    queries = queries.reshape(-1, size * PLAN_STEPS, queries.shape[-1])
    refined = planner.refined(wide, queries, said.reshape(-1, size, PLAN_STEPS, 3))
    pooled = refined.unflatten(1, (-1, PLAN_STEPS)).amax(2)
    value = planner.choice(planner.scorer(pooled))
    away = (said - padded)[..., :2].norm(dim=-1).amax(-1)  # (B, M')
    return value.reshape(away.shape).masked_fill(away > WRITTEN_M, -torch.inf)[:, :count]


def _repeated(sight: Sight, parts: int) -> Sight:
    """One look for each group of N plans."""
    return replace(
        sight,
        features=sight.features.repeat_interleave(parts, 0),
        projection=sight.projection.repeat_interleave(parts, 0),
        has_image=sight.has_image.repeat_interleave(parts, 0),
    )


def write(planner: Ipad, sight: Sight, plans: Tensor) -> tuple[Tensor, Tensor]:
    """(B, M, T, 3) plans → (B, M, T, D) queries that say them, and (B, M, T, 3) what they say."""
    last = sight.proposals[-1]
    away = (plans[:, :, None, :, :2] - last[:, None, :, :, :2]).norm(dim=-1).mean(-1)  # (B, M, N)
    nearest = away.argmin(-1)
    rows = torch.arange(len(plans), device=plans.device)[:, None]
    start = sight.queries.unflatten(1, (-1, PLAN_STEPS))[rows, nearest]  # (B, M, T, D)
    flat, target = start.reshape(-1, start.shape[-1]).float(), plans.reshape(-1, 3).float()
    best, least = flat, torch.full((len(flat),), torch.inf, device=flat.device)
    for step in range(WRITE_STEPS + 1):  # a step over a kink may lead away: the best one counts
        away = (planner._poses(flat) - target).norm(dim=-1)
        best, least = torch.where((away < least)[:, None], flat, best), away.minimum(least)
        flat = flat if step == WRITE_STEPS else flat + _step(planner, flat, target)
    return best.view(start.shape).to(start.dtype), planner._poses(best).view(plans.shape)


def _step(planner: Ipad, queries: Tensor, target: Tensor) -> Tensor:
    """(n, D) the least change of (n, D) queries that brings what they say to (n, 3), linearly."""
    with torch.inference_mode(False), torch.enable_grad():
        asked = queries.detach().clone().requires_grad_()  # may come out of inference mode
        said = planner._poses(asked)
        slopes = torch.stack(
            [torch.autograd.grad(said[:, i].sum(), asked, retain_graph=i < 2)[0] for i in range(3)],
            1,
        )  # (n, 3, D)
    gap = (target - said.detach())[..., None]
    square = slopes @ slopes.transpose(1, 2)
    scale = square.diagonal(dim1=1, dim2=2).mean(-1)[:, None, None]
    eye = torch.eye(3, device=square.device, dtype=square.dtype)
    solved = torch.linalg.solve(square + (DAMPING * scale + 1e-8) * eye, gap)
    return (slopes.transpose(1, 2) @ solved)[..., 0]
