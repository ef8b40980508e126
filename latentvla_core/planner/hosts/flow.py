"""Host 3: paths drawn by flow matching, the answer of Alpamayo-R1 to a future that has several
modes (latentvla.md §8): a velocity field carries noise to a path, so that left and right do not
become straight on.

A path is said as eight moves of half a second, each in the frame of the pose before it, less the
move at the present speed. The noises that are carried at inference are fixed: a scene has one
answer. Who is the plan is chosen as in iPad, by a scorer that learns in a phase of its own.
Legend: B batch, C cameras, S scene tokens, N paths, T = 8 steps, D width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from latentvla_core.planner.attention import Mlp, MultiHeadAttention
from latentvla_core.planner.fusion import Fusion, FusionConfig, Memory
from latentvla_core.planner.hosts.flow_config import FlowConfig
from latentvla_core.planner.hosts.ipad import EGO_NUMBERS, SCORES, composed_choice
from latentvla_core.planner.hosts.ipad_loss import choose, simulator_of
from latentvla_core.planner.hosts.registry import Host
from latentvla_core.planner.hosts.resnet import ResNetSize, normalize, resnet
from latentvla_core.planner.inputs import IpadInputs, TrajectoryTargets
from latentvla_core.training.precision import full_precision
from latentvla_core.types import FRAME_INTERVAL_S, PLAN_STEPS

MOVE_UNITS = (1.5, 0.15, 0.1)
"""Metres, metres, radians: moves are of the order of one in them."""
VELOCITY = slice(3, 5)
"""Of the ego vector."""
TIMES = 8
"""Frequencies that say how far along the flow is."""
NOISE_SEED = 0


class Flow(nn.Module):
    """Camera pictures and ego vector → N paths; the best one is the plan."""

    name = "flow"
    noise: Tensor

    def __init__(
        self, config: FlowConfig, fusion: FusionConfig | None = None, feature_dim: int = 0
    ) -> None:
        super().__init__()
        self.config = config
        self.scene = SceneTokens(config)
        self.field = VelocityField(config)
        self.scorer = Mlp(config.width, config.ffn_width, len(SCORES))
        self.fusion = (
            None if fusion is None else Fusion(fusion, feature_dim, config.width, EGO_NUMBERS)
        )
        fixed = torch.Generator().manual_seed(NOISE_SEED)
        shape = (config.proposals, PLAN_STEPS, 3)
        self.register_buffer("noise", torch.randn(shape, generator=fixed, device="cpu"))

    def forward(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Batch of `inputs.IpadInputs` → poses (B, 8, 3) of the chosen path, proposals (1, B, N, 8,
        3), scores (B, N, 6) logits, chosen (B,), pooled (B, N, D); in training `flow_error` (B,)
        alone, from `targets`.
        """
        tokens, usable = self.scene(batch)
        memory = None if self.fusion is None else self.fusion.memory(batch["vlm"], batch["ego"])
        scene = (tokens, usable, self.fusion, memory)
        if self.training:
            return {"flow_error": self._error(batch, scene)}
        moves, states = self._draw(scene)
        with full_precision(moves):  # metres
            proposals = compose(moved(moves.float(), batch["ego"].float()))
        return self._answers(proposals, states.mean(2), batch, memory)

    def _error(self, batch: dict[str, Any], scene: Any) -> Tensor:
        """(B,) mean square of the field's error between noise and the logged moves."""
        with full_precision(batch["ego"]):
            target = unmoved(decompose(batch["targets"]["trajectory"]), batch["ego"].float())
            target = target[:, None].expand(-1, self.config.draws, -1, -1)  # (B, n, T, 3)
            noise = torch.randn_like(target)
            time = torch.rand(target.shape[:2], device=target.device)
            at = torch.lerp(noise, target, time[..., None, None])
        velocity, _ = self.field(at, time, *scene)
        return (velocity.float() - (target - noise)).square().mean((1, 2, 3))

    def _draw(self, scene: Any) -> tuple[Tensor, Tensor]:
        """→ (B, N, T, 3) moves in units, and (B, N, T, D) what the field thinks of them."""
        count, steps = len(scene[0]), self.config.integration_steps
        moves = self.noise.expand(count, -1, -1, -1)
        for step in range(steps):
            time = moves.new_full(moves.shape[:2], step / steps)
            moves = moves + self.field(moves, time, *scene)[0].float() / steps
        return moves, self.field(moves, moves.new_ones(moves.shape[:2]), *scene)[1]

    def _answers(
        self, proposals: Tensor, pooled: Tensor, batch: dict[str, Any], memory: Memory | None
    ) -> dict[str, Tensor]:
        told = pooled
        if self.fusion is not None and memory is not None:
            pooled = self.fusion.to_scorer(pooled, memory, None)
            told = self.fusion.tell(pooled, batch["vlm"])
        scores = self.scorer(told)
        best = self._best(proposals, scores)
        poses = proposals[torch.arange(len(best), device=best.device), best]
        heading = torch.atan2(torch.sin(poses[..., 2:]), torch.cos(poses[..., 2:]))
        return {
            "poses": torch.cat([poses[..., :2], heading], -1),
            "proposals": proposals[None],
            "scores": scores,
            "chosen": best,
            "pooled": pooled,
        }

    def _best(self, proposals: Tensor, scores: Tensor) -> Tensor:
        """(B,) the path that is the plan."""
        if self.config.choice == "composed":
            return self.choice(scores).argmax(1)
        points = proposals[..., :2].flatten(2)  # (B, N, 2T)
        return torch.cdist(points, points).sum(-1).argmin(1)

    def choice(self, logits: Tensor) -> Tensor:
        """(B, N, 6) logits → (B, N) expected score."""
        return composed_choice(logits)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """Parameters that train at the lower backbone rate: the ResNet."""
        return list(self.scene.resnet.parameters())


