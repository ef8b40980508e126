"""A layer that gives what a quantiser sees zero mean and unit deviation."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from latentvla_core.training.devices.passes import Keeper

EPSILON = 1e-6


class Standardise(Keeper):
    """Zero mean and unit deviation per position and channel: of the batch while training, or by
    running values always.

    Running values with the gradient of the batch (batch renormalisation, arXiv 1702.03275) make
    training see the codes that labels will be. By the batch's own values a nearly constant z is
    spread over the whole codebook in training, and is one code afterwards. The price: z drifts,
    running values lag behind, codes fit it less well (docs/results.md).
    """

    mean: Tensor
    variance: Tensor
    started: Tensor

    def __init__(self, positions: int, dim: int, statistics: Literal["batch", "running"]) -> None:
        super().__init__()
        self.statistics = statistics
        self.momentum = (
            0.05 if statistics == "batch" else 0.2
        )  # running values must keep up with what they normalise
        self.register_buffer("mean", torch.zeros(positions, dim))
        self.register_buffer("variance", torch.ones(positions, dim))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, z: Tensor, *, training: bool) -> Tensor:
        """(B, N, d) → same; outside training equal alone and in any batch."""
        if not training or len(z) < 2:
            return (z - self.mean) * torch.rsqrt(self.variance + EPSILON)
        mean, variance = z.mean(0), z.var(0)
        self._seen(mean.detach()[None], variance.detach()[None])
        by_batch = (z - mean) * torch.rsqrt(variance + EPSILON)
        if self.statistics == "batch":
            return by_batch
        scale = torch.sqrt((variance.detach() + EPSILON) / (self.variance + EPSILON))
        shift = (mean.detach() - self.mean) * torch.rsqrt(self.variance + EPSILON)
        return by_batch * scale + shift

    def _seen(self, means: Tensor, variances: Tensor) -> None:
        if self.held is not None and not bool(self.started):
            if self.starts:
                self.follow(means, variances)
            self.as_the_first()
        self.keep(means, variances)

    def follow(self, means: Tensor, variances: Tensor) -> None:
        """(P, N, d) of each pass of a step."""
        share = self.momentum if bool(self.started) else 1.0
        self.mean.lerp_(means.mean(0), share)
        self.variance.lerp_(variances.mean(0), share)
        self.started.fill_(True)
