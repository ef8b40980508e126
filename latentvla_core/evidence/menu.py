"""The study's planner: a menu of proposals from the ego status alone, and a scorer that chooses.

Whatever a variant is told reaches the scorer only, so all variants of a seed choose from the same
proposals and differ in the choice. The scorer learns five sub-scores and composes them by the
formula of PDMS; proposals do not move under it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentvla_core.evidence.scenes import EGO_NUMBERS
from latentvla_core.evidence.situations import SUB_SCORES
from latentvla_core.pdms.aggregate import WEIGHTS_V1
from latentvla_core.training.config import FitConfig
from latentvla_core.training.loop import Loss, fit
from latentvla_core.types import PLAN_STEPS, Array

PATH_NUMBERS = PLAN_STEPS * 3
PATH_SCALE = (10.0, 3.0, 0.3)
"""Units in which networks speak of x, y and yaw."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MenuConfig:
    """Sizes and lengths; defaults are the study's."""

    proposals: int = 12
    """K."""
    proposer_width: int = 256
    """Hidden width of the proposer."""
    share: float = 0.05
    """Part of the loss that every proposal gets, so that none dies."""
    width: int = 128
    """Hidden width of the scorer."""
    neck: int = 16
    """Numbers that each source is brought down to."""
    training: FitConfig = field(
        default_factory=lambda: FitConfig(
            steps=1000,
            batch_size=64,
            learning_rate=2e-3,
            weight_decay=0.3,
            warmup_steps=50,
            log_every=1000,
        )
    )
    """Of the scorer; its seed is that of all networks of a menu."""
    proposer_steps: int = 1000
    """Steps of the proposer, and of the single-plan MLP."""
    proposer_weight_decay: float = 0.01
    """Theirs; the other knobs are the scorer's."""
    dropout: float = 0.7
    """Of sources that are no motion (wider than a path): pictures, states, probabilities."""

    @property
    def proposer_training(self) -> FitConfig:
        """Knobs of the proposer."""
        return replace(
            self.training, steps=self.proposer_steps, weight_decay=self.proposer_weight_decay
        )


def scaled(paths: Tensor) -> Tensor:
    """(..., 8, 3) poses → the same in networks' units."""
    return paths / torch.tensor(PATH_SCALE)


def unscaled(paths: Tensor) -> Tensor:
    """Inverse of `scaled`."""
    return paths * torch.tensor(PATH_SCALE)


