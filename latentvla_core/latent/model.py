"""The latent action model: an environment stage and an ego stage, each encoder → codes → decoder.

Stage 1 is told the trajectory, so its codes need only carry what *others* do. Stage 2 is given
those codes, frozen, and must put the ego's motion into its own (latentvla.md §2.5). Legend:
latent/__init__.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from latentvla_core.errors import SetupError
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.environment.agents import AGENT_AXES
from latentvla_core.latent.environment.change import cells_of
from latentvla_core.latent.environment.compensation import calibrated, compensated
from latentvla_core.latent.environment.independence import MotionByCode
from latentvla_core.latent.features import Features, build_features
from latentvla_core.latent.network import ConditionEncoder, ForwardModel, InverseModel
from latentvla_core.latent.quantizer import build_quantizer
from latentvla_core.latent.rows.familiar import Familiar, describe
from latentvla_core.training import artifacts

MOTION_DIM = 3  # Δx, Δy, Δyaw over one transition
STATE_DIM = 3  # speed, acceleration, yaw rate
WAYPOINT_DIM = 5  # x, y, sin yaw, cos yaw, Δt


class Told(NamedTuple):
    """What stage 1 is told of B transitions besides their frames."""

    waypoints: Tensor
    """(B, gap, 3) poses after 0.5 s, 1.0 s …, in the ego frame of the first frame."""
    states: Tensor
    """(B, 3) ego state at the first frame."""
    projections: Tensor
    """(B, 3, 4) ego → picture parts (data.projections); NaN where the camera is not calibrated."""


class Scales(nn.Module):
    """Mean and deviation of trajectories and states in the training data, so that small yaw angles
    count too.
    """

    pose_mean: Tensor
    pose_std: Tensor
    state_mean: Tensor
    state_std: Tensor

    def __init__(self, gap_frames: int) -> None:
        super().__init__()
        for name, shape in (("pose", (gap_frames, MOTION_DIM)), ("state", (STATE_DIM,))):
            self.register_buffer(f"{name}_mean", torch.zeros(shape))
            self.register_buffer(f"{name}_std", torch.ones(shape))

    @torch.no_grad()
    def measure(self, waypoints: Tensor, states: Tensor) -> None:
        """Set from all training pairs: waypoints (n, gap, 3), states (n, 3)."""
        for name, values in (("pose", waypoints), ("state", states)):
            getattr(self, f"{name}_mean").copy_(values.mean(0))
            spread = values.std(
                0, correction=min(1, len(values) - 1)
            )  # of a single pair: 0, not NaN
            getattr(self, f"{name}_std").copy_(spread.clamp_min(1e-2))

    def waypoints(self, poses: Tensor) -> Tensor:
        """(B, S, 3) poses → (B, S, 5) standardised x, y, sin, cos, Δt (cos and Δt as they are)."""
        yaw = poses[..., 2:]
        xy = (poses[..., :2] - self.pose_mean[:, :2]) / self.pose_std[:, :2]
        steps = torch.arange(1, poses.shape[1] + 1, device=poses.device)[:, None].expand(
            *poses.shape[:2], 1
        )
        return torch.cat([xy, yaw.sin() / self.pose_std[:, 2:], yaw.cos(), steps * 0.5], dim=-1)

    def state(self, states: Tensor) -> Tensor:
        """(B, 3) → standardised."""
        return (states - self.state_mean) / self.state_std

    def motion(self, poses: Tensor) -> Tensor:
        """(B, S, 3) → (B, 3) standardised motion over the whole transition."""
        return (poses[:, -1] - self.pose_mean[-1]) / self.pose_std[-1]


class EnvironmentStage(nn.Module):
    """Stage 1: codes of what the trajectory does not explain. In a single-stage model it holds the
    scales only.
    """

    def __init__(self, config: LatentActionConfig) -> None:
        super().__init__()
        features, code = config.features, config.environment
        sizes: dict[str, Any] = {"feature_dim": features.dim, "grid_hw": features.grid_hw}
        width, count = config.dynamics.width, config.environment_positions
        self.config, self.positions = config, count
        self.scales = Scales(config.gap_frames)
        self.condition = None
        if count == 0:
            self.quantizer = build_quantizer(code, 0)
            return
        if config.conditioning != "none":
            self.condition = ConditionEncoder(width, waypoint_dim=WAYPOINT_DIM, state_dim=STATE_DIM)
        strips = max(1, config.sectors)
        self.inverse = InverseModel(
            config.dynamics, groups=[(count // strips, code.dim)], sectors=strips, **sizes
        )
        self.quantizer = build_quantizer(code, count)
        coded = {"codes": count, "code_dim": code.dim, "local_codes": config.sectors}
        self.decoder = ForwardModel(
            config.dynamics, conditioned=config.conditioning == "added", **coded, **sizes
        )
        if config.change_weight > 0:
            self.change = nn.Linear(width, cells_of(features))
        if config.leak_weight > 0:
            self.motion_by_code = MotionByCode(count, code.codebook_size, MOTION_DIM)
        if config.agent_weight > 0:
            # told the ego motion: what that tells of others the codes need not, else they carry ego
            # speed
            reads = (
                nn.Linear(count * code.dim + MOTION_DIM, width),
                nn.GELU(),
                nn.Linear(width, len(AGENT_AXES)),
            )
            self.agents = nn.Sequential(*reads)

    def can_compensate(self, projections: Tensor) -> Tensor:
        """(B, 3, 4) → (B,) bool: which first frames `look` compensates."""
        return calibrated(projections) & self.config.compensate

    def look(self, x: Tensor, told: Told) -> tuple[Tensor, Tensor | None]:
        """Features (B, 2, P, D) → the same with the first frame compensated, and the condition (B,
        C, W) if there is one.
        """
        if self.config.compensate:
            first = compensated(
                x[:, 0], told.projections, told.waypoints[:, -1], self.config.features
            )
            x = torch.stack([first, x[:, 1]], dim=1)
        if self.condition is None:
            return x, None
        return x, self.condition(
            self.scales.waypoints(told.waypoints), self.scales.state(told.states)
        )

    def predict(
        self, first: Tensor, values: Tensor, condition: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """What `look` made of the first frame (B, P, D), code vectors (B, N_env, d) → second frame
        (B, P, D), and the change (B, P, cells) where the model predicts it (`latent.change`).
        """
        hidden = self.decoder.hidden(first, values, condition)
        change = self.change(hidden) if self.config.change_weight > 0 else None
        return first + self.decoder.out(hidden), change

    @torch.no_grad()
    def codes(self, x: Tensor, told: Told) -> Tensor:
        """Features (B, 2, P, D) → (B, N_env) int64; N_env is 0 in a single-stage model."""
        if self.positions == 0:
            return torch.zeros((len(x), 0), dtype=torch.int64, device=x.device)
        (z,) = self.inverse(*self.look(x, told))
        return self.quantizer.nearest(z[:, -1])


class EgoStage(nn.Module):
    """Stage 2: codes of what the ego did, given the environment's. Sees no trajectory."""

    def __init__(self, config: LatentActionConfig) -> None:
        super().__init__()
        features, code, environment = config.features, config.ego, config.environment
        counts = (config.codes_per_transition, config.environment_positions)
        groups = [(counts[0], code.dim), (counts[1], environment.dim)]
        sizes: dict[str, Any] = {"feature_dim": features.dim, "grid_hw": features.grid_hw}
        used = groups if config.env_source == "reencode" else groups[:1]
        self.inverse = InverseModel(config.dynamics, groups=used, **sizes)
        self.quantizer = build_quantizer(code, counts[0])
        same = code.dim == environment.dim
        self.match = nn.Identity() if same else nn.Linear(environment.dim, code.dim)
        coded = {"codes": sum(counts), "code_dim": code.dim, "local_codes": config.sectors}
        self.decoder = ForwardModel(config.dynamics, conditioned=False, **coded, **sizes)
        width = config.dynamics.width
        self.motion = nn.Sequential(
            nn.Linear(counts[0] * code.dim, width), nn.GELU(), nn.Linear(width, MOTION_DIM)
        )

    def encode(self, x: Tensor) -> list[Tensor]:
        """Features (B, 2, P, D) → [z_ego (B, N, d)], and z_env (B, N_env, d) in mode "reencode"."""
        return [z[:, -1] for z in self.inverse(x)]

    def decode(self, x: Tensor, ego: Tensor, environment: Tensor) -> Tensor:
        """First frame (B, P, D), code vectors (B, N, d) and (B, N_env, d) → the second frame's
        features (B, P, D).
        """
        return self.decoder(x, torch.cat([ego, self.match(environment)], dim=1))


