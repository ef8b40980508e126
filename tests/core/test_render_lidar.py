"""The sweep meets the road and the faces of boxes, and nothing behind them."""

from __future__ import annotations

import numpy as np

from latentvla_core.types import ObjectClass
from latentvla_core.world.sensors.lidar import LidarConfig, sweep
from latentvla_core.world.showcase import crossing, moment
from latentvla_core.world.state import Actor, Prop, Scenery, Snapshot

QUIET = LidarConfig(noise_m=0.0, loss=0.0)


def lawn(*props: Prop) -> Scenery:
    return Scenery((), (), props, (), 1.0, 0.0, 0.0)


def truck(x_m: float, y_m: float, yaw: float) -> Actor:
    """A box of 8 x 2.5 x 3 m."""
    pose = np.array([x_m, y_m, yaw])
    return Actor(
        "truck", ObjectClass.VEHICLE, pose, (8.0, 2.5, 3.0), np.zeros(2), False, "off", (9, 9, 9)
    )


def snapshot(*actors: Actor) -> Snapshot:
    return Snapshot(0.0, np.array([100.0, 50.0, 0.5]), actors, {})


def test_shape_and_rows():
    points = sweep(crossing(), moment(), seed=3)
    assert points.dtype == np.float32
    assert points.shape[0] == 6
    assert points.shape[1] > 15_000
    assert np.isfinite(points).all()
    assert set(np.unique(points[5])) == {0, 1, 2}
    assert points[3].min() >= 0
    assert points[3].max() <= 255
    assert (points[4] == np.round(points[4])).all()


def test_empty_world_is_a_flat_road():
    points = sweep(lawn(), snapshot(), 0, QUIET)
    np.testing.assert_allclose(points[2], 0.0, atol=1e-5)
    assert np.hypot(points[0], points[1]).max() < 61


def test_hits_lie_on_the_faces_of_the_box_that_look_at_us():
    local = np.array([12.0, 4.0, 0.9])  # in the ego frame
    c, s = np.cos(0.5), np.sin(0.5)
    world = np.array(
        [100 + c * local[0] - s * local[1], 50 + s * local[0] + c * local[1], 0.5 + local[2]]
    )
    points = sweep(lawn(), snapshot(truck(*world)), 0, QUIET)
    above = points[:, points[2] > 0.05]
    assert above.shape[1] > 300
    c, s = np.cos(local[2]), np.sin(local[2])
    x, y = above[0] - local[0], above[1] - local[1]
    along, across = np.abs(c * x + s * y), np.abs(-s * x + c * y)
    on_end = np.abs(along - 4.0) < 0.01
    on_side = np.abs(across - 1.25) < 0.01
    assert (on_end | on_side | (np.abs(above[2] - 3.0) < 0.01)).all()
    assert (along < 4.01).all()
    assert (across < 1.26).all()


def test_nothing_is_seen_behind_a_wall():
    wall = Prop(
        "building",
        np.array([100.0 + 15 * np.cos(0.5), 50.0 + 15 * np.sin(0.5), 0.5]),
        (1.0, 30.0, 12.0),
        (1, 1, 1),
    )
    points = sweep(lawn(wall), snapshot(), 0, QUIET)
    ahead = (np.abs(points[1]) < 10) & (points[0] > 0)
    assert points[0, ahead].max() < 14.6


def test_the_seed_decides_the_noise():
    same, again, other = (sweep(crossing(), moment(), seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(same, again)
    assert same.shape != other.shape or (same != other).any()
