"""Keeping ego motion out of the environment codes, in two ways that a growing encoder cannot
outwit.

No adversarial probe with reversed gradient: the encoder sees the trajectory, and beats such a probe
by encoding motion in ever other ways (measured: R² of motion from environment codes rose from 0.6
to 0.9).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from latentvla_core.latent.quantizer import Quantized, Quantizer
from latentvla_core.training.devices.passes import Keeper
from latentvla_core.training.precision import full_precision


def dependence(values: Tensor, motion: Tensor) -> Tensor:
    """Squared correlation of code vectors (B, m) with motion (B, 3), summed over motion, averaged
    over m; 0 … 3.
    """
    standard = [
        (v - v.mean(0)) * torch.rsqrt(v.var(0, correction=0) + 1e-4) for v in (values, motion)
    ]
    with full_precision(values):  # a correlation of bf16 numbers has two digits
        correlation = standard[0].T @ standard[1] / len(values)  # (m, 3)
    return correlation.square().sum(1).mean()


class MotionByCode(Keeper):
    """Mean ego motion of the samples of each code, by running statistics: a probe from one-hot
    codes in closed form.

    What correlation of code *vectors* cannot see, such as a code that all fast drives share
    whatever its vector, is seen here. The loss is the variance of motion between codes; its
    gradient moves a sample away from codes whose mean motion is like its own, until every code has
    slow and fast, left and right.
    """

    counts: Tensor
    sums: Tensor

    def __init__(
        self, positions: int, codebook_size: int, motion_dim: int, *, decay: float = 0.97
    ) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("counts", torch.zeros(positions, codebook_size))
        self.register_buffer("sums", torch.zeros(positions, codebook_size, motion_dim))

    def forward(self, made: Quantized, quantizer: Quantizer, motion: Tensor) -> Tensor:
        """Codes of a batch, standardised motion (B, 3) → variance between codes, summed over
        motion, mean of positions.

        In training the statistics follow the batch first (where a step has several passes, the
        step before). Assignment is softened by the distance to
        the codes, in which one deviation of z per channel is the unit.
        """
        if self.training:
            self.keep(made.codes, motion)
        mean = self.sums / (
            self.counts[..., None] + 0.1
        )  # a code that is hardly used has no opinion
        distance = (
            (made.z[..., None, :] - quantizer.codebook.detach()).square().sum(-1)
        )  # (B, N, K)
        share = torch.softmax(-distance / 2, dim=-1)
        # d/d share of Σ_k p_k |mean_k|²: what the sample adds to the mean of each code, and to how
        # often it is used
        with full_precision(motion):
            pull = 2 * torch.einsum("nkm,bm->bnk", mean, motion) - mean.square().sum(-1)
        return (share * pull).sum(-1).mean()

    def follow(self, codes: Tensor, motion: Tensor) -> None:
        """Codes (B, N), motion (B, 3)."""
        won = nn.functional.one_hot(codes, self.counts.shape[1]).to(motion.dtype)  # (B, N, K)
        self.counts.lerp_(won.sum(0), 1 - self.decay)
        with full_precision(motion):
            self.sums.lerp_(torch.einsum("bnk,bm->nkm", won, motion), 1 - self.decay)
