"""Mirrored and recoloured training: what is seen, what is aimed at and what is simulated agree."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planner_factory import CAMERAS, FEATURE_DIM, arc, make_features, make_records, straight_world

from latentvla_core.planner.augment import (
    MIRRORED,
    augmented,
    mirror_corners,
    mirror_poses,
    mirrored,
    opposite,
    recoloured,
    unmirrored,
)
from latentvla_core.planner.config import AugmentConfig, PlannerTrainConfig
from latentvla_core.planner.fusion import FusionConfig
from latentvla_core.planner.hosts.deformable import project
from latentvla_core.planner.hosts.proposal_targets import scene_targets
from latentvla_core.planner.model import HOSTS, build_planner, fuse
from latentvla_core.planner.train import train_planner
from latentvla_core.training.config import with_training

torch.set_num_threads(1)
ALL = torch.ones(4, dtype=torch.bool)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    made = make_records(tmp_path_factory.mktemp("scenes"), 4)
    moved = {
        "ego_velocity_mps": np.array([5.0, 0.5]),
        "ego_acceleration_mps2": np.array([1.0, 0.2]),
    }
    return [replace(record, **moved) for record in made]


def batch_of(name: str, records):
    host = HOSTS[name]
    config, rows = host.config.debug(), np.arange(len(records))
    inputs = host.inputs(config, records, None).batch(rows)
    return {**inputs, "targets": host.targets(config, records, None).batch(rows), "index": rows}


@pytest.mark.parametrize("name", list(HOSTS))
def test_a_mirror_in_a_mirror_is_the_scene_itself(name, records):
    batch = batch_of(name, records)
    once = mirrored(batch, ALL, CAMERAS)
    twice = mirrored(once, ALL, CAMERAS)
    for key in batch.keys() - {"targets", "index"}:
        assert torch.allclose(twice[key].float(), batch[key].float(), atol=1e-5), key
    for key, value in batch["targets"].items():
        assert torch.allclose(twice["targets"][key].float(), value.float()), key
    changed = {k for k in batch.keys() - {"targets", "index"} if not torch.equal(once[k], batch[k])}
    seen = {"camera", "status"} if name == "transfuser" else {"images", "projection", "ego"}
    assert changed >= seen
    assert not torch.equal(once["targets"]["trajectory"], batch["targets"]["trajectory"])


def test_only_the_samples_that_are_drawn_are_mirrored(records):
    batch = batch_of("ipad", records)
    which = torch.tensor([True, False, True, False])
    out = mirrored(batch, which, CAMERAS)
    whole = mirrored(batch, ALL, CAMERAS)
    for key in ("images", "ego", "projection"):
        assert torch.equal(out[key][1], batch[key][1])
        assert torch.equal(out[key][2], whole[key][2])
    assert torch.equal(out[MIRRORED], which)


def test_a_mirrored_point_is_seen_where_the_flipped_picture_shows_it(records):
    """Left of the ego in the left camera becomes right of it in the right camera."""
    batch = batch_of("ipad", records)
    out = mirrored(batch, ALL, CAMERAS)
    points = torch.tensor(np.random.default_rng(0).uniform((3, -30, -1), (50, 30, 5), (1, 300, 3)))
    points = points.float().expand(4, -1, -1)
    uv, inside = project(points, batch["projection"])
    there, seen = project(points * torch.tensor([1.0, -1.0, 1.0]), out["projection"])
    for camera, other in enumerate(opposite(CAMERAS)):
        both = inside[:, other] & seen[:, camera]
        assert both.sum() > 50
        assert torch.equal(inside[:, other], seen[:, camera])
        flipped = uv[:, other] * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
        assert torch.allclose(there[:, camera][both], flipped[both], atol=1e-4)
        assert torch.equal(out["images"][:, camera], batch["images"][:, other].flip(2))


def test_cameras_have_their_opposite():
    names = ("CAM_B0", "CAM_F0", "CAM_L0", "CAM_R0")
    assert [names[i] for i in opposite(names)] == ["CAM_B0", "CAM_F0", "CAM_R0", "CAM_L0"]
    assert opposite(("CAM_F0", "CAM_L0")) == [0, 1]  # nothing on the other side: it stays
    assert opposite(()) == []


def test_left_becomes_right_in_command_and_velocity(records):
    left = [replace(r, command=0) for r in records]
    ego = mirrored(batch_of("ipad", left), ALL, CAMERAS)["ego"]
    status = mirrored(batch_of("transfuser", left), ALL)["status"]
    assert ego[0].tolist() == pytest.approx([0, 0, 0, 5.0, -0.5, 1.0, -0.2, 0, 0, 1, 0])
    assert status[0].tolist() == pytest.approx([0, 0, 1, 0, 5.0, -0.5, 1.0, -0.2])


def test_the_simulator_drives_the_scene_as_it_was_and_answers_in_the_mirror(records):
    """Plans of a mirrored sample are mirrored back; boxes come forth mirrored, corners in order."""
    world = straight_world(records[0], parked_at_m=25.0)
    plan = torch.tensor(np.stack([arc(8.0, 0.002), arc(6.0, 0.08)])[None])
    batch = {MIRRORED: torch.tensor([True])}
    assert torch.equal(unmirrored(mirror_poses(plan), batch), plan)
    assert torch.equal(unmirrored(plan, {}), plan)
    found = scene_targets(world, plan[0].numpy(), steps=8)
    boxes = torch.from_numpy(found.collisions)[None]
    assert boxes[..., 8].any()
    told = mirror_corners(boxes, batch)
    assert torch.equal(told[..., 8], boxes[..., 8])
    assert torch.equal(mirror_corners(told, batch), boxes)
    before, after = (x[0, 0, 0, 0, :8].unflatten(0, (4, 2)) for x in (boxes, told))
    assert torch.equal(before[:, 0], after[[3, 2, 1, 0], 0])
    assert torch.equal(before[:, 1], -after[[3, 2, 1, 0], 1])
    assert torch.equal(mirror_corners(boxes, {}), boxes)


def test_colour_changes_the_light_of_all_cameras_alike_and_nothing_else(records):
    batch = batch_of("ipad", records)
    out = recoloured(batch, 0.4, np.random.default_rng(0))
    assert out["images"].dtype == torch.uint8
    assert not torch.equal(out["images"], batch["images"])
    assert torch.equal(out["projection"], batch["projection"])
    ratio = out["images"].float().mean((2, 3, 4)) / batch["images"].float().mean((2, 3, 4))
    assert (ratio.std(1) < 0.05).all()  # one sun for three cameras
    assert ratio.mean(1).std() > 0.02  # another for each scene
    still = recoloured(batch, 1e-9, np.random.default_rng(0))
    assert (still["images"].int() - batch["images"].int()).abs().max() <= 1


def test_a_fused_planner_is_never_mirrored_and_nothing_is_changed_by_default(records):
    batch = batch_of("ipad", records)
    rng = np.random.default_rng(0)
    assert augmented(batch, AugmentConfig(), rng, CAMERAS) is batch
    told = {**batch, "vlm": None}
    assert augmented(told, AugmentConfig(mirror=1.0), rng, CAMERAS) is told
    assert augmented(batch, AugmentConfig(mirror=1.0), rng, CAMERAS)[MIRRORED].all()


@pytest.mark.parametrize("name", list(HOSTS))
def test_an_augmented_training_runs_and_resumes_as_if_it_had_not_stopped(name, records, tmp_path):
    config = replace(PlannerTrainConfig.debug(), augment=AugmentConfig(mirror=0.5, colour=0.3))
    config = with_training(config, steps=4)
    worlds = [straight_world(r) for r in records]
    whole, first, second = (build_planner(name, HOSTS[name].config.debug()) for _ in range(3))
    train_planner(whole, records, config, worlds=worlds)
    train_planner(first, records, config, worlds=worlds, checkpoint_dir=tmp_path, until=2)
    train_planner(second, records, config, worlds=worlds, checkpoint_dir=tmp_path)
    for (key, a), (_, b) in zip(
        whole.state_dict().items(), second.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), key


def test_a_fused_training_goes_through_with_a_mirror_in_the_recipe(records):
    config = replace(PlannerTrainConfig.debug(), augment=AugmentConfig(mirror=1.0))
    fused = fuse(
        build_planner("ipad", HOSTS["ipad"].config.debug()), FusionConfig.debug(), FEATURE_DIM
    )
    worlds = [straight_world(r) for r in records]
    train_planner(fused, records, config, worlds=worlds, features=make_features(records))


def test_sizes_that_change_the_scene_say_so():
    assert PlannerTrainConfig.mini().augment == AugmentConfig()
    assert PlannerTrainConfig.paper().augment == AugmentConfig()  # as published
    assert PlannerTrainConfig.single_gpu().augment.mirror == 0.5
    with pytest.raises(ValueError, match="needs a probability"):
        AugmentConfig(mirror=1.5)
