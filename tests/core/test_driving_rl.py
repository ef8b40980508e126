"""Closed-loop RL on one real little scene: a driver that drives too slowly learns to gain ground."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from latentvla_core.closed_loop.env import Reward
from latentvla_core.closed_loop.scenes.prepared import open_prepared
from latentvla_core.closed_loop.scenes.spec import SceneSpec
from latentvla_core.driving_rl import train as learning
from latentvla_core.driving_rl.train import (
    DrivingConfig,
    learn_by_driving,
    rewards_of,
    roll,
)
from latentvla_core.errors import SetupError
from latentvla_core.planner.hosts.transfuser import TransfuserConfig
from latentvla_core.planner.model import build_planner
from latentvla_core.rl.config import NoiseConfig
from latentvla_core.training.config import with_training
from latentvla_core.training.sinks import ListSink

pytestmark = pytest.mark.slow
torch.set_num_threads(1)
SPEC = SceneSpec(situation="lead_brakes", world_seed=900_001, location="us-ma-boston", seed=1)


class Steady(nn.Module):
    """Straight ahead at the speed that it has learned; sees nothing."""

    name = "steady"
    config = SimpleNamespace(cameras=())
    fusion = None

    def __init__(self, speed_mps: float) -> None:
        super().__init__()
        self.pose_head = nn.Linear(1, 1)
        with torch.no_grad():
            self.pose_head.weight.zero_()
            self.pose_head.bias.fill_(speed_mps)

    @property
    def speed_mps(self) -> float:
        return float(self.pose_head.bias.detach())

    def forward(self, batch):
        ahead = self.pose_head(torch.ones(len(batch["count"]), 1)) * 0.5 * torch.arange(1, 9)
        return {"poses": torch.stack([ahead, ahead * 0, ahead * 0], -1)}

    def backbone_parameters(self):
        return []


def blind(planner, seen):
    """Nothing to look at."""
    return {"count": torch.zeros(len(seen))}


@pytest.fixture(scope="module")
def scene():
    return open_prepared(SPEC, 3.0)[:2]


def config(**more) -> DrivingConfig:
    noise = NoiseConfig(kind="added", along=0.2, across=0.0)
    made = DrivingConfig(rollouts=6, noise=noise, trained="head", **more)
    knobs = {"steps": 6, "batch_size": 1, "learning_rate": 0.3, "warmup_steps": 0}
    return with_training(made, weight_decay=0.0, **knobs)


def test_who_drives_too_slowly_learns_to_gain_ground_and_a_turned_reward_slows_down(scene):
    slow, sink = Steady(1.0), ListSink()
    learned = copy.deepcopy(slow)
    result = learn_by_driving(learned, [scene], config(), look=blind, sink=sink)
    assert result.after > result.before + 0.05 and learned.speed_mps > slow.speed_mps + 0.5
    assert {"return", "return_spread", "dead_groups", "shape"} <= set(sink.rows[-1][1])
    turned = copy.deepcopy(slow)
    prices = Reward(progress=-1.0)
    learn_by_driving(turned, [scene], config(prices=prices, distance=0.01), look=blind)
    assert turned.speed_mps < slow.speed_mps


def test_drives_of_a_scene_differ_by_what_was_drawn_alone_and_can_be_driven_again(scene):
    driver = Steady(4.0)
    one, again = (roll(driver, scene, config(), 3, 5, blind) for _ in range(2))
    assert torch.equal(one.plans, again.plans) and np.array_equal(one.rewards, again.rewards)
    assert one.rewards.shape == (6, 3) and one.plans.shape == (6, 3, 8, 3)
    offsets = (one.plans - one.means)[..., -1, 0]
    assert torch.allclose(offsets, offsets[:1].expand_as(offsets), atol=1e-4)  # kept over the drive
    assert offsets[0].std() > 0.1
    assert one.advantages.mean(1).abs().max() < 1e-5
    still = roll(driver, scene, config(), 2, None, blind)
    assert torch.equal(still.plans, still.means) and not still.advantages.any()


def test_leaving_the_road_is_paid_once_and_by_the_half_second_it_happened_in(scene, monkeypatch):
    kept = []
    monkeypatch.setattr(learning, "rewards_of", lambda e, g, c: kept.append(e) or np.zeros(6))
    roll(Steady(6.0), scene, config(), 1, None, blind)
    episode, free = kept[0], config(distance=0.0)
    steps = episode.steps
    monkeypatch.setattr(learning.contacts, "contacts", lambda drive: [])
    off = np.zeros(steps + 1, bool)
    monkeypatch.setattr(learning.road, "off_road", lambda drive: off)
    calm = rewards_of(episode, scene[1], free)
    off[12:] = True
    paid = rewards_of(episode, scene[1], free) - calm
    assert paid.tolist() == pytest.approx([0, 0, free.prices.off_road, 0, 0, 0])
    off[:] = False
    hits = [SimpleNamespace(step=30, at_fault=True), SimpleNamespace(step=3, at_fault=False)]
    monkeypatch.setattr(learning.contacts, "contacts", lambda drive: hits)
    paid = rewards_of(episode, scene[1], free) - calm
    assert paid.tolist() == pytest.approx([0, 0, 0, 0, 0, free.prices.contact])


def test_a_host_with_eyes_learns_from_what_it_saw_and_its_backbone_stays(scene):
    planner = build_planner("transfuser", TransfuserConfig.debug(), seed=1)
    start = copy.deepcopy(planner).state_dict()
    short = replace(config(), trained="decoder", rollouts=2, picture_wh=(96, 54))
    learn_by_driving(planner, [scene], with_training(short, steps=1, learning_rate=1e-3))
    moved = {n for n, p in planner.named_parameters() if not torch.equal(p, start[n])}
    assert moved and not any(n.startswith("backbone.") for n in moved)


def test_what_cannot_learn_by_driving_is_refused(scene):
    with pytest.raises(ValueError, match="a drive alone"):
        DrivingConfig(rollouts=1)

    class Chooses(Steady):
        def forward(self, batch):
            return {**super().forward(batch), "proposals": torch.zeros(1)}

    with pytest.raises(SetupError, match="hosts of one plan"):
        roll(Chooses(3.0), scene, config(), 1, None, blind)
