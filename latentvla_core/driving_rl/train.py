"""Closed-loop RL: a planner of one plan drives scenes of a few seconds, several times each, and
follows the drives that were worth more than the others of the same scene.

The reward has AlpaGym's shape: progress as a share of the human's, prices of contacts and of
leaving the road, a little for the distance to the human. Only the layers behind the frozen backbone
learn, from the features of the pictures that were seen on the way.
Legend: S scenes, G drives of a scene, P plan times, n = S · G · P.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from latentvla_core.closed_loop.driver import PLAN_PERIOD_S, Observation
from latentvla_core.closed_loop.drivers.eyes import Eyes
from latentvla_core.closed_loop.drivers.planners import cameras_of, record_of, write_pictures
from latentvla_core.closed_loop.env import Reward
from latentvla_core.closed_loop.episode import Episode, Scene
from latentvla_core.closed_loop.scenes.spec import STEPS_PER_PLAN
from latentvla_core.closed_loop.scores import contacts, road
from latentvla_core.closed_loop.scores.drive import Actors, Drive, Ground
from latentvla_core.errors import SetupError
from latentvla_core.rl.config import NoiseConfig, RlConfig
from latentvla_core.rl.policy import Policy, bent, draw, log_probability, spread_of
from latentvla_core.training.config import FitConfig
from latentvla_core.training.loop import FitResult, default_param_groups, fit
from latentvla_core.training.sinks import MetricSink
from latentvla_core.types import Array

Look = Callable[[Any, Sequence[Observation]], dict[str, Tensor]]
"""(planner, observations) → the batch that it plans from, pictures already encoded."""
Prepared = tuple[Scene, Ground]


@dataclass(frozen=True, kw_only=True, slots=True)
class DrivingConfig:
    """Length, prices and rates. Defaults: minutes on one core."""

    training: FitConfig = field(
        default_factory=lambda: FitConfig(
            steps=20, batch_size=2, learning_rate=1e-4, warmup_steps=2, weight_decay=1e-4,
            log_every=1,
        )
    )  # fmt: skip
    """`batch_size` counts scenes."""
    rollouts: int = 8
    """G."""
    trained: Literal["head", "decoder", "planner"] = "decoder"
    noise: NoiseConfig = field(
        default_factory=lambda: NoiseConfig(kind="added", along=0.2, across=0.05)
    )
    """Drawn once per drive and kept: what is drawn anew every half second cancels out."""
    prices: Reward = field(default_factory=Reward)
    distance: float = -0.01
    """For each metre between ego and human, averaged over the drive."""
    shape: float = 1.0
    """As `RlConfig.shape`."""
    picture_wh: tuple[int, int] = (448, 252)

    def __post_init__(self) -> None:
        if self.rollouts < 2:
            raise ValueError(
                f"rollouts is {self.rollouts}: a drive alone has nothing to be compared with; "
                "needs at least 2"
            )


@dataclass(frozen=True, slots=True)
class DrivingResult:
    """How a training went: mean return of undisturbed drives of its scenes, before and after."""

    fit: FitResult
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Rollouts:
    """G drives of one scene."""

    seen: list[dict[str, Tensor]]
    """(P) batches of G."""
    means: Tensor
    """(P, G, 8, 3) what was planned."""
    plans: Tensor
    """(P, G, 8, 3) what was driven."""
    rewards: Array
    """(P, G)"""

    @property
    def advantages(self) -> Tensor:
        """(P, G) what was still to come, against the other drives at the same time."""
        to_go = np.flip(np.cumsum(np.flip(self.rewards, 0), 0), 0)
        return torch.from_numpy((to_go - to_go.mean(1, keepdims=True)).astype(np.float32))


def from_pictures(planner: Any, seen: Sequence[Observation]) -> dict[str, Tensor]:
    """What a host plans from; pictures go through the JPEG of the training data."""
    from latentvla_core.planner.plan import inputs_of

    with tempfile.TemporaryDirectory(prefix="latentvla-roll-") as folder:
        roots = [Path(folder) / str(i) for i in range(len(seen))]
        for root in roots:
            root.mkdir()
        records = [
            record_of(one, write_pictures(one, root), root)
            for one, root in zip(seen, roots, strict=True)
        ]
        batch = inputs_of(planner, records).batch(np.arange(len(records)))
    return planner.seen(batch) if hasattr(planner, "seen") else batch


@torch.no_grad()
def roll(
    planner: Any,
    prepared: Prepared,
    config: DrivingConfig,
    count: int,
    seed: int | None,
    look: Look = from_pictures,
) -> Rollouts:
    """`count` drives of a scene, side by side. seed None: nothing is drawn, plans are driven."""
    scene, ground = prepared
    cameras = cameras_of(planner)
    episodes = [
        Episode(scene, eyes=Eyes(cameras, config.picture_wh), driver="learner")
        for _ in range(count)
    ]
    observed = [episode.reset() for episode in episodes]
    seen, means, plans = [], [], []
    for _ in range(round(scene.seconds / PLAN_PERIOD_S)):
        batch = look(planner, observed)
        out = planner(batch)
        if "proposals" in out:
            raise SetupError(
                f"host {planner.name} chooses among proposals; closed-loop RL is for hosts of one "
                "plan (transfuser)"
            )
        planned = out["poses"].float()
        driven = planned if seed is None else _drawn(planned, config.noise, seed)
        seen, means, plans = [*seen, batch], [*means, planned], [*plans, driven]
        answers = driven.double().cpu().numpy()
        observed = [e.step(plan) for e, plan in zip(episodes, answers, strict=True)]
    rewards = np.stack([rewards_of(e, ground, config) for e in episodes], 1)
    return Rollouts(seen, torch.stack(means), torch.stack(plans), rewards)


def _drawn(means: Tensor, noise: NoiseConfig, seed: int) -> Tensor:
    """(G, 8, 3) around (G, 8, 3): each drive has its own offset, the same at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return draw(means[:, None], 1, noise)[:, 0, 0]


