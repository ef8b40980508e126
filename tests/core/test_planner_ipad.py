"""iPad: deformable attention against a naive loop, anchors against the calibration, proposals
against hand counts.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planner_factory import CAMERAS, PICTURE_WH, arc, make_records, straight_world
from torch import Tensor

from latentvla_core.data.projections import projections
from latentvla_core.geometry import box_corners
from latentvla_core.planner.hosts.deformable import (
    PictureCrossAttention,
    QuerySelfAttention,
    project,
    sample,
)
from latentvla_core.planner.hosts.ipad import SCORES
from latentvla_core.planner.hosts.ipad_config import IpadConfig
from latentvla_core.planner.hosts.ipad_layer import (
    HALF_LENGTH_M,
    HALF_WIDTH_M,
    Anchors,
    box_points,
)
from latentvla_core.planner.hosts.ipad_loss import collision_loss, proposal_loss
from latentvla_core.planner.hosts.proposal_targets import Simulator, scene_targets
from latentvla_core.planner.hosts.resnet import grid_mask
from latentvla_core.types import Vehicle

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("scenes"), 3)


def sample_loop(values: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """`sample` by its definition, one point at a time."""
    values, locations, weights = values.detach(), locations.detach(), weights.detach()
    batch, heads, width, rows, columns = values.shape
    queries, points = locations.shape[1], locations.shape[3]
    out = torch.zeros(batch, queries, heads, width, dtype=values.dtype)
    for b, q, h, s in torch.cartesian_prod(
        *(torch.arange(n) for n in (batch, queries, heads, points))
    ).tolist():
        x = (
            float(locations[b, q, h, s, 0]) * columns - 0.5
        )  # centre of the first cell is at half a cell
        y = float(locations[b, q, h, s, 1]) * rows - 0.5
        left, top = int(x // 1), int(y // 1)
        for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            if 0 <= row < rows and 0 <= column < columns:
                near = (1 - abs(x - column)) * (1 - abs(y - row))
                out[b, q, h] += weights[b, q, h, s] * near * values[b, h, :, row, column]
    return out.flatten(2)


def test_sampling_equals_the_naive_loop_also_outside_of_the_map():
    torch.manual_seed(0)
    values = torch.randn(2, 3, 4, 5, 7, dtype=torch.float64)
    locations = torch.rand(2, 6, 3, 4, 2, dtype=torch.float64) * 1.6 - 0.3
    weights = torch.rand(2, 6, 3, 4, dtype=torch.float64)
    assert torch.allclose(
        sample(values, locations, weights), sample_loop(values, locations, weights), atol=1e-12
    )


def test_a_location_at_a_cell_centre_reads_that_cell():
    values = torch.arange(12.0).reshape(1, 1, 1, 3, 4)  # row-major
    locations = torch.tensor([(2 + 0.5) / 4, (1 + 0.5) / 3]).reshape(1, 1, 1, 1, 2)
    assert sample(values, locations, torch.ones(1, 1, 1, 1)).item() == 6.0


def test_self_attention_equals_its_definition():
    torch.manual_seed(0)
    layer = QuerySelfAttention(16, heads=2, anchors=1, points=3)
    torch.nn.init.normal_(layer.offset.weight, std=0.3)
    torch.nn.init.normal_(layer.weight.weight)
    queries, anchors = torch.randn(2, 12, 16), torch.rand(2, 12, 2)
    locations, weights = layer.aims(queries, anchors[:, :, None], (3, 4))
    naive = layer.out(sample_loop(layer.values(queries, (3, 4)), locations, weights))
    assert torch.allclose(layer(queries, anchors, (3, 4)), naive, atol=1e-5)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 12, 2))


def test_cross_attention_averages_over_the_cameras_that_see():
    torch.manual_seed(0)
    layer = PictureCrossAttention(8, heads=2, anchors=3, points=2)
    pictures, queries = torch.randn(1, 2, 8, 4, 6), torch.randn(1, 5, 8)
    anchors, seen = torch.rand(1, 2, 5, 3, 2), torch.ones(1, 2, 5, 3, dtype=torch.bool)
    both = layer(queries, pictures, anchors, seen)
    alone = []
    for camera in range(2):
        mask = torch.zeros_like(seen)
        mask[:, camera] = True
        alone.append(layer(queries, pictures, anchors, mask))
    assert torch.allclose(both, (alone[0] + alone[1]) / 2, atol=1e-6)
    blind = layer(queries, pictures, anchors, torch.zeros_like(seen))
    assert torch.allclose(blind, layer.out.bias.expand_as(blind))


def test_projection_equals_the_calibrated_pinhole(records):
    record = records[0]
    matrices = projections([record], CAMERAS)[0]
    points = np.random.default_rng(0).uniform((-30, -30, -2), (60, 30, 6), (200, 3))
    uv, inside = project(torch.tensor(points)[None], torch.tensor(matrices)[None])
    assert inside.any(dim=2).all()
    for c in range(len(CAMERAS)):
        at = record.camera_names.index(CAMERAS[c])
        in_camera = (points - record.camera_translations_m[at]) @ record.camera_rotations[
            at
        ]  # x right, y down, z ahead
        pixels = (record.camera_intrinsics_px[at] @ in_camera.T).T
        pixels = pixels[:, :2] / pixels[:, 2:]
        visible = (
            (in_camera[:, 2] > 0.5) & (pixels >= 0).all(1) & (pixels <= np.array(PICTURE_WH)).all(1)
        )
        assert np.array_equal(inside[0, c].numpy(), visible)
        assert np.allclose(uv[0, c].numpy()[visible], pixels[visible] / np.array(PICTURE_WH))


def test_a_point_straight_ahead_at_camera_height_is_in_the_middle_of_the_front_picture(records):
    matrices = torch.tensor(projections(records[:1], ("CAM_F0",)))
    uv, inside = project(
        torch.tensor([[[20.0, 0.0, 1.5], [-20.0, 0.0, 1.5], [20.0, 2.0, 1.5]]]).double(), matrices
    )
    assert torch.allclose(uv[0, 0, 0], torch.tensor([0.5, 0.5]).double())
    assert inside[0, 0].tolist() == [True, False, True]
    assert uv[0, 0, 2, 0] < 0.5  # left of the ego is left in the picture


def test_box_points_are_the_corners_of_the_ego_box():
    poses = torch.tensor([[[10.0, -3.0, 0.7], [0.0, 0.0, 0.0]]], dtype=torch.float64)
    points = box_points(poses, heights=4).unflatten(2, (4, 4))  # (1, 2, corner, height, 3)
    centers = poses[0].numpy().copy()
    centers[:, 0] += np.cos(centers[:, 2]) * Vehicle.REAR_AXLE_TO_CENTER_M
    centers[:, 1] += np.sin(centers[:, 2]) * Vehicle.REAR_AXLE_TO_CENTER_M
    corners = box_corners(centers, 2 * HALF_LENGTH_M, 2 * HALF_WIDTH_M)
    assert np.allclose(points[0, :, :, 0, :2].numpy(), corners)
    assert points[0, 0, 0, :, 2].tolist() == pytest.approx([-2.0, 2 / 3, 10 / 3, 6.0])


def test_visibility_is_that_of_each_sample(records):
    projection = torch.tensor(projections(records, CAMERAS)).float()
    has_image = torch.tensor([[False, False, False], [True, True, True], [True, False, True]])
    poses = torch.tensor(arc(8.0, 0.0)).float().expand(3, 2, 8, 3)
    anchors = Anchors.of(poses, projection, has_image, heights=2)
    assert not anchors.seen[0].any()
    assert anchors.seen[1, 0].any()
    assert torch.equal(anchors.seen[1, 0], anchors.seen[2, 0])
    assert torch.allclose(anchors.on_map[0, 0], torch.tensor([(4.0 + 32) / 64, 0.5]))


def test_proposal_loss_counts_the_nearest_and_discounts_early_iterations():
    truth = torch.zeros(1, 8, 3)
    proposals = torch.zeros(2, 1, 3, 8, 3)
    proposals[0, 0, :, :, 0] = torch.tensor([5.0, -2.0, 3.0])[
        :, None
    ]  # first iteration: the nearest is 2 m off
    proposals[1, 0, :, :, 1] = torch.tensor([1.0, 4.0, 4.0])[:, None]  # last: 1 m
    proposals.requires_grad_()
    loss, nearest = proposal_loss(proposals, truth, 0.1)
    assert loss.item() == pytest.approx(0.1 * 2.0 + 1.0)
    assert nearest.item() == pytest.approx(1.0)
    loss.backward()
    assert proposals.grad is not None
    assert proposals.grad[1, 0].abs().sum((1, 2)).ne(0).tolist() == [True, False, False]


def test_simulated_targets_of_a_good_a_colliding_and_an_off_road_proposal(records):
    world = straight_world(records[0], parked_at_m=25.0)
    speed = float(records[0].ego_velocity_mps[0])
    stop = np.zeros((8, 3))
    stop[:, 0] = speed * (0.5 * np.arange(1, 9)).clip(max=1.0)
    crash, leave = arc(8.0, 0.0), arc(6.0, 0.08)
    targets = scene_targets(world, np.stack([stop, crash, leave]), steps=8)
    total, contact = SCORES.index("score"), SCORES.index("no_at_fault_collisions")
    assert targets.valid.all()
    assert targets.scores[:, contact].tolist() == [1.0, 0.0, 1.0]
    assert targets.scores[1, total] == 0.0
    assert targets.scores[2, SCORES.index("drivable_area_compliance")] == 0.0
    assert not targets.areas[:2, ..., 0].any()
    assert targets.areas[2, -1, :, 0].all()
    assert not targets.areas[2, 0, :, 0].any()
    assert targets.collisions[1, :4, 0, 8].all()
    assert not targets.collisions[1, 6:, 0, 8].any()  # it has been hit
    assert not targets.collisions[2].any()
    ego_y = records[0].ego_pose[1]
    assert np.allclose(
        targets.collisions[1, 0, 0, :8].reshape(4, 2).mean(0), [25.0, 0.0 - ego_y], atol=1e-4
    )


def test_scenes_without_a_world_are_masked(records):
    simulator = Simulator([None, straight_world(records[1])])
    targets = simulator([0, 1], np.tile(arc(8.0, 0.0), (2, 2, 1, 1)), 4)
    assert targets.valid.tolist() == [[False, False], [True, True]]
    assert not targets.scores[0].any()
    assert targets.collisions.shape == (2, 2, 4, 2, 9)


def test_collision_loss_ignores_corners_where_nobody_is():
    config = IpadConfig(collision_box_weight=1.0, collision_weight=0.0)
    truth = torch.zeros(2, 4, 2, 9)
    truth[0, 0, 0, 8] = 1.0
    predicted = torch.full_like(truth, 3.0)
    assert collision_loss(config, predicted, truth).item() == pytest.approx(3.0)
    assert collision_loss(config, predicted, torch.zeros_like(truth)).item() == 0.0


def test_grid_mask_makes_holes_with_its_probability():
    torch.manual_seed(0)
    pixels = torch.ones(200, 3, 32, 64)
    masked = grid_mask(pixels, 0.7)
    touched = (masked == 0).flatten(1).any(1).float().mean().item()
    assert 0.6 < touched < 0.8
    assert torch.equal(grid_mask(pixels, 0.0), pixels)
