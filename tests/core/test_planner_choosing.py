"""The scorer's own phase: it learns to choose, nothing else moves, and the report says what is
left.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from planner_factory import FEATURE_DIM, make_features, make_records, straight_world

from latentvla_core.pdms.aggregate import pdms
from latentvla_core.planner.choosing import Judge, freeze, train_choice
from latentvla_core.planner.config import ChoosingConfig, PlannerTrainConfig
from latentvla_core.planner.evaluation import choice_report, nearest_report
from latentvla_core.planner.fusion import FusionConfig, MotionPath
from latentvla_core.planner.hosts.ipad import SCORES
from latentvla_core.planner.hosts.ipad_config import IpadConfig
from latentvla_core.planner.hosts.proposal_targets import ProposalTargets
from latentvla_core.planner.model import build_planner, fuse, refuse
from latentvla_core.planner.plan import make_batches, plan
from latentvla_core.planner.train import param_groups, train_planner
from latentvla_core.training.config import with_training

torch.set_num_threads(1)
SIZE = replace(IpadConfig.debug(), proposals=4, width=32, hidden_width=64)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return make_records(tmp_path_factory.mktemp("scenes"), 12)


def answered(records, seed: int = 0):
    """Features whose codes and logits say the command, and nothing else."""
    made = make_features(records, seed)
    codes = np.repeat([[r.command] for r in records], 12, axis=1).astype(np.int8)
    logits = 8.0 * np.eye(16, dtype=np.float32)[codes]
    return replace(made, codes=codes, logits=logits)


def judged_by(best):
    """A simulation in which proposal `best(scene)` is faultless and all others hit something."""

    def simulate(indices, poses, steps):
        scores = np.zeros((*poses.shape[:2], len(SCORES)), np.float32)
        for row, scene in enumerate(indices):
            scores[row, best(scene)] = 1.0
        shape = poses.shape[:2]
        return ProposalTargets(
            scores,
            np.zeros((*shape, 8, 5, 2), np.float32),
            np.zeros((*shape, steps, 2, 9), np.float32),
            np.ones(shape, bool),
        )

    return simulate


def chosen_by(planner, records, features=None):
    batch = make_batches(planner, records, features)(np.arange(len(records)))
    with torch.no_grad():
        return planner.eval()(batch)["chosen"].numpy()


def test_the_scorer_learns_to_choose_and_proposals_stand_still(records):
    planner = build_planner("ipad", SIZE)
    batches, scenes = make_batches(planner, records, None), np.arange(len(records))
    before = {n: p.clone() for n, p in planner.state_dict().items()}
    wanted = (int(chosen_by(planner, records)[0]) + 1) % SIZE.proposals
    train_choice(
        planner,
        batches,
        scenes,
        judged_by(lambda scene: wanted),
        ChoosingConfig.short(epochs=80),
    )
    assert (chosen_by(planner, records) == wanted).all()
    for name, value in planner.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("scorer."), name


def test_scenes_without_a_world_teach_nothing(records):
    planner = build_planner("ipad", SIZE)
    batches = make_batches(planner, records, None)

    def simulate(indices, poses, steps):
        made = judged_by(lambda scene: 0)(indices, poses, steps)
        return replace(made, valid=np.zeros_like(made.valid))

    before = planner.scorer[0].weight.clone()
    result = train_choice(planner, batches, np.arange(4), simulate, ChoosingConfig.short(epochs=3))
    assert result.step == 0
    assert torch.equal(planner.scorer[0].weight, before)


def test_the_choice_is_the_formula_of_the_score():
    planner = build_planner("ipad", SIZE)
    logits = torch.randn(5, 4, len(SCORES))
    parts = dict(zip(SCORES, logits.double().sigmoid().numpy().transpose(2, 0, 1), strict=True))
    assert np.allclose(planner.choice(logits).numpy(), pdms(parts), atol=1e-6)
    published = build_planner("ipad", replace(SIZE, choice="total"))
    assert torch.equal(published.choice(logits), logits[..., -1])
    assert IpadConfig.paper().choice == "total"
    assert PlannerTrainConfig.paper().choosing.training_of(1000).steps == 0


def test_the_report_counts_living_proposals_oracle_and_choice():
    scores = np.array([[1.0, 0.5, 0.0], [0.2, 0.8, 0.0], [0.4, 0.4, 0.0], [np.nan, 1.0, 1.0]])
    valid = np.isfinite(scores)
    report = choice_report(scores, np.array([0, 0, 1, 1]), valid)
    assert report["scenes"] == 3  # the fourth has a proposal without a score
    assert report["chosen"] == pytest.approx((1.0 + 0.2 + 0.4) / 3)
    assert report["oracle"] == pytest.approx((1.0 + 0.8 + 0.4) / 3)
    assert report["regret"] == pytest.approx(0.2)
    assert report["living"] == 2
    assert np.isnan(choice_report(scores[3:], np.array([1]), valid[3:])["chosen"])


def test_the_nearest_proposal_is_told_from_the_chosen_one():
    future = np.zeros((2, 8, 3))
    proposals = np.zeros((2, 2, 8, 3))
    proposals[:, 0, :, 0] = 3.0
    report = nearest_report(proposals, future, np.array([0, 1]))
    assert report == {"min_ade_m": 0.0, "chosen_ade_m": 1.5, "living": 1.0}


def test_decoded_motion_reaches_the_scorer_alone_and_is_used(records):
    """Which proposal is right depends on what the VLM answered and on nothing that iPad could not
    see; a broken twin, whose path stays at zero, cannot use the answer.
    """
    features = answered(records)
    silent = replace_logits(features)
    planner = fuse(build_planner("ipad", SIZE), FusionConfig.debug(), FEATURE_DIM)
    path = planner.fusion.motion
    path.learn_codes(
        features.codes.astype(np.int64), np.stack([r.future_poses[:8] for r in records])
    )
    assert np.array_equal(plan(planner, records, features), plan(planner, records, silent))
    batches = make_batches(planner, records, features)
    config = replace(ChoosingConfig.short(epochs=150), motion_weight_decay=0.0)
    train_choice(
        planner,
        batches,
        np.arange(len(records)),
        judged_by(lambda scene: records[scene].command),
        config,
    )
    with_answer, without = (chosen_by(planner, records, f) for f in (features, silent))
    assert path.out.weight.any()
    assert (with_answer != without).any()
    with torch.no_grad():
        path.out.weight.zero_()
    assert np.array_equal(chosen_by(planner, records, features), without)


def replace_logits(features):
    """The same features without an answer."""
    return replace(features, shown=("visual",))


def test_each_code_is_decoded_to_the_mean_motion_it_went_with():
    path = MotionPath(FusionConfig.debug(), 8)
    codes = np.repeat([[0], [0], [1], [1]], 12, axis=1)
    poses = np.zeros((4, 8, 3))
    poses[:, :, 0] = np.array([10.0, 12.0, 2.0, 0.0])[:, None]
    path.learn_codes(codes, poses, ridge=1e-9)
    one_hot = torch.eye(16)[torch.from_numpy(codes[[0, 2]])].flatten(1)
    decoded = (one_hot @ path.decoder).numpy()[:, 0] * 10.0 + 6.0
    assert np.allclose(decoded, [11.0, 1.0], atol=1e-3)
    half = 0.5 * one_hot[:1] + 0.5 * one_hot[1:]
    assert np.allclose((half @ path.decoder).numpy()[:, 0] * 10.0 + 6.0, 6.0, atol=1e-3)


def test_training_explains_the_codes_once_and_ends_with_the_choice(records):
    planner = fuse(build_planner("ipad", SIZE), FusionConfig.debug(), FEATURE_DIM)
    worlds = [straight_world(r) for r in records]
    features = answered(records)
    train_planner(planner, records, PlannerTrainConfig.debug(), worlds=worlds, features=features)
    learned = planner.fusion.motion.decoder.clone()
    assert learned.any()
    again = refuse(planner, FEATURE_DIM)
    wrong = replace(answered(records[::-1]), scene_tokens=features.scene_tokens)
    train_planner(again, records, PlannerTrainConfig.debug(), worlds=worlds, features=wrong)
    assert torch.equal(again.fusion.motion.decoder, learned)


def test_embeddings_of_the_same_width_keep_every_learned_weight(records):
    """Zero-shot swap: a student's embeddings in the teacher's place."""
    planner = fuse(build_planner("ipad", SIZE), FusionConfig.debug(), FEATURE_DIM)
    torch.nn.init.normal_(planner.fusion.layers[0].attention_gate)
    features = make_features(records)
    swapped = refuse(planner, FEATURE_DIM, seed=9)
    assert np.array_equal(plan(swapped, records, features), plan(planner, records, features))


def test_gates_have_a_rate_of_their_own():
    planner = fuse(build_planner("ipad", SIZE), FusionConfig.debug(), FEATURE_DIM)
    config = PlannerTrainConfig.debug()
    rates = {id(p): g["lr"] for g in param_groups(planner, config, True) for p in g["params"]}
    assert len(rates) == len(list(planner.parameters()))
    for name, parameter in planner.named_parameters():
        ratio = rates[id(parameter)] / config.fine_tune_learning_rate
        assert (ratio > 1) == name.endswith("_gate"), name


def test_the_length_of_a_training_counts_passes_over_the_scenes():
    config = with_training(
        PlannerTrainConfig(fine_tune_epochs=0.5), steps=0, epochs=2.0, batch_size=10
    )
    assert [config.training_of(tune).steps_for(95) for tune in (False, True)] == [19, 5]
    assert PlannerTrainConfig(fine_tune_steps=7).training_of(True).steps_for(95) == 7
    assert ChoosingConfig().training_of(216).steps == 1500  # the floor
    assert ChoosingConfig().training_of(6400).steps == 4500
    assert PlannerTrainConfig.paper().training_of(False).steps_for(103_288) == 32_278


@pytest.mark.slow
def test_a_trained_fusion_moves_its_plan_when_its_tokens_are_taken_away(records):
    """Against a broken twin whose gates stay at zero, as all gates practically did before they had
    a rate of their own.
    """
    worlds = [straight_world(r) for r in records]
    features = answered(records)
    features.action[:] = (
        np.repeat(np.eye(FEATURE_DIM)[[r.command for r in records]][:, None], 12, axis=1) * 3.0
    ).astype(np.float16)
    config = with_training(replace(PlannerTrainConfig.debug(), fine_tune_steps=40), batch_size=12)
    size = replace(SIZE, score_every=100)
    moved = {}
    for name, scale in (("own rate", 30.0), ("frozen", 0.0)):
        planner = fuse(build_planner("ipad", size), FusionConfig.debug(), FEATURE_DIM)
        train_planner(
            planner,
            records,
            replace(config, gate_rate_scale=scale),
            worlds=worlds,
            features=features,
        )
        batches = [make_batches(planner, records, f)(np.arange(12)) for f in (features, None)]
        with torch.no_grad():
            full, none = (planner(batch)["proposals"][-1] for batch in batches)
        moved[name] = float((full - none)[..., :2].norm(dim=-1).mean())
    assert moved["frozen"] == 0.0
    assert moved["own rate"] > 0.1


def test_frozen_inputs_give_the_scores_of_the_planner(records):
    planner = build_planner("ipad", SIZE).eval()
    batches = make_batches(planner, records, None)
    frozen = freeze(planner, batches, np.arange(12), judged_by(lambda scene: 0))
    with torch.no_grad():
        logits = planner(batches(np.arange(12)))["scores"]
        assert torch.allclose(Judge(planner)(frozen.inputs), logits, atol=1e-5)
