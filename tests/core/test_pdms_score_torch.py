"""The torch path gives the scorer's numbers, for both metrics, and says why where it gives none."""

from dataclasses import replace

import numpy as np
import pdms_golden as golden
import pytest
import torch
from pdms_golden import needs_golden
from pdms_little_worlds import (
    half_second_later,
    seen_from,
    straight_plan,
    straight_road,
    with_object,
    with_red_light,
)
from test_pdms_score_properties import random_plans, random_world

from latentvla_core.errors import DataError
from latentvla_core.pdms.metrics import SUB_SCORES
from latentvla_core.pdms.motion import tracker
from latentvla_core.pdms.score import ScoreConfig, score_trajectories
from latentvla_core.pdms.tensors import torch_score
from latentvla_core.pdms.tensors.torch_geometry import line_progress
from latentvla_core.pdms.tensors.torch_score import Reason, TorchWorlds

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
DEVICES = pytest.mark.parametrize(
    "device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
)
METRICS = pytest.mark.parametrize("metric", ["pdms", "epdms"])
TABLES = {"pdms": "pdms_v1", "epdms": "epdms_v2"}


def assert_same(scores, table, names):
    """Steps are equal, progress and score within 1e-8, and what is NaN there is NaN here."""
    for name in names:
        ours, theirs = scores[name].cpu().numpy(), table[name]
        tolerance = 1e-8 if name in ("ego_progress", "score") else 0
        np.testing.assert_allclose(
            ours, theirs.reshape(ours.shape), rtol=0, atol=tolerance, err_msg=name
        )


def random_scenes(rng, count):
    """Little worlds, turned and moved, every second one followed by the scene half a second later."""
    worlds = []
    for i in range(count):
        world = seen_from(random_world(rng, f"{i}"), rng.uniform(-500, 500, 2), rng.uniform(-3, 3))
        worlds += [world, half_second_later(world, f"{i} later")] if i % 2 else [world]
    return worlds


def plans_before(worlds, poses):
    """What the same plan said in the scene before; of no matter where there is none."""
    return poses[worlds.previous.clamp(0)]


@METRICS
@DEVICES
def test_little_worlds_score_as_in_numpy(metric, device):
    rng = np.random.default_rng(7)
    worlds = random_scenes(rng, 24)
    poses = np.stack([random_plans(rng, 16) for _ in worlds])
    ours = TorchWorlds.from_worlds(worlds, device, metric=metric)
    plans = torch.tensor(poses, device=device)
    previous = plans_before(ours, plans) if metric == "epdms" else None
    theirs = score_trajectories(worlds, poses, metric=metric)
    assert_same(ours.score(plans, previous=previous), theirs, (*SUB_SCORES[metric], "score"))
    for name in SUB_SCORES[metric]:
        assert len(np.unique(theirs[name])) > 1, (
            f"{name} never changes: these worlds do not test it"
        )


@METRICS
@DEVICES
@needs_golden
def test_official_rows(metric, device):
    worlds = golden.worlds()[::5] if metric == "pdms" else golden.worlds()[:34]
    names, poses = zip(*(golden.plans()[world.scene_token] for world in worlds), strict=True)
    ours, plans = (
        TorchWorlds.from_worlds(worlds, device, metric=metric),
        torch.tensor(np.stack(poses), device=device),
    )
    previous = plans_before(ours, plans) if metric == "epdms" else None
    scores = ours.score(plans, previous=previous)
    rows = golden.row_of(TABLES[metric])
    order = [
        rows[world.scene_token, name]
        for world, own in zip(worlds, names, strict=True)
        for name in own
    ]
    official = {
        name: column[order]
        for name, column in golden.table(TABLES[metric]).items()
        if name in scores.columns
    }
    every_column = [
        name for name in scores.columns if name not in ("score", "two_frame_extended_comfort")
    ]
    assert_same(scores, official, every_column)
    if metric == "pdms":
        assert_same(scores, official, ["score"])
        return
    together = scores["two_frame_extended_comfort"].cpu().numpy().ravel()
    paired = np.isfinite(together)  # an official scene's frame before may lie outside this subset
    assert paired.sum() > 100
    assert_same(
        {n: scores[n].cpu().ravel()[paired] for n in ("score", "two_frame_extended_comfort")},
        {n: official[n][paired] for n in official},
        ["score", "two_frame_extended_comfort"],
    )


@needs_golden
def test_driven_states_are_the_trackers():
    world = golden.worlds()[3]
    poses = golden.plans()[world.scene_token][1]
    ours = TorchWorlds.from_worlds([world]).drive(torch.tensor(poses)[None])[0].numpy()
    reference = tracker.reference_states(poses, world.ego_state, world.timestamp_us)
    np.testing.assert_allclose(
        ours, tracker.simulate(reference, world.ego_state), rtol=0, atol=1e-10
    )


@METRICS
def test_any_leading_dimensions_scenes_by_number_and_any_chunk(metric):
    rng = np.random.default_rng(3)
    worlds = random_scenes(rng, 4)
    ours = TorchWorlds.from_worlds(worlds, metric=metric)
    poses = torch.tensor(np.stack([random_plans(rng, 6) for _ in worlds]))
    whole = ours.score(poses)["score"]
    picked = torch.tensor([3, 0, 3])
    shaped = ours.score(poses[picked].reshape(3, 2, 3, 8, 3), picked, chunk=5)["score"]
    torch.testing.assert_close(shaped.reshape(3, 6), whole[picked], rtol=0, atol=1e-12)
    alone = ours.score(poses[2, 1], torch.tensor(2))["score"]
    torch.testing.assert_close(alone, whole[2, 1], rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.index([worlds[3].scene_token]), torch.tensor([3]))
    assert ours.score(poses[:, :0])["score"].shape == (len(worlds), 0)


