"""Inverse and forward model, features, and the four sizes of the configuration."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from torch.nn import functional

from latentvla_core.errors import SetupError
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.features import (
    DinoFeatures,
    FeatureConfig,
    PixelFeatures,
    build_features,
)
from latentvla_core.latent.model import LatentActionModel
from latentvla_core.latent.network import (
    ConvolutionStem,
    DynamicsConfig,
    ForwardModel,
    InverseModel,
    SpaceTimeBlock,
    attend_causal_pair,
    grid_positions,
)

torch.set_num_threads(1)
SIZES = DynamicsConfig(width=16, heads=2, encoder_layers=2, decoder_layers=2)


def inverse(groups=((3, 5), (2, 7))):
    torch.manual_seed(0)
    return InverseModel(SIZES, feature_dim=12, grid_hw=(2, 4), groups=groups).eval()


def test_what_is_read_at_a_frame_does_not_depend_on_later_frames():
    model = inverse()
    x = torch.randn(2, 2, 8, 12)
    changed = x.clone()
    changed[:, 1] += torch.randn(2, 8, 12)
    before, after = model(x), model(changed)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[:, 0], b[:, 0])
        assert (a[:, 1] - b[:, 1]).abs().max() > 1e-4


def test_what_is_read_at_the_second_frame_depends_on_both():
    model = inverse()
    x = torch.randn(1, 2, 8, 12)
    other_first, swapped = x.clone(), x.flip(1)
    other_first[:, 0] = torch.randn(8, 12)
    read = model(x)[0][:, 1]
    assert (read - model(other_first)[0][:, 1]).abs().max() > 1e-4
    assert (read - model(swapped)[0][:, 1]).abs().max() > 1e-4


def test_groups_of_queries_have_their_own_width_and_positions():
    reads = inverse()(torch.randn(4, 2, 8, 12))
    assert [tuple(r.shape) for r in reads] == [(4, 2, 3, 5), (4, 2, 2, 7)]
    assert torch.pdist(reads[0][0, 1]).min() > 1e-3


def test_the_condition_reaches_the_codes():
    model = inverse()
    x, condition = torch.randn(1, 2, 8, 12), torch.randn(1, 3, 16)
    assert (model(x, condition)[0] - model(x, condition.flip(2))[0]).abs().max() > 1e-4


def test_causal_attention_of_pairs_equals_the_general_routine():
    q, k, v = torch.randn(3, 7, 4, 2, 8).unbind(0)
    expected = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(attend_causal_pair(q, k, v), expected)


def test_reading_only_the_queries_changes_nothing():
    block = SpaceTimeBlock(16, 2)
    x = torch.randn(2, 2, 9, 16)
    torch.testing.assert_close(block(x, keep=3), block(x)[:, :, :3])


def test_the_forward_model_begins_as_the_copy_baseline_and_then_uses_its_inputs():
    torch.manual_seed(0)
    model = ForwardModel(
        SIZES, feature_dim=12, grid_hw=(2, 4), codes=3, code_dim=5, conditioned=True
    )
    x, codes, condition = torch.randn(2, 8, 12), torch.randn(2, 3, 5), torch.randn(2, 3, 16)
    assert torch.equal(model(x, codes, condition), x)
    torch.nn.init.normal_(model.out.weight, std=0.1)
    out = model(x, codes, condition)
    assert out.shape == x.shape
    for other in (
        (x, codes + 1, condition),
        (x, codes, condition + 1),
        (x, codes.flip(1), condition),
    ):
        assert (model(*other) - out).abs().max() > 1e-4


def test_every_patch_has_its_own_position():
    assert torch.pdist(grid_positions((4, 8), 64)).min() > 0.1


def test_pixel_patches_are_row_major_squares():
    pictures = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (2, 3, 16, 32, 3), np.uint8)
    )
    x = PixelFeatures(FeatureConfig(image_size_wh=(32, 16)))(pictures)
    assert x.shape == (2, 3, 2 * 4, 192)
    square = pictures[1, 2, 8:16, 16:24].float()  # second row, third column
    torch.testing.assert_close(x[1, 2, 4 + 2], ((square / 255 - 0.5) / 0.25).flatten())


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    torch.manual_seed(0)
    config = Dinov2WithRegistersConfig(
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        patch_size=14,
        image_size=56,
        num_register_tokens=4,
    )
    folder = tmp_path_factory.mktemp("dino")
    Dinov2WithRegistersModel(config).save_pretrained(folder)
    return str(folder)


def dino_config(backbone, **changes):
    return FeatureConfig(
        **{
            "kind": "dinov2",
            "image_size_wh": (56, 28),
            "patch_px": 14,
            "dim": 24,
            "backbone": backbone,
        }
        | changes
    )


def test_dino_features_are_the_normalised_patch_tokens_of_a_local_folder(backbone):
    from transformers import AutoModel

    config = dino_config(backbone)
    features = build_features(config)
    assert isinstance(features, DinoFeatures)
    pictures = torch.randint(0, 256, (2, 2, 28, 56, 3), dtype=torch.uint8)
    x = features(pictures)
    assert x.shape == (2, 2, 2 * 4, 24)
    assert not x.requires_grad
    pixels = (pictures[1, 0].float() / 255 - features.mean) / features.std
    tokens = (
        AutoModel.from_pretrained(backbone).eval()(pixels.permute(2, 0, 1)[None]).last_hidden_state
    )
    torch.testing.assert_close(x[1, 0], tokens[0, 1 + 4 :], atol=1e-4, rtol=1e-3)  # rounded to fp16
    assert torch.equal(x, x.half().float())
    assert torch.equal(features(x.half()), x)  # what a table kept passes through


def test_dino_features_are_the_same_numbers_inside_and_outside_of_a_bf16_training(backbone):
    features = DinoFeatures(dino_config(backbone))
    pictures = torch.randint(0, 256, (2, 28, 56, 3), dtype=torch.uint8)
    with torch.autocast("cpu", torch.bfloat16):
        inside = features(pictures)
    assert torch.equal(inside, features(pictures))


def test_dino_works_inside_the_model_but_is_not_among_its_weights(backbone):
    config = LatentActionConfig.debug(features=dino_config(backbone))
    model = LatentActionModel(config)
    codes = model.codes(torch.randint(0, 256, (3, 2, 28, 56, 3), dtype=torch.uint8))
    assert codes.shape == (3, 4)
    assert not any("backbone" in name for name in model.state_dict())


def test_a_missing_or_other_backbone_is_refused_without_a_download(backbone):
    with pytest.raises(SetupError, match="nothing is downloaded"):
        build_features(dino_config("facebook/dinov2-base"))
    with pytest.raises(SetupError, match="config says"):
        build_features(dino_config(backbone, dim=32))


def test_feature_rules():
    with pytest.raises(ValueError, match="not a multiple of patch_px 8"):
        FeatureConfig(image_size_wh=(60, 32))
    with pytest.raises(ValueError, match="pixel patches of 8 have 192"):
        FeatureConfig(dim=100)


def test_all_sizes_share_one_schema_and_make_twelve_tokens():
    sizes = [
        getattr(LatentActionConfig, name)() for name in ("debug", "mini", "single_gpu", "paper")
    ]
    assert len({tuple(asdict(config)) for config in sizes}) == 1
    assert {config.num_tokens for config in sizes} == {12}
    assert {config.ego.codebook_size for config in sizes} == {16}
    assert LatentActionConfig.mini(steps=2000, seed=3).training_of(2).seed == 4


def test_the_paper_size_is_the_published_one():
    with torch.device("meta"):
        model = LatentActionModel(LatentActionConfig.paper())
    for stage in (model.environment, model.ego):
        count = sum(p.numel() for p in stage.parameters())
        blocks = sum(
            p.numel() for part in (stage.inverse, stage.decoder) for p in part.blocks.parameters()
        )
        assert blocks == pytest.approx(198e6, rel=0.005)  # UniVLA: 113 M encoder, 85 M decoder
        assert count == pytest.approx(
            198e6, rel=0.03
        )  # beside the blocks: what reads and adds codes, heads


def test_config_rules():
    with pytest.raises(ValueError, match="gap_frames is 0"):
        LatentActionConfig(gap_frames=0)
    with pytest.raises(ValueError, match="width 30"):
        DynamicsConfig(width=30, heads=4)


def test_the_convolution_stem_sees_the_picture_that_the_patches_make():
    """Its first layer must get neighbours as neighbours: compared with a convolution of the
    unpatched picture.
    """
    torch.manual_seed(0)
    config = FeatureConfig(image_size_wh=(32, 16), patch_px=8, dim=192)
    stem = ConvolutionStem(192, config.grid_hw, 16).eval()
    pictures = torch.randint(0, 256, (2, 1, 16, 32, 3), dtype=torch.uint8)
    frame = PixelFeatures(config)(pictures)
    seen = stem(torch.cat([frame, torch.zeros_like(frame)], dim=-1))
    plain = (pictures[:, 0].float() / 255 - 0.5) / 0.25
    image = torch.cat([plain.permute(0, 3, 1, 2), torch.zeros(2, 3, 16, 32)], dim=1)
    expected = stem.out(stem.layers(image).flatten(2).transpose(1, 2))
    torch.testing.assert_close(seen[:, 0], expected)
    assert seen.shape == (2, 1, 8, 16)


def test_the_convolution_stem_is_for_pixels_only():
    with pytest.raises(ValueError, match="needs pixel patches"):
        ConvolutionStem(384, (4, 4), 16)
