"""ResNets for both hosts, by transformers' classes (neither timm nor torchvision is needed)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from latentvla_core.errors import SetupError
from latentvla_core.training.foreign import pretrained

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet


class ResNetSize(NamedTuple):
    """Basic-block ResNet; (64, (64, 128, 256, 512), (3, 4, 6, 3)) is ResNet-34."""

    stem_width: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]


def check_widths(widths: Sequence[int]) -> None:
    """Convolutions need channels in eights: with 4, torch 2.13's CPU backward (oneDNN) corrupted
    memory [measured].
    """
    odd = [width for width in widths if width % 8]
    if odd:
        raise ValueError(
            f"a convolution has {odd[0]} channels; use multiples of 8 (torch on CPU crashes with fewer)"
        )


def resnet(size: ResNetSize, *, channels: int, weights: str = "") -> Any:
    """A ResNetBackbone with `.embedder` and `.encoder.stages`, random or from a folder that
    transformers saved.
    """
    from transformers import ResNetBackbone, ResNetConfig

    config = ResNetConfig(
        num_channels=channels,
        embedding_size=size.stem_width,
        hidden_sizes=list(size.widths),
        depths=list(size.depths),
        layer_type="basic",
        out_features=[f"stage{len(size.widths)}"],  # pyright: ignore[reportCallIssue]
    )
    if not weights:
        return ResNetBackbone(config)
    try:
        return pretrained(ResNetBackbone, weights, heads=True, config=config)
    except SetupError as error:
        raise SetupError(
            f"{weights}: not usable as weights of {size} ({error}); give a folder of ResNet weights saved "
            "by transformers with these sizes, or leave image_weights empty"
        ) from error


def normalize(pictures: Tensor) -> Tensor:
    """uint8 (..., H, W, 3) → float (..., 3, H, W) with ImageNet's mean and standard deviation
    removed.
    """
    shift = torch.tensor(MEAN, device=pictures.device)
    scale = torch.tensor(STD, device=pictures.device)
    return ((pictures.float() / 255.0 - shift) / scale).movedim(-1, -3)


def grid_mask(pixels: Tensor, probability: float, ratio: float = 0.5) -> Tensor:
    """(B, c, H, W) normalised pixels → the same, each picture with `probability` under a grid of
    holes (value 0).

    GridMask: holes of `ratio` of the period, period and phase drawn per picture from torch's
    generator.
    """
    count, _, height, width = pixels.shape
    period = torch.randint(
        max(2, height // 8), max(3, height // 2), (count, 1), device=pixels.device
    )
    covered = []
    for side in (height, width):
        phase = torch.rand(count, 1, device=pixels.device) * period
        at = (torch.arange(side, device=pixels.device) + phase) % period  # (B, side)
        covered.append(at < ratio * period)
    holes = covered[0][:, :, None] & covered[1][:, None, :]  # (B, H, W)
    chosen = torch.rand(count, device=pixels.device) < probability
    return pixels.masked_fill((holes & chosen[:, None, None])[:, None], 0.0)
