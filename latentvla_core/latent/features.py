"""F: what the latent action model sees of a picture: pixel patches, or patch tokens of a frozen
DINOv2.

DINOv2 is read from a local folder and never downloaded; it is no part of the model's weights. Its
tokens are rounded to fp16, as `feature_table` keeps them, and never computed under autocast: what
is computed now, in training or not, and what was computed once are the same numbers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from latentvla_core.errors import SetupError
from latentvla_core.training.foreign import pretrained
from latentvla_core.training.precision import full_precision

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureConfig:
    """Observation space of the latent action model (latentvla.md §2.7)."""

    kind: Literal["pixels", "dinov2"] = "pixels"
    """pixels: normalised patches; dinov2: frozen patch tokens."""
    image_size_wh: tuple[int, int] = (64, 32)
    """Front picture after resizing, width × height; keeps about 16:9 so that side lanes stay
    visible.
    """
    patch_px: int = 8
    """Side of a patch; 14 for DINOv2."""
    dim: int = 192
    """D: 3 · patch² for pixels, the backbone's width for DINOv2 (small 384, base 768)."""
    backbone: str = ""
    """Folder of a transformers Dinov2 or Dinov2WithRegisters model; dinov2 only."""

    def __post_init__(self) -> None:
        width, height = self.image_size_wh
        if width % self.patch_px or height % self.patch_px:
            raise ValueError(
                f"image_size_wh {self.image_size_wh} is not a multiple of patch_px {self.patch_px}"
            )
        if self.kind == "pixels" and self.dim != 3 * self.patch_px**2:
            raise ValueError(
                f"dim is {self.dim}; pixel patches of {self.patch_px} have {3 * self.patch_px**2} numbers"
            )

    @property
    def grid_hw(self) -> tuple[int, int]:
        """Patches per column and row."""
        return self.image_size_wh[1] // self.patch_px, self.image_size_wh[0] // self.patch_px

    @property
    def cell_side(self) -> int:
        """Cells per side of a patch that features tell apart: its pixels, or 1 for a token of a
        backbone.
        """
        return self.patch_px if self.kind == "pixels" else 1


class PixelFeatures:
    """Patches of standardised pixels, row-major, D = patch · patch · 3."""

    def __init__(self, config: FeatureConfig) -> None:
        self.config = config

    def __call__(self, pictures: Tensor) -> Tensor:
        """(..., H, W, 3) uint8 → (..., P, D) float32, roughly zero mean and unit deviation."""
        size, (rows, columns) = self.config.patch_px, self.config.grid_hw
        x = (pictures.float() / 255 - 0.5) / 0.25
        x = x.unflatten(-2, (columns, size)).unflatten(
            -4, (rows, size)
        )  # (..., rows, p, columns, p, 3)
        return x.transpose(-4, -3).flatten(-3).flatten(-3, -2)


class DinoFeatures:
    """Normalised patch tokens of the last layer; class and register tokens are dropped."""

    def __init__(self, config: FeatureConfig) -> None:
        self.config = config
        _check_backbone(config)
        self.mean, self.std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)

    @cached_property
    def backbone(self) -> nn.Module:
        """The frozen network; its weights are read when a picture is seen that is in no table."""
        from transformers import AutoModel

        return pretrained(AutoModel, self.config.backbone, heads=True).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Tensor:
        """(..., H, W, 3) uint8, or (..., P, D) float16 that a table kept → (..., P, D) float32."""
        if pictures.dtype == torch.float16:
            return pictures.float()
        self.backbone.to(pictures.device)
        x = (pictures.float() / 255 - self.mean.to(pictures.device)) / self.std.to(pictures.device)
        lead, patches = pictures.shape[:-3], self.config.grid_hw[0] * self.config.grid_hw[1]
        with full_precision(pictures):
            tokens = self.backbone(x.flatten(0, -4).permute(0, 3, 1, 2)).last_hidden_state[
                :, -patches:
            ]
        return tokens.half().float().reshape(*lead, patches, self.config.dim)


Features = PixelFeatures | DinoFeatures


def to_map(x: Tensor, config: FeatureConfig) -> Tensor:
    """(B, P, D) → (B, C, H, W): pixels of pixel patches, the grid of tokens of a backbone."""
    (rows, columns), side = config.grid_hw, config.cell_side
    x = x.unflatten(-1, (side, side, -1)).unflatten(
        1, (rows, columns)
    )  # (B, rows, columns, side, side, C)
    return x.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def from_map(picture: Tensor, config: FeatureConfig) -> Tensor:
    """Inverse of `to_map`."""
    (rows, columns), side = config.grid_hw, config.cell_side
    x = picture.unflatten(3, (columns, side)).unflatten(
        2, (rows, side)
    )  # (B, C, rows, side, columns, side)
    return x.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def build_features(config: FeatureConfig) -> Features:
    """The frozen feature net of a config."""
    return PixelFeatures(config) if config.kind == "pixels" else DinoFeatures(config)


def _check_backbone(config: FeatureConfig) -> None:
    path = Path(config.backbone) / "config.json"
    if not path.is_file():
        raise SetupError(
            f"DINOv2 backbone {config.backbone!r} is no folder with a config.json; set features.backbone to a local "
            "folder saved by transformers (nothing is downloaded)"
        )
    shape = json.loads(path.read_text())
    found = (shape.get("hidden_size"), shape.get("patch_size"))
    if found != (config.dim, config.patch_px):
        raise SetupError(
            f"{config.backbone}: width and patch {found}, config says {(config.dim, config.patch_px)}"
        )
