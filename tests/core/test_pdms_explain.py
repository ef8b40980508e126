"""Why a plan lost points: the place and the moment of every failure, in little worlds and on real
drives.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pdms_golden as golden
import pytest
from pdms_golden import needs_golden
from pdms_little_worlds import (
    FRONT_M,
    LANE_M,
    braking_plan,
    half_second_later,
    straight_plan,
    straight_road,
    with_red_light,
)
from pdms_little_worlds import with_object as with_box
from pdms_worlds import straight_map, straight_scene, with_object

from latentvla_core.errors import DataError
from latentvla_core.pdms.explain import Explanation, Failure, explain, moments
from latentvla_core.pdms.measure import drive
from latentvla_core.pdms.metrics import SUB_SCORES
from latentvla_core.pdms.reactive.traffic import reaction, reactive_traffic, roll_out
from latentvla_core.pdms.score import score_trajectories
from latentvla_core.pdms.world import World, build

EVERY = 29  # rows of the golden tables between two that are looked at


def before(world: World, name: str) -> tuple[World, np.ndarray] | None:
    """The golden scene 0.5 s earlier and the plan of the same name there."""
    earlier = {w.scene_token: w for w in golden.worlds()}.get(world.previous_token)
    if earlier is None:
        return None
    return earlier, dict(zip(*golden.plans()[earlier.scene_token], strict=True))[name]


@pytest.mark.slow
@needs_golden
@pytest.mark.parametrize(("metric", "table"), [("pdms", "pdms_v1"), ("epdms", "epdms_v2")])
def test_failures_are_the_official_ones_at_the_official_time(metric, table):
    official, worlds = golden.table(table), {w.scene_token: w for w in golden.worlds()}
    kinds = set()
    for i in range(0, len(official["score"]), EVERY):
        token, name = official["scene_token"][i], official["trajectory_id"][i]
        poses = dict(zip(*golden.plans()[token], strict=True))[name]
        why = explain(worlds[token], poses, metric, before=before(worlds[token], name))
        assert why.score == pytest.approx(official["score"][i], abs=1e-8)
        counted = {f.sub_score for f in why.failures if not f.forgiven}
        assert counted == {key for key in SUB_SCORES[metric] if official[key][i] < 1.0}
        for failure in why.failures:
            kinds.add(failure.sub_score)
            column = {
                "no_at_fault_collisions": "collision",
                "time_to_collision_within_bound": "ttc",
            }.get(failure.sub_score)
            if column:
                assert failure.time_s == pytest.approx(official[f"{column}_time_idx"][i] * 0.1)
    assert kinds >= set(SUB_SCORES[metric]) - {
        "driving_direction_compliance",
        "traffic_light_compliance",
    }


@needs_golden
def test_places_are_where_the_failure_is():
    worlds = {w.scene_token: w for w in golden.worlds()}
    official = golden.table("pdms_v1")
    hit = np.flatnonzero(
        (official["no_at_fault_collisions"] == 0) & (official["drivable_area_compliance"] == 0)
    )[::40]
    for i in hit:
        world = worlds[official["scene_token"][i]]
        poses = dict(zip(*golden.plans()[world.scene_token], strict=True))[
            official["trajectory_id"][i]
        ]
        why = {f.sub_score: f for f in explain(world, poses).failures}
        crash, road = why["no_at_fault_collisions"], why["drivable_area_compliance"]
        assert len(crash.shape) == 4
        assert np.abs(crash.place - crash.egos[0].mean(axis=0)).max() < 3.5  # within the ego box
        assert np.abs(road.egos[0] - road.place).sum(axis=1).min() == 0.0  # one of its corners
        assert "corner leaves" in road.text
        ordered = [f.step for _, f in moments(tuple(why.values()))]
        assert ordered == sorted(ordered)


def test_a_plan_that_cannot_be_scored_is_not_explained():
    with pytest.raises(DataError, match="NaN"):
        explain(straight_road(), np.full((8, 3), np.nan))


# ---------------------------------------------------------------- little worlds


def found(why: Explanation, name: str) -> Failure:
    """The failure of that name. All failures have the value that scoring gives."""
    return next(f for f in why.failures if f.sub_score == name)


def test_a_hit_is_where_and_when_the_bumper_is():
    road = with_box(straight_road(8.0), (24.0, 0.0))
    why = explain(road, straight_plan(8.0), "pdms")
    assert why.score == 0.0
    hit, close = found(why, "no_at_fault_collisions"), found(why, "time_to_collision_within_bound")
    rear_m = 24.0 - 4.6 / 2
    assert hit.time_s == pytest.approx((rear_m - FRONT_M) / 8.0, abs=0.11)
    assert abs(hit.place[0] - rear_m) < 0.8
    np.testing.assert_array_equal(hit.shape, road.object_corners[hit.step, 0])
    assert hit.time_s - 1.0 < close.time_s < hit.time_s
    assert "hits vehicle object" in hit.text
    assert "at 8.0 m/s it meets it" in close.text
    assert why.world is road


def test_off_the_road_is_the_corner_that_left_it():
    why = explain(
        straight_road(8.0, human_speed=0.0), straight_plan(8.0, left_m=-1.0, over_s=3.0), "pdms"
    )
    left = found(why, "drivable_area_compliance")
    assert "right corner leaves the drivable area" in left.text
    assert left.place[1] < -LANE_M / 2
    assert np.abs(left.egos[0] - left.place).sum(axis=1).min() == 0.0


@pytest.mark.parametrize("metric", ["pdms", "epdms"])
def test_every_sub_score_below_one_is_explained(metric):
    """Into the oncoming lane, through a red light, against a cone, and unlike the plan before."""
    now = with_red_light(with_box(straight_road(8.0), (30.0, 3.0), size=(0.4, 0.4)), 12.0, 16.0)
    plan, calm = straight_plan(9.0, left_m=3.0, over_s=2.0), straight_plan(8.0)
    later = half_second_later(now)
    before = (straight_road(8.0, token=later.previous_token), calm)
    why = explain(later, plan, metric, before=before)
    table = score_trajectories([before[0], later], [calm[None], plan[None]], metric=metric)
    assert why.score == table["score"][-1]
    below = {name for name in SUB_SCORES[metric] if table[name][-1] < 1.0}
    assert below == {f.sub_score for f in why.failures if not f.forgiven}
    assert len(below) >= (3 if metric == "pdms" else 5)
    for failure in why.failures:
        assert failure.text
        assert failure.step <= 40


def test_a_stop_that_only_v2_dislikes_names_the_jerk():
    road = straight_road()
    road = replace(
        road, ego_state=road.ego_state + 0.5 * np.eye(11)[5], history_states=np.zeros((0, 11))
    )
    names = {f.sub_score for f in explain(road, braking_plan(8.0, 3.0), "pdms").failures}
    assert "comfort" not in names
    jerk = found(explain(road, braking_plan(8.0, 3.0), "epdms"), "history_comfort")
    assert "jerk" in jerk.text
    assert "beyond" in jerk.text


# ---------------------------------------------------------------- reactive traffic


def test_in_reactive_traffic_agents_are_where_they_were_simulated_to_be():
    """A slow car ahead: in the log it crawls on, simulated it speeds up, so the plan hits it later
    and farther on.
    """
    from latentvla_core.viz.failures import caption, failure_view

    scene, road = with_object(straight_scene(8.0), "slow", (16.0, 0.0), (3.0, 0.0)), straight_map()
    scene = with_object(scene, "parked", (20.0, 6.5))
    world, plan = build(scene, road), straight_plan(11.0)
    traffic = reactive_traffic(scene, road, world)
    logged, reacted = (explain(world, plan, "epdms", traffic=t) for t in (None, traffic))
    table = score_trajectories(
        [world], [plan[None]], metric="epdms", reactions=[reaction(scene, road, world)]
    )
    assert reacted.score == table["score"][0]
    assert {f.sub_score for f in reacted.failures if not f.forgiven} == {
        name for name in SUB_SCORES["epdms"] if table[name][0] < 1.0
    }
    first, later = (found(why, "no_at_fault_collisions") for why in (logged, reacted))
    assert later.step > first.step
    assert "hits vehicle slow" in later.text
    states = drive(world, world.reference_v2, plan[None], 0.5)[1]
    boxes = roll_out(traffic, states).boxes
    np.testing.assert_allclose(
        later.shape.mean(axis=0), boxes[later.step, traffic.tokens.index("slow"), :2], atol=1e-9
    )
    np.testing.assert_allclose(
        reacted.world.object_corners[:41].mean(axis=2), boxes[..., :2], atol=1e-9
    )
    assert failure_view(world, "plan", plan, reacted).startswith(b"\x89PNG")
    assert "hits vehicle slow" in "\n".join(caption(reacted))


def test_labels_of_one_place_stand_below_each_other_inside_the_picture():
    from latentvla_core.viz.canvas import sheet
    from latentvla_core.viz.failures import LABEL_SHARE, _call_out

    scene, road = with_object(straight_scene(8.0), "parked", (16.0, 0.0)), straight_map()
    crash = explain(build(scene, road), straight_plan(8.0))
    failure = found(crash, "no_at_fault_collisions")
    extent = np.array([-20.0, 20.0, 0.0, 40.0])
    for place in ((16.0, 0.0), (39.9, 0.0), (0.1, 0.0)):
        same = [(n, replace(failure, place=np.array(place))) for n in range(1, 6)]
        with sheet(3.0, 3.0) as page:
            axes = page.figure.add_subplot(xlim=extent[:2], ylim=extent[2:])
            _call_out(axes, extent, np.zeros(3), same)
            heights = [text.xyann[1] for text in axes.texts]
        assert [text.get_text()[0] for text in axes.texts] == list("12345")
        assert max(np.diff(heights)) <= -LABEL_SHARE * 40 + 1e-9
        assert 0.0 < min(heights) < max(heights) < 40.0


@needs_golden
def test_the_caption_names_what_fails_and_the_picture_is_one():
    from latentvla_core.viz.failures import caption, failure_view

    official = golden.table("pdms_v1")
    i = int(
        np.flatnonzero((official["no_at_fault_collisions"] == 0) & (official["ttc_time_idx"] < 20))[
            0
        ]
    )
    world = next(w for w in golden.worlds() if w.scene_token == official["scene_token"][i])
    poses = dict(zip(*golden.plans()[world.scene_token], strict=True))[official["trajectory_id"][i]]
    why = explain(world, poses)
    text = "\n".join(caption(why))
    assert "NC = 0: hits" in text
    assert "TTC = 0: less than 1 s to" in text
    assert failure_view(world, "plan", poses, why).startswith(b"\x89PNG")