class Standard(nn.Module):
    """(x − mean) / deviation of training rows; constant columns become 0."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        deviation = rows.std(0)
        self.register_buffer("mean", rows.mean(0))
        self.register_buffer("deviation", torch.where(deviation > 1e-4, deviation, torch.inf))

    def forward(self, x: Tensor) -> Tensor:
        return ((x - self.mean) / self.deviation).clamp(-5, 5)


def mlp(*widths: int, dropout: float = 0.0) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for a, b in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(a, b), nn.ReLU()] + ([nn.Dropout(dropout)] if dropout else [])
    return nn.Sequential(*layers[: -1 - bool(dropout)])


class Proposer(nn.Module):
    """Ego status → K paths."""

    def __init__(self, ego: Tensor, proposals: int, width: int) -> None:
        super().__init__()
        self.standard, self.proposals = Standard(ego), proposals
        self.layers = mlp(EGO_NUMBERS, width, width, proposals * PATH_NUMBERS)

    def forward(self, ego: Tensor) -> Tensor:
        """(B, 17) → (B, K, 8, 3) metres, radians."""
        out = self.layers(self.standard(ego))
        return unscaled(out.unflatten(-1, (self.proposals, PLAN_STEPS, 3)))


def train_proposer(ego: Array, path: Array, config: MenuConfig, proposals: int) -> Proposer:
    """By the nearest proposal's distance to the logged path, and a small share of all."""
    inputs, targets = torch.from_numpy(ego), torch.from_numpy(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        model = Proposer(inputs, proposals, config.proposer_width)

    def loss(rows: Tensor, step: int) -> tuple[Tensor, Mapping[str, float]]:
        gaps = (model(inputs[rows]) - targets[rows, None]).abs().sum(-1).mean(-1)  # (B, K)
        return (1 - config.share) * gaps.amin(1).mean() + config.share * gaps.mean(), {}

    run_phase(model, len(ego), loss, config.proposer_training)
    return model


class Scorer(nn.Module):
    """Ego status, a proposal and what it is told → logits of five sub-scores."""

    def __init__(self, ego: Tensor, told: Mapping[str, Tensor], config: MenuConfig) -> None:
        super().__init__()
        self.standard = Standard(ego)
        self.necks = nn.ModuleDict(
            {name: nn.Linear(rows.shape[-1], config.neck) for name, rows in told.items()}
        )
        self.drop = nn.Dropout(config.dropout)
        wide = EGO_NUMBERS + PATH_NUMBERS + config.neck * len(told)
        self.layers = mlp(wide, config.width, config.width, len(SUB_SCORES))

    def forward(self, ego: Tensor, plans: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        """(B, 17), (B, K, 8, 3), each (B, d) → (B, K, 5) logits."""
        scene = [self.standard(ego)]
        for name, neck in self.necks.items():
            rows = told[name]
            scene.append(neck(self.drop(rows) if rows.shape[-1] > PATH_NUMBERS else rows))
        both = torch.cat(scene, -1)[:, None].expand(-1, plans.shape[1], -1)
        return self.layers(torch.cat([both, scaled(plans).flatten(2)], -1))


def composed(logits: Tensor) -> Tensor:
    """(..., 5) logits → (...,) expected PDMS v1.1."""
    p: dict[str, Tensor] = dict(zip(SUB_SCORES, logits.sigmoid().unbind(-1), strict=True))
    rest = sum(weight * p[name] for name, weight in WEIGHTS_V1.items()) / sum(WEIGHTS_V1.values())
    return p["no_at_fault_collisions"] * p["drivable_area_compliance"] * rest


def train_scorer(
    ego: Array,
    plans: Array,
    scores: Array,
    told: Mapping[str, Array],
    config: MenuConfig,
) -> Scorer:
    """(N, 17) ego, (N, K, 8, 3) plans, (N, K, 5) sub-scores (NaN = not scored), told (N, d) each."""
    given = {name: torch.from_numpy(np.asarray(rows, np.float32)) for name, rows in told.items()}
    inputs, menu = torch.from_numpy(ego), torch.from_numpy(plans)
    targets = torch.from_numpy(np.asarray(scores, np.float32))
    known = torch.isfinite(targets).all(-1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        model = Scorer(inputs, given, config)

    def loss(rows: Tensor, step: int) -> tuple[Tensor, Mapping[str, float]]:
        logits = model(inputs[rows], menu[rows], {n: v[rows] for n, v in given.items()})
        use = known[rows]
        return F.binary_cross_entropy_with_logits(logits[use], targets[rows][use]), {}

    run_phase(model, len(ego), loss, config.training)
    return model


@torch.no_grad()
def choose(scorer: Scorer, ego: Array, plans: Array, told: Mapping[str, Array]) -> Array:
    """(N,) index of the proposal with the best expected score."""
    given = {name: torch.from_numpy(np.asarray(rows, np.float32)) for name, rows in told.items()}
    logits = scorer.eval()(torch.from_numpy(ego), torch.from_numpy(plans), given)
    return composed(logits).argmax(1).numpy()


def run_phase(model: nn.Module, count: int, loss: Loss, training: FitConfig) -> None:
    """One call of the training loop over rows 0 … count-1, which the loss looks up itself."""
    fit(
        model,
        num_samples=count,
        collate=lambda indices, rng: torch.from_numpy(indices),
        loss=loss,
        config=training,
    )
    model.eval()
