"""Every term of the closed-loop scores and every rule of fault, each as a little picture."""

from __future__ import annotations

import math

import numpy as np
import pytest
from closed_loop_worlds import FRONT_M, car, drive, road, states, steady

from latentvla_core.closed_loop.scores import comfort, contacts, formulas
from latentvla_core.closed_loop.scores import road as on_road
from latentvla_core.types import ObjectClass

CONE = {"cls": ObjectClass.TRAFFIC_CONE, "size_m": (0.5, 0.5)}
PERSON = {"cls": ObjectClass.PEDESTRIAN, "size_m": (0.6, 0.6)}


def nc(d, last: int = 40) -> float:
    return contacts.no_at_fault_collisions(d, contacts.contacts(d), last).value


def why(d) -> list[tuple[bool, str]]:
    return [(c.at_fault, c.why) for c in contacts.contacts(d)]


# ------------------------------------------------------------------ contacts and fault


def test_nobody_is_hit_on_an_empty_road():
    assert nc(drive(steady(8.0))) == 1.0


def test_running_into_a_standing_car_is_the_egos_fault():
    d = drive(steady(8.0), [car(20.0)])
    assert why(d) == [(True, "object_stood")] and nc(d) == 0.0


def test_running_into_the_back_of_a_slower_car_is_a_front_hit():
    d = drive(steady(10.0), [car(15.0, speed_mps=2.0)])
    assert why(d) == [(True, "front")] and nc(d) == 0.0


def test_being_hit_from_behind_is_not_the_egos_fault():
    d = drive(steady(4.0), [car(-12.0, speed_mps=12.0)])
    assert why(d) == [(False, "from_behind")] and nc(d) == 1.0


def test_who_stands_is_never_at_fault():
    d = drive(steady(0.0), [car(15.0, speed_mps=-5.0)])
    assert why(d) == [(False, "ego_stood")] and nc(d) == 1.0


def drifting(y_end: float):
    """A car beside the ego that drifts into it."""
    beside = car(1.5, y=3.6, speed_mps=8.0)
    beside.poses[:, 1] = np.linspace(3.6, y_end, len(beside.poses))
    return beside


def test_a_side_contact_in_the_own_lane_is_the_others_fault():
    d = drive(steady(8.0), [drifting(1.0)])
    assert why(d) == [(False, "side_in_lane")] and nc(d) == 1.0


def test_the_same_contact_between_two_lanes_is_the_egos_fault():
    d = drive(steady(8.0, y=1.2), [drifting(2.6)])
    assert why(d) == [(True, "side_between_lanes")] and nc(d) == 0.0


def test_one_thing_costs_half_and_two_cost_all():
    one, two = drive(steady(8.0), [car(15.0, **CONE)]), [car(15.0, **CONE), car(20.0, **CONE)]
    assert nc(one) == 0.5
    assert nc(drive(steady(8.0), two)) == 0.0


def test_a_person_costs_all():
    assert nc(drive(steady(8.0), [car(15.0, **PERSON)])) == 0.0


def test_an_actor_counts_once_however_long_they_touch():
    assert len(contacts.contacts(drive(steady(3.0), [car(8.0, speed_mps=1.0)]))) == 1


def test_what_touches_at_the_first_step_was_there_before_anybody_drove():
    assert contacts.contacts(drive(steady(3.0), [car(3.0)])) == []


def test_a_contact_after_the_prefix_does_not_count_in_it():
    d = drive(steady(8.0), [car(25.0)])
    step = contacts.contacts(d)[0].step
    assert nc(d, step - 1) == 1.0 and nc(d, step) == 0.0


def test_impact_is_the_relative_speed():
    d = drive(steady(10.0), [car(15.0, speed_mps=4.0)])
    assert contacts.contacts(d)[0].impact_mps == pytest.approx(6.0, abs=0.01)


def test_boxes_touch_as_shapely_says():
    import shapely

    from latentvla_core.geometry import box_corners

    draw = np.random.default_rng(0)
    poses = draw.uniform(-4, 4, (400, 2, 3))
    one = box_corners(poses[:, 0], np.full(400, 4.0), np.full(400, 1.8))
    two = box_corners(poses[:, 1], np.full(400, 3.0), np.full(400, 1.0))
    truth = shapely.intersects(shapely.polygons(one), shapely.polygons(two))
    assert (contacts.boxes_touch(one, two) == truth).all()
    assert 50 < truth.sum() < 350


