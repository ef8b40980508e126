"""One little world per rule of the score: what happens, and what it must cost."""

from dataclasses import replace

import numpy as np
import pytest
from pdms_little_worlds import (
    CAR,
    CONE,
    FRONT_M,
    PERSON,
    braking_plan,
    half_second_later,
    rectangle,
    seen_from,
    straight_plan,
    straight_road,
    with_intersection,
    with_object,
    with_red_light,
)

from latentvla_core.errors import DataError
from latentvla_core.pdms import backend
from latentvla_core.pdms.score import ScoreConfig, score_trajectories
from latentvla_core.types import ObjectClass, Vehicle


@pytest.fixture(params=["numba", "numpy"], autouse=True)
def both_backends(request):
    with backend.using(request.param):
        yield


def score(world, plan, metric="pdms", **options):
    """Column name → value of one plan."""
    (row,) = score_trajectories(
        [world], np.asarray(plan)[None, None], metric=metric, **options
    ).rows()
    return row


STAND = straight_plan(0.0)


# ---------------------------------------------------------------- no at-fault collision


def test_an_empty_road_driven_like_the_reference_is_perfect():
    row = score(straight_road(), straight_plan(8.0))
    assert row["score"] == 1.0
    assert row["valid"]
    assert row["metric_version"] == "pdms-v1.1"
    row = score(straight_road(), straight_plan(8.0), "epdms")
    assert row["score"] == 1.0
    assert row["metric_version"] == "epdms-v2.2"


def test_hit_from_behind_while_standing_is_not_our_fault():
    world = with_object(straight_road(0.0), (-15.0, 0.0), (12.0, 0.0))
    table = score_trajectories([world], STAND[None, None])
    assert table["no_at_fault_collisions"][0] == 1.0
    assert table["time_to_collision_within_bound"][0] == 1.0


def test_hit_from_behind_while_driving_is_not_our_fault():
    world = with_object(straight_road(5.0), (-12.0, 0.0), (15.0, 0.0))
    assert score(world, straight_plan(5.0))["no_at_fault_collisions"] == 1.0


def test_running_into_a_slower_car_is_our_fault_and_was_foreseeable():
    world = with_object(straight_road(), (20.0, 0.0), (2.0, 0.0))
    table = score_trajectories([world], straight_plan(8.0)[None, None])
    assert table["no_at_fault_collisions"][0] == table["time_to_collision_within_bound"][0] == 0.0
    assert table["score"][0] == 0.0
    assert 0 <= table.details["ttc_step"][0] < table.details["collision_step"][0]
    assert table.details["collision_object"][0] == table.details["ttc_object"][0] == 0


@pytest.mark.parametrize(
    "kind", [ObjectClass.TRAFFIC_CONE, ObjectClass.BARRIER, ObjectClass.GENERIC_OBJECT]
)
def test_a_static_object_costs_half(kind):
    world = with_object(straight_road(), (20.0, 0.0), size=CONE, kind=kind)
    row = score(world, straight_plan(8.0))
    assert row["no_at_fault_collisions"] == 0.5


@pytest.mark.parametrize("kind", [ObjectClass.VEHICLE, ObjectClass.PEDESTRIAN, ObjectClass.BICYCLE])
def test_a_standing_road_user_costs_all(kind):
    assert (
        score(with_object(straight_road(), (20.0, 0.0), kind=kind), straight_plan(8.0))["score"]
        == 0.0
    )


def drifting_car(start_y: float, sideways: float, speed: float = 8.0):
    """A car abreast of the ego's middle that drifts into its side at the ego's speed."""
    start = (Vehicle.REAR_AXLE_TO_CENTER_M, start_y)
    return with_object(straight_road(speed), start, (speed, sideways), heading=0.0)


def test_a_car_that_drifts_into_our_side_is_at_fault_itself():
    row = score(drifting_car(4.0, -1.0), straight_plan(8.0))
    assert row["no_at_fault_collisions"] == 1.0


def test_a_side_swipe_while_changing_lanes_is_our_fault():
    row = score(drifting_car(3.5, 0.0), straight_plan(8.0, left_m=3.0, over_s=3.0))
    assert row["no_at_fault_collisions"] == 0.0


def test_a_collision_that_is_not_our_fault_silences_the_track():
    """Hit from behind first; that the same car is later in front of us no longer counts."""
    world = with_object(straight_road(5.0), (-8.0, 0.3), (14.0, 0.0))
    row = score(world, straight_plan(5.0))
    assert row["no_at_fault_collisions"] == 1.0


def test_touching_counts_and_a_millimetre_of_air_does_not():
    half = Vehicle.WIDTH_M / 2 + CAR[1] / 2
    for air_m, value in ((-0.001, 0.0), (0.001, 1.0)):
        world = with_object(straight_road(), (15.0, -half - air_m))
        assert score(world, straight_plan(8.0))["no_at_fault_collisions"] == value


