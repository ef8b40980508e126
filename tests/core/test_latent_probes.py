"""The quality report: probes find what is there, do not find what is not, and the gate names what is missed."""

from __future__ import annotations

import numpy as np
import pytest

from latentvla_core.errors import LatentVLAError
from latentvla_core.latent.probes import (
    AXES,
    QualityGate,
    code_numbers,
    cross_predict,
    folds_of,
    one_hot,
    r_squared,
    redundancy,
    require,
    ridge,
)

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
    single = folds_of(np.array(["a"] * 50))
    assert list(single) == sorted(single)
    assert len(set(single)) == 5


def test_ridge_without_penalty_is_least_squares():
    x, weights = RNG.normal(size=(50, 3)), np.array([[1.0], [2.0], [-1.0]])
    np.testing.assert_allclose(ridge(x, x @ weights + 4, penalty=1e-9), [[1], [2], [-1], [4]], atol=1e-6)


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
    assert (collapsed["ego_usage"], collapsed["ego_perplexity"], collapsed["ego_largest_share"]) == (1, 1, 1)
    full = code_numbers("ego", np.arange(1600).reshape(400, 4) % 16, 16)
    assert (full["ego_usage"], full["ego_perplexity"]) == (16, pytest.approx(16))


def report(**changes):
    good = {
        "ego_usage": 16,
        "ego_perplexity": 12,
        "gain_over_copy": 0.4,
        "shuffle_ego": 0.3,
        "shuffle_environment": 0.2,
    }
    r2 = {f"{kind}_r2_{axis}": value for kind, value in (("ego", 0.8), ("environment", 0.05)) for axis in AXES}
    return good | r2 | changes


def test_the_gate_names_every_threshold_missed():
    require(report(), QualityGate.paper())
    bad = report(ego_usage=9, environment_r2_yaw=0.4, ego_r2_yaw=float("nan"))
    with pytest.raises(LatentVLAError, match=r"usage 9 < 16; yaw_r2 nan < 0\.5; environment_r2 0\.4 > 0\.1"):
        require(bad, QualityGate.paper())
    assert QualityGate.tiny().faults(report(ego_usage=11, ego_r2_yaw=0.0, environment_r2_yaw=0.25)) == []
    assert QualityGate.embedded_world().faults(report(ego_r2_longitudinal=0.5)) == ["longitudinal_r2 0.5 < 0.6"]
