"""What the study sees of a picture: grids of a frozen encoder, brought down to few numbers.

Two views of the front picture: the whole at half size, and its upper middle at full size, where
lamps and distant cars are. The projection is a PCA that is fitted on unlabelled pictures alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latentvla_core.data.cameras import load_image
from latentvla_core.encoders.encoder import FrozenEncoder
from latentvla_core.types import Array

PICTURE_WH = (448, 252)
MIDDLE_TOP = 0.18
"""Upper edge of the middle view, as a part of the picture's height; its size is a half."""
Load = Callable[[str, str, tuple[int, int]], Array]


@dataclass(frozen=True, kw_only=True, slots=True)
class EyeConfig:
    """How many numbers are kept of each view."""

    whole: int = 160
    """Components of the whole picture."""
    middle: int = 96
    """Components of its upper middle."""
    fit_pictures: int = 2000
    """Unlabelled pictures that the projection is fitted on."""

    @property
    def dim(self) -> int:
        """D of one picture."""
        return self.whole + self.middle


def views(picture: Array) -> Array:
    """(252, 448, 3) uint8 → (2, 126, 224, 3): the whole at half size, the upper middle as it is."""
    height, width = picture.shape[:2]
    half = picture.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
    top, left = round(MIDDLE_TOP * height), width // 4
    middle = picture[top : top + height // 2, left : left + width // 2]
    return np.stack([half.round().astype(np.uint8), middle])


class Eye:
    """Encoder and projection; `fit` first."""

    def __init__(self, encoder: FrozenEncoder, config: EyeConfig, load: Load = load_image) -> None:
        self.encoder, self.config, self.load = encoder, config, load
        self.means: list[Tensor] = []
        self.axes: list[Tensor] = []

    def fit(self, pictures: Sequence[tuple[str, str]], seed: int = 0) -> None:
        """(sensor root, path) of unlabelled pictures; at most config.fit_pictures are drawn."""
        count = min(len(pictures), self.config.fit_pictures)
        drawn = np.random.default_rng(seed).permutation(len(pictures))[:count]
        parts = [grids for grids, _ in self._grids([pictures[i] for i in sorted(drawn)])]
        self.means, self.axes = [], []
        for view, kept in enumerate((self.config.whole, self.config.middle)):
            rows = torch.cat([part[view] for part in parts]).float()
            mean, axes, first = principal(rows, kept, seed)
            self.means.append(mean)
            self.axes.append(axes / first)

    def __call__(self, pictures: Sequence[tuple[str, str]]) -> Array:
        """(n) pictures → (n, D) float32, in units of the first component's deviation."""
        if not self.axes:
            raise RuntimeError("the projection is not fitted; call `fit` with unlabelled pictures")
        out = np.zeros((len(pictures), self.config.dim), np.float32)
        for grids, rows in self._grids(pictures):
            parts = [
                (grid.float() - mean) @ axes
                for grid, mean, axes in zip(grids, self.means, self.axes, strict=True)
            ]
            out[rows] = torch.cat(parts, 1).numpy()
        return out

    def black(self) -> Array:
        """(D,) what is seen of a black picture."""
        dark = torch.zeros(2, PICTURE_WH[1] // 2, PICTURE_WH[0] // 2, 3, dtype=torch.uint8)
        grids = _flat(self.encoder(dark))
        parts = [
            (grids[view : view + 1].float() - self.means[view]) @ self.axes[view]
            for view in range(2)
        ]
        return torch.cat(parts, 1)[0].numpy()

    def _grids(
        self, pictures: Sequence[tuple[str, str]], block: int = 16
    ) -> Iterator[tuple[list[Tensor], slice]]:
        """Per block of pictures: flattened grids of both views, and which pictures they are."""
        for first in range(0, len(pictures), block):
            part = pictures[first : first + block]
            both = np.stack([views(self.load(root, path, PICTURE_WH)) for root, path in part])
            flat = _flat(self.encoder(torch.from_numpy(both.reshape(-1, *both.shape[2:]))))
            yield [flat[0::2], flat[1::2]], slice(first, first + len(part))


def _flat(grids: list[Tensor]) -> Tensor:
    return torch.cat([grid.flatten(1) for grid in grids], 1)


def principal(rows: Tensor, kept: int, seed: int) -> tuple[Tensor, Tensor, float]:
    """(n, d) → mean (d,), axes (d, kept), deviation along the first axis. Axes that n rows cannot
    give are zero.
    """
    mean = rows.mean(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        found = min(kept, len(rows) - 1, rows.shape[1])
        _, spread, axes = torch.pca_lowrank(
            rows - mean, q=min(found + 16, *rows.shape), center=False, niter=2
        )
    first = float(spread[0]) / max(len(rows) - 1, 1) ** 0.5
    return mean, torch.nn.functional.pad(axes[:, :found], (0, kept - found)), max(first, 1e-6)