def test_an_object_seen_only_while_we_are_elsewhere_is_not_hit():
    world = with_object(straight_road(), (20.0, 0.0))
    present = world.object_valid.copy()
    present[12:] = False
    assert (
        score(replace(world, object_valid=present), straight_plan(8.0))["no_at_fault_collisions"]
        == 1.0
    )


def test_v2_ignores_what_overlaps_the_ego_at_the_start_and_v1_does_not():
    world = with_object(straight_road(), (FRONT_M, 0.0), size=PERSON, kind=ObjectClass.PEDESTRIAN)
    world = replace(world, object_overlaps_ego=np.array([True]))
    assert score(world, straight_plan(8.0))["no_at_fault_collisions"] == 0.0
    assert score(world, straight_plan(8.0), "epdms")["no_at_fault_collisions"] == 1.0


# ---------------------------------------------------------------- time to collision


def test_a_car_that_comes_from_the_side_matters_only_in_an_intersection():
    plan, world = straight_plan(1.0), drifting_car(4.0, -1.0, speed=1.0)
    assert score(world, plan)["time_to_collision_within_bound"] == 1.0
    crossing = with_intersection(world, -20.0, 60.0)
    assert score(crossing, plan)["time_to_collision_within_bound"] == 0.0
    assert score(crossing, plan, "epdms", config=NO_FILTER)["time_to_collision_within_bound"] == 0.0


@pytest.mark.parametrize(("gap_m", "value"), [(7.1, 0.0), (7.3, 1.0)])
def test_ttc_looks_nine_tenths_of_a_second_ahead_at_our_speed(gap_m, value):
    """A standing car that is there until step 9: 8 m/s reach 7.2 m by then, driven or projected."""
    world = with_object(straight_road(), (FRONT_M + gap_m + CAR[0] / 2, 0.0))
    present = world.object_valid & (np.arange(51) <= 9)[:, None]
    world = replace(world, object_valid=present)
    row = score(world, straight_plan(8.0))
    assert row["time_to_collision_within_bound"] == value


# ---------------------------------------------------------------- road


@pytest.mark.parametrize(("inside_m", "value"), [(0.1, 1.0), (-0.1, 0.0)])
def test_a_tenth_of_a_metre_off_the_road_is_off_the_road(inside_m, value):
    right_m = 1.75 - Vehicle.WIDTH_M / 2 - inside_m
    world = straight_road()
    world = replace(world, ego_state=world.ego_state - np.eye(11)[1] * right_m)
    row = score(world, straight_plan(8.0))
    assert row["drivable_area_compliance"] == value
    assert (row["score"] > 0) == bool(value)


def test_a_hole_in_the_road_is_off_the_road():
    world = straight_road()
    hole = rectangle(10, -0.5, 11, 0.5)
    vertices = np.insert(world.ring_vertices, 5, hole, axis=0)  # an inner ring of the first polygon
    world = replace(
        world,
        ring_vertices=vertices,
        ring_offsets=np.arange(6) * 5,
        polygon_ring_offsets=np.array([0, 2, 3, 4, 5]),
    )
    world = replace(
        world, ego_state=world.ego_state - np.eye(11)[1] * 0.9
    )  # the left corners pass through the hole
    assert score(world, straight_plan(8.0))["drivable_area_compliance"] == 0.0


@pytest.mark.parametrize(("speed", "value"), [(1.5, 1.0), (4.0, 0.5), (8.0, 0.0)])
def test_metres_per_second_in_the_oncoming_lane_decide_the_driving_direction(speed, value):
    world = straight_road(speed)
    world = replace(world, ego_state=world.ego_state + np.eye(11)[1] * 3.5)
    assert score(world, straight_plan(speed))["driving_direction_compliance"] == value
    assert (
        score(world, straight_plan(speed), "epdms", config=NO_FILTER)[
            "driving_direction_compliance"
        ]
        == value
    )


NO_FILTER = ScoreConfig(metric="epdms", human_filter=False)


def test_v2_does_not_count_the_wrong_side_inside_an_intersection():
    world = with_intersection(straight_road(), -20.0, 60.0)
    world = replace(world, ego_state=world.ego_state + np.eye(11)[1] * 3.5)
    assert score(world, straight_plan(8.0))["driving_direction_compliance"] == 0.0
    assert (
        score(world, straight_plan(8.0), "epdms", config=NO_FILTER)["driving_direction_compliance"]
        == 1.0
    )


