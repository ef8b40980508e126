"""The quality report: probes find what is there, do not find what is not, and the gate names what
is missed.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from latent_little_world import little_records

from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.model import LatentActionModel
from latentvla_core.latent.pairs import Pairs, collect_pairs
from latentvla_core.latent.probes import (
    agent_motion,
    code_numbers,
    cross_predict,
    folds_of,
    mutual_information,
    one_hot,
    r_squared,
    redundancy,
    report,
    ridge,
    run,
    stability,
)
from latentvla_core.latent.probes.numbers import motion_information
from latentvla_core.latent.probes.report import Sample, agent_probes, read_by_others, sign_agreement
from latentvla_core.latent.probes.run import Coded, partners
from latentvla_core.latent.quantizer import QuantizerConfig
from latentvla_core.training.images import ImageCache
from latentvla_core.types import SceneRecord

RNG = np.random.default_rng(0)
LOGS = np.repeat([f"log-{i}" for i in range(10)], 60)


def probe(codes, motion):
    return r_squared(motion, cross_predict(one_hot(codes, 16), motion, folds_of(LOGS)))


def test_codes_that_mean_motion_are_found_out():
    motion = RNG.normal(size=(600, 3))
    codes = np.digitize(motion, np.linspace(-2, 2, 15))  # one code per axis
    r2 = probe(codes, motion)
    assert r2.min() > 0.9
    blind = probe(codes[:, [1, 2]], motion)
    assert blind[0] < 0.1
    assert blind[1:].min() > 0.9


def test_codes_of_noise_explain_nothing_though_there_are_many():
    assert probe(RNG.integers(0, 16, (600, 4)), RNG.normal(size=(600, 3))).max() < 0.05


def test_codes_that_only_know_the_log_explain_nothing():
    log = np.unique(LOGS, return_inverse=True)[1]
    motion = RNG.normal(size=(10, 3))[log] + 0.01 * RNG.normal(size=(600, 3))
    assert probe(np.stack([log] * 4, axis=1), motion).max() < 0.0


def test_folds_keep_logs_together_and_cut_a_single_log_in_time():
    folds = folds_of(LOGS)
    assert all(len(set(folds[name == LOGS])) == 1 for name in set(LOGS))
    assert len(set(folds)) == 5
    few = folds_of(np.repeat(["b", "a", "c"], 7))
    assert [len(set(part)) for part in few.reshape(3, 7)] == [1, 1, 1]
    assert len(set(few)) == 3
    single = folds_of(np.array(["a"] * 50))
    assert list(single) == sorted(single)
    assert len(set(single)) == 5


def test_ridge_without_penalty_is_least_squares():
    x, weights = RNG.normal(size=(50, 3)), np.array([[1.0], [2.0], [-1.0]])
    np.testing.assert_allclose(
        ridge(x, x @ weights + 4, penalty=1e-9), [[1], [2], [-1], [4]], atol=1e-6
    )


def test_a_target_without_variance_has_no_r2():
    targets = np.stack([np.zeros(20), np.arange(20.0)], axis=1)
    r2 = r_squared(targets, targets)
    assert np.isnan(r2[0])
    assert r2[1] == 1


def test_redundancy_is_one_for_copies_and_near_zero_for_strangers():
    a = RNG.integers(0, 16, 20_000)
    assert redundancy(np.stack([a, a], axis=1), 16) == pytest.approx(1)
    assert redundancy(np.stack([a, (a * 7 + 3) % 16], axis=1), 16) == pytest.approx(1)
    assert redundancy(np.stack([a, RNG.permutation(a)], axis=1), 16) < 0.02
    assert redundancy(a[:, None], 16) == 0


def test_code_numbers_see_a_collapse():
    collapsed = code_numbers("ego", np.zeros((100, 4), int), 16)
    assert (
        collapsed["ego_usage"],
        collapsed["ego_perplexity"],
        collapsed["ego_largest_share"],
    ) == (1, 1, 1)
    full = code_numbers("ego", np.arange(1600).reshape(400, 4) % 16, 16)
    assert (full["ego_usage"], full["ego_perplexity"]) == (16, pytest.approx(16))


def test_mutual_information_is_entropy_of_equals_and_near_zero_of_strangers_however_few():
    a = RNG.integers(0, 16, 40_000)
    assert mutual_information(a, (a * 7 + 3) % 16) == pytest.approx(np.log(16), abs=0.01)
    few = [mutual_information(RNG.integers(0, 16, 500), RNG.integers(0, 8, 500)) for _ in range(30)]
    assert np.mean(few) < 0.03  # uncorrected: 15 · 7 / 1000 = 0.1


def test_motion_information_finds_the_position_that_knows():
    motion = np.stack(
        [RNG.uniform(0, 16, 3000), np.zeros(3000), RNG.uniform(-0.3, 0.3, 3000)], axis=1
    )
    codes = np.stack(
        [RNG.integers(0, 16, 3000), np.digitize(motion[:, 0], np.arange(1, 16))], axis=1
    )
    guess = cross_predict(one_hot(codes, 16), motion, np.arange(3000) % 5)
    found = motion_information("ego", codes, 16, motion, guess)
    assert found["mutual_information_longitudinal"] > 0.7
    assert found["mutual_information_longitudinal_best_code"] > 0.8
    assert found["mutual_information_yaw"] < 0.05
    assert np.isnan(
        found["mutual_information_lateral"]
    )  # nobody moves sideways, so nothing can be told of it
    assert np.isnan(found["mutual_information_lateral_best_code"])


def test_stability_sees_through_other_names_and_not_through_noise():
    codes = RNG.integers(0, 16, (3000, 4))
    renamed = np.stack([RNG.permutation(16)[codes[:, i]] for i in (2, 0, 3, 1)], axis=1)
    same = stability(codes, renamed, 16)
    assert same["agreement"] == 1
    assert same["shared"] == pytest.approx(1)
    assert same["agreement_by_chance"] < 0.15
    noise = stability(codes, RNG.integers(0, 16, (3000, 4)), 16)
    assert noise["agreement"] == pytest.approx(noise["agreement_by_chance"], abs=0.02)
    with pytest.raises(ValueError, match="same transitions"):
        stability(codes, codes[:5], 16)


def scene(boxes, velocities, classes=None):
    boxes = np.array([[x, y, 0.8, 4.5, 1.8, 1.6, yaw] for x, y, yaw in boxes]).reshape(-1, 7)
    values: dict[str, Any] = {f.name: None for f in fields(SceneRecord)}
    values |= {
        "object_boxes": boxes,
        "object_velocities_mps": np.array(velocities, float).reshape(-1, 2),
        "object_classes": np.zeros(len(boxes), int) if classes is None else np.array(classes),
        "has_objects": True,
        "camera_names": (),
    }
    return SceneRecord(**values)


def test_agents_in_view_are_described_by_their_motion_over_ground():
    boxes = [(20, 1, 0), (10, -3, 1.57), (30, 0, 0), (-5, 0, 0), (5, 20, 0)]
    records = [
        scene(boxes, [(6, 0), (0, 2), (0, 0), (9, 0), (9, 0)]),
        scene([(8, 0, 0)], [(0, 0)]),
        scene([], []),
    ]
    lead, crossing, moving, swept = agent_motion(records, np.array([0]))[0]
    assert (lead, crossing, moving) == (
        0.0,
        2.0,
        2.0,
    )  # the nearest in view crosses; two are behind or beside the view
    assert swept > 0
    parked = agent_motion(records, np.array([1]))[0]
    assert parked[[0, 2, 3]].tolist() == [0, 0, 0]
    assert np.isnan(parked[1])
    empty = agent_motion(records, np.array([2, -1]))
    assert np.isnan(empty[0, :2]).all()
    assert empty[0, 2:].tolist() == [0, 0]
    assert np.isnan(empty[1]).all()


def test_cones_are_no_agents_and_faster_or_nearer_sweeps_more():
    cone = agent_motion([scene([(10, 0, 0)], [(5, 0)], classes=[3])], np.array([0]))[0]
    assert cone[2] == 0
    swept = [
        agent_motion([scene([(x, 0, 0)], [(0, v)])], np.array([0]))[0, 3]
        for x, v in ((10, 2), (10, 4), (20, 4))
    ]
    assert swept[1] > swept[0]
    assert swept[1] > swept[2]


def test_agent_probes_tell_which_codes_know_of_agents():
    agents = np.full((600, 4), np.nan)
    agents[:, 0] = RNG.uniform(0, 10, 600)
    agents[:30, 1] = 1.0  # too few to say anything
    known, noise = (
        np.digitize(agents[:, [0]], np.linspace(0, 10, 15)),
        RNG.integers(0, 16, (600, 4)),
    )
    inputs = {"ego": one_hot(noise, 16), "environment": one_hot(known, 16)}
    found = agent_probes(Sample(inputs, RNG.normal(size=(600, 3)), agents, LOGS), None)
    assert found["agent_r2_environment"] > 0.9
    assert found["agent_r2_ego"] < 0.05
    assert "agent_r2_ego_crossing" not in found


def agreement(codes, motion, logs, *, fitted: Sample | None = None, flip: int = 1):
    """Longitudinal sign agreement of what is read from each partner's own codes."""
    partner = partners(logs, np.random.default_rng(1))
    inputs = {"ego": one_hot(codes, 16)}
    judged = Sample(inputs, motion, np.zeros((len(motion), 0)), logs)
    moved = flip * read_by_others(inputs["ego"][partner], partner, judged, fitted)
    return sign_agreement("transfer", moved, motion[partner], motion.mean(0))[
        "transfer_longitudinal"
    ]


