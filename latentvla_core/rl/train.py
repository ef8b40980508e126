"""The one trainer: draw plans around what a planner proposes, score them, follow the better ones.

Legend: B scenes, N proposals, G plans drawn per proposal, K refinements.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from latentvla_core.planner.hosts.registry import host_of
from latentvla_core.planner.inputs import TrajectoryTargets
from latentvla_core.planner.plan import Batches, inputs_of, with_features
from latentvla_core.planner.train import readable
from latentvla_core.rl import pitfalls
from latentvla_core.rl.advantages import Advantages, advantages
from latentvla_core.rl.config import RlConfig
from latentvla_core.rl.limits import warnings_of
from latentvla_core.rl.policy import Policy, bent, draw, log_probability, remembered, spread_of
from latentvla_core.rl.reward import Reward, Rewards
from latentvla_core.rl.watch import Watch
from latentvla_core.training.loop import FitResult, default_param_groups, fit
from latentvla_core.training.sinks import MetricSink
from latentvla_core.types import Array, SceneRecord
from latentvla_core.vlm.features import VlmFeatures

SMOOTH_M = 1.0
RATIO_RANGE = 2.0
"""Differences of log-probabilities are held in ± this before the exponential."""


@dataclass(frozen=True, slots=True)
class RlResult:
    """How a training went."""

    fit: FitResult
    before: dict[str, float]
    """Figures of whole plans of the watched scenes, before and after (watch.py)."""
    after: dict[str, float]
    reward_share: float
    """Part of the training's time that scoring took."""
    warnings: list[str] = field(default_factory=list)
    """What the detectors found, each a sentence."""


def train_rl(
    planner: Any,
    records: Sequence[SceneRecord],
    worlds: Sequence[Any],
    config: RlConfig,
    *,
    features: VlmFeatures | None = None,
    watched: Watch | None = None,
    sink: MetricSink | None = None,
    checkpoint_dir: Path | None = None,
    scratch: Path | None = None,
    device: str = "cpu",
) -> RlResult:
    """Train `planner` in place on the score of the plans drawn around its proposals.

    Args:
        worlds: the World of each record, in the same order; None where there is none.
        watched: scenes whose whole plans are looked at on the way; None: the training's own.
    Raises:
        SetupError: no world is valid, or the host has no head to train.
    """
    seen = inputs_of(planner, records, scratch)
    batches = with_features(planner, seen, records, features)
    reward = Reward.of(worlds, config.metric, progress_weight=config.progress_weight, device=device)
    scored = {int(i) for i in (reward.rows >= 0).nonzero()[:, 0]}
    usable = np.array([i for i in readable(seen) if int(i) in scored], np.int64)
    if config.trained == "decoder":
        batches = remembered(planner, batches, usable, device)
    watch = watched or Watch.of(records, worlds, batches, usable)
    policy = Policy(planner.to(device), config)
    before = watch.look(planner, device)
    truth = TrajectoryTargets(records).trajectory
    lesson = Lesson(policy, reward, truth.to(device), config)
    began = time.perf_counter()

    def after_step(step: int) -> dict[str, float]:
        if (step + 1) % config.inner_steps == 0:
            policy.catch_up()
        due = (step + 1) % config.watch_every == 0
        return watch.look(planner, device, "watch/") if due else {}

    result = fit(
        policy,
        num_samples=len(usable),
        collate=lambda rows, rng: {**batches(usable[rows]), "index": usable[rows]},
        loss=lesson,
        config=replace(config.training, batch_size=min(config.training.batch_size, len(usable))),
        param_groups=default_param_groups(policy, config.training.weight_decay),
        sink=sink,
        checkpoint_dir=checkpoint_dir,
        device=device,
        after_step=after_step,
    )
    share = reward.seconds / max(time.perf_counter() - began, 1e-9)
    planner.requires_grad_(True)
    _choose_again(planner, batches, usable, worlds, config, checkpoint_dir, device)
    after = watch.look(planner, device)
    figures = {**result.metrics, **after}
    return RlResult(result, before, after, share, warnings_of(figures, before))


