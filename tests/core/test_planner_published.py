"""The hosts at `paper` size are the published ones: parameters counted part by part, and the layers
that the small sizes go without.
"""

from __future__ import annotations

from dataclasses import replace
from math import radians

import numpy as np
import pytest
import torch
from planner_factory import arc, make_records, straight_world
from torch import Tensor, nn

from latentvla_core.planner.hosts.deformable import (
    PictureCrossAttention,
    QuerySelfAttention,
    sample,
)
from latentvla_core.planner.hosts.ipad_config import IpadConfig
from latentvla_core.planner.hosts.ipad_layer import Anchors, LearnedPosition, head
from latentvla_core.planner.hosts.proposal_targets import scene_targets
from latentvla_core.planner.hosts.transfuser import Exchange, TransfuserConfig
from latentvla_core.planner.hosts.transfuser_loss import agent_losses, in_sight
from latentvla_core.planner.model import HOSTS, build_planner, load, save
from latentvla_core.planner.plan import plan

torch.set_num_threads(1)
RESNET_34 = 21_284_672
PUBLISHED_M = {"transfuser": 55.97, "ipad": 29.16}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("scenes"), 3)


def paper_host(name: str) -> nn.Module:
    with torch.device("meta"):
        return HOSTS[name].network(HOSTS[name].config.paper(), None, 0)


def small(config: type, **changes) -> TransfuserConfig | IpadConfig:
    """A debug-size host with the published layers."""
    return replace(config.debug(), published=True, **changes)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", list(PUBLISHED_M))
def test_paper_size_has_the_published_number_of_parameters(name):
    assert round(count(paper_host(name)) / 1e6, 2) == PUBLISHED_M[name]


def test_ipad_has_the_parts_of_the_public_code():
    """Counted by hand from the shapes of the public code (docs/results/planners.md)."""
    host = paper_host("ipad")
    parts = {name: count(module) for name, module in host.named_children()}
    assert count(host.pictures.resnet) == RESNET_34
    # FPN of one level, four cameras, one of the two levels that the public code embeds
    assert parts["pictures"] - RESNET_34 == 131_328 + 590_080 + 4 * 256 + 256
    assert parts["ego"] == 12 * 256
    assert parts["pose_head"] == 1_319_939
    assert parts["scorer"] == 1_323_014
    assert parts["area_head"] == 1_327_114
    assert parts["collision_head"] == 2_054_864
    assert count(host.layer.self_attention) == 65_664 + 32_832 + 2 * 65_792
    assert count(host.layer.picture_attention) == 65_792 + 32_896 + 2 * 65_792
    assert count(host.layer.position) == (64 + 8) * 128


def test_transfuser_has_the_parts_of_the_public_code():
    host = paper_host("transfuser")
    first_of_lidar = 64 * 7 * 7 * 2  # one channel in place of three
    assert count(host.backbone.image) == RESNET_34
    assert count(host.backbone.lidar) == RESNET_34 - first_of_lidar
    gpt = {64: 120_576, 128: 437_760, 256: 1_661_952, 512: 6_469_632}
    for exchange, (width, blocks) in zip(host.backbone.exchanges, gpt.items(), strict=True):
        assert count(exchange) == blocks + 2 * (width * width + width)
    assert count(host.decoder) == 3 * 1_053_440
    assert count(host.pyramid) + count(host.semantic_head) == 73_856 + 32_832 + 37_383


@pytest.mark.parametrize("name", list(PUBLISHED_M))
def test_published_layers_learn_plan_and_survive_a_folder(name, records, tmp_path):
    host = build_planner(name, small(HOSTS[name].config), seed=1)
    poses = plan(host, records)
    assert np.isfinite(poses).all()
    assert np.allclose(plan(host, records[1:2])[0], poses[1], atol=1e-4)  # alone as in the batch
    save(host, tmp_path / "host")
    assert np.array_equal(plan(load(tmp_path / "host"), records), poses)


def test_folders_of_before_keep_their_lighter_layers(records, tmp_path):
    """A saved configuration without `published` is that of a model without those layers."""
    host = build_planner("ipad", IpadConfig.debug())
    folder = save(host, tmp_path / "old")
    text = (folder / "config.json").read_text()
    assert '"published": false' in text
    (folder / "config.json").write_text(text.replace('"published": false,', ""))
    assert np.array_equal(plan(load(folder), records), plan(host, records))


def test_two_queues_average_two_readings_of_one_map():
    torch.manual_seed(0)
    both = QuerySelfAttention(16, heads=2, anchors=1, points=3, queues=2)
    nn.init.normal_(both.offset.weight, std=0.3)
    nn.init.normal_(both.weight.weight)
    queries, anchors, position = torch.randn(2, 12, 16), torch.rand(2, 12, 2), torch.randn(12, 16)

    asked = torch.cat([queries, queries + position], -1)
    locations, weights = both.aims(asked, anchors[:, :, None], (3, 4))  # 2 queues of 2 heads

    def half(queue: int) -> Tensor:
        values, own = both.values(queries, (3, 4)), slice(2 * queue, 2 * queue + 2)
        return both.out(sample(values, locations[:, :, own], weights[:, :, own]))

    mixed = both(queries, anchors, (3, 4), position)
    assert torch.allclose(mixed, (half(0) + half(1)) / 2, atol=1e-5)
    assert not torch.allclose(half(0), half(1), atol=1e-3)
    assert not torch.allclose(both(queries, anchors, (3, 4)), mixed, atol=1e-3)


