"""How unlike the pictures of its training a transition is: codes of a model on pictures such as it
has never seen mean little, and nothing else says so.

A transition is described by means, spreads and changes of its patches. The description is placed
in the ellipsoid of those of the training: along its main axes and in all that they leave out. The
distance is 1 where one training transition in a hundred is as far.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

AXES = 16
PER_AXIS = 8  # training transitions that an axis needs, else it describes noise
USUAL = 0.99  # of the training lies nearer than distance 1
EPSILON = 1e-4
MOST_MEASURED = 8192


class Familiar(nn.Module):
    """The training's descriptions, in sums; NaN distances until they are measured."""

    mean: Tensor
    axes: Tensor
    spread: Tensor
    rest: Tensor
    scale: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3 * dim))
        self.register_buffer("axes", torch.zeros(AXES, 3 * dim))
        self.register_buffer("spread", torch.ones(AXES))  # of the training along each axis
        self.register_buffer("rest", torch.ones(()))  # mean square of what the axes leave out
        self.register_buffer("scale", torch.full((), torch.nan))

    @torch.no_grad()
    def measure(self, described: Tensor) -> None:
        """Set from the descriptions (n, 3 D) of training transitions."""
        described = described.double().cpu()
        mean, count = described.mean(0), min(AXES, len(described) // PER_AXIS)
        centred = described - mean
        _, values, axes = torch.linalg.svd(centred, full_matrices=False)
        axes, values = axes[:count], values[:count]
        left = centred - centred @ axes.T @ axes
        self.mean.copy_(mean)
        self.axes.zero_()[:count].copy_(axes)
        self.spread.fill_(1.0)[:count].copy_(values / max(1, len(described) - 1) ** 0.5)
        self.spread.clamp_min_(EPSILON)
        self.rest.copy_(left.square().mean().clamp_min(EPSILON**2))
        self.scale.fill_(1.0)
        self.scale.copy_(torch.quantile(self(described.to(self.mean)), USUAL).clamp_min(EPSILON))

    def forward(self, described: Tensor) -> Tensor:
        """(B, 3 D) → (B,) distance to the training; 1: as far as one in a hundred of it."""
        centred = described.float() - self.mean
        along = centred @ self.axes.T
        left = (centred - along @ self.axes).square().mean(1) / self.rest
        known = (self.axes != 0).any(1)
        inside = (along / self.spread).square()[:, known].mean(1) if known.any() else left
        return ((inside + left) / 2).sqrt() / self.scale


def describe(x: Tensor) -> Tensor:
    """Features of the two pictures (B, 2, P, D) → (B, 3 D): mean and spread over both pictures'
    patches, and the mean change from one to the other.
    """
    both = x.flatten(1, 2)
    change = (x[:, 1] - x[:, 0]).abs().mean(1)
    return torch.cat([both.mean(1), both.std(1), change], dim=1)
