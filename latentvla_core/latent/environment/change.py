"""Where something changed that the trajectory does not explain, and how much: what stage 1 also
predicts.

The error of pixels is ruled by the large surfaces that a drive uncovers; a car that starts moving
is some per cent of it. On a logarithmic scale, cell by cell, that car counts like everything else,
most of all where the ego stands and nothing else moves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from latentvla_core.latent.features import FeatureConfig

CELLS = 2
"""Cells per side of a patch of pixels, where they fit; a token of a backbone is one cell."""
FLOOR = 1e-2
"""Squared difference of features that counts as nothing: 6 grey levels, above the noise of JPEG."""


def cells_of(config: FeatureConfig) -> int:
    """Cells per patch."""
    return _cells_per_side(config) ** 2


def _cells_per_side(config: FeatureConfig) -> int:
    return CELLS if config.cell_side % CELLS == 0 else 1


def change(first: Tensor, second: Tensor, config: FeatureConfig) -> Tensor:
    """Features (B, P, D) of two frames → (B, P, cells): ½ ln(1 + mean squared difference / FLOOR)."""
    side, cells = config.cell_side, _cells_per_side(config)
    squared = (
        (second - first)
        .float()
        .square()
        .unflatten(-1, (cells, side // cells, cells, side // cells, -1))
    )
    return torch.log1p(squared.mean((3, 5, 6)).flatten(2) / FLOOR) / 2