def test_positions_tell_proposals_and_steps_apart():
    position = LearnedPosition((3, 8), 16)().unflatten(0, (3, 8))
    assert torch.equal(position[0, :, :8], position[2, :, :8])  # the step's half
    assert torch.equal(position[:, 0, 8:], position[:, 5, 8:])  # the proposal's half
    assert len(position.flatten(0, 1).unique(dim=0)) == 24


def test_a_camera_that_sees_one_anchor_of_a_query_is_read_at_all_of_them(records):
    from latentvla_core.data.projections import projections

    projection = torch.tensor(projections(records, ("CAM_F0", "CAM_L0", "CAM_R0"))).float()
    has_image = torch.tensor([[True, True, False]] * 3)
    poses = torch.tensor(arc(4.0, 0.02)).float().expand(3, 2, 8, 3)
    single = Anchors.of(poses, projection, has_image, heights=2)
    whole = Anchors.of(poses, projection, has_image, heights=2, by_query=True)
    partly = single.seen.any(-1) & ~single.seen.all(-1)
    assert partly.any()  # else there would be nothing to tell apart
    assert torch.equal(whole.seen.all(-1), single.seen.any(-1))
    assert not whole.seen[:, 2].any()  # a camera without a picture stays unread


def test_anchors_outside_of_a_picture_add_nothing():
    torch.manual_seed(0)
    layer = PictureCrossAttention(8, heads=2, anchors=2, points=1)
    pictures, queries = torch.randn(1, 1, 8, 4, 6), torch.randn(1, 5, 8)
    anchors = torch.full((1, 1, 5, 2, 2), 0.5)
    anchors[..., 1, :] = -9.0
    seen = torch.ones(1, 1, 5, 2, dtype=torch.bool)
    half = seen.clone()
    half[..., 1] = False
    read = layer(queries, pictures, anchors, seen)
    assert torch.allclose(read, layer(queries, pictures, anchors, half), atol=1e-6)


def test_published_heads_have_three_layers_with_norms():
    kinds = [type(layer).__name__ for layer in head(IpadConfig.paper(), 6)]
    assert kinds == ["Linear", "LayerNorm", "ReLU"] * 2 + ["Linear"]
    assert [type(x).__name__ for x in head(IpadConfig.mini(), 6)][-2:] == ["Linear", "Dropout"]


def test_boxes_of_a_hit_agent_end_at_the_contact(records):
    world = straight_world(records[0], parked_at_m=25.0)
    targets = scene_targets(world, arc(8.0, 0.0)[None], steps=40)
    there = targets.collisions[0, :, 0, 8].astype(bool)
    front_m = 25.0 - 4.5 / 2
    contact_s = (front_m - 1.461 - 5.176 / 2) / 8.0  # a plan that does not brake
    assert there[: int(10 * contact_s) - 4].all()
    assert not there[int(10 * contact_s) + 6 :].any()
    assert np.flatnonzero(~there)[0] == there.sum()  # no gap: from now until then
    nearly = targets.collisions[0, :, 1, 8].sum()
    assert 0 < nearly < there.sum()  # it was foreseen before it happened


def test_an_exchange_without_the_lidar_branch_s_convolutions_says_something_else():
    torch.manual_seed(0)
    grids, image, bev = ((1, 4), (2, 2)), torch.randn(2, 8, 4, 16), torch.randn(2, 8, 8, 8)
    exchange = Exchange(8, grids, small(TransfuserConfig)).eval()
    nn.init.normal_(exchange.position)
    before = exchange(image, bev)
    nn.init.zeros_(exchange.to_lidar.weight)
    nn.init.zeros_(exchange.to_lidar.bias)
    after = exchange(image, bev)
    assert torch.equal(after[0], before[0])  # the way back speaks to the lidar branch alone
    assert torch.equal(after[1], bev)
    nn.init.zeros_(exchange.to_exchange.weight)
    assert not torch.allclose(exchange(image, bev)[0], before[0])  # the way in reaches both


def test_a_planner_without_lidar_is_not_asked_for_agents_behind_its_cameras():
    angles = torch.tensor([0.0, radians(79), radians(-79), radians(81), radians(180)])
    boxes = torch.zeros(1, 5, 5)
    boxes[0, :, 0], boxes[0, :, 1] = 10 * angles.cos(), 10 * angles.sin()
    blind = small(TransfuserConfig, agents=5)
    assert in_sight(blind, boxes).tolist() == [[True, True, True, False, False]]
    assert in_sight(replace(blind, latent=False), boxes).all()
    assert in_sight(replace(blind, published=False), boxes).all()
    targets = {
        "boxes": boxes,
        "is_agent": torch.ones(1, 5).bool(),
        "has_boxes": torch.ones(1).bool(),
    }
    predicted, sure = boxes.clone(), torch.tensor([[20.0, 20.0, 20.0, -20.0, -20.0]])
    assert agent_losses(blind, predicted, sure, targets)[0].item() < 1e-6
    assert agent_losses(replace(blind, published=False), predicted, sure, targets)[0].item() > 1.0
