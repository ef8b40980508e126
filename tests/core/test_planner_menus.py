"""What was chosen and from what: hand-made menus, and the planner's own answers as they are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planner_factory import arc, make_records, straight_world

from latentvla_core.lake.store import Lake
from latentvla_core.planner.menus import choice_of, living, menus
from latentvla_core.planner.model import HOSTS, build_planner
from latentvla_core.planner.plan import plan, plan_all
from latentvla_core.tables import TABLES
from latentvla_core.viz.report.choices import choices

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("scenes"), 3)


def row(**changes):
    """A row of `choices` of a scene that is scored."""
    base = {
        "split": "test", "trajectory_id": "ipad", "log_name": "a", "proposals": 3, "chosen": 0,
        "best": 0, "nearest": 0, "chosen_score": 0.5, "best_score": 1.0, "chosen_ade_m": 2.0,
        "nearest_ade_m": 1.0, "valid": True,
    }  # fmt: skip
    return {**base, **changes}


def test_a_planner_of_proposals_keeps_what_it_chose_from(records):
    planner = build_planner("ipad", HOSTS["ipad"].config.debug())
    plans = plan_all(planner, records, batch_size=2)
    assert plans.proposals.shape == (3, 3, 8, 3)
    assert plans.logits.shape == (3, 3, 6)
    assert np.array_equal(plans.poses, plan(planner, records))
    for scene, chosen in enumerate(plans.chosen):
        assert np.allclose(plans.proposals[scene, chosen, :, :2], plans.poses[scene, :, :2])
    logits = torch.from_numpy(plans.logits)
    assert planner.choice(logits).argmax(1).tolist() == plans.chosen.tolist()


def test_a_planner_of_one_plan_keeps_nothing_beside_it(records):
    plans = plan_all(build_planner("transfuser", HOSTS["transfuser"].config.debug()), records)
    assert (plans.proposals, plans.logits, plans.chosen) == (None, None, None)


def test_a_view_changes_what_the_planner_sees_and_nothing_else(records):
    planner = build_planner("transfuser", HOSTS["transfuser"].config.debug())
    dark = plan_all(planner, records, view=lambda b: {**b, "camera": torch.zeros_like(b["camera"])})
    same = plan_all(planner, records, view=lambda batch: batch)
    assert np.array_equal(same.poses, plan(planner, records))
    assert not np.array_equal(dark.poses, same.poses)


def test_the_best_and_the_nearest_proposal_are_found_by_simulation_and_by_the_log(records):
    world = straight_world(records[0], parked_at_m=30.0)
    speed = float(records[0].ego_velocity_mps[0])
    stop = np.zeros((8, 3))
    stop[:, 0] = speed * (0.5 * np.arange(1, 9)).clip(max=1.0)
    crash, off = arc(10.0, 0.0), arc(8.0, 0.1)
    found = choice_of(world, np.stack([crash, stop, off]), 0, crash + 0.01)
    assert (found["best"], found["nearest"], found["chosen"]) == (1, 0, 0)
    assert found["chosen_score"] == 0.0
    assert found["best_score"] > 0.3
    assert found["nearest_ade_m"] == pytest.approx(found["chosen_ade_m"])
    assert found["nearest_ade_m"] == pytest.approx(0.01 * np.sqrt(2))
    assert found["valid"]


def test_what_cannot_be_scored_or_measured_says_so(records):
    plans = np.stack([arc(8.0, 0.0), arc(6.0, 0.0)])
    nowhere = choice_of(None, plans, 1, records[0].future_poses)
    assert not nowhere["valid"]
    assert "scene_worlds" in nowhere["reason"]
    assert np.isnan(nowhere["best_score"])
    assert nowhere["best"] == -1
    assert nowhere["nearest_ade_m"] <= nowhere["chosen_ade_m"]
    short = choice_of(straight_world(records[0]), plans, 1, records[0].future_poses[:5])
    assert short["valid"]
    assert short["nearest"] == -1
    assert np.isnan(short["nearest_ade_m"])
    plans[0, 3] = np.nan
    broken = choice_of(straight_world(records[0]), plans, 1, records[0].future_poses)
    assert not broken["valid"]
    assert broken["reason"].startswith("proposal 0: ")


def test_a_proposal_lives_if_it_wins_in_one_scene_of_a_hundred():
    winners = np.repeat([0, 1, 2, -1], [495, 500, 5, 40])  # scenes without a winner do not count
    assert living(winners, 4) == 2
    assert living(np.repeat([1, 2], [495, 5]), 4) == 2
    assert living(np.zeros(0), 4) == 0


def test_menus_are_summed_up_by_split_and_planner_over_scored_scenes():
    rows = [
        row(log_name="a", best=1, nearest=2),
        row(log_name="b", best=1, nearest=1, chosen_score=1.0),
        row(log_name="b", valid=False, chosen_score=np.nan, best_score=np.nan),
        row(split="val", nearest_ade_m=np.nan, chosen_ade_m=np.nan),
        row(trajectory_id="ipad_latent", best_score=0.5),
    ]
    found = {(menu.split, menu.planner): menu for menu in menus(rows)}
    assert list(found) == [("test", "ipad"), ("test", "ipad_latent"), ("val", "ipad")]
    ours = found["test", "ipad"]
    assert (ours.proposals, ours.living, ours.near_living) == (3, 1, 2)
    assert (ours.chosen.mean, ours.oracle.mean, ours.regret.mean) == (0.75, 1.0, 0.25)
    assert ours.chosen.groups == 2
    assert (ours.chosen_ade_m, ours.nearest_ade_m) == (2.0, 1.0)
    assert found["test", "ipad_latent"].regret.mean == 0.0
    assert np.isnan(found["val", "ipad"].nearest_ade_m)


def test_the_report_shows_choices_once_there_are_any(tmp_path):
    lake = Lake(str(tmp_path))
    assert choices(lake) == ""
    spec = TABLES["choices"]
    rows = [
        row(scene_token=str(i), log_name=f"log {i}", shard=0, reason="", model_version="m",
            made_by="x", best=i % 2)
        for i in range(4)
    ]  # fmt: skip
    assert set(rows[0]) == set(spec.names)
    lake.replace("choices", rows, {"split": "test", "shard": 0, "trajectory_id": "ipad"})
    page = choices(lake)
    assert "ipad, chosen: 0.500, [0.500, 0.500]" in page
    assert "2 best, 1 nearest <small>of 3</small>" in page
    assert "<details>" not in page
    val = [{**each, "split": "val"} for each in rows]
    lake.replace("choices", val, {"split": "val", "shard": 0, "trajectory_id": "ipad"})
    assert choices(lake).index("<h3>test</h3>") < choices(lake).index("<summary>val</summary>")