class LatentActionModel(nn.Module):
    """Both stages; `codes` is what the rest of the line uses."""

    def __init__(self, config: LatentActionConfig) -> None:
        super().__init__()
        self.config = config
        self.environment = EnvironmentStage(config)
        self.ego = EgoStage(config)
        self.familiar = Familiar(config.features.dim)
        self._features: Features | None = None

    @property
    def features(self) -> Features:
        """The frozen feature net, built on first use (DINOv2 needs its folder only then)."""
        if self._features is None:
            self._features = build_features(self.config.features)
        return self._features

    def distances(self, x: Tensor) -> Tensor:
        """Features of two pictures (B, 2, P, D) → (B,) how unlike the training's they are; 1: as far
        as one in a hundred of those.
        """
        return self.familiar(describe(x))

    @property
    def device(self) -> torch.device:
        return self.ego.inverse.queries.device

    @torch.no_grad()
    def codes(self, pictures: Tensor) -> Tensor:
        """(B, 2, H, W, 3) uint8 front pictures, one gap apart → (B, N) ego codes. Needs no
        trajectory.

        Raises SetupError for a continuous model, which has no codes to give.
        """
        self.require_codes()
        z = self.ego.encode(self.features(pictures.to(self.device)))[0]
        return self.ego.quantizer.nearest(z)

    def require_codes(self) -> None:
        """Raises SetupError for a continuous model, which has no codes to give."""
        if self.config.ego.kind == "continuous":
            raise SetupError(
                "a model with ego.kind 'continuous' has no codes to label with; train one with 'ema'"
            )


def state_hash(module: nn.Module) -> str:
    """SHA-256 of every parameter and buffer: equal before and after means frozen."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(
            tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def save(
    model: LatentActionModel, folder: Path | str, extra: Mapping[str, Any] | None = None
) -> Path:
    """Weights and config as a model folder; `extra` takes lineage and the quality report."""
    return artifacts.save_model(folder, model, model.config, extra)


def load(folder: Path | str, device: torch.device | str = "cpu") -> LatentActionModel:
    """A saved model, ready to label."""
    model = LatentActionModel(artifacts.load_config(folder, LatentActionConfig))
    artifacts.load_weights(folder, model)
    return model.to(device).eval()
