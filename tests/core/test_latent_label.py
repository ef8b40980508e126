"""What a label says beside its ego codes: environment codes, distances, confidence, motion, and
what it costs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from latent_little_world import little_records

from latentvla_core.data.cameras import load_image
from latentvla_core.errors import SetupError
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.label import label_scenes
from latentvla_core.latent.model import LatentActionModel, Told
from latentvla_core.latent.pairs import collect_pairs
from latentvla_core.latent.quantizer import QuantizerConfig, build_quantizer
from latentvla_core.training.images import ImageCache

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return little_records(tmp_path_factory.mktemp("label"), logs=2, frames=20, stride=1)


def model_of(**changes):
    torch.manual_seed(0)
    return LatentActionModel(LatentActionConfig.debug(**changes)).eval()


@pytest.fixture(scope="module")
def model():
    return model_of()


def test_shapes_and_ranges(model, records):
    labels = label_scenes(records, model)
    n = len(records)
    assert (
        labels.ego_codes.shape
        == labels.ego_distances.shape
        == labels.ego_confidence.shape
        == (n, 3, 4)
    )
    assert labels.environment_codes.shape == (n, 3, model.config.environment_codes)
    assert labels.motion.shape == (n, 3, 4)
    assert labels.has_environment.all()
    assert (labels.ego_distances >= 0).all()
    assert ((labels.ego_confidence >= 0) & (labels.ego_confidence <= 1)).all()


@pytest.mark.parametrize("kind", ["ema", "gradient", "fsq"])
def test_distances_are_those_by_which_codes_are_chosen(kind):
    torch.manual_seed(1)
    quantizer = build_quantizer(QuantizerConfig(kind=kind, code_dim=6), 4).eval()
    z = torch.randn(50, 4, quantizer.config.dim)
    distances = quantizer.distances(z)
    assert distances.shape == (50, 4, 16)
    torch.testing.assert_close(distances.argmin(-1), quantizer.nearest(z))


def test_confidence_is_none_halfway_between_two_codes_and_full_at_one(records, monkeypatch):
    """Codes at 0 and 4 of a line, and one transition's outputs at 0, 1, 2 and 3."""
    line = QuantizerConfig(codebook_size=2, code_dim=1, standardise=False)
    model = model_of(env_source="none", ego=line)
    model.ego.quantizer.codebook.copy_(torch.tensor([[0.0], [4.0]]))
    outputs = torch.tensor([0.0, 1.0, 2.0, 3.0])[:, None]
    monkeypatch.setattr(model.ego, "encode", lambda x: [outputs.expand(len(x), 4, 1)])
    labels = label_scenes(records[:1], model)
    np.testing.assert_array_equal(labels.ego_distances[0], [[0, 1, 4, 1]] * 3)
    np.testing.assert_allclose(
        labels.ego_confidence[0], [[1, 1 - 1 / 9, 0, 1 - 1 / 9]] * 3, rtol=1e-6
    )
    assert labels.ego_codes[0, :, [0, 1, 3]].T.tolist() == [[0, 0, 1]] * 3


def test_environment_codes_are_those_of_the_frozen_first_stage(model, records):
    """The same transitions through the pairs that stage 2 was trained on."""
    labels = label_scenes(records, model)
    cache = ImageCache(model.config.features.image_size_wh)
    pairs = collect_pairs(records, model.config.gap_frames, cache)
    index = np.arange(len(pairs))
    x = model.features(torch.from_numpy(pairs.pictures(index)))
    codes = model.environment.codes(x, Told(*map(torch.from_numpy, pairs.told(index)))).numpy()
    known = {tuple(row): code for row, code in zip(pairs.rows.tolist(), codes, strict=True)}
    for i, record in enumerate(records):
        for step in range(3):
            paths = [record.front_paths[3 + 2 * (step + k)] for k in range(2)]
            key = tuple(cache.indices([(record.sensor_root, path) for path in paths]).tolist())
            np.testing.assert_array_equal(labels.environment_codes[i, step], known[key])


