"""Poses, boxes and polylines: values by hand, and laws that hold for any numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentvla_core import geometry

METRES = st.floats(-5e3, 5e3)
ANGLES = st.floats(-20.0, 20.0)
POSES = st.tuples(METRES, METRES, ANGLES).map(np.array)
QUARTER = np.pi / 2
laws = settings(max_examples=50, deadline=None)


def same_angle(a, b) -> bool:
    """Whether two angles point the same way, whatever turns lie between them."""
    return bool(np.allclose(np.cos(a), np.cos(b)) and np.allclose(np.sin(a), np.sin(b)))


@pytest.mark.parametrize(
    ("angle", "wrapped", "modulo"),
    [
        (0.0, 0.0, 0.0),
        (3 * QUARTER, -QUARTER, -QUARTER),
        (-3 * QUARTER, QUARTER, QUARTER),
        (7.0, 7.0 - 2 * np.pi, 7.0 - 2 * np.pi),
        (np.pi, np.pi, -np.pi),
        (-np.pi, -np.pi, -np.pi),
    ],
)
def test_the_two_ways_to_bring_an_angle_home_differ_only_at_half_a_turn(angle, wrapped, modulo):
    assert geometry.wrap(angle) == pytest.approx(wrapped)
    assert geometry.principal(angle) == pytest.approx(modulo)


@laws
@given(ANGLES)
def test_an_angle_brought_home_points_the_same_way_and_lies_within_half_a_turn(angle):
    for home in (geometry.wrap, geometry.principal):
        assert same_angle(home(angle), angle)
        assert -np.pi <= home(angle) <= np.pi


def test_a_quarter_turn_is_counter_clockwise():
    np.testing.assert_allclose(geometry.rotate(np.array([1.0, 0.0]), QUARTER), [0, 1], atol=1e-12)
    np.testing.assert_allclose(geometry.rotate(np.array([0.0, 1.0]), QUARTER), [-1, 0], atol=1e-12)


def test_many_vectors_turn_each_by_their_own_angle():
    turned = geometry.rotate(np.array([[2.0, 0.0], [2.0, 0.0]]), np.array([0.0, np.pi]))
    np.testing.assert_allclose(turned, [[2, 0], [-2, 0]], atol=1e-12)


@laws
@given(st.tuples(METRES, METRES).map(np.array), ANGLES)
def test_turning_keeps_lengths_and_turning_back_undoes_it(vector, angle):
    turned = geometry.rotate(vector, angle)
    assert np.linalg.norm(turned) == pytest.approx(np.linalg.norm(vector))
    np.testing.assert_allclose(geometry.rotate(turned, -angle), vector, atol=1e-8)


def test_a_pose_ahead_of_a_car_that_faces_north_lies_north_of_it():
    car = np.array([10.0, 20.0, QUARTER])
    ahead, left = np.array([5.0, 0.0, 0.0]), np.array([0.0, 2.0, QUARTER])
    np.testing.assert_allclose(geometry.to_global(car, ahead), [10, 25, QUARTER])
    found = geometry.to_global(car, left)
    np.testing.assert_allclose(found[:2], [8, 20])
    assert same_angle(found[2], np.pi)


@laws
@given(POSES, POSES)
def test_into_a_frame_and_out_again_is_where_one_started(origin, pose):
    back = geometry.to_global(origin, geometry.to_local(origin, pose))
    np.testing.assert_allclose(back[:2], pose[:2], atol=1e-7)
    assert same_angle(back[2], pose[2])


@laws
@given(POSES)
def test_everybody_is_the_origin_of_their_own_frame(pose):
    np.testing.assert_allclose(geometry.to_local(pose, pose), np.zeros(3), atol=1e-9)


@laws
@given(POSES, POSES, POSES)
def test_frames_compose(first, second, pose):
    through = geometry.to_global(first, geometry.to_global(second, pose))
    at_once = geometry.to_global(geometry.to_global(first, second), pose)
    np.testing.assert_allclose(through[:2], at_once[:2], atol=1e-6)
    assert same_angle(through[2], at_once[2])


def test_one_origin_serves_a_whole_plan():
    plan = np.zeros((8, 3)) + np.arange(8)[:, None] * [1.0, 0.0, 0.0]
    found = geometry.to_global(np.array([1.0, 1.0, np.pi]), plan)
    np.testing.assert_allclose(found[:, 0], 1.0 - np.arange(8), atol=1e-12)
    np.testing.assert_allclose(found[:, 1], 1.0, atol=1e-12)


def test_corners_go_round_from_the_front_left():
    corners = geometry.box_corners(np.array([10.0, 0.0, 0.0]), 4.0, 2.0)
    np.testing.assert_allclose(corners, [[12, 1], [8, 1], [8, -1], [12, -1]])
    turned = geometry.box_corners(np.array([10.0, 0.0, QUARTER]), 4.0, 2.0)
    np.testing.assert_allclose(turned, [[9, 2], [9, -2], [11, -2], [11, 2]], atol=1e-12)


def test_every_box_has_its_own_size():
    centers = np.zeros((2, 3))
    corners = geometry.box_corners(centers, np.array([2.0, 4.0]), np.array([1.0, 6.0]))
    assert corners.shape == (2, 4, 2)
    np.testing.assert_allclose(corners[0, 0], [1.0, 0.5])
    np.testing.assert_allclose(corners[1, 0], [2.0, 3.0])


@laws
@given(POSES, st.floats(0.1, 20.0), st.floats(0.1, 5.0))
def test_a_box_keeps_its_area_and_centre_however_it_stands(center, length, width):
    x, y = geometry.box_corners(center, length, width).T - center[:2, None]
    area = 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))
    assert area == pytest.approx(length * width, rel=1e-6)
    np.testing.assert_allclose([x.mean(), y.mean()], [0, 0], atol=1e-9)


@pytest.mark.parametrize("yaw", [-3.0, -QUARTER, 0.0, 0.4, 3.1])
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_the_yaw_of_a_flat_quaternion_is_its_turn_whatever_its_length(yaw, scale):
    q = scale * np.array([np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)])
    assert geometry.yaw_from_quaternion(q) == pytest.approx(yaw)


def test_a_tilted_quaternion_follows_the_devkit_whose_sign_is_its_own():
    w, x, y, z = q = np.array([0.9, 0.3, 0.2, 0.25]) / np.linalg.norm([0.9, 0.3, 0.2, 0.25])
    expected = np.arctan2(2 * (w * z - x * y), 1 - 2 * (y * y + z * z))
    textbook = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    assert geometry.yaw_from_quaternion(q) == pytest.approx(expected)
    assert abs(expected - textbook) > 0.1


def test_length_along_a_line_starts_at_nothing_and_adds_its_pieces():
    line = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0], [3.0, 10.0]])
    np.testing.assert_allclose(geometry.arc_length(line), [0, 5, 5, 11])
    np.testing.assert_allclose(geometry.arc_length(line[:1]), [0.0])
