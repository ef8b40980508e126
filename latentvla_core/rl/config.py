"""One training after imitation. `anchored` and `grouped` are the two published recipes, each a
configuration of the same trainer (docs/design/rl.md says where their numbers come from).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from latentvla_core.planner.config import ChoosingConfig
from latentvla_core.training.config import FitConfig, with_training


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseConfig:
    """How plans are drawn around a proposal: a few factors per plan, so that it stays smooth."""

    kind: Literal["scaled", "added"] = "scaled"
    """scaled: one factor for x and one for y per plan (DiffusionDriveV2). added: an offset along
    and one across that grow with time; it also moves a plan that stands.
    """
    along: float = 0.1
    """Standard deviation of the factor of x, or of the offset at 4 s in units of 10 m."""
    across: float = 0.1
    """The same of y."""
    floor_m: float = 0.5
    """Least standard deviation of a pose in the log-probability: far less, and short plans would
    get gradients without bound.
    """
    floor_rad: float = 0.2
    """Standard deviation of the headings there; they turn as the path is bent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RlConfig:
    """Length, rates and rules of one training. Defaults are `mini`, recipe `anchored`."""

    training: FitConfig = field(
        default_factory=lambda: FitConfig(
            steps=300,
            batch_size=16,
            learning_rate=2e-4,
            final_lr_fraction=0.1,
            weight_decay=1e-4,
            warmup_steps=10,
            log_every=25,
        )
    )
    """Knobs of the loop; its seed is also that of what is drawn."""
    trained: Literal["head", "decoder", "planner"] = "head"
    """head: the layers that answer poses. decoder: everything behind the backbone, whose features
    are made once where the host allows it. planner: everything but the image backbone.
    """
    samples: int = 4
    """Plans drawn per proposal."""
    group: Literal["proposal", "scene"] = "proposal"
    """What a reward is compared with: the plans of its proposal, or all plans of its scene."""
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    divide_by_std: bool = True
    """Advantages in units of the group's spread, as both recipes do; it favours easy scenes."""
    only_better_than_human: bool = True
    """An advantage above 0 counts only where the plan scores at least as well as the human's;
    below 0 it is 0 unless the plan collides or leaves the road, which is -1.
    """
    discount: float = 0.8
    """Weight of an earlier refinement of the proposals over that of the next."""
    inner_steps: int = 1
    """Optimiser steps between two copies of the policy that plans are drawn from; at 1 every
    ratio is 1.
    """
    clip: float = 0.0
    """Ratios are held in 1 ± this; 0 = no ratio."""
    policy: float = 1.0
    """Weight of the policy's loss; 0: nothing is learned from the score."""
    imitation: float = 0.1
    """Weight of the imitation loss."""
    imitation_without_positive: float = 1.0
    """Its weight in scenes where no drawn plan was worth following."""
    imitate: Literal["human", "start"] = "human"
    """Whom: the log, or the planner as it was before this training."""
    shape: float = 0.0
    """Weight of what of a plan's change no drawn plan tries (`policy.bent`): drawn plans are bent
    in two smooth ways, and in all others nothing but this holds the planner.
    """
    metric: Literal["pdms", "epdms"] = "pdms"
    """The reward."""
    progress_weight: float = 5.0
    """Weight of progress in the reward; 5 is the metric's own."""
    choosing: ChoosingConfig = field(default_factory=ChoosingConfig)
    """The scorer's own phase afterwards, for hosts that have one: it knew other proposals."""
    watch_every: int = 50
    """Steps between looks at the figures of whole plans."""

    def __post_init__(self) -> None:
        for name in ("samples", "inner_steps", "watch_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; needs at least 1")
        if self.samples < 2 and self.group == "proposal":
            raise ValueError(
                "samples is 1 and group is 'proposal': a plan alone has nothing to be compared "
                "with; draw at least 2, or compare within the scene"
            )
        if not 0 <= self.clip < 1:
            raise ValueError(f"clip is {self.clip}; needs to be from 0 (no ratio) to below 1")

    @classmethod
    def anchored(cls) -> RlConfig:
        """DiffusionDriveV2's: each proposal an anchor, only what beats the human is followed."""
        return cls()

    @classmethod
    def grouped(cls) -> RlConfig:
        """ReCogDrive's: plans of one group, cloning of the planner as it was, earlier steps count
        less. Three things differ, each because the published value lowered the reward on a small
        planner (docs/results/rl.md): advantages are not divided by the spread, cloning weighs
        little beside them, and the reward is the metric's own.
        """
        config = cls(
            trained="planner",
            samples=8,
            noise=NoiseConfig(kind="added", along=0.1, across=0.03),
            divide_by_std=False,
            only_better_than_human=False,
            discount=0.0,
            imitation=0.001,
            imitation_without_positive=0.001,
            imitate="start",
        )
        return with_training(config, learning_rate=1e-4)

    @classmethod
    def one_plan(cls) -> RlConfig:
        """For a host that answers one plan: what is drawn around it is what it will be judged by.
        Everything behind the frozen backbone learns, slowly: at ten times this rate a step is
        longer than what was drawn, and the planner collapses (docs/results/rl.md).
        """
        config = cls(
            trained="decoder",
            samples=16,
            noise=NoiseConfig(kind="added", along=0.2, across=0.05),
            divide_by_std=False,
            only_better_than_human=False,
            imitation=0.02,
            imitation_without_positive=0.02,
        )
        return with_training(config, steps=200, batch_size=32, learning_rate=1e-4)

    @classmethod
    def shaped(cls) -> RlConfig:
        """`one_plan`, held by the shape of its plans at the start instead of by the log."""
        return replace(cls.one_plan(), shape=1.0, imitation=0.001, imitation_without_positive=0.001)

    @classmethod
    def cloned(cls) -> RlConfig:
        """The control of `one_plan`: as many steps, draws and scores of the same layers, all
        learned from the log.
        """
        return replace(cls.one_plan(), policy=0.0, imitation=1.0, imitation_without_positive=1.0)

    @classmethod
    def debug(cls) -> RlConfig:
        config = cls(samples=2, watch_every=1, choosing=ChoosingConfig.short(epochs=1))
        return with_training(config, steps=2, batch_size=2, warmup_steps=0, log_every=1)

    @classmethod
    def mini(cls) -> RlConfig:
        return cls.anchored()

    @classmethod
    def single_gpu(cls) -> RlConfig:
        return cls.paper()

    @classmethod
    def paper(cls) -> RlConfig:
        """10 passes over navtrain at batch 64, as published."""
        config = replace(cls.anchored(), watch_every=500)
        return with_training(config, steps=16_000, batch_size=64)
