"""DINOv2 features kept as a table: computed once, found by content, fp16, the same numbers as
without it.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from latent_little_world import little_records
from PIL import Image

from latentvla_core.data.cameras import load_image
from latentvla_core.errors import DataError
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.feature_table import FeatureTable, open_cache, table_key
from latentvla_core.latent.features import DinoFeatures, FeatureConfig
from latentvla_core.latent.label import label_scenes
from latentvla_core.latent.train import train_latent_action_model
from latentvla_core.training.images import MISSING, ImageCache

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A tiny backbone of the real class."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    torch.manual_seed(0)
    shape = Dinov2WithRegistersConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        patch_size=14,
        image_size=56,
        num_register_tokens=4,
    )
    folder = tmp_path_factory.mktemp("dino")
    Dinov2WithRegistersModel(shape).save_pretrained(folder)
    return FeatureConfig(
        kind="dinov2", image_size_wh=(56, 28), patch_px=14, dim=24, backbone=str(folder)
    )


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return little_records(tmp_path_factory.mktemp("drives"), logs=2, frames=16)


@pytest.fixture
def asked(monkeypatch):
    """How many pictures the backbone was shown."""
    counts = []
    original = DinoFeatures.__call__

    def counting(self, pictures):
        if pictures.dtype == torch.uint8:
            counts.append(len(pictures.flatten(0, -4)))
        return original(self, pictures)

    monkeypatch.setattr(DinoFeatures, "__call__", counting)
    return counts


def pictures_of(records):
    return [(r.sensor_root, path) for r in records for path in r.front_paths]


def test_each_picture_is_computed_once_in_a_lifetime(config, records, tmp_path, asked):
    pictures = pictures_of(records)
    table = FeatureTable(config, tmp_path, mirror=True)
    rows = table.indices(pictures)
    assert sum(asked) == 2 * len(set(pictures)) == 2 * 32
    np.testing.assert_array_equal(table.indices(pictures), rows)
    again = FeatureTable(config, tmp_path, mirror=True)
    found = again.take(again.indices(pictures))
    assert sum(asked) == 2 * 32
    np.testing.assert_array_equal(found, table.take(rows))
    assert found.shape == (len(pictures), 2 * 4, 24)
    assert found.dtype == np.float16


def test_features_are_those_of_the_backbone_mirrored_where_asked(config, records, tmp_path):
    pictures = pictures_of(records)[:6]
    table = FeatureTable(config, tmp_path, mirror=True, batch_size=4)
    rows = table.indices(pictures).reshape(3, 2)
    flip = np.array([[True, True], [False, False], [True, True]])
    seen = np.stack([load_image(*p, config.image_size_wh) for p in pictures]).reshape(
        3, 2, 28, 56, 3
    )
    seen[[0, 2]] = seen[[0, 2], :, :, ::-1]
    expected = DinoFeatures(config)(torch.from_numpy(seen)).numpy()
    np.testing.assert_allclose(
        table.take(rows, flip).astype(np.float32), expected, atol=2e-3, rtol=2e-3
    )
    assert np.abs(table.take(rows, ~flip).astype(np.float32) - expected).max() > 0.1


@pytest.mark.parametrize("side", [False, True], ids=["plain", "mirrored"])
def test_kept_features_are_the_very_numbers_that_are_computed(config, records, tmp_path, side):
    pictures = pictures_of(records)[:6]
    table = FeatureTable(
        config, tmp_path, mirror=True, batch_size=6
    )  # as many as are computed at once below
    kept = torch.from_numpy(table.take(table.indices(pictures), np.full(6, side)))
    seen = np.stack([load_image(*p, config.image_size_wh) for p in pictures])[
        :, :, :: -1 if side else 1
    ]
    computed = DinoFeatures(config)(torch.from_numpy(np.ascontiguousarray(seen)))
    assert kept.dtype == torch.float16
    assert torch.equal(DinoFeatures(config)(kept), computed)


def test_forgetting_lets_go_of_pictures_and_keeps_the_table(config, records, tmp_path, asked):
    pictures = pictures_of(records)[:4]
    table, cache = FeatureTable(config, tmp_path), ImageCache(config.image_size_wh)
    for own in (table, cache):
        before = own.take(own.indices(pictures))
        own.forget()
        again = own.take(own.indices(pictures[2:]))
        np.testing.assert_array_equal(again, before[2:])
    assert sum(asked) == len(set(pictures))
    assert len(cache) == len(set(pictures[2:]))


def test_a_moved_picture_is_known_and_one_drawn_anew_is_not(config, records, tmp_path, asked):
    root, path = pictures_of(records)[0]
    copy = tmp_path / "elsewhere" / "other.jpg"
    copy.parent.mkdir()
    shutil.copy(Path(root, path), copy)
    table = FeatureTable(config, tmp_path / "tables")
    first = table.take(table.indices([(root, path)]))
    assert np.array_equal(table.take(table.indices([(str(copy.parent), copy.name)])), first)
    assert asked == [1]
    Image.fromarray(np.zeros((32, 64, 3), np.uint8)).save(copy)
    new = FeatureTable(config, tmp_path / "tables")
    assert not np.array_equal(new.take(new.indices([(str(copy.parent), copy.name)])), first)
    assert asked == [1, 1]


def test_other_weights_and_other_sizes_are_other_tables(config, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(config.backbone, other)
    same = FeatureConfig(**{**as_dict(config), "backbone": str(other)})
    assert table_key(same) == table_key(config)  # the folder's name does not matter
    weights = next(other.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert table_key(same) != table_key(config)
    assert table_key(FeatureConfig(**{**as_dict(config), "image_size_wh": (56, 56)})) != table_key(
        config
    )


def as_dict(config):
    return {
        name: getattr(config, name)
        for name in ("kind", "image_size_wh", "patch_px", "dim", "backbone")
    }


def test_unreadable_pictures_say_why_and_a_spoilt_block_says_what_to_do(config, records, tmp_path):
    table = FeatureTable(config, tmp_path)
    root = records[0].sensor_root
    assert table.indices([(root, "log-0/none.jpg"), (root, "")]).tolist() == [MISSING, MISSING]
    assert "log-0/none.jpg" in table.faults
    table.indices(pictures_of(records)[:1])
    with pytest.raises(DataError, match="open it with mirror=True"):
        table.take(np.zeros(2, int), np.array([False, True]))
    with pytest.raises(IndexError, match="drop missing"):
        table.take(np.array([MISSING]))
    next(table.folder.glob("*.arrow")).write_bytes(b"half a fi")
    with pytest.raises(DataError, match="delete it, it is computed again"):
        FeatureTable(config, tmp_path)


def test_training_and_labels_are_the_same_with_and_without_the_table(
    config, records, tmp_path, asked
):
    settings = LatentActionConfig.debug(features=config, steps=3, mirror=True)
    table = open_cache(config, tmp_path, mirror=True)
    assert isinstance(table, FeatureTable)
    trained = train_latent_action_model(records, settings, cache=table)
    assert sum(asked) == 2 * 32  # every picture and its mirror image once, no step asked again
    plain = train_latent_action_model(records, settings, cache=open_cache(config))
    assert sum(asked) > 4 * 32
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(
            tensor, trained.state_dict()[name], atol=2e-2, rtol=2e-2, msg=name
        )
    codes = label_scenes(records, trained, cache=FeatureTable(config, tmp_path)).codes
    fresh = label_scenes(records, trained, cache=ImageCache(config.image_size_wh)).codes
    assert (codes == fresh).mean() > 0.97


def test_the_table_opens_without_this_code(config, records, tmp_path):
    import pyarrow as pa

    table = FeatureTable(config, tmp_path, mirror=True)
    table.indices(pictures_of(records)[:4])
    (path,) = table.folder.glob("*.arrow")
    content = pa.ipc.open_file(str(path)).read_all()
    assert content.column_names == ["content", "mirrored", "features"]
    assert str(content.schema.field("features").type).startswith("fixed_size_list<item: halffloat")
    assert len(content) == 2 * len(set(pictures_of(records)[:4]))


def test_pixels_need_no_table(tmp_path):
    cache = open_cache(FeatureConfig(), tmp_path)
    assert type(cache) is ImageCache
    assert not list(tmp_path.iterdir())