class SceneTokens(nn.Module):
    """Cells of the pictures' last features with camera and place, and one token of the ego."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        size = ResNetSize(config.stem_width, config.stage_widths, config.stage_depths)
        self.resnet = resnet(size, channels=3, weights=config.image_weights)
        self.lateral = nn.Linear(config.stage_widths[-1], config.width)
        self.camera = nn.Parameter(torch.randn(len(config.cameras), config.width))
        self.place = nn.Linear(2, config.width)
        self.ego = nn.Linear(EGO_NUMBERS, config.width)

    def forward(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """→ (B, S, D) tokens, (B, S) bool which there are."""
        images, there = batch["images"], batch["has_image"]
        grid = self.resnet(normalize(images.flatten(0, 1))).feature_maps[-1]  # (BC, d, h, w)
        rows, columns = (
            torch.linspace(-1, 1, side, device=grid.device, dtype=grid.dtype)
            for side in grid.shape[-2:]
        )
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
        cells = self.lateral(grid.flatten(2).transpose(1, 2)) + self.place(places)
        cells = cells.unflatten(0, images.shape[:2]) + self.camera[:, None]  # (B, C, hw, D)
        usable = there[..., None].expand(-1, -1, cells.shape[2]).flatten(1)
        ego = self.ego(batch["ego"])[:, None]
        tokens = torch.cat([ego, cells.flatten(1, 2)], 1)
        return tokens, torch.cat([usable.new_ones(len(usable), 1), usable], 1)


class VelocityField(nn.Module):
    """Moves on their way from noise to a path → where they are going."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        width = config.width
        self.moves = nn.Linear(3, width)
        self.time = Mlp(2 * TIMES, width, width, activation=nn.SiLU)
        self.step = nn.Parameter(torch.randn(PLAN_STEPS, width))
        self.layers = nn.ModuleList(FlowLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.pose_head = nn.Linear(width, 3)

    def forward(
        self, moves: Tensor, time: Tensor, tokens: Tensor, usable: Tensor, fusion: Any, memory: Any
    ) -> tuple[Tensor, Tensor]:
        """(B, n, T, 3) in units, (B, n) in [0, 1], the scene → (B, n, T, 3), states (B, n, T, D)."""
        states = self.moves(moves) + self.step + self.time(waves(time))[:, :, None]
        if fusion is not None:
            states = fusion(states.flatten(1, 2), memory).view_as(states)
        for layer in self.layers:
            states = layer(states, tokens, usable)
        states = self.norm(states)
        return self.pose_head(states), states


class FlowLayer(nn.Module):
    """Steps of a path attend to each other, then to the scene."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(3))
        self.own = MultiHeadAttention(config.width, config.heads)
        self.across = MultiHeadAttention(config.width, config.heads)
        self.ffn = Mlp(config.width, config.ffn_width, config.width, activation=nn.GELU)

    def forward(self, states: Tensor, tokens: Tensor, usable: Tensor) -> Tensor:
        """(B, n, T, D) → the same."""
        own = self.norms[0](states).flatten(0, 1)  # (B·n, T, D)
        states = states + self.own(own, own).view_as(states)
        asked = self.norms[1](states).flatten(1, 2)  # (B, n·T, D)
        states = states + self.across(asked, tokens, usable).view_as(states)
        return states + self.ffn(self.norms[2](states))


def waves(time: Tensor) -> Tensor:
    """(…,) in [0, 1] → (…, 2 · TIMES)"""
    angles = time[..., None] * math.pi * torch.arange(1, TIMES + 1, device=time.device)
    return torch.cat([angles.sin(), angles.cos()], -1)


def decompose(poses: Tensor) -> Tensor:
    """(…, 8, 3) poses → moves: each in the frame of the pose before it, the first in the ego's."""
    before = torch.cat([torch.zeros_like(poses[..., :1, :]), poses[..., :-1, :]], -2)
    gap, yaw = poses - before, before[..., 2]
    forward = yaw.cos() * gap[..., 0] + yaw.sin() * gap[..., 1]
    left = yaw.cos() * gap[..., 1] - yaw.sin() * gap[..., 0]
    turn = torch.atan2(gap[..., 2].sin(), gap[..., 2].cos())
    return torch.stack([forward, left, turn], -1)


def compose(moves: Tensor) -> Tensor:
    """Inverse of `decompose`, up to whole turns."""
    yaw = moves[..., 2].cumsum(-1)
    before = yaw - moves[..., 2]
    x = before.cos() * moves[..., 0] - before.sin() * moves[..., 1]
    y = before.sin() * moves[..., 0] + before.cos() * moves[..., 1]
    return torch.stack([x.cumsum(-1), y.cumsum(-1), yaw], -1)


def moved(moves: Tensor, ego: Tensor) -> Tensor:
    """(B, n, T, 3) in units, (B, 11) → moves in metres and radians."""
    return moves * moves.new_tensor(MOVE_UNITS) + _straight_on(ego)[:, None]


def unmoved(moves: Tensor, ego: Tensor) -> Tensor:
    """(B, T, 3) → in units, less the move at the present speed."""
    return (moves - _straight_on(ego)) / moves.new_tensor(MOVE_UNITS)


def _straight_on(ego: Tensor) -> Tensor:
    """(B, 11) → (B, 1, 3)"""
    forward = ego[:, VELOCITY].norm(dim=-1) * FRAME_INTERVAL_S
    return torch.stack([forward, 0 * forward, 0 * forward], -1)[:, None]


def training_loss(planner: Flow, simulator: Any) -> Any:
    """(batch, step) → (loss, parts); the simulator teaches in the scorer's phase only."""

    def loss(batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, float]]:
        error = planner(batch)["flow_error"].mean()
        return error, {"flow_error": float(error.detach())}

    return loss


HOST = Host(
    network=Flow,
    config=FlowConfig,
    inputs=IpadInputs,
    targets=lambda config, records, maps: TrajectoryTargets(records),
    loss=training_loss,
    simulator=simulator_of,
    last_phase=choose,
)
