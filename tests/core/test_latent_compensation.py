"""The first frame as seen from the second pose: ground moves as geometry says, and where nothing is
known nothing is changed.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from latent_little_world import CENTRE_Y_PX, SIZE_WH, little_records

from latentvla_core.latent.environment.change import FLOOR, cells_of, change
from latentvla_core.latent.environment.compensation import calibrated, compensated, sampled_at
from latentvla_core.latent.features import FeatureConfig, PixelFeatures, from_map, to_map
from latentvla_core.latent.pairs import collect_pairs, mirrored, mirrored_projections
from latentvla_core.training.images import ImageCache
from latentvla_core.world.sensors.calibration import camera_rig

FEATURES = FeatureConfig(image_size_wh=SIZE_WH)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return collect_pairs(
        little_records(tmp_path_factory.mktemp("drives"), logs=4), 2, ImageCache(SIZE_WH)
    )


def seen(pairs, index, flip=None):
    """Features (B, 2, P, D), motion and projections as tensors."""
    waypoints, _, projections = pairs.told(index, flip)
    pictures = torch.from_numpy(np.ascontiguousarray(pairs.pictures(index, flip)))
    return (
        PixelFeatures(FEATURES)(pictures),
        torch.from_numpy(waypoints[:, -1]),
        torch.from_numpy(projections),
    )


def test_features_come_back_from_their_map():
    for config in (
        FEATURES,
        FeatureConfig(kind="dinov2", image_size_wh=(56, 28), patch_px=14, dim=24),
    ):
        x = torch.randn(2, config.grid_hw[0] * config.grid_hw[1], config.dim)
        assert torch.equal(from_map(to_map(x, config), config), x)
    picture = torch.randint(0, 256, (1, 32, 64, 3), dtype=torch.uint8)
    shown = to_map(PixelFeatures(FEATURES)(picture), FEATURES)
    torch.testing.assert_close(
        (shown * 0.25 + 0.5) * 255, picture.permute(0, 3, 1, 2).float(), atol=1e-3, rtol=0
    )


def test_the_road_of_the_second_frame_is_that_of_the_first_moved(pairs):
    """On the ground the compensated frame is far nearer to the second one than the first frame is."""
    x, motion, projections = seen(pairs, np.flatnonzero(pairs.motion[:, 0] > 3))
    moved = to_map(compensated(x[:, 0], projections, motion, FEATURES), FEATURES)
    first, second = (to_map(x[:, i], FEATURES) for i in range(2))
    near = slice(int(CENTRE_Y_PX) + 4, None)  # rows that show the ground nearer than the backdrop
    errors = [float((picture - second)[:, :, near].square().mean()) for picture in (first, moved)]
    assert errors[1] < 0.6 * errors[0], errors


def test_a_point_of_the_road_is_sampled_where_it_was_seen(pairs):
    """10 m ahead and 1 m left of the second pose, through the projection by hand."""
    x, motion, projections = seen(pairs, np.arange(3))
    projection = projections[0].double().numpy()
    here, turned = np.array([10.0, 1.0]), float(motion[0, 2])
    turn = np.array([[np.cos(turned), -np.sin(turned)], [np.sin(turned), np.cos(turned)]])
    then = turn @ here + motion[0, :2].numpy()
    now_uv, then_uv = (
        (p[:2] / p[2])
        for p in (projection @ np.array([*point, 0.0, 1.0]) for point in (here, then))
    )
    grid = sampled_at(projections[:1].double(), motion[:1].double(), (400, 800))[0].numpy()
    row, column = (now_uv[::-1] * [400, 800]).astype(int)
    np.testing.assert_allclose((grid[row, column] + 1) / 2, then_uv, atol=3e-3)


def test_who_stands_sees_the_same(pairs):
    x, motion, projections = seen(pairs, np.arange(5))
    torch.testing.assert_close(
        compensated(x[:, 0], projections, 0 * motion, FEATURES), x[:, 0], atol=1e-4, rtol=0
    )


def test_a_camera_without_calibration_leaves_its_frames_alone(pairs):
    x, motion, projections = seen(pairs, np.arange(5))
    unknown = projections.clone()
    unknown[2] = torch.nan
    found = compensated(x[:, 0], unknown, motion, FEATURES)
    assert torch.equal(found[2], x[2, 0])
    rest = [0, 1, 3, 4]
    assert torch.equal(
        found[rest], compensated(x[rest, 0], projections[rest], motion[rest], FEATURES)
    )
    assert torch.equal(compensated(x[:, 0], 0 * unknown + torch.nan, motion, FEATURES), x[:, 0])


def test_a_mirrored_drive_is_compensated_to_the_mirror_picture(pairs):
    """The camera looks a little aside and sits off the middle: a symmetric one would not notice a
    missing mirror.
    """
    index = np.arange(8)
    rig = camera_rig((64, 32))["CAM_F0"]
    outward = np.concatenate([rig.rotation.T, -rig.rotation.T @ rig.translation_m[:, None]], axis=1)
    aside = np.diag([1 / 64, 1 / 32, 1.0]) @ rig.intrinsics_px @ outward
    pairs = replace(pairs, projections=np.repeat(aside[None], len(pairs), axis=0))
    assert not np.allclose(mirrored_projections(pairs.projections), pairs.projections, atol=1e-3)
    plain, turned = (seen(pairs, index, np.full(8, flip)) for flip in (False, True))
    one, other = (
        to_map(compensated(x[:, 0], p, m, FEATURES), FEATURES) for x, m, p in (plain, turned)
    )
    torch.testing.assert_close(one, other.flip(-1), atol=1e-3, rtol=0)
    waypoints, _ = mirrored(pairs.waypoints[index], pairs.states[index], np.ones(8, bool))
    twice = mirrored_projections(mirrored_projections(pairs.projections))
    np.testing.assert_allclose(twice, pairs.projections, atol=1e-12)
    np.testing.assert_array_equal(waypoints, pairs.told(index, np.ones(8, bool))[0])


def test_records_without_the_camera_have_no_projection(tmp_path):
    records = little_records(tmp_path, logs=1)
    blind = [replace(r, camera_names=(), camera_paths=()) for r in records]
    assert np.isnan(collect_pairs(blind, 2, ImageCache(SIZE_WH)).projections).all()
    assert np.isfinite(collect_pairs(records, 2, ImageCache(SIZE_WH)).projections).all()


def test_impossible_calibrations_are_none(pairs):
    """Zero intrinsics, a camera on the road or below it: finite numbers that geometry cannot use."""
    good = torch.from_numpy(pairs.told(np.arange(1))[2])[0]
    flat, low = torch.zeros_like(good), good.clone()
    low[:, 3] = 0.0  # the camera in the origin of the ego frame, on the road
    assert calibrated(torch.stack([good, flat, low, good + torch.nan])).tolist() == [
        True,
        False,
        False,
        False,
    ]
    x = torch.randn(4, 32, 192)
    found = compensated(
        x, torch.stack([good, flat, low, good]), torch.tensor([[4.0, 0.0, 0.1]] * 4), FEATURES
    )
    assert [torch.equal(a, b) for a, b in zip(found, x, strict=True)] == [False, True, True, False]


def test_a_calibration_does_not_depend_on_which_scene_comes_first(tmp_path):
    """The current picture of one scene is gone; the others of its log tell the size of them all."""
    records = little_records(tmp_path, logs=1, stride=1)
    gone = replace(records[0], camera_paths=("log-0/none.jpg",))
    orders = [[gone, *records[1:]], [*records[1:], gone]]
    found = [collect_pairs(order, 2, ImageCache(SIZE_WH)).projections for order in orders]
    assert np.isfinite(found[0]).all() and np.isfinite(found[1]).all()


def test_change_is_zero_where_nothing_changed_and_names_the_cell_where_something_did():
    x = torch.randn(1, 32, 192)
    assert change(x, x, FEATURES).abs().max() == 0
    second = to_map(x, FEATURES).clone()
    second[:, :, 8:12, 20:24] += (
        1.0  # one cell of the second row of patches: its upper half, right part of the third
    )
    found = change(x, from_map(second, FEATURES), FEATURES)
    assert found.shape == (1, 32, cells_of(FEATURES)) == (1, 32, 4)
    assert torch.nonzero(found).tolist() == [[0, 8 + 2, 1]]
    torch.testing.assert_close(found[0, 10, 1], torch.log1p(torch.tensor(1.0 / FLOOR)) / 2)


def test_change_counts_on_a_logarithmic_scale():
    """A car of a hundred times the contrast counts about twice as much, not a hundred times."""
    x = torch.zeros(2, 32, 192)
    faint, bright = (change(x[:1], x[:1] + step, FEATURES)[0, 0, 0] for step in (1.0, 10.0))
    assert 1.3 < float(bright / faint) < 2.2