def test_transfer_is_chance_for_codes_of_noise_however_few_transitions():
    rng, logs = np.random.default_rng(0), np.repeat(np.arange(30), 10)
    found = [
        agreement(rng.integers(0, 16, (300, 4)), rng.normal(size=(300, 3)) - [0, 0, 1], logs)
        for _ in range(20)
    ]
    assert abs(np.mean(found) - 0.5) < 0.03  # a probe that had seen the partner would find 0.6


def test_transfer_follows_the_motion_and_not_its_opposite():
    rng, logs = np.random.default_rng(0), np.repeat(np.arange(30), 10)
    motion = rng.normal(size=(300, 3))
    motion -= motion.mean(0)
    codes = np.digitize(motion[:, :1], [-1, 0, 1])
    assert agreement(codes, motion, logs) > 0.95
    assert agreement(codes, motion, logs, flip=-1) < 0.05
    others = Sample({"ego": one_hot(3 - codes, 16)}, motion, np.zeros((300, 0)), logs + 100)
    assert (
        agreement(codes, motion, logs, fitted=others) < 0.05
    )  # read by what was fitted, not by the judged logs


def test_partners_come_from_other_logs_where_there_are_others():
    order = partners(LOGS, np.random.default_rng(0))
    assert sorted(order) == list(range(600))
    assert (LOGS[order] != LOGS).mean() > 0.99
    assert sorted(partners(LOGS[:50], np.random.default_rng(0))) == list(range(50))
    lopsided = np.repeat([0, 1], [90, 10])  # the ten of the other log are used again
    order = partners(lopsided, np.random.default_rng(0))
    assert (lopsided[order] != lopsided).all()
    assert len(set(order[:90])) == 10


