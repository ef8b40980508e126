"""Figures that training and report share: how codes are used, and how well motion is read."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from latentvla_core.latent.pairs import AXES

Numbers = dict[str, float]

USED_SHARE = 0.002  # a code below 0.2 % of all uses counts as unused


def histogram(codes: Tensor, codebook_size: int) -> Tensor:
    """(K,) frequencies that sum to 1."""
    counts = torch.bincount(codes.flatten().long().cpu(), minlength=codebook_size).double()
    return counts / counts.sum().clamp_min(1)


def perplexity(frequencies: Tensor) -> float:
    """exp of the entropy: the number of equally used codes that would carry as much. 1 … K."""
    p = frequencies[frequencies > 0]
    return float(torch.exp(-(p * p.log()).sum()))


def action_r2(read: Tensor, target: Tensor) -> Numbers:
    """R² within the batch of the ego motion (B, 3) that the action head reads from the codes, by
    axis.
    """
    residual, total = (target - read).square().sum(0), (target - target.mean(0)).square().sum(0)
    r2 = (1 - residual / total.clamp_min(1e-6)).tolist()
    return {f"action_r2_{axis}": value for axis, value in zip(AXES, r2, strict=True)}


def reconstruction_numbers(
    x: Tensor, reconstruction: Tensor, quantization: Tensor, revived: int
) -> Numbers:
    """Reconstruction next to the copy baseline, always (latentvla.md §2.7)."""
    copy = float(functional.mse_loss(x[:, 0], x[:, 1]))
    error = float(reconstruction.detach())
    gain = 1 - error / max(copy, 1e-9)
    return {
        "reconstruction": error,
        "copy": copy,
        "gain": gain,
        "vq": float(quantization.detach()),
        "revived": float(revived),
    }