# ------------------------------------------------------------------ time to collision


def least_ttc(d) -> float:
    found = contacts.contacts(d)
    return float(contacts.times_to_collision(d, found, contacts.careless(d)).min())


def test_ttc_is_gap_over_closing_speed():
    """Front at 4.05 m, rear of the car at 27.7 m, closing with 10 m/s: 2.4 s, then less."""
    d = drive(steady(10.0, seconds=0.1), [car(30.0, seconds=0.1)])
    assert contacts.times_to_collision(d, [], contacts.careless(d))[0] == pytest.approx(
        math.ceil((30.0 - 2.3 - FRONT_M) / 10.0 * 10) / 10
    )


@pytest.mark.parametrize(("gap_m", "passes"), [(8.9, 0.0), (9.1, 1.0)])
def test_ttc_fails_below_0_95_s(gap_m: float, passes: float):
    d = drive(steady(10.0, seconds=0.1), [car(FRONT_M + gap_m + 2.3, seconds=0.1)])
    ttc = contacts.times_to_collision(d, [], contacts.careless(d))
    assert contacts.time_to_collision(ttc, 0).value == passes


def test_an_ego_that_stands_has_no_ttc():
    assert least_ttc(drive(steady(0.0), [car(30.0, speed_mps=-5.0)])) == math.inf


def test_a_car_in_the_next_lane_that_keeps_its_lane_is_no_danger():
    assert least_ttc(drive(steady(10.0), [car(20.0, y=3.6)])) == math.inf


# ------------------------------------------------------------------ road


def test_a_corner_may_be_a_little_outside_and_not_more():
    reach = 1.1485
    inside = drive(steady(8.0, y=-1.8 + reach - 0.25))
    outside = drive(steady(8.0, y=-1.8 + reach - 0.35))
    assert on_road.drivable_area(on_road.off_road(inside), 40).value == 1.0
    assert on_road.drivable_area(on_road.off_road(outside), 40).value == 0.0


@pytest.mark.parametrize(("speed", "value"), [(1.9, 1.0), (4.0, 0.5), (8.0, 0.0)])
def test_driving_against_the_flow_costs_by_metres_in_a_second(speed: float, value: float):
    d = drive(steady(speed, y=7.2))
    assert on_road.driving_direction(on_road.against_flow_m(d), 40).value == value


def test_driving_with_the_flow_costs_nothing():
    against = on_road.against_flow_m(drive(steady(12.0, y=3.6)))
    assert against.max() == 0.0


def test_two_meters_a_second_too_fast_cost_nearly_all_of_the_speed_limit():
    d = drive(steady(10.0), ground=road(limit_mps=8.0))
    value = on_road.speed_limit(d.states[:, 3], on_road.limits_mps(d), 40).value
    assert value == pytest.approx(1.0 - 2.0 / 2.23, abs=1e-6)


def test_below_the_limit_costs_nothing():
    d = drive(steady(7.9), ground=road(limit_mps=8.0))
    assert on_road.speed_limit(d.states[:, 3], on_road.limits_mps(d), 40).value == 1.0


def test_metres_in_another_lane_are_metres_off_the_route():
    on, off = (on_road.off_route_m(drive(steady(10.0, y=y)))[-1] for y in (0.0, 3.6))
    assert on == 0.0 and off == pytest.approx(40.0)


def test_passing_a_stop_line_at_red_is_a_red_light_run_and_at_green_it_is_not():
    ground = road(stop_at_m=20.0)
    red = drive(steady(8.0), ground=ground, red=range(41))
    green = drive(steady(8.0), ground=ground)
    assert len(on_road.red_light_runs(red, on_road.crossings(red))) == 1
    assert on_road.crossings(red)[0].step == math.ceil((20.0 - FRONT_M) / 8.0 * 10)
    assert on_road.red_light_runs(green, on_road.crossings(green)) == []


def test_a_line_that_turns_red_behind_the_bumper_has_been_passed_at_green():
    ground = road(stop_at_m=20.0)
    step = on_road.crossings(drive(steady(8.0), ground=ground))[0].step
    d = drive(steady(8.0), ground=ground, red=range(step + 1, 41))
    assert on_road.red_light_runs(d, on_road.crossings(d)) == []


def test_the_line_of_the_next_lane_is_not_ours():
    d = drive(steady(8.0, y=3.6), ground=road(stop_at_m=20.0), red=range(41))
    assert on_road.crossings(d) == []


