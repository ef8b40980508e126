"""The flow-matching planner: moves and poses say the same, several futures stay several, the scorer
that iPad has chooses among them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planner_factory import FEATURE_DIM, arc, make_features, make_records, straight_world

from latentvla_core.planner.baselines import constant_velocity
from latentvla_core.planner.config import ChoosingConfig, PlannerTrainConfig
from latentvla_core.planner.evaluation import displacement_errors
from latentvla_core.planner.fusion import FusionConfig
from latentvla_core.planner.hosts.flow import HOST, compose, decompose, moved, unmoved
from latentvla_core.planner.hosts.flow_config import FlowConfig
from latentvla_core.planner.model import build_planner, fuse
from latentvla_core.planner.plan import make_batches, plan, plan_all
from latentvla_core.planner.train import train_planner
from latentvla_core.training.config import with_training

torch.set_num_threads(1)
SIZE = replace(
    FlowConfig.debug(), width=32, ffn_width=64, proposals=8, integration_steps=4, draws=8
)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("scenes"), 8)


def schedule(steps: int, choosing: ChoosingConfig | None = None) -> PlannerTrainConfig:
    config = PlannerTrainConfig(choosing=choosing or ChoosingConfig.none())
    return with_training(config, steps=steps, batch_size=8, learning_rate=3e-3, log_every=50)


def worlds(records):
    return [straight_world(record) for record in records]


def test_moves_are_poses_said_from_the_pose_before():
    poses = torch.tensor(np.stack([arc(8.0, 0.03), arc(3.0, -0.05), arc(0.0, 0.0)])).float()
    assert torch.allclose(compose(decompose(poses)), poses, atol=1e-4)
    moves = decompose(poses)[0]
    assert torch.allclose(moves, moves[:1].expand_as(moves), atol=1e-4)  # a circle: all alike


def test_standing_still_in_units_is_the_present_speed():
    ego = torch.zeros(2, 11)
    ego[:, 3] = torch.tensor([8.0, 0.0])
    path = compose(moved(torch.zeros(2, 1, 8, 3), ego))[:, 0]
    assert path[0, -1].tolist() == pytest.approx([32.0, 0.0, 0.0])
    assert not path[1].any()
    assert torch.allclose(unmoved(decompose(path), ego), torch.zeros(2, 8, 3), atol=1e-5)


@pytest.mark.slow
def test_two_futures_of_one_scene_stay_two(records):
    """A planner that minimises a distance to both drives between them; this one draws either."""
    left, right = arc(8.0, 0.04), arc(8.0, -0.04)
    one = replace(records[1], ego_velocity_mps=np.array([8.0, 0.0]))
    both = [replace(one, future_poses=left), replace(one, future_poses=right)] * 4
    planner = build_planner("flow", SIZE)
    train_planner(planner, both, schedule(150), worlds=worlds(both))
    drawn = plan_all(planner, both[:1]).proposals[0]  # (N, 8, 3)
    middle = np.abs(drawn[:, -1, 1]).min()
    ends = np.linalg.norm(drawn[:, None, -1, :2] - np.stack([left, right])[:, -1, :2], axis=-1)
    apart = np.linalg.norm(left[-1, :2] - right[-1, :2])
    assert (ends.min(0) < 0.25 * apart).all()  # each future is near one of the paths
    assert (ends.min(1) < 0.35 * apart).mean() > 0.7  # and most paths near a future
    assert middle > 0.0


@pytest.mark.slow
def test_it_learns_what_the_present_speed_does_not_say(records):
    curved = [r for r in records if abs(r.future_poses[-1, 2]) > 0.1]
    planner = build_planner("flow", replace(SIZE, choice="medoid"))
    train_planner(planner, records, schedule(120), worlds=worlds(records))
    straight = displacement_errors(constant_velocity(curved), curved)["ade_m"]
    assert displacement_errors(plan(planner, curved), curved)["ade_m"] < 0.6 * straight


def test_a_scene_has_one_answer_and_the_medoid_is_the_path_in_the_middle(records):
    planner = build_planner("flow", replace(SIZE, choice="medoid"))
    first, second = plan_all(planner, records), plan_all(planner, records)
    assert np.array_equal(first.poses, second.poses)
    gaps = np.linalg.norm(
        first.proposals[:, :, None, :, :2] - first.proposals[:, None, ..., :2], axis=-1
    )
    points = np.sqrt((gaps**2).sum(-1)).sum(-1)
    assert np.array_equal(points.argmin(1), first.chosen)


def test_the_scorer_learns_in_its_own_phase_and_the_paths_stay(records):
    planner = build_planner("flow", SIZE)
    before = plan_all(planner, records).proposals
    scorer = planner.scorer[0].weight.detach().clone()
    batches, everyone = make_batches(planner, records, None), np.arange(len(records))
    choosing = replace(ChoosingConfig.short(epochs=1), min_steps=5)
    HOST.last_phase(planner, batches, everyone, HOST.simulator(worlds(records), 0), choosing)
    assert np.array_equal(plan_all(planner, records).proposals, before)
    assert not torch.equal(planner.scorer[0].weight, scorer)


def test_a_fusion_with_gates_at_zero_is_the_host_and_open_gates_move_the_paths(records):
    planner, features = build_planner("flow", SIZE), make_features(records)
    fused = fuse(planner, FusionConfig.debug(), FEATURE_DIM)
    alone = plan_all(planner, records).proposals
    assert np.array_equal(plan_all(fused, records, features).proposals, alone)
    torch.nn.init.normal_(fused.fusion.layers[0].attention_gate)
    assert not np.allclose(plan_all(fused, records, features).proposals, alone, atol=1e-3)


@pytest.mark.parametrize("wrong", [{"layers": 0}, {"draws": 0}, {"stage_depths": (1,)}])
def test_sizes_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValueError, match="at least 1|one depth per width"):
        replace(FlowConfig.debug(), **wrong)