def test_gain_is_over_copying_and_every_exchange_is_over_the_right_codes():
    none = np.zeros((1, 1), int)
    errors = {"right": 2.0, "copy": 8.0, "ego": 6.0, "environment_0": 3.0}
    found = report._reconstruction(Coded(none, none, errors, none, none[0]))
    assert found == {"gain_over_copy": 0.75, "shuffle_ego": 2.0, "shuffle_environment_0": 0.5}


def test_an_exchange_takes_the_codes_it_is_named_after_and_no_others():
    own = torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5]])
    foreign = torch.tensor([[10, 20, 30]]), torch.tensor([[40, 50]])
    found = {
        name: torch.cat(codes, dim=1)[0].tolist()
        for name, codes in run._exchanged(own, foreign).items()
    }
    assert found == {
        "right": [1, 2, 3, 4, 5],
        "ego": [10, 20, 30, 4, 5],
        "environment": [1, 2, 3, 40, 50],
        "ego_0": [10, 2, 3, 4, 5],
        "ego_1": [1, 20, 3, 4, 5],
        "ego_2": [1, 2, 30, 4, 5],
        "environment_0": [1, 2, 3, 40, 5],
        "environment_1": [1, 2, 3, 4, 50],
    }


def test_the_joint_probe_is_given_ego_and_environment_codes_side_by_side():
    sizes = {
        "ego": QuantizerConfig(codebook_size=2),
        "environment": QuantizerConfig(codebook_size=3),
    }
    model = LatentActionModel(LatentActionConfig.debug(**sizes))
    still, logs = np.zeros((2, 2, 3)), np.array(["a", "b"])
    pairs = Pairs(
        ImageCache((32, 16)),
        np.zeros((2, 2), int),
        still,
        still[:, 0],
        logs,
        {},
        np.zeros((2, 3, 4)),
    )
    inputs = report._sample(model, (np.array([[0], [1]]), np.array([[2], [0]])), pairs).inputs
    assert inputs["ego"].tolist() == [[1, 0], [0, 1]]
    assert inputs["environment"].tolist() == [[0, 0, 1], [1, 0, 0]]
    assert inputs["joint"].tolist() == [[1, 0, 0, 0, 1], [0, 1, 1, 0, 0]]


def test_errors_of_single_transitions_average_to_those_of_the_report(tmp_path):
    config = LatentActionConfig.debug()
    model = LatentActionModel(config).eval()
    cache = ImageCache(config.features.image_size_wh)
    pairs = collect_pairs(little_records(tmp_path, logs=2, frames=16), config.gap_frames, cache)
    right, copy = run.errors_of(model, pairs, batch_size=5)
    whole = run.code(model, pairs, 64, np.random.default_rng(0)).errors
    assert right.shape == copy.shape == (len(pairs),)
    np.testing.assert_allclose(
        [right.mean(), copy.mean()], [whole["right"], whole["copy"]], rtol=1e-4
    )
    assert len(np.unique(copy)) > len(pairs) / 2
