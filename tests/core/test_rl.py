"""Learning from the score: what is drawn, what is followed, what is detected, and that it works."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from planner_factory import make_records, straight_world

from latentvla_core.errors import DataError, SetupError
from latentvla_core.pdms.score import score_trajectories
from latentvla_core.pdms.tensors.torch_score import TorchWorlds
from latentvla_core.planner.config import ChoosingConfig, PlannerTrainConfig
from latentvla_core.planner.hosts.ipad import IpadConfig
from latentvla_core.planner.hosts.registry import MODULES, host_of
from latentvla_core.planner.hosts.transfuser import TransfuserConfig
from latentvla_core.planner.model import build_planner
from latentvla_core.planner.plan import make_batches
from latentvla_core.planner.train import train_planner
from latentvla_core.rl import limits, pitfalls
from latentvla_core.rl.advantages import advantages
from latentvla_core.rl.config import NoiseConfig, RlConfig
from latentvla_core.rl.policy import (
    Policy,
    bent,
    draw,
    log_probability,
    proposals_of,
    remembered,
    spread_of,
    trained_parameters,
)
from latentvla_core.rl.reward import Reward, Rewards, compiled_scores
from latentvla_core.rl.train import train_rl
from latentvla_core.rl.watch import Watch
from latentvla_core.training.config import with_training
from latentvla_core.training.sinks import ListSink

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
HOSTS = {"ipad": IpadConfig.debug(), "transfuser": TransfuserConfig.debug()}
NO_CHOICE = ChoosingConfig.none()
DIVIDED = replace(RlConfig.grouped(), divide_by_std=True)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("scenes"), 8)


@pytest.fixture(scope="module")
def worlds(records):
    return [straight_world(record) for record in records]


def straight(speed_mps: float) -> torch.Tensor:
    """(8, 3) poses straight ahead."""
    plan = torch.zeros(8, 3, dtype=torch.float64)
    plan[:, 0] = speed_mps * 0.5 * torch.arange(1, 9)
    return plan


def rewards_of(values, human: float = 0.9, crashed=None) -> Rewards:
    """One scene per row."""
    value = torch.tensor(values, dtype=torch.float64)
    hit = torch.zeros_like(value, dtype=torch.bool) if crashed is None else torch.tensor(crashed)
    there = value.isfinite()
    return Rewards(value, value, there, hit, torch.full((len(value),), human).double())


# ------------------------------------------------------------------ reward


def test_the_reward_is_the_published_score_and_a_plan_without_one_is_no_zero(records, worlds):
    some = [worlds[0], None, replace(worlds[2], valid=False), worlds[3]]
    reward = Reward.of(some)
    plans = torch.stack([straight(v) for v in (2.0, 6.0, 20.0)]).expand(4, 3, 8, 3)
    found = reward(torch.arange(4), plans)
    for row in (0, 3):
        scores = score_trajectories([some[row]], plans[row][None].numpy()).rows()
        assert np.allclose(found.value[row], [s["score"] for s in scores], atol=1e-9)
    assert not found.valid[1:3].any() and found.value[1:3].isnan().all()
    assert found.human[1:3].isnan().all() and found.human[[0, 3]].isfinite().all()
    assert reward.seconds > 0


def test_both_paths_of_the_reward_agree_and_broken_plans_are_told(worlds):
    plans = torch.stack([straight(v) for v in (0.5, 6.0, 14.0)]).expand(3, 3, 8, 3).clone()
    plans[1, 1, 2, 0] = torch.nan
    scenes = torch.arange(3)
    table = TorchWorlds.from_worlds(worlds[:3], metric="pdms")
    one, other = compiled_scores(worlds, scenes, plans), table.score(plans, scenes)
    assert torch.equal(one.valid, other.valid) and not one.valid[1, 1]
    for name, column in one.columns.items():
        assert torch.allclose(column, other[name], atol=1e-9, equal_nan=True), name


def test_the_reward_may_be_epdms(worlds):
    found = Reward.of(worlds[:2], "epdms")(torch.tensor([0, 1]), straight(6.0).expand(2, 1, 8, 3))
    assert found.valid.all() and (found.value > 0.5).all() and found.human.isfinite().all()


def test_more_weight_on_progress_moves_plans_that_fall_behind_and_no_others(worlds):
    plans = torch.stack([straight(2.0), straight(8.0)])[None]
    own, greedy = (
        Reward.of(worlds[:1], progress_weight=w)(torch.tensor([0]), plans) for w in (5.0, 10.0)
    )
    assert greedy.value[0, 0] < own.value[0, 0] < own.value[0, 1]
    assert greedy.value[0, 1] == pytest.approx(float(own.value[0, 1]), abs=0.02)
    assert torch.equal(greedy.score, own.score)


def test_a_reward_needs_a_world_and_plans_of_the_right_shape(worlds):
    with pytest.raises(SetupError, match="not one of 2 scenes"):
        Reward.of([None, replace(worlds[0], valid=False)])
    with pytest.raises(DataError, match=r"\(B, M, 8, 3\)"):
        Reward.of(worlds[:2])(torch.tensor([0, 1]), torch.zeros(1, 4, 8, 3))


def test_a_crash_is_told_from_a_plan_that_is_merely_slow(records):
    reward = Reward.of([straight_world(records[0], parked_at_m=15.0)])
    found = reward(torch.tensor([0]), torch.stack([straight(10.0), straight(0.1)])[None])
    assert found.crashed.tolist() == [[True, False]]


# ------------------------------------------------------------------ policy


@pytest.mark.parametrize("kind", ["scaled", "added"])
def test_drawn_plans_stay_smooth_and_lie_around_their_mean(kind):
    mean = straight(8.0)
    mean[:, 1] = 0.05 * torch.arange(1, 9) ** 2
    mean[:, 2] = torch.linspace(0, 0.2, 8)
    torch.manual_seed(0)
    plans = draw(mean[None, None], 512, NoiseConfig(kind=kind, along=0.1, across=0.1))
    assert plans.shape == (1, 1, 512, 8, 3)
    assert torch.allclose(plans[0, 0].mean(0)[:, :2], mean[:, :2], atol=0.5)
    assert plans[0, 0, :, -1, 0].std() > 0.3
    bends = plans[0, 0, :, :, 0].diff(n=2, dim=-1)
    assert bends.abs().max() < 1.0  # no step unlike its neighbours: nothing shakes


def test_a_standing_plan_moves_under_added_noise_and_not_under_factors():
    still = torch.zeros(1, 1, 8, 3)
    torch.manual_seed(0)
    assert not draw(still, 4, NoiseConfig(kind="scaled")).any()
    assert draw(still, 4, NoiseConfig(kind="added"))[..., 0].abs().max() > 0.1


def test_the_log_probability_pulls_the_mean_towards_the_plan_and_is_bounded_by_the_floor():
    mean = straight(8.0)[None].requires_grad_()
    plan = straight(9.0)[None, None]
    for noise in (NoiseConfig(), NoiseConfig(kind="added")):
        spread = spread_of(mean.detach(), noise)
        assert spread[..., :2].min() >= noise.floor_m
        (grad,) = torch.autograd.grad(log_probability(plan, mean, spread).sum(), mean)
        assert (grad[..., 0] > 0).all() and not grad[..., 1:].any()


@pytest.mark.parametrize("host", HOSTS)
def test_only_the_chosen_parameters_learn_and_the_copies_follow_when_told(host):
    planner = build_planner(host, HOSTS[host])
    heads = trained_parameters(planner, "head")
    more = trained_parameters(planner, "planner")
    assert heads < more < {name for name, _ in planner.named_parameters()}
    config = replace(RlConfig.grouped(), trained="head", inner_steps=2)
    policy = Policy(planner, config)
    assert {n for n, p in planner.named_parameters() if p.requires_grad} == heads
    with torch.no_grad():
        for parameter in planner.parameters():
            parameter.add_(1.0)
    assert policy.sampler is not None and policy.start is not None
    first, copied, start = (
        next(iter(m.parameters())) for m in (planner, policy.sampler, policy.start)
    )
    assert not torch.equal(first, copied)
    policy.catch_up()
    assert torch.equal(first, copied) and not torch.equal(first, start)


def test_every_host_has_a_head_that_can_learn():
    """Job rl stopped at a new host whose head lies deeper."""
    for name, module in MODULES.items():
        planner = build_planner(name, host_of(name).config.debug())
        assert trained_parameters(planner, "head"), module


def test_a_host_without_a_known_head_says_what_to_do():
    unknown = SimpleNamespace(name="mine", named_parameters=lambda: [("body", None)])
    with pytest.raises(SetupError, match="trained='planner'"):
        trained_parameters(unknown, "head")


def test_one_plan_counts_as_one_proposal_refined_once():
    assert proposals_of({"poses": torch.zeros(5, 8, 3)}).shape == (1, 5, 1, 8, 3)


# ------------------------------------------------------------------ advantages


def test_a_plan_is_compared_with_its_group_and_a_dead_group_teaches_nothing():
    config = replace(DIVIDED, group="proposal")
    rewards = rewards_of([[0.2, 0.8, 0.5, 0.5]])
    found = advantages(rewards, 2, config)
    assert found.value.shape == (1, 2, 2)
    assert found.value[0, 0].tolist() == pytest.approx([-1.0, 1.0], abs=1e-3)
    assert found.dead.tolist() == [[False, True]] and not found.value[0, 1].any()
    whole = advantages(rewards, 2, replace(config, group="scene"))
    assert whole.dead.tolist() == [[False]] and whole.value.sum().abs() < 1e-5


def test_without_division_a_scene_of_small_differences_weighs_little():
    rewards = rewards_of([[0.94, 0.96], [0.2, 0.8]])
    config = DIVIDED
    equal = advantages(rewards, 1, config).value.abs().sum((1, 2))
    plain = advantages(rewards, 1, replace(config, divide_by_std=False)).value.abs().sum((1, 2))
    assert equal[0] / equal[1] > 0.9 and plain[0] / plain[1] < 0.1


def test_only_what_beats_the_human_is_followed_and_a_crash_is_pushed_away():
    rewards = rewards_of([[0.95, 0.7, 0.0, 0.3]], crashed=[[False, False, True, False]])
    found = advantages(rewards, 1, RlConfig.anchored())
    value = found.value[0, 0]
    assert value[0] > 0 and value[1] == 0 and value[2] == -1 and value[3] == 0
    assert found.positive.tolist() == [True]
    worse = advantages(rewards_of([[0.5, 0.7]]), 1, RlConfig.anchored())
    assert not worse.value.any() and worse.positive.tolist() == [False]


def test_a_plan_without_a_reward_joins_no_mean():
    found = advantages(rewards_of([[0.2, float("nan"), 0.8]]), 1, DIVIDED)
    assert found.value[0, 0, 1] == 0 and found.value[0, 0, 2] == pytest.approx(1.0, abs=1e-3)
    alone = advantages(rewards_of([[0.2, float("nan")]]), 1, DIVIDED)
    assert alone.dead.all() and not alone.value.any()


# ------------------------------------------------------------------ detectors


def test_backing_up_and_jumping_at_the_last_pose_are_seen_and_honest_braking_is_not():
    honest, back, jump = straight(8.0), straight(8.0), straight(8.0)
    back[-1, 0] = back[-2, 0] - 1.0
    jump[-1, 0] += 4.0
    braking = straight(8.0)
    braking[:, 0] = torch.tensor([3.75, 7, 9.75, 12, 13.75, 15, 15.75, 16])
    turned = straight(8.0).roll(1, -1)  # drives along y, heading along y: forwards
    turned[:, 0], turned[:, 2] = 0.0, np.pi / 2
    plans = torch.stack([honest, back, jump, braking])
    assert pitfalls.reversing(plans).tolist() == [False, True, False, False]
    assert pitfalls.jumping(plans).tolist() == [False, True, True, False]
    assert not pitfalls.reversing(turned[1:] - turned[0] * torch.tensor([1.0, 1.0, 0.0])).any()


def test_the_share_of_easy_scenes_rises_when_differences_are_divided_by_their_spread():
    rewards = torch.tensor([[0.94, 0.96], [0.95, 0.97], [0.2, 0.8], [0.1, 0.9]])
    by_std, plain = (
        advantages(rewards_of(rewards.tolist()), 1, replace(RlConfig.grouped(), divide_by_std=d))
        for d in (True, False)
    )
    shares = [pitfalls.easy_share(rewards, a.value.flatten(1)) for a in (by_std, plain)]
    assert shares[0] > 0.45 and shares[1] < 0.1
    assert np.isnan(pitfalls.easy_share(rewards, torch.zeros(4, 2)))


def test_collapse_is_the_share_of_scenes_in_which_nothing_is_worth_anything():
    rewards = torch.tensor([[0.0, 0.01], [0.0, 0.9], [float("nan"), float("nan")]])
    assert pitfalls.collapsed(rewards) == 0.5


def test_each_limit_has_a_sentence_and_what_was_so_before_is_no_news():
    bad = dict.fromkeys(limits.LIMITS, 1.0) | {"extended_comfort": 0.2, "score": 0.5}
    before = {"extended_comfort": 0.8, "score": 0.6}
    told = limits.warnings_of(bad, before)
    assert len(told) == len(limits.LIMITS) + 1
    assert any("extended_comfort fell from 0.80 to 0.20" in text for text in told)
    assert limits.warnings_of(bad, bad) == []


def test_a_limit_looks_at_what_is_new_and_nothing_is_known_of_what_was_not_measured():
    assert limits.is_beyond("reversing", 0.2, 0.0) and not limits.is_beyond("reversing", 0.2, 0.3)
    assert limits.is_beyond("reversing", 0.2, float("nan"))
    assert not limits.is_beyond("reversing", float("nan"), 0.0)
    assert limits.is_beyond("extended_comfort", 0.3, 0.7)
    assert not limits.is_beyond("extended_comfort", 0.3, None)
    assert not limits.is_beyond("progress", 0.0, 1.0)


def test_what_would_be_drawn_around_a_planner_tells_dead_groups_and_collapse(records, worlds):
    planner = build_planner("transfuser", HOSTS["transfuser"], seed=1).eval()
    watch = Watch.of(records, worlds, make_batches(planner, records, None))
    ahead, lost = straight(6.0), straight(6.0)
    lost[:, 1] = 50.0 * torch.arange(1, 9)

    def says(plan):
        planner.forward = lambda batch: {"poses": plan.expand(len(batch["status"]), 8, 3)}
        return planner

    config = RlConfig.one_plan()
    alive = watch.drawn(says(ahead), config)
    assert alive == watch.drawn(says(ahead), config)  # the same draws: two looks can be compared
    assert alive["collapsed"] == 0.0 and alive["dead_groups"] < 0.5 and "easy_share" in alive
    off = watch.drawn(says(lost), config)
    assert off["collapsed"] == 1.0 and off["dead_groups"] == 1.0 and "easy_share" not in off
    still = replace(config, noise=NoiseConfig(kind="added", along=0.0, across=0.0))
    assert watch.drawn(says(ahead), still)["dead_groups"] == 1.0


# ------------------------------------------------------------------ training


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="a plan alone"):
        RlConfig(samples=1)
    with pytest.raises(ValueError, match="inner_steps is 0"):
        RlConfig(inner_steps=0)
    with pytest.raises(ValueError, match="clip is 1"):
        RlConfig(clip=1.0)


@pytest.fixture(scope="module")
def slow(records, worlds):
    """Host → a planner that imitates a human at 3 m/s on a free road where the reference drives 8."""
    path = straight(3.0).numpy()
    calm = [
        replace(r, ego_velocity_mps=np.array([3.0, 0.0]), command=1, future_poses=path)
        for r in records
    ]
    roads = [straight_world(record) for record in calm]
    config = with_training(
        PlannerTrainConfig(choosing=NO_CHOICE),
        steps=60,
        batch_size=8,
        learning_rate=5e-3,
        warmup_steps=5,
    )
    made = {host: build_planner(host, HOSTS[host], seed=1) for host in HOSTS}
    for planner in made.values():
        train_planner(planner, calm, config, worlds=roads)
    return made, calm, roads


@pytest.mark.parametrize("recipe", ["anchored", "grouped"])
@pytest.mark.parametrize("host", HOSTS)
def test_a_planner_that_drives_too_slowly_learns_to_gain_ground(host, recipe, slow):
    made, records, worlds = slow
    config = replace(
        getattr(RlConfig, recipe)(),
        imitation=0.05,
        imitation_without_positive=0.05,
        divide_by_std=True,
        only_better_than_human=False,
        noise=NoiseConfig(kind="added", along=0.2, across=0.02),
        watch_every=20,
        choosing=NO_CHOICE,
    )
    if recipe == "grouped":
        config = replace(config, inner_steps=4, clip=0.2, discount=0.6)
    config = with_training(config, steps=40, batch_size=8, learning_rate=3e-3, warmup_steps=4)
    planner, sink = copy.deepcopy(made[host]), ListSink()
    result = train_rl(planner, records, worlds, config, sink=sink)
    assert result.after["progress"] > result.before["progress"] + 0.02
    assert result.after["score"] > result.before["score"] + 0.01
    last = sink.rows[-1][1]
    watched = {"watch/score", "watch/reversing", "watch/jumping"}
    assert watched | {"dead_groups", "collapsed", "reversing", "jumping", "crashed"} <= set(last)
    assert 0 < result.reward_share < 1
    assert all(p.requires_grad for p in planner.parameters())


def test_a_planner_whose_rewards_never_differ_learns_nothing(slow):
    made, records, worlds = slow
    planner = copy.deepcopy(made["transfuser"])
    still = NoiseConfig(kind="added", along=0.0, across=0.0)
    config = RlConfig(noise=still, only_better_than_human=False)
    held = replace(config, imitation=0.0, imitation_without_positive=0.0)
    held = with_training(held, steps=3, batch_size=8, weight_decay=0.0)
    sink = ListSink()
    train_rl(planner, records, worlds, held, sink=sink)
    assert sink.series("dead_groups") == [1.0] * len(sink.rows)
    before = made["transfuser"].state_dict()
    assert all(torch.equal(p, before[name]) for name, p in planner.state_dict().items())


def test_what_the_frozen_backbone_sees_is_remembered_and_gives_the_same_plans(records):
    planner = build_planner("transfuser", HOSTS["transfuser"], seed=1).eval()
    batches, rows = make_batches(planner, records, None), np.array([5, 2, 7])
    kept = remembered(planner, batches, rows)
    asked = np.array([7, 5])
    batch = kept(asked)
    assert "camera" not in batch and batch["bev"].shape[0] == 2
    with torch.no_grad():
        one, other = planner(batch)["poses"], planner(batches(asked))["poses"]
    assert torch.allclose(one, other, atol=1e-5)
    ipad = build_planner("ipad", HOSTS["ipad"])
    own = make_batches(ipad, records, None)
    assert remembered(ipad, own, rows) is own  # it looks at the pictures anew for each proposal


def one_plan(**more) -> RlConfig:
    """The recipe at the size of these scenes, where all differences are of progress and small."""
    noise = NoiseConfig(kind="added", along=0.2, across=0.02)
    config = replace(RlConfig.shaped(), samples=32, noise=noise, watch_every=60, **more)
    knobs = {"batch_size": 8, "learning_rate": 3e-4, "warmup_steps": 6}
    return with_training(config, steps=60, **knobs)


def test_what_drawing_never_tries_is_told_from_what_it_tries():
    start = straight(8.0)[None]
    torch.manual_seed(0)
    drawn = draw(start[:, None], 16, NoiseConfig(kind="added", along=0.3, across=0.1))[0, 0]
    assert bent(drawn, start.expand_as(drawn)).abs().max() < 1e-6
    shaken = start.clone()
    shaken[0, 3, 1] += 1.0
    late = start.clone()
    late[0, -1, 0] -= 3.0
    for plan in (shaken, late):
        assert bent(plan, start).abs().max() > 0.4


def test_following_what_scores_gains_and_copying_the_log_or_a_bent_reward_does_not(
    slow, monkeypatch
):
    made, records, worlds = slow

    def gained(config: RlConfig) -> float:
        result = train_rl(copy.deepcopy(made["transfuser"]), records, worlds, config)
        return result.after["score"] - result.before["score"]

    learned = gained(one_plan())
    copied = gained(one_plan(policy=0.0, imitation=1.0, imitation_without_positive=1.0))
    loose = gained(one_plan(shape=0.0))
    own = Reward._reward
    monkeypatch.setattr(Reward, "_reward", lambda self, found: -own(self, found))
    turned = gained(one_plan())
    assert learned > copied + 0.02 and learned > 0.02
    assert turned < learned - 0.05 and loose < learned


def test_a_planner_stays_where_it_is_when_nothing_pulls_but_its_own_copy(slow):
    """L1 to a copy of itself pushed with full force for a difference of rounding."""
    made, records, worlds = slow
    planner = copy.deepcopy(made["transfuser"])
    still = NoiseConfig(kind="added", along=0.0, across=0.0)
    config = replace(one_plan(imitate="start"), noise=still)
    config = with_training(config, weight_decay=0.0, steps=20, warmup_steps=2)
    train_rl(planner, records, worlds, config)
    batch = make_batches(planner, records, None)(np.arange(len(records)))
    with torch.no_grad():
        moved = planner(batch)["poses"] - made["transfuser"].eval()(batch)["poses"]
    assert moved.abs().max() < 0.5


def test_the_decoder_is_everything_behind_the_backbone():
    planner = build_planner("transfuser", HOSTS["transfuser"])
    chosen = trained_parameters(planner, "decoder")
    assert trained_parameters(planner, "head") < chosen
    assert {n for n, _ in planner.named_parameters()} - chosen == {
        n for n, _ in planner.named_parameters() if n.startswith("backbone.")
    }


def test_a_killed_training_goes_on_and_ends_where_it_would_have(records, worlds, tmp_path):
    config = replace(RlConfig.grouped(), choosing=NO_CHOICE, inner_steps=4, clip=0.2)
    config = with_training(config, steps=6, batch_size=4, checkpoint_every=3, warmup_steps=0)
    whole, halves = (build_planner("ipad", HOSTS["ipad"]) for _ in range(2))
    train_rl(whole, records, worlds, config)

    class Stop(Exception):
        pass

    class Killer:
        def log(self, step, metrics):
            if step >= 4:
                raise Stop

    with pytest.raises(Stop):
        train_rl(halves, records, worlds, config, sink=Killer(), checkpoint_dir=tmp_path)
    again = build_planner("ipad", HOSTS["ipad"])
    result = train_rl(again, records, worlds, config, checkpoint_dir=tmp_path)
    assert result.fit.resumed_from == 3
    for one, other in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)