def test_without_a_trajectory_there_are_ego_codes_only(model, records):
    record = records[0]
    blind = replace(record, future_poses=np.full_like(record.future_poses, np.nan))
    jump = record.future_poses.copy()
    jump[3:, 0] += 500.0  # between the pictures of the second transition
    both = label_scenes([blind, replace(record, future_poses=jump)], model)
    assert both.has_environment.tolist() == [[False] * 3, [True, False, False]]
    assert np.isnan(both.motion[0]).all()
    assert np.isfinite(both.motion[1, 0]).all()
    assert np.isnan(both.motion[1, 1]).all()
    assert both.valid.all()
    plain = label_scenes([record], model)
    np.testing.assert_array_equal(both.ego_codes, plain.ego_codes.repeat(2, axis=0))


def test_motion_is_what_the_poses_say(model, records):
    record = records[0]
    speed, change, forward, turn = label_scenes([record], model).motion[0, 1]
    poses = np.concatenate([record.history_poses, record.future_poses])
    first, second = poses[5], poses[7]  # frames +2 and +4
    away = second[:2] - first[:2]
    assert forward == pytest.approx(away @ [np.cos(first[2]), np.sin(first[2])], abs=1e-5)
    assert turn == pytest.approx(np.angle(np.exp(1j * (second[2] - first[2]))), abs=1e-5)
    driven = np.linalg.norm(poses[5, :2] - poses[4, :2]) / 0.5
    later = np.linalg.norm(poses[7, :2] - poses[6, :2]) / 0.5
    assert speed == pytest.approx(driven, rel=0.02)
    assert change == pytest.approx(later - driven, abs=0.1)


def test_neighbours_change_neither_distance_nor_environment(model, records):
    together = label_scenes(records, model)
    for i in (0, 5, len(records) - 1):
        alone = label_scenes([records[i]], model)
        np.testing.assert_array_equal(alone.environment_codes[0], together.environment_codes[i])
        np.testing.assert_allclose(alone.ego_distances[0], together.ego_distances[i], rtol=1e-4)
        np.testing.assert_array_equal(alone.motion[0], together.motion[i])


def test_each_picture_is_decoded_and_looked_at_once(model, records):
    decoded, seen = [], []

    def load(root, path, size_wh):
        decoded.append(path)
        return load_image(root, path, size_wh)

    features = model.features
    counting = model_of()
    counting._features = lambda pictures: seen.append(len(pictures)) or features(pictures)
    label_scenes(
        records, counting, cache=ImageCache(model.config.features.image_size_wh, load=load)
    )
    wanted = {path for r in records for path in r.front_paths[3:10:2]}
    assert sorted(decoded) == sorted(wanted)
    assert sum(seen) == len(wanted)


def test_a_model_that_encodes_the_environment_itself_needs_no_trajectory(records):
    blind = replace(records[0], future_poses=np.full_like(records[0].future_poses, np.nan))
    labels = label_scenes([blind], model_of(env_source="reencode", environment_sectors=False))
    assert labels.has_environment.all()
    assert np.isnan(labels.motion).all()


def test_a_large_codebook_does_not_overflow(records):
    labels = label_scenes(records[:2], model_of(ego=QuantizerConfig(codebook_size=256)))
    assert labels.ego_codes.dtype == np.int16
    assert labels.ego_codes.max() > 0


def test_a_single_stage_model_labels_without_environment_codes(records):
    labels = label_scenes(records[:2], model_of(env_source="none"))
    assert labels.environment_codes.shape == (2, 3, 0)
    assert labels.valid.all()


def test_a_continuous_model_is_refused(records):
    with pytest.raises(SetupError, match="no codes to label with"):
        label_scenes(
            records[:1], model_of(env_source="none", ego=QuantizerConfig(kind="continuous"))
        )
