"""The fusion module in both hosts: nothing changes at the start, and nothing breaks when the VLM is
silent.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planner_factory import FEATURE_DIM, make_features, make_records, straight_world

from latentvla_core.errors import SetupError
from latentvla_core.planner.config import PlannerTrainConfig
from latentvla_core.planner.controls import CONTROLS, control_features
from latentvla_core.planner.fusion import Fusion, FusionConfig, VlmTokens
from latentvla_core.planner.model import HOSTS, build_planner, fuse, refuse
from latentvla_core.planner.plan import plan
from latentvla_core.planner.train import train_planner

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("scenes"), 4)


def debug_host(name: str):
    return build_planner(name, HOSTS[name].config.debug(), seed=1)


def debug_fused(name: str, *, open_gates: bool = False):
    fused = fuse(debug_host(name), FusionConfig.debug(), FEATURE_DIM)
    if open_gates:
        with torch.no_grad():
            for layer in fused.fusion.layers:
                layer.attention_gate.fill_(1.0)
                layer.ffn_gate.fill_(1.0)
    return fused


@pytest.mark.parametrize("host", list(HOSTS))
def test_fusion_starts_as_the_host_bit_for_bit(host, records):
    features = make_features(records)
    alone = plan(debug_host(host), records)
    assert np.array_equal(plan(debug_fused(host), records, features), alone)
    assert np.array_equal(plan(debug_fused(host), records), alone)


@pytest.mark.parametrize("host", list(HOSTS))
def test_open_gates_let_the_vlm_speak(host, records):
    fused = debug_fused(host, open_gates=True)
    one, other = (plan(fused, records, make_features(records, seed)) for seed in (0, 1))
    assert not np.allclose(one, other)


@pytest.mark.parametrize("host", list(HOSTS))
def test_plans_without_any_vlm_token(host, records):
    fused = debug_fused(host, open_gates=True)
    silent = plan(fused, records)
    assert np.isfinite(silent).all()
    features = make_features(records)
    features.valid[:] = False
    assert np.allclose(plan(fused, records, features), silent, atol=1e-6)


def test_one_silent_vlm_row_leaves_the_other_scenes_alone(records):
    fused, features = debug_fused("transfuser", open_gates=True), make_features(records)
    whole = plan(fused, records, features)
    features.valid[0] = False
    part = plan(fused, records, features)
    assert np.allclose(part[1:], whole[1:], atol=1e-6)
    assert not np.allclose(part[0], whole[0])


def test_controls_withhold_what_they_say(records):
    fused, features = debug_fused("transfuser", open_gates=True), make_features(records)
    plans = {name: plan(fused, records, control_features(features, name)) for name in CONTROLS}
    assert np.array_equal(plans["full"], plan(fused, records, features))
    assert np.allclose(plans["missing"], plan(fused, records), atol=1e-6)
    names = list(CONTROLS)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            assert not np.allclose(plans[one], plans[other], atol=1e-6), (one, other)
    with pytest.raises(ValueError, match="choose one of"):
        control_features(features, "half")


def test_noise_has_the_moments_of_the_features_and_not_their_content(records):
    features = make_features(records * 20)
    features.visual[:] += np.arange(FEATURE_DIM, dtype=np.float16)
    noise = control_features(features, "noise", seed=3)
    assert np.allclose(noise.visual.mean(axis=(0, 1)), features.visual.mean(axis=(0, 1)), atol=0.3)
    assert np.array_equal(noise.visual, control_features(features, "noise", seed=3).visual)
    correlation = np.corrcoef(
        noise.action.ravel().astype(float), features.action.ravel().astype(float)
    )[0, 1]
    assert abs(correlation) < 0.1


def test_modality_dropout_acts_in_training_only():
    fusion = Fusion(FusionConfig(pool_width=16, heads=2, modality_dropout=0.5), FEATURE_DIM, 16)
    flags = torch.ones(400, dtype=torch.bool)
    tokens = VlmTokens(
        torch.randn(400, 3, FEATURE_DIM), torch.randn(400, 12, FEATURE_DIM), flags, flags
    )
    dropped = ~fusion.train().memory(tokens).usable
    assert 0.4 < dropped.float().mean() < 0.6
    assert (dropped.all(dim=1) | ~dropped.any(dim=1)).all()  # a sample loses all or nothing
    assert fusion.eval().memory(tokens).usable.all()


@pytest.mark.parametrize("host", list(HOSTS))
def test_training_changes_the_planner_and_never_the_features(host, records):
    fused, features = debug_fused(host), make_features(records)
    before = features.visual.tobytes(), features.action.tobytes()
    start = plan(fused, records, features)
    worlds = [straight_world(r) for r in records]
    train_planner(fused, records, PlannerTrainConfig.debug(), worlds=worlds, features=features)
    assert (features.visual.tobytes(), features.action.tobytes()) == before
    assert not np.array_equal(plan(fused, records, features), start)
    assert any(layer.attention_gate.any() for layer in fused.fusion.layers)


def test_student_features_of_another_width_keep_the_rest(records):
    fused = debug_fused("transfuser", open_gates=True)
    narrow = refuse(fused, feature_dim=3)
    assert narrow.fusion.feature_dim == 3
    assert torch.equal(narrow.fusion.to_host.weight, fused.fusion.to_host.weight)
    assert torch.equal(narrow.to_token.weight, fused.to_token.weight)


def test_wrong_features_are_refused(records):
    fused, features = debug_fused("transfuser"), make_features(records)
    with pytest.raises(SetupError, match="without VLM features"):
        train_planner(fused, records, PlannerTrainConfig.debug())
    with pytest.raises(ValueError, match="one order"):
        plan(fused, records[::-1], features)
    with pytest.raises(ValueError, match="select the same scenes"):
        plan(fused, records[:2], features)
    narrow = replace(features, visual=features.visual[..., :4], action=features.action[..., :4])
    with pytest.raises(ValueError, match="feature_dim"):
        plan(fused, records, narrow)
    with pytest.raises(SetupError, match="feature_dim"):
        build_planner("ipad", fused=True)


def test_what_a_control_withholds_is_said_by_the_features_themselves(records):
    features = make_features(records)
    features.valid[0] = False
    for name, shown in CONTROLS.items():
        seen = control_features(features, name)
        assert (seen.valid == features.valid).all()
        for kind in ("visual", "action"):
            assert (seen.has(kind) == (features.valid & (kind in shown))).all()
            says_something = kind in shown and name != "refinement"
            assert getattr(seen, kind).any() == says_something
    with pytest.raises(
        ValueError, match=r"shown is \['sound'\]; kinds of tokens are visual, action"
    ):
        replace(features, shown=("sound",))


def test_rows_keep_what_is_withheld_when_they_are_put_in_another_order(records):
    blind = control_features(make_features(records), "action_only")
    assert (
        blind.select([1, 0]).shown == blind.aligned(blind.scene_tokens[::-1]).shown == ("action",)
    )