def test_a_stop_sign_wants_to_be_stood_at():
    ground = road(stop_at_m=12.0, control="stop")
    through = drive(steady(8.0), ground=ground)
    halt = 12.0 - FRONT_M - 1.0
    x = np.concatenate([np.linspace(0, halt, 20), np.full(10, halt), halt + np.arange(1, 12) * 0.4])
    stood = drive(states(x), ground=ground)
    assert len(on_road.stop_sign_runs(on_road.crossings(through))) == 1
    assert on_road.stop_sign_runs(on_road.crossings(stood)) == []


# ------------------------------------------------------------------ comfort


def braking(decel_mps2: float):
    t = np.arange(41) * 0.1
    return states(12.0 * t - 0.5 * decel_mps2 * t**2)


def test_a_steady_drive_is_comfortable():
    assert comfort.comfort(comfort.uncomfortable(steady(10.0)), 40).value == 1.0


@pytest.mark.parametrize(("decel", "value"), [(2.0, 1.0), (4.3, 0.0)])
def test_braking_beyond_4_05_is_not(decel: float, value: float):
    bad = comfort.uncomfortable(braking(decel))
    assert float(not bad[10:].any()) == value  # the first second holds the onset


def test_a_bend_at_speed_is_uncomfortable_sideways():
    t = np.arange(41) * 0.1
    for radius, value in ((40.0, 1.0), (15.0, 0.0)):
        yaw = 10.0 * t / radius
        d = states(radius * np.sin(yaw), radius * (1 - np.cos(yaw)), yaw)
        assert float(not comfort.uncomfortable(d)[10:].any()) == value


# ------------------------------------------------------------------ formulas

PERFECT = dict.fromkeys((*formulas.FACTORS, *formulas.WEIGHTS), 1.0)


def test_cls_of_a_perfect_drive_is_one_and_every_factor_can_void_it():
    assert formulas.cls(PERFECT) == 1.0
    for name in formulas.FACTORS:
        assert formulas.cls({**PERFECT, name: 0.0}) == 0.0


@pytest.mark.parametrize(
    ("name", "left"),
    [("time_to_collision", 11), ("ego_progress", 11), ("speed_limit", 12), ("comfort", 14)],
)
def test_weights_are_nuplans(name: str, left: int):
    assert formulas.cls({**PERFECT, name: 0.0}) == pytest.approx(left / 16)


def test_progress_is_a_share_of_the_humans_and_small_ones_are_equal():
    assert formulas.ego_progress(30.0, 60.0) == 0.5
    assert formulas.ego_progress(90.0, 60.0) == 1.0
    assert formulas.ego_progress(0.0, 0.0) == 1.0


def test_driving_score_of_carla_21_is_a_quotient():
    assert formulas.driving_score(1.0, []) == 100.0
    assert formulas.driving_score(1.0, ["collision_vehicle"]) == pytest.approx(100 / 1.7)
    assert formulas.driving_score(0.5, ["red_light", "timeout"]) == pytest.approx(50 / 1.8)
    two = formulas.driving_score(1.0, ["collision_person"] * 2)
    assert two == pytest.approx(100 / 3)


def test_what_has_no_cost_in_carla_costs_nothing():
    assert formulas.driving_score(1.0, ["off_road", "wrong_way"]) == 100.0


def test_route_completion_loses_metres_outside_the_route():
    assert formulas.route_completion(50.0, 100.0, 0.2) == pytest.approx(0.4)
    assert formulas.route_completion(120.0, 100.0, 0.0) == 1.0


def test_alpasim_asks_for_four_fifths_and_forgives_nothing():
    assert formulas.alpasim(80.0, 100.0, False, False) == 1.0
    assert formulas.alpasim(40.0, 100.0, False, False) == pytest.approx(0.5)
    assert formulas.alpasim(100.0, 100.0, True, False) == 0.0
    assert formulas.alpasim(100.0, 100.0, False, True) == 0.0
    assert formulas.alpasim(0.0, 4.0, False, False) == 1.0


def test_neuroncap_pays_five_without_a_crash_and_for_a_softer_one():
    assert formulas.neuro_ncap(float("nan"), 10.0) == 5.0
    assert formulas.neuro_ncap(5.0, 10.0) == pytest.approx(2.0)
    assert formulas.neuro_ncap(12.0, 10.0) == 0.0
