"""Intervals by log: wider than by scene, paired, and honest about what has no mean."""

from __future__ import annotations

import numpy as np
import pytest

from latentvla_core.statistics import grouped_mean, paired_difference


def logs_of(count: int, scenes: int) -> np.ndarray:
    return np.repeat([f"log{i}" for i in range(count)], scenes)


def test_scenes_that_repeat_their_log_do_not_narrow_the_interval():
    rng = np.random.default_rng(0)
    one_each = rng.normal(size=40)
    alone = grouped_mean(one_each, logs_of(40, 1))
    repeated = grouped_mean(np.repeat(one_each, 27), logs_of(40, 27))
    assert repeated.count == 27 * alone.count
    assert repeated.high - repeated.low == pytest.approx(alone.high - alone.low, rel=1e-9)
    by_scene = grouped_mean(np.repeat(one_each, 27), np.arange(40 * 27).astype(str))
    assert by_scene.high - by_scene.low < 0.4 * (repeated.high - repeated.low)


def test_pairing_removes_what_both_arms_share():
    rng = np.random.default_rng(1)
    hardness, groups = np.repeat(rng.normal(size=30) * 20, 5), logs_of(30, 5)
    a = hardness + 1.0 + rng.normal(size=150) * 0.1
    found = paired_difference(a, hardness, groups, seed=3)
    assert found.low < 1.0 < found.high
    assert found.high - found.low < 0.2
    assert found == paired_difference(a, hardness, groups, seed=3)


def test_logs_of_different_length_are_weighted_by_their_scenes():
    values, groups = np.array([1.0, 1.0, 1.0, 5.0]), np.array(["a", "a", "a", "b"])
    assert grouped_mean(values, groups).mean == 2.0


def test_what_has_no_mean_is_refused():
    with pytest.raises(ValueError, match="1 of 3 values are not finite"):
        grouped_mean(np.array([1.0, np.nan, 2.0]), logs_of(3, 1))
    with pytest.raises(ValueError, match="same scenes"):
        paired_difference(np.zeros(3), np.zeros(4), logs_of(3, 1))
