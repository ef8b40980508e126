"""Intervals by log: wider than by scene, paired, and honest about what has no mean."""

from __future__ import annotations

import numpy as np
import pytest

from latentvla_core.statistics import Interval, grouped_error, grouped_mean, paired_difference


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


def test_an_interval_reads_with_its_sign():
    assert str(Interval(1.234, -0.5, 3.0, 7, 2)) == "+1.23 [-0.50, +3.00]"
    assert str(Interval(-1.0, -2.0, 0.0, 7, 2)) == "-1.00 [-2.00, +0.00]"


def test_one_log_has_an_interval_without_width():
    found = grouped_mean(np.array([1.0, 3.0]), ["a", "a"])
    assert found[:3] == (2.0, 2.0, 2.0)
    assert (found.count, found.groups) == (2, 1)


def test_the_interval_lies_between_the_smallest_and_the_largest_mean_of_a_log():
    values = np.array([0.0, 0.0, 1.0, 1.0, 4.0, 4.0])
    found = grouped_mean(values, logs_of(3, 2))
    assert 0.0 <= found.low < found.mean < found.high <= 4.0


def test_another_seed_draws_other_logs_and_the_same_mean():
    values = np.random.default_rng(2).normal(size=12)
    one, two = (grouped_mean(values, logs_of(12, 1), seed) for seed in (0, 1))
    assert one.mean == two.mean
    assert one != two
    assert one == grouped_mean(values, logs_of(12, 1), 0)


def test_the_order_of_scenes_does_not_matter_to_an_interval():
    rng = np.random.default_rng(4)
    values, groups, order = rng.normal(size=20), logs_of(5, 4), rng.permutation(20)
    one, two = grouped_mean(values, groups), grouped_mean(values[order], groups[order])
    np.testing.assert_allclose(one, two)


def test_the_error_of_independent_scenes_is_the_textbook_s():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    textbook = values.std(ddof=1) / np.sqrt(4)
    assert grouped_error(values, list("abcd")) == pytest.approx(textbook)


def test_the_error_of_copies_is_that_of_their_originals():
    values = np.array([1.0, 2.0, 4.0, 9.0])
    alone = grouped_error(values, list("abcd"))
    copied = grouped_error(np.repeat(values, 10), np.repeat(list("abcd"), 10))
    assert copied == pytest.approx(alone)
    as_if_independent = grouped_error(np.repeat(values, 10), np.arange(40))
    assert as_if_independent < 0.5 * copied


@pytest.mark.parametrize(("values", "groups"), [([], []), ([1.0], ["a"]), ([1.0, 2.0], ["a", "a"])])
def test_fewer_than_two_logs_have_no_error_and_no_crash(values, groups):
    assert np.isnan(grouped_error(np.array(values), groups))


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        (np.zeros(0), []),
        (np.zeros(3), ["a", "b"]),
        (np.zeros((2, 2)), ["a", "b"]),
    ],
    ids=["nothing", "a group is missing", "a table"],
)
def test_values_and_groups_that_do_not_go_together_say_their_shapes(values, groups):
    with pytest.raises(ValueError, match=r"values in \(\d,?\) groups; need equal, 1-D, not 0"):
        grouped_mean(values, groups)