def test_driving_into_a_red_connector_fails_and_stopping_before_it_does_not():
    world = with_red_light(straight_road(human_speed=0.0), 18.0, 30.0)
    assert score(world, straight_plan(8.0), "epdms")["traffic_light_compliance"] == 0.0
    assert score(world, straight_plan(8.0), "epdms")["score"] == 0.0
    assert score(world, braking_plan(8.0, 4.0), "epdms")["traffic_light_compliance"] == 1.0


def test_a_light_that_is_green_when_we_pass_does_not_matter():
    world = with_red_light(straight_road(human_speed=0.0), 18.0, 20.0, to_step=5)
    assert score(world, straight_plan(8.0), "epdms")["traffic_light_compliance"] == 1.0


def test_standing_in_a_connector_that_turns_red_fails_already():
    world = with_red_light(straight_road(0.0), -1.0, 10.0, from_step=20)
    assert score(world, STAND, "epdms", config=NO_FILTER)["traffic_light_compliance"] == 0.0


def test_lane_keeping_fails_after_two_seconds_beside_the_centre_line():
    world = straight_road()
    beside = replace(world, ego_state=world.ego_state + np.eye(11)[1] * 0.6)
    assert score(beside, straight_plan(8.0), "epdms", config=NO_FILTER)["lane_keeping"] == 0.0
    back = straight_plan(8.0, left_m=-0.6, over_s=1.0)
    assert score(beside, back, "epdms", config=NO_FILTER)["lane_keeping"] == 1.0
    crossing = with_intersection(beside, -20.0, 60.0)
    assert score(crossing, straight_plan(8.0), "epdms", config=NO_FILTER)["lane_keeping"] == 1.0


# ---------------------------------------------------------------- progress and comfort


def test_half_the_reference_speed_is_about_half_the_progress():
    row = score(straight_road(), straight_plan(4.0))
    assert 0.45 < row["ego_progress"] < 0.65
    assert score(straight_road(), straight_plan(12.0))["ego_progress"] == 1.0


def test_without_a_reference_to_follow_standing_is_enough():
    assert score(straight_road(0.5), STAND)["ego_progress"] == 1.0
    assert score(straight_road(0.5), STAND, "epdms")["ego_progress"] == 1.0


def test_v1_halves_the_progress_of_a_half_collision_and_v2_does_not():
    world = with_object(straight_road(), (20.0, 0.0), size=CONE, kind=ObjectClass.TRAFFIC_CONE)
    world = replace(world, reference_v1=world.reference_v1 + [0, 0.0, 0])
    plan = straight_plan(8.0)
    # the reference hits the cone as well, so both are halved in v1 and the ratio is one again
    assert score(world, plan)["ego_progress"] == pytest.approx(1.0, abs=1e-6)
    around = world.reference_v1 + np.stack(
        [np.zeros(51), np.minimum(np.arange(51) * 0.2, 3.0), np.zeros(51)], axis=-1
    )
    world = replace(world, reference_v1=around, reference_v2=around)
    assert 0.4 < score(world, plan)["ego_progress"] < 0.6
    assert score(world, plan, "epdms")["ego_progress"] > 0.95


def test_a_stop_at_3_mps2_passes_comfort_in_v1_and_fails_it_in_v2():
    world = straight_road()
    world = replace(
        world, ego_state=world.ego_state + 0.5 * np.eye(11)[5], history_states=np.zeros((0, 11))
    )
    assert score(world, braking_plan(8.0, 3.0))["comfort"] == 1.0
    assert score(world, braking_plan(8.0, 3.0), "epdms")["history_comfort"] == 0.0
    assert score(world, braking_plan(8.0, 1.0), "epdms")["history_comfort"] == 1.0


def test_an_uncomfortable_past_fails_every_plan():
    world = straight_road()
    past = world.history_states.copy()
    past[:, 5] = -4.5
    assert (
        score(replace(world, history_states=past), straight_plan(8.0), "epdms")["history_comfort"]
        == 0.0
    )


def test_two_frame_comfort_compares_with_the_namesake_in_the_scene_before():
    now = straight_road()
    later = half_second_later(now)
    poses = [np.stack([straight_plan(8.0), braking_plan(8.0, 6.0)])] * 2
    table = score_trajectories(
        [later, now], poses, metric="epdms", trajectory_ids=[("go", "stop")] * 2
    )
    assert table["two_frame_extended_comfort"][0] == 1.0
    assert np.isnan(table["two_frame_extended_comfort"][2:]).all()
    swapped = score_trajectories(
        [now, later], poses, metric="epdms", trajectory_ids=[("go", "stop"), ("stop", "go")]
    )
    np.testing.assert_array_equal(swapped["two_frame_extended_comfort"][2:], [0.0, 0.0])


