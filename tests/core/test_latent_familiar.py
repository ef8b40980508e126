"""Rows say how unlike the training's their pictures are: near for other logs of the same world, far
for other cameras, other light and no world at all.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from latent_little_world import little_records

from latentvla_core.latent import model as models
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.label import label_scenes
from latentvla_core.latent.model import LatentActionModel
from latentvla_core.latent.pairs import collect_pairs
from latentvla_core.latent.probes.run import learn_what_is_familiar
from latentvla_core.latent.rows.familiar import Familiar, describe
from latentvla_core.training.images import ImageCache


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that knows eight logs of the little world; no network of it is trained."""
    torch.manual_seed(0)
    model = LatentActionModel(LatentActionConfig.debug()).eval()
    records = little_records(tmp_path_factory.mktemp("seen"), logs=8)
    learn_what_is_familiar(model, pairs_of(model, records))
    return model


def pairs_of(model, records):
    return collect_pairs(
        records, model.config.gap_frames, ImageCache(model.config.features.image_size_wh)
    )


@pytest.fixture(scope="module")
def others(trained, tmp_path_factory):
    """(n, 2, H, W, 3) pictures of logs that it does not know."""
    pairs = pairs_of(trained, little_records(tmp_path_factory.mktemp("new"), logs=4, seed=50))
    return np.stack([pairs.pictures(np.array([i]))[0] for i in range(len(pairs))])


def distances(model, pictures) -> np.ndarray:
    return model.distances(model.features(torch.from_numpy(np.ascontiguousarray(pictures)))).numpy()


def test_other_logs_of_the_same_world_are_near(trained, others):
    found = distances(trained, others)
    assert np.median(found) < 1.0
    assert (found < 2.0).mean() > 0.9


@pytest.mark.parametrize(
    "change",
    [
        lambda pictures: np.random.default_rng(0).integers(0, 256, pictures.shape, np.uint8),
        lambda pictures: pictures[:, :, ::-1],  # upside down
        lambda pictures: pictures // 8,  # night
        lambda pictures: np.zeros_like(pictures),
    ],
    ids=["noise", "upside down", "night", "black"],
)  # fmt: skip
def test_pictures_unlike_those_of_the_training_are_far(trained, others, change):
    near, far = distances(trained, others), distances(trained, change(others))
    assert (far > 1.0).mean() > 0.9
    assert np.median(far) > 1.5 * np.median(near)


def test_a_hundredth_of_the_training_is_as_far_as_one():
    seen = torch.from_numpy(np.random.default_rng(0).normal(3.0, 2.0, (2000, 30))).float()
    familiar = Familiar(10)
    familiar.measure(seen)
    assert float((familiar(seen) > 1.0).float().mean()) == pytest.approx(0.01, abs=0.002)


@pytest.mark.parametrize("count", [1, 2, 7, 40])
def test_little_training_gives_finite_distances(count: int):
    seen = torch.from_numpy(np.random.default_rng(1).normal(size=(count, 30))).float()
    familiar = Familiar(10)
    familiar.measure(seen)
    assert torch.isfinite(familiar(seen)).all() and torch.isfinite(familiar(seen + 1e4)).all()
    assert (familiar(seen + 1e4) > familiar(seen)).all()


def test_descriptions_tell_light_texture_and_change_apart():
    x = torch.zeros(1, 2, 4, 3)
    x[:, 1] = 1.0
    assert describe(x)[0].tolist() == pytest.approx([0.5] * 3 + [0.5345] * 3 + [1.0] * 3, abs=1e-4)


def test_rows_carry_the_distance_which_is_kept_with_the_model(trained, tmp_path):
    records = little_records(tmp_path / "world", logs=1, seed=90, frames=18)
    unmeasured = LatentActionModel(LatentActionConfig.debug()).eval()
    assert np.isnan(label_scenes(records, unmeasured).training_distance).all()
    models.save(trained, tmp_path / "model")
    labels = label_scenes(records, trained)
    again = label_scenes(records, models.load(tmp_path / "model"))
    assert labels.training_distance.shape == labels.valid.shape
    assert np.isfinite(labels.training_distance[labels.valid]).all()
    np.testing.assert_array_equal(labels.training_distance, again.training_distance)
