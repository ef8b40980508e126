"""What holds for both hosts: batches, futures, presets, artefacts, resuming, and that they can
learn at all.
"""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from planner_factory import FEATURE_DIM, make_features, make_records, straight_world

from latentvla_core.errors import SetupError
from latentvla_core.planner import model
from latentvla_core.planner.baselines import EgoStatusConfig
from latentvla_core.planner.config import ChoosingConfig, PlannerTrainConfig
from latentvla_core.planner.evaluation import displacement_errors
from latentvla_core.planner.fusion import FusionConfig
from latentvla_core.planner.hosts.ipad_config import IpadConfig
from latentvla_core.planner.hosts.transfuser import TransfuserConfig
from latentvla_core.planner.model import HOSTS, build_planner, fuse
from latentvla_core.planner.plan import make_batches, plan
from latentvla_core.planner.train import param_groups, train_planner
from latentvla_core.training.config import with_training

torch.set_num_threads(1)
CONFIGS = (TransfuserConfig, IpadConfig, FusionConfig, PlannerTrainConfig, EgoStatusConfig)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("scenes"), 8)


@pytest.fixture(scope="module")
def worlds(records):
    return [straight_world(record) for record in records]


def debug_host(name: str):
    return build_planner(name, HOSTS[name].config.debug())


@pytest.mark.parametrize("host", list(HOSTS))
def test_a_scene_alone_is_planned_as_inside_a_batch(host, records):
    """Also when the first sample of the batch lacks a camera: iPad's own code masks all samples by
    the first one.
    """
    blind = replace(records[0], camera_paths=("", "", records[0].camera_paths[2]))
    batch = [blind, *records[1:]]
    planner = debug_host(host)
    together = plan(planner, batch)
    for i, record in enumerate(batch):
        assert np.allclose(plan(planner, [record])[0], together[i], atol=1e-4)


@pytest.mark.parametrize("host", list(HOSTS))
@pytest.mark.parametrize("cameras", ["no camera", "cameras without a picture"])
def test_a_scene_without_any_picture_gets_no_plan_but_a_reason(host, cameras, records):
    blind = replace(records[0], camera_paths=("", "", ""))
    if cameras == "no camera":
        blind = replace(
            blind,
            camera_names=(),
            camera_paths=(),
            camera_intrinsics_px=np.zeros((0, 3, 3)),
            camera_rotations=np.zeros((0, 3, 3)),
            camera_translations_m=np.zeros((0, 3)),
        )
    faults: list[str] = []
    poses = plan(debug_host(host), [blind, records[1]], faults=faults)
    assert np.isnan(poses[0]).all()
    assert np.isfinite(poses[1]).all()
    assert "no picture of" in faults[0]
    assert faults[1] == ""


@pytest.mark.parametrize("host", list(HOSTS))
def test_the_future_does_not_reach_the_plan(host, records):
    changed = [
        replace(r, future_poses=r.future_poses + 9.0, front_paths=("gone.jpg",) * 12)
        for r in records
    ]
    planner = debug_host(host)
    assert np.array_equal(plan(planner, changed), plan(planner, records))


@pytest.mark.parametrize("host", list(HOSTS))
def test_plans_have_shape_type_and_heading_range(host, records):
    planner = debug_host(host)
    with torch.no_grad():
        for name, parameter in planner.named_parameters():
            if "trajectory_head" in name or "pose_head" in name:
                parameter.mul_(100.0)
    poses = plan(planner, records, batch_size=3)
    assert poses.shape == (8, 8, 3)
    assert poses.dtype == np.float32
    assert np.abs(poses[..., 2]).max() <= np.float32(np.pi)
    assert np.abs(poses[..., 2]).max() > 1.0  # the test would not notice a missing bound otherwise
    assert plan(planner, []).shape == (0, 8, 3)


@pytest.mark.parametrize("host", list(HOSTS))
def test_two_steps_then_resume_equals_four(host, records, worlds, tmp_path):
    config = with_training(PlannerTrainConfig.debug(), steps=4)
    whole, parts = debug_host(host), debug_host(host)
    train_planner(whole, records, config, worlds=worlds)
    train_planner(parts, records, config, worlds=worlds, checkpoint_dir=tmp_path, until=2)
    parts = debug_host(host)
    result = train_planner(parts, records, config, worlds=worlds, checkpoint_dir=tmp_path)
    assert result.resumed_from == 2
    for (name, a), (_, b) in zip(
        whole.state_dict().items(), parts.state_dict().items(), strict=True
    ):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("host", list(HOSTS))