def test_without_the_scene_before_its_weight_leaves_the_mean():
    later = half_second_later(straight_road())
    row = score(later, braking_plan(8.0, 3.0), "epdms")
    assert np.isnan(row["two_frame_extended_comfort"])
    parts = 5 * row["ego_progress"] + 5 * row["time_to_collision_within_bound"]
    assert row["score"] == pytest.approx(
        (parts + 2 * row["lane_keeping"] + 2 * row["history_comfort"]) / 14
    )


# ---------------------------------------------------------------- human filter


def test_a_human_who_stands_in_the_red_excuses_everybody():
    world = with_red_light(straight_road(0.0), -1.0, 30.0)
    assert score(world, STAND, "epdms", config=NO_FILTER)["traffic_light_compliance"] == 0.0
    row = score(world, STAND, "epdms")
    assert row["traffic_light_compliance"] == 1.0
    assert row["score"] == 1.0


def test_a_synthetic_scene_has_no_human_to_excuse_anybody():
    world = replace(with_red_light(straight_road(0.0), -1.0, 30.0), is_synthetic=True)
    assert score(world, STAND, "epdms")["traffic_light_compliance"] == 0.0


def test_half_a_collision_of_the_human_excuses_nobody():
    world = with_object(straight_road(), (20.0, 0.0), size=CONE, kind=ObjectClass.TRAFFIC_CONE)
    row = score(world, straight_plan(8.0), "epdms")
    assert row["no_at_fault_collisions"] == 0.5
    assert row["time_to_collision_within_bound"] == 1.0  # here the human's is 0


# ---------------------------------------------------------------- what cannot be scored


def test_bad_poses_are_invalid_rows_with_a_reason_and_leave_the_others_alone():
    good, bad = straight_plan(8.0), straight_plan(8.0)
    bad[3, 1] = np.nan
    for metric in ("pdms", "epdms"):
        table = score_trajectories([straight_road()], np.stack([bad, good])[None], metric=metric)
        assert table.valid.tolist() == [False, True]
        assert "NaN" in table.reason[0]
        assert np.isnan(table["score"][0])
        assert table["score"][1] == 1.0


def test_a_plan_in_global_coordinates_is_recognised_as_broken():
    row = score(straight_road(), straight_plan(8.0) + [664000.0, 3997000.0, 0.0])
    assert not row["valid"]
    assert "ego frame" in row["reason"]


@pytest.mark.parametrize("shape", [(7, 3), (8, 2), (40, 3)])
def test_wrong_shapes_are_named(shape):
    with pytest.raises(DataError, match=r"needs \(K, 8, 3\)"):
        score_trajectories([straight_road()], np.zeros((1, 1, *shape)))


def test_a_scene_that_cannot_be_scored_is_not_a_zero():
    broken = replace(straight_road(), valid=False, reason="map has no roads")
    short = replace(straight_road(token="short"), has_v1=False)
    table = score_trajectories(
        [broken, short, straight_road(token="ok")], np.stack([straight_plan(8.0)] * 3)
    )
    assert table.valid.tolist() == [False, False, True]
    assert table.reason[0] == "map has no roads"
    assert "5 s" in table.reason[1]
    assert np.isnan(table["score"][:2]).all()
    assert score(short, straight_plan(8.0), "epdms")["valid"]
    table = score_trajectories(
        [broken, straight_road(token="ok")], np.stack([straight_plan(8.0)] * 2), metric="epdms"
    )
    assert table.valid.tolist() == [False, True]
    assert np.isnan(table["score"][0])
    assert table["score"][1] == 1.0


def test_counts_and_names_must_fit():
    with pytest.raises(DataError, match="one entry per world"):
        score_trajectories([straight_road()], np.zeros((2, 1, 8, 3)))
    with pytest.raises(DataError, match="one id per plan"):
        score_trajectories([straight_road()], np.zeros((1, 2, 8, 3)), trajectory_ids=[("a",)])
    with pytest.raises(DataError, match="repeat"):
        score_trajectories([straight_road()], np.zeros((1, 2, 8, 3)), trajectory_ids=[("a", "a")])
    with pytest.raises(ValueError, match="metric"):
        ScoreConfig(metric="pdm")


def test_no_scene_and_no_plan_are_empty_tables():
    assert len(score_trajectories([], [])) == 0
    table = score_trajectories([straight_road()], np.zeros((1, 0, 8, 3)))
    assert len(table) == 0
    assert table.grid("score").shape == (1, 0)


def test_the_far_side_of_the_world_scores_the_same():
    world = with_object(straight_road(), (30.0, 0.0), (3.0, 0.0))
    far = seen_from(world, (3000.0, -5000.0), 2.5)
    for metric in ("pdms", "epdms"):
        here, there = (
            score(world, straight_plan(8.0), metric),
            score(far, straight_plan(8.0), metric),
        )
        assert {k: v for k, v in here.items() if v == v} == pytest.approx(
            {k: v for k, v in there.items() if v == v}
        )
