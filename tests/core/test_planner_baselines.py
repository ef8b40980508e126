"""Constant velocity, human and the blind MLP."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planner_factory import make_records

from latentvla_core.planner import model
from latentvla_core.planner.baselines import (
    EgoStatusConfig,
    constant_velocity,
    human,
    train_ego_status,
)
from latentvla_core.planner.evaluation import displacement_errors
from latentvla_core.planner.plan import plan
from latentvla_core.training.config import with_training

torch.set_num_threads(1)


def test_constant_velocity_goes_straight_with_the_whole_speed(tmp_path):
    record = replace(make_records(tmp_path, 1)[0], ego_velocity_mps=np.array([3.0, -4.0]))
    poses = constant_velocity([record])
    assert poses.dtype == np.float32
    assert poses[0, :, 0].tolist() == [2.5, 5.0, 7.5, 10.0, 12.5, 15.0, 17.5, 20.0]
    assert not poses[0, :, 1:].any()


def test_human_is_the_log(tmp_path):
    records = make_records(tmp_path, 3)
    assert np.allclose(human(records), [r.future_poses for r in records], atol=1e-5)
    assert displacement_errors(human(records), records)["ade_m"] < 1e-5


@pytest.mark.slow
def test_blind_mlp_learns_arcs_from_command_and_speed(tmp_path):
    records = make_records(tmp_path, 60)
    blind, result = train_ego_status(
        records[:40], with_training(EgoStatusConfig(hidden=64), steps=300, learning_rate=3e-3)
    )
    assert result.step == 300
    error = displacement_errors(plan(blind, records[40:]), records[40:])["ade_m"]
    assert error < 0.5 * displacement_errors(constant_velocity(records[40:]), records[40:])["ade_m"]


def test_a_saved_blind_mlp_plans_the_same(tmp_path):
    records = make_records(tmp_path / "scenes", 3)
    trained, _ = train_ego_status(records, EgoStatusConfig.debug())
    model.save(trained, tmp_path / "model")
    again = model.load(tmp_path / "model")
    assert np.array_equal(plan(again, records), plan(trained, records))


def test_a_human_whose_log_ends_early_has_no_plan(tmp_path):
    records = make_records(tmp_path, 2)
    short = replace(records[0], future_poses=records[0].future_poses[:6])
    poses = human([short, records[1]])
    assert np.isnan(poses[0]).all()
    assert np.array_equal(poses[1], human([records[1]])[0])
    assert np.isnan(human([short])).all()