@pytest.mark.parametrize("fused", [False, True])
def test_a_saved_planner_plans_the_same(host, fused, records, tmp_path):
    planner = debug_host(host)
    features = make_features(records) if fused else None
    if fused:
        planner = fuse(planner, FusionConfig.debug(), FEATURE_DIM)
        torch.nn.init.normal_(planner.fusion.layers[0].attention_gate)
    model.save(planner, tmp_path, {"commit": "abc"})
    again = model.load(tmp_path)
    assert model.spec_of(again) == model.spec_of(planner)
    assert np.array_equal(plan(again, records, features), plan(planner, records, features))


@pytest.mark.slow
@pytest.mark.parametrize("host", ["transfuser", "ipad"])
def test_a_host_learns_eight_scenes_by_heart(host, records):
    """Small L1 on its own training scenes: the data path, the losses and the heads belong together."""
    config = with_training(
        PlannerTrainConfig(choosing=ChoosingConfig.none()),
        steps=120,
        batch_size=8,
        learning_rate=3e-3,
        log_every=50,
    )
    more = {"score_every": 1000, "hidden_width": 64} if host == "ipad" else {"ffn_width": 256}
    size = replace(HOSTS[host].config.debug(), width=32, **more)
    planner = build_planner(host, size)
    before = displacement_errors(plan(planner, records), records)["ade_m"]
    train_planner(planner, records, config, worlds=[straight_world(r) for r in records])
    poses = _nearest_proposals(planner, records) if host == "ipad" else plan(planner, records)
    after = displacement_errors(poses, records)["ade_m"]
    assert before > 4.0
    assert after < 0.35 * before


def _nearest_proposals(planner, records):
    """Proposals nearest to the log: choosing among them is learnt apart."""
    with torch.no_grad():
        batch = make_batches(planner, records, None)(np.arange(len(records)))
        proposals = planner(batch)["proposals"][-1].numpy()
    truth = np.array([r.future_poses for r in records])[:, None]
    best = np.abs(proposals - truth).sum((-1, -2)).argmin(1)
    return proposals[np.arange(len(records)), best]


@pytest.mark.parametrize("config", CONFIGS)
def test_four_sizes_share_one_schema(config):
    sizes = [getattr(config, name)() for name in ("debug", "mini", "single_gpu", "paper")]
    assert {type(size) for size in sizes} == {config}
    assert config() == config.mini()
    assert all(field.type for field in fields(config))


def test_paper_sizes_build_without_memory():
    """Published parts: ResNet-34 is 21.3 M; Transfuser has two, iPad one."""
    sizes = {}
    for name, host in HOSTS.items():
        with torch.device("meta"):
            planner = host.network(host.config.paper(), FusionConfig.paper(), 2048)
        sizes[name] = {
            part: sum(p.numel() for p in m.parameters()) / 1e6
            for part, m in planner.named_children()
        }
        assert all(p.is_meta for p in planner.parameters())
    assert 42.5 < sizes["transfuser"]["backbone"] < 56.0
    assert 21.2 < sizes["ipad"]["pictures"] < 22.2
    more_ego_m = (11 - 8) * 256 / 1e6  # iPad knows three numbers more of the ego
    assert sizes["ipad"]["fusion"] == pytest.approx(sizes["transfuser"]["fusion"] + more_ego_m)
    assert sizes["ipad"]["fusion"] > 3.0
    paper = IpadConfig.paper()
    assert (paper.proposals, paper.iterations, paper.padded_wh) == (64, 4, (768, 448))
    assert TransfuserConfig.paper().bev_side == 8


def test_fine_tuning_slows_the_backbone_only():
    planner, config = debug_host("transfuser"), PlannerTrainConfig.debug()
    slow = {id(p) for p in planner.backbone_parameters()}
    groups = param_groups(planner, config, fine_tune=True)
    for group in groups:
        scale = config.fine_tune_backbone_scale if id(group["params"][0]) in slow else 1.0
        assert group["lr"] == pytest.approx(config.fine_tune_learning_rate * scale)
        assert len({id(p) in slow for p in group["params"]}) == 1
    assert sum(len(g["params"]) for g in groups) == len(list(planner.parameters()))


def test_mistakes_are_named(records):
    with pytest.raises(SetupError, match="choose one of transfuser, ipad, flow"):
        build_planner("hydra")
    with pytest.raises(SetupError, match="not one valid world"):
        train_planner(debug_host("ipad"), records, PlannerTrainConfig.debug())
    short = [replace(records[0], future_poses=np.zeros((5, 3)))]
    with pytest.raises(ValueError, match="fewer than 8 future poses"):
        train_planner(debug_host("transfuser"), short, PlannerTrainConfig.debug())
    with pytest.raises(ValueError, match="multiples of 32"):
        TransfuserConfig(camera_width_px=200, camera_height_px=50)