def _choose_again(
    planner: Any,
    batches: Batches,
    usable: Array,
    worlds: Sequence[Any],
    config: RlConfig,
    checkpoint_dir: Path | None,
    device: str,
) -> None:
    """The scorer learns to judge the proposals there are now (both recipes train a selector last)."""
    host = host_of(planner.name)
    if host.last_phase is None or host.simulator is None or not config.choosing.is_on:
        return
    host.last_phase(
        planner,
        batches,
        usable,
        host.simulator(worlds, 0),
        config.choosing,
        seed=config.training.seed,
        checkpoint_dir=checkpoint_dir,
        device=device,
    )


@dataclass(slots=True)
class Lesson:
    """The loss of a batch, and the detectors' figures of it."""

    policy: Policy
    reward: Reward
    truth: Tensor
    """(S, 8, 3) logged futures."""
    config: RlConfig

    def __call__(self, batch: dict[str, Any], step: int) -> tuple[Tensor, dict[str, float]]:
        config, scenes = self.config, torch.as_tensor(batch["index"])
        proposals = self.policy(batch)  # (K, B, N, 8, 3)
        drawn_from = self.policy.drawn_from(batch) if config.inner_steps > 1 else proposals.detach()
        means = drawn_from[-1]
        plans = draw(means, config.samples, config.noise)  # (B, N, G, 8, 3)
        rewards = self.reward(scenes, plans.flatten(1, 2))
        gain = advantages(rewards, means.shape[1], config)
        target = self.truth[scenes] if config.imitate == "human" else self.policy.at_start(batch)
        pull = self._policy_loss(proposals, drawn_from, plans, gain)
        held = self._imitation(proposals, target, gain)
        figures = self._figures(rewards, gain, plans)
        parts = {"policy": float(pull.detach()), "imitation": float(held.detach())}
        if config.shape:
            shape = bent(proposals[-1], self.policy.at_start(batch)).square().mean()
            held, parts["shape"] = held + config.shape * shape, float(shape.detach())
        return config.policy * pull + held, parts | figures

    def _policy_loss(
        self, proposals: Tensor, drawn_from: Tensor, plans: Tensor, gain: Advantages
    ) -> Tensor:
        """Minus the advantage times the log-probability, or times the clipped ratio; earlier
        refinements count `discount` times the next.
        """
        config, last = self.config, len(proposals) - 1
        spread = spread_of(drawn_from[-1], config.noise)
        total, weights = proposals.new_zeros(()), 0.0
        for k, means in enumerate(proposals):
            weight = config.discount ** (last - k)
            now = log_probability(plans, means, spread)
            if config.clip:
                # Each refinement is held against itself in the policy that was drawn from.
                then = log_probability(plans, drawn_from[k], spread)
                ratio = (now - then).clamp(-RATIO_RANGE, RATIO_RANGE).exp()
                held = ratio.clamp(1 - config.clip, 1 + config.clip)
                worth = torch.minimum(ratio * gain.value, held * gain.value)
            else:
                worth = now * gain.value
            total, weights = total - weight * worth.mean(), weights + weight
        return total / weights

    def _imitation(self, proposals: Tensor, target: Tensor, gain: Advantages) -> Tensor:
        """L1 to the log of the nearest proposal, or of every proposal to itself at the start;
        more of it in scenes where nothing drawn was worth following.
        """
        config, last = self.config, proposals[-1]
        if target.dim() == 3:
            away = (last - target[:, None]).abs().sum(-1).mean(-1).amin(-1)  # (B,)
        else:
            # Quadratic near the target: the copy's plan differs by rounding alone at first, and L1
            # would push as hard for that as for metres.
            apart = F.smooth_l1_loss(last, target, reduction="none", beta=SMOOTH_M)
            away = apart.sum(-1).mean((-1, -2))
        weight = torch.where(gain.positive, config.imitation, config.imitation_without_positive)
        return (weight * away).mean()

    def _figures(self, rewards: Rewards, gain: Advantages, plans: Tensor) -> dict[str, float]:
        """The detectors on what was drawn."""
        return {
            "reward": float(rewards.value.nanmean()),
            "drawn_score": float(rewards.score.nanmean()),
            "dead_groups": float(gain.dead.float().mean()),
            "followed": float((gain.value > 0).float().mean()),
            "crashed": float(rewards.crashed.float().mean()),
            "collapsed": pitfalls.collapsed(rewards.value),
            "easy_share": pitfalls.easy_share(rewards.value, gain.value.flatten(1)),
            "reversing": float(pitfalls.reversing(plans).float().mean()),
            "jumping": float(pitfalls.jumping(plans).float().mean()),
        }
