"""Physical tokens: disks of the radius asked for, everything covered, encoding to the nearest,
decoding to motions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from latent_little_world import SIZE_WH, little_records

from latentvla_core.errors import DataError, SetupError
from latentvla_core.latent.physical import (
    MOST_TOKENS,
    PhysicalConfig,
    PhysicalTokenizer,
    cluster_by_disks,
    corners,
    fit_physical_tokenizer,
    steps_of,
)
from latentvla_core.latent.probes.physical import evaluate_physical
from latentvla_core.training.images import ImageCache


def motions(count=3000, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack(
        [rng.uniform(0, 6, count), rng.normal(0, 0.1, count), rng.normal(0, 0.05, count)], axis=-1
    )


def distance(a, b):
    return np.abs(corners(a) - corners(b)).mean(-1)


@pytest.fixture(scope="module")
def tokenizer():
    return PhysicalTokenizer(PhysicalConfig(), cluster_by_disks(motions(), PhysicalConfig()))


def test_the_distance_is_that_of_the_boxs_corners():
    assert distance(np.zeros(3), np.array([0.3, 0.4, 0.0])) == pytest.approx(0.5)
    turned = corners(np.array([0.0, 0.0, np.pi]))
    np.testing.assert_allclose(turned, -corners(np.zeros(3)), atol=1e-12)  # about the rear axle
    ahead, behind = 5.176 - 1.127, 1.127
    assert sorted({round(c.real, 3) for c in corners(np.zeros(3))}) == [-behind, round(ahead, 3)]


def test_data_smaller_than_the_vocabulary_are_covered_within_a_disk():
    data = motions(1500) * [0.2, 1, 1]
    config = PhysicalConfig(size=2048, radius_m=0.1)
    found = PhysicalTokenizer(config, cluster_by_disks(data, config))
    assert len(found) < 2048
    errors = distance(found.decode(found.encode(data)), data)
    assert (
        errors.max() <= 2 * config.radius_m
    )  # a disk's mean is no farther from its members than its diameter
    assert np.mean(errors) < config.radius_m


def test_a_full_vocabulary_stops_and_stands_still_first():
    config = PhysicalConfig(size=50)
    found = cluster_by_disks(motions(), config)
    assert found.shape == (50, 3)
    np.testing.assert_array_equal(found[0], 0)
    assert len(np.unique(found, axis=0)) == 50
    np.testing.assert_array_equal(found, cluster_by_disks(motions(), config))
    assert not np.array_equal(found, cluster_by_disks(motions(), PhysicalConfig(size=50, seed=1)))


def test_no_drawn_disk_overlaps_the_centre_of_another():
    """Each draw removes what it covers, so tokens of a line of points are a radius apart."""
    line = np.stack([np.linspace(0, 3, 301), np.zeros(301), np.zeros(301)], axis=-1)
    found = np.sort(cluster_by_disks(line, PhysicalConfig(radius_m=0.1))[:, 0])
    assert 3 / 0.2 <= len(found) <= 3 / 0.1 + 2
    assert np.diff(found).min() > 0.04


def test_encoding_is_to_the_nearest_and_tokens_are_their_own(tokenizer):
    data = motions(200, seed=5)
    tokens = tokenizer.encode(data)
    every = distance(data[:, None], tokenizer.motions[None])
    np.testing.assert_array_equal(tokens, every.argmin(1))
    np.testing.assert_array_equal(tokenizer.encode(tokenizer.motions), np.arange(len(tokenizer)))
    assert tokens.dtype == np.int16
    assert tokenizer.encode(data.reshape(10, 20, 3)).shape == (10, 20)
    assert tokenizer.encode(np.array([[0, 0, 0], [np.nan, 0, 0]])).tolist() == [0, -1]
    with pytest.raises(DataError, match="vocabulary of"):
        tokenizer.decode(np.array([-1]))


def test_a_path_of_tokens_is_its_motions_one_after_the_other():
    turn = PhysicalTokenizer(PhysicalConfig(), np.array([[0, 0, 0], [2, 0, np.pi / 4]], np.float32))
    poses = turn.decode_path(np.array([[1, 1, 0]]))
    np.testing.assert_allclose(
        poses[0],
        [[2, 0, np.pi / 4], [2 + 2**0.5, 2**0.5, np.pi / 2], [2 + 2**0.5, 2**0.5, np.pi / 2]],
        atol=1e-6,
    )
    np.testing.assert_allclose(
        steps_of(np.concatenate([np.zeros((1, 3)), poses[0]])), turn.decode([1, 1, 0]), atol=1e-6
    )


def test_a_vocabulary_of_drives_reconstructs_other_drives(tmp_path):
    records = little_records(tmp_path, logs=6, frames=24)
    other = little_records(tmp_path, logs=1, frames=24, seed=90)
    tokenizer = fit_physical_tokenizer(records, PhysicalConfig(radius_m=0.1))
    poses = other[0].future_poses
    path = tokenizer.decode_path(
        tokenizer.encode(steps_of(np.concatenate([np.zeros((1, 3)), poses])))
    )
    assert np.linalg.norm(path[-1, :2] - poses[-1, :2]) < 0.1 * np.linalg.norm(poses[-1, :2])


def test_labels_have_the_shape_of_latent_ones(tmp_path):
    records = little_records(tmp_path, logs=3, frames=20)
    short = replace(records[1], future_poses=records[1].future_poses[:3])
    tokenizer = fit_physical_tokenizer(records, PhysicalConfig())
    labels = tokenizer.label([records[0], short])
    assert labels.codes.shape == (2, 6)
    assert labels.complete.tolist() == [True, False]
    assert labels.valid[1].tolist() == [True] * 3 + [False] * 3
    assert labels.reason[1][3] == "a pose is not known"
    path = tokenizer.decode_path(labels.codes[0].astype(int))
    np.testing.assert_allclose(path[-1], records[0].future_poses[5], atol=0.2)
    forward = steps_of(np.concatenate([np.zeros((1, 3)), records[0].future_poses]))[:6, 0]
    np.testing.assert_allclose(labels.motion[0, :, 2], forward, rtol=1e-5)
    np.testing.assert_allclose(labels.motion[0, 1:, 0], forward[:-1] / 0.5, rtol=1e-5)
    assert (labels.ego_confidence[0] >= 0).all()
    assert len(tokenizer.label([])) == 0


def test_the_probes_read_tokens_as_they_read_codes(tmp_path):
    records, other = (little_records(tmp_path, logs=4, frames=20, seed=s) for s in (0, 40))
    cache = ImageCache(SIZE_WH)
    report = evaluate_physical(
        other, fit_physical_tokenizer(records, PhysicalConfig(radius_m=0.6)), records, cache
    )
    assert report["ego_r2_longitudinal"] > 0.4
    assert report["ego_decoded_m"] < 1
    assert report["ego_usage"] > 5
    assert not any(name.startswith("environment") for name in report)


def test_a_saved_vocabulary_is_the_same_and_a_missing_one_is_told(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    again = PhysicalTokenizer.load(tmp_path)
    assert again.config == tokenizer.config
    np.testing.assert_array_equal(again.motions, tokenizer.motions)
    with pytest.raises(SetupError, match="no readable vocabulary"):
        PhysicalTokenizer.load(tmp_path / "nowhere")


def test_rules():
    with pytest.raises(ValueError, match="size 0, radius_m"):
        PhysicalConfig(size=0)
    with pytest.raises(ValueError, match="which int16 holds"):
        PhysicalConfig(size=40_000)
    assert PhysicalConfig(size=MOST_TOKENS).size - 1 == np.iinfo(np.int16).max
    with pytest.raises(DataError, match="none of 0 scenes"):
        fit_physical_tokenizer([], PhysicalConfig())