def test_what_cannot_be_scored_is_nan_with_its_reason():
    bad, far = straight_plan(8.0), straight_plan(8.0)
    bad[2, 0], far[2, 1] = np.nan, 1e5
    plans = torch.tensor(np.stack([straight_plan(8.0), bad, far]))
    broken = replace(straight_road(token="broken"), valid=False, reason="no roads here")
    worlds = TorchWorlds.from_worlds([straight_road(), broken])
    scores = worlds.score(plans.expand(3, 3, 8, 3), torch.tensor([0, 1, 7]))
    expected = [
        [Reason.SCORED, Reason.NOT_FINITE, Reason.FAR],
        [Reason.SCENE, Reason.SCENE, Reason.SCENE],
        [Reason.UNKNOWN_SCENE] * 3,
    ]
    assert scores.reason.tolist() == expected
    assert scores["score"][0, 0] == 1.0
    for column in scores.columns.values():
        assert torch.equal(column.isnan(), ~scores.valid)
    assert worlds.reasons == ("", "no roads here")
    assert sum(scores.failures().values()) == 8


def test_v1_needs_a_second_more_of_the_log_than_v2():
    short = replace(straight_road(), has_v1=False)
    plan = torch.tensor(straight_plan(8.0))[None]
    assert TorchWorlds.from_worlds([short]).score(plan).reason.tolist() == [Reason.SCENE]
    assert TorchWorlds.from_worlds([short], metric="epdms").score(plan)["score"] == 1.0


def test_the_human_filter_can_be_left_out():
    world = with_red_light(straight_road(8.0), 20, 24)
    plan = straight_plan(8.0)[None, None]
    ours = TorchWorlds.from_worlds([world], metric="epdms")
    for human_filter, light in ((True, 1.0), (False, 0.0)):
        config = ScoreConfig(metric="epdms", human_filter=human_filter)
        scores = ours.score(torch.tensor(plan), human_filter=human_filter)
        assert scores["traffic_light_compliance"] == light
        assert_same(scores, score_trajectories([world], plan, config=config), scores.columns)


def test_two_frame_comfort_takes_the_frames_it_is_given():
    first, second = straight_road(), half_second_later(straight_road())
    plans = torch.tensor(np.stack([straight_plan(8.0), straight_plan(2.0)]))
    ours = TorchWorlds.from_worlds([first, second], metric="epdms")
    calm, torn = (
        ours.score(plans[:1], torch.tensor([1]), previous=plans[k : k + 1]) for k in (0, 1)
    )
    assert calm["two_frame_extended_comfort"] == 1.0
    assert torn["two_frame_extended_comfort"] == 0.0
    for other in (torch.tensor([1]), torch.tensor([-1])):  # not half a second before; none at all
        apart = ours.score(plans[:1], torch.tensor([1]), previous=plans[:1], previous_scenes=other)
        assert apart["two_frame_extended_comfort"].isnan()
        assert apart["score"] == 1.0
    unusable = ours.score(plans[:1], torch.tensor([1]), previous=plans[:1] * torch.nan)
    assert unusable["two_frame_extended_comfort"].isnan()


@pytest.mark.parametrize("gap_us", [150_000, 350_000, 450_000, 549_999, 550_000, 550_001])
def test_two_frame_comfort_of_frames_at_any_distance_is_numpys(gap_us):
    rng = np.random.default_rng(5)
    first = random_world(rng, "first")
    worlds = [
        first,
        replace(half_second_later(first, "later"), timestamp_us=first.timestamp_us + gap_us),
    ]
    poses = np.stack([random_plans(rng, 12) for _ in worlds])
    ours, plans = TorchWorlds.from_worlds(worlds, metric="epdms"), torch.tensor(poses)
    scores, theirs = (
        ours.score(plans, previous=plans_before(ours, plans)),
        score_trajectories(worlds, poses, metric="epdms"),
    )
    assert_same(scores, theirs, ["two_frame_extended_comfort", "score"])
    assert {column.dtype for column in scores.columns.values()} == {torch.float64}


def test_scoring_some_plans_does_not_work_on_scenes_that_are_not_theirs(monkeypatch):
    seen = []
    worlds = TorchWorlds.from_worlds([straight_road()] * 40)
    monkeypatch.setattr(
        torch_score,
        "line_progress",
        lambda p, pieces: seen.append(len(pieces)) or line_progress(p, pieces),
    )
    worlds.score(torch.tensor(straight_plan(8.0))[None], torch.tensor([3]))
    assert seen == [1]


def test_a_score_is_a_reward_without_a_gradient():
    plans = torch.tensor(straight_plan(8.0), requires_grad=True)[None]
    world = with_object(straight_road(), (60.0, 0.0))
    assert not TorchWorlds.from_worlds([world]).score(plans)["score"].requires_grad


def test_wrong_shapes_are_refused_with_the_right_one():
    worlds, plan = TorchWorlds.from_worlds([straight_road()]), torch.zeros(1, 2, 8, 3)
    with pytest.raises(DataError, match=r"needs \(\.\.\., 8, 3\)"):
        worlds.score(plan[:, :, :7])
    with pytest.raises(DataError, match="or scenes"):
        worlds.score(plan.expand(3, 2, 8, 3))
    with pytest.raises(DataError, match="first dimensions"):
        worlds.score(plan, torch.zeros(4, dtype=torch.long))
    with pytest.raises(DataError, match="two-frame"):
        worlds.score(plan, previous=plan)
    with pytest.raises(DataError, match="not prepared"):
        worlds.index(["nobody"])
    with pytest.raises(DataError, match="at least one scene"):
        TorchWorlds.from_worlds([])