def rewards_of(episode: Episode, ground: Ground, config: DrivingConfig) -> Array:
    """(P,) rewards of the half seconds of a drive."""
    scene, moments, states = episode.scene, episode.moments, np.stack(episode.states)
    drive = Drive(states, Actors.of(moments), [m.lights for m in moments], ground)
    periods = episode.steps // STEPS_PER_PLAN
    ends = STEPS_PER_PLAN * np.arange(periods + 1)
    at = ground.route.positions(states[:, :2])
    goal = max(scene.goal_m, 1.0)  # farther than the human is worth no more: CLS stops there too
    metres = np.minimum(np.maximum.accumulate(at - at[0])[ends], goal)
    away = np.hypot(*(states[:, :2] - scene.human.states[: len(states), :2]).T)[ends[1:]]
    out = config.prices.progress * np.diff(metres) / goal
    out = out + config.distance * away / periods
    for contact in contacts.contacts(drive):
        out[_period(contact.step, periods)] += config.prices.contact * contact.at_fault
    off = road.off_road(drive)
    if off.any():
        out[_period(int(off.argmax()), periods)] += config.prices.off_road
    return out


def _period(step: int, periods: int) -> int:
    """The half second that a step of 0.1 s ends in."""
    return min(max(step - 1, 0) // STEPS_PER_PLAN, periods - 1)


def mean_return(
    planner: Any, scenes: Sequence[Prepared], config: DrivingConfig, look: Look = from_pictures
) -> float:
    """Of one undisturbed drive of each scene."""
    planner.eval()
    drives = [roll(planner, scene, config, 1, None, look) for scene in scenes]
    return float(np.mean([drive.rewards.sum() for drive in drives]))


def learn_by_driving(
    planner: Any,
    scenes: Sequence[Prepared],
    config: DrivingConfig,
    *,
    look: Look = from_pictures,
    sink: MetricSink | None = None,
    checkpoint_dir: Path | None = None,
) -> DrivingResult:
    """Train `planner` in place on the drives that it makes itself.

    Args:
        scenes: prepared with T = the seconds of a drive.
    Raises:
        SetupError: the host chooses among proposals, or has no head to train.
    """
    rule = RlConfig(trained=config.trained, shape=config.shape, noise=config.noise)
    before = mean_return(planner, scenes, config, look)
    policy = Policy(planner, rule)

    def drives(rows: Array, rng: np.random.Generator) -> list[Rollouts]:
        planner.eval()
        return [
            roll(planner, scenes[i], config, config.rollouts, int(rng.integers(2**31)), look)
            for i in rows
        ]

    result = fit(
        policy,
        num_samples=len(scenes),
        collate=drives,
        loss=lambda batch, step: loss_of(policy, batch, config),
        config=config.training,
        param_groups=default_param_groups(policy, config.training.weight_decay),
        sink=sink,
        checkpoint_dir=checkpoint_dir,
    )
    planner.requires_grad_(True)
    return DrivingResult(result, before, mean_return(planner, scenes, config, look))


def loss_of(
    policy: Policy, drives: Sequence[Rollouts], config: DrivingConfig
) -> tuple[Tensor, dict[str, float]]:
    """Minus advantage times log-probability of what was driven, and the hold on the shape."""
    batches = [batch for drive in drives for batch in drive.seen]
    seen = {
        name: torch.cat([b[name] for b in batches]) if torch.is_tensor(value) else value
        for name, value in batches[0].items()
    }
    plans, means = (torch.cat([getattr(d, n).flatten(0, 1) for d in drives])
                    for n in ("plans", "means"))  # fmt: skip
    gain = torch.cat([d.advantages.flatten() for d in drives])
    now = policy(seen)[-1][:, 0]  # (n, 8, 3)
    chance = log_probability(plans[:, None], now, spread_of(means, config.noise))[:, 0]
    pull = -(gain * chance).mean()
    held = bent(now, policy.at_start(seen)[:, 0]).square().mean() if config.shape else pull * 0
    returns = np.concatenate([d.rewards.sum(0) for d in drives])
    figures = {
        "return": float(returns.mean()),
        "return_spread": float(np.mean([d.rewards.sum(0).std() for d in drives])),
        "dead_groups": float(np.mean([d.rewards.sum(0).std() < 1e-6 for d in drives])),
        "policy": float(pull.detach()),
        "shape": float(held.detach()),
    }
    return pull + config.shape * held, figures
