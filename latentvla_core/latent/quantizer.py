"""Vector quantisers behind one interface: EMA (default), FSQ (cannot collapse), gradient (UniVLA).

All start from data and bring dead codes back from *current* encoder outputs (latentvla.md §2.2).
Shapes: z (B, N, d) encoder outputs at N positions, codes (B, N) int64 in 0 … K-1, values (B, N, d).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from latentvla_core.latent.evaluation import USED_SHARE, perplexity
from latentvla_core.training.devices.passes import Keeper
from latentvla_core.training.precision import full_precision
from latentvla_core.training.standardise import Standardise


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizerConfig:
    """One codebook, shared by the N positions of a transition."""

    kind: Literal["ema", "fsq", "gradient", "continuous"] = "ema"
    """ema: codes follow their encoder outputs; fsq: fixed grid; gradient: codes are parameters
    (UniVLA);
    continuous: no bottleneck but the width (LAPO's ablation): probes can read it, labels cannot be
    made of it.
    """
    codebook_size: int = 16
    """K; also the number of words the VLM learns."""
    code_dim: int = 16
    """d. Low widths keep all codes in use."""
    commitment: float = 0.25
    """β, pull of encoder outputs towards their codes."""
    decay: float = 0.97
    """EMA: part of the old statistics kept per step; lower for small batches."""
    dead_fraction: float = 0.03
    """A code used less than this part of the uniform share is dead."""
    revive_every: int = 25
    """Steps between revivals of dead codes; 0 = never."""
    standardise: bool = True
    """Give z zero mean and unit deviation per position and channel before quantising, by running
    statistics. Without it the shared codebook is spent on telling the positions apart, and small
    changes of z fall into one code.
    """
    statistics: Literal["batch", "running"] = "batch"
    """Whose mean and deviation standardise z in training: the batch's, or running ones, so that
    codes in training are the codes of labels. Labels are always made by running ones.
    """
    levels: tuple[int, ...] = (4, 4)
    """FSQ: grid points per dimension; their product must be the codebook size, their number
    replaces code_dim.
    """

    def __post_init__(self) -> None:
        if self.codebook_size < 2:
            raise ValueError(
                f"codebook_size is {self.codebook_size}; needs at least 2 codes to carry information"
            )
        if not 0 <= self.decay < 1:
            raise ValueError(
                f"decay is {self.decay}; needs 0 <= decay < 1, where 0 forgets every step"
            )
        if self.kind == "fsq" and math.prod(self.levels) != self.codebook_size:
            raise ValueError(
                f"FSQ levels {self.levels} make {math.prod(self.levels)} codes, not {self.codebook_size}"
            )

    @property
    def dim(self) -> int:
        """Width of what the encoder must deliver."""
        return len(self.levels) if self.kind == "fsq" else self.code_dim


class Quantized(NamedTuple):
    """What a quantiser makes of z."""

    values: Tensor
    """(B, N, d) codes' vectors; the gradient passes straight through to z."""
    codes: Tensor
    """(B, N) int64."""
    loss: Tensor
    """Scalar: commitment, and the codebook's own loss where it is learned by gradient."""
    z: Tensor
    """(B, N, d) what was quantised: the standardised encoder outputs."""


class Quantizer(Keeper):
    """Nearest code by Euclidean distance; how the codebook learns is up to the kind."""

    codebook: Tensor
    started: Tensor
    counts: Tensor
    steps: Tensor
    revived = 0
    """Codes that the last step brought back."""

    def __init__(self, config: QuantizerConfig, positions: int) -> None:
        super().__init__()
        self.config = config
        self.standardise = (
            Standardise(positions, config.dim, config.statistics) if config.standardise else None
        )
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self.register_buffer("counts", torch.zeros(config.codebook_size))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def lookup(self, codes: Tensor) -> Tensor:
        """(..., d) vectors of codes."""
        return self.codebook[codes]

    def nearest(self, z: Tensor) -> Tensor:
        """(B, N) codes of encoder outputs, by running statistics: equal alone and in any batch."""
        return self._choose(self._prepare(z, training=False))

    def distances(self, z: Tensor) -> Tensor:
        """(B, N, K) squared distances of encoder outputs to every code, in the space in which
        `nearest` chooses.
        """
        return (self.placed(z)[..., None, :] - self.codebook).square().sum(-1)

    def forward(self, z: Tensor) -> Quantized:
        z = self._prepare(z, training=self.training)
        if self.training and not bool(self.started):
            if self.starts:
                self._start(z.detach().flatten(0, 1))
            self.as_the_first()
        codes = self._choose(z)
        vectors = self.lookup(codes)
        loss = self.config.commitment * (
            z - vectors.detach()
        ).square().mean() + self._codebook_loss(z, codes)
        return Quantized(z + (vectors - z).detach(), codes, loss, z)

    def learn(self, made: Quantized) -> int:
        """Update usage (and the codebook) from one batch; revive dead codes when due. Returns how
        many were revived; where a step has several passes, in the step before.
        """
        self.keep(made.z.detach(), made.codes)
        return self.revived

    def follow(self, z: Tensor, codes: Tensor) -> None:
        """z (B, N, d) and codes (B, N) of a step."""
        self._follow(z.flatten(0, 1), codes.flatten())
        self.steps += 1
        due = self.config.revive_every > 0 and int(self.steps) % self.config.revive_every == 0
        self.revived = self._revive(z.flatten(0, 1)) if due else 0

    def running_usage(self) -> tuple[float, float]:
        """Codes above 0.2 % of the uses of the last batches, and their perplexity: is the codebook
        alive now?
        """
        frequencies = (self.counts / self.counts.sum().clamp_min(1e-9)).cpu()
        return float((frequencies > USED_SHARE).sum()), perplexity(frequencies)

    def _prepare(self, z: Tensor, *, training: bool) -> Tensor:
        return (
            z.float()
            if self.standardise is None
            else self.standardise(z.float(), training=training)
        )

    def placed(self, z: Tensor) -> Tensor:
        """(B, N, d) encoder outputs as `nearest` compares them with the codes, with gradient."""
        return self._prepare(z, training=False)

    def _choose(self, z: Tensor) -> Tensor:
        """Plain differences, not a matrix product, which autocast would round."""
        return (z[..., None, :] - self.codebook).square().sum(-1).argmin(-1)

    @torch.no_grad()
    def _start(self, z: Tensor) -> None:
        self._place(
            torch.arange(self.config.codebook_size, device=z.device),
            _spread(z, self.config.codebook_size),
        )
        self.started.fill_(True)

    @torch.no_grad()
    def _revive(self, z: Tensor) -> int:
        share = self.counts.sum() / self.config.codebook_size
        dead = torch.nonzero(self.counts < self.config.dead_fraction * share)[:, 0]
        if len(dead):
            chosen = torch.randperm(len(z))[torch.arange(len(dead)) % len(z)].to(z.device)
            self._place(dead, z[chosen])
        return len(dead)

    def _codebook_loss(self, z: Tensor, codes: Tensor) -> Tensor:
        return z.new_zeros(())

    @torch.no_grad()
    def _follow(self, z: Tensor, codes: Tensor) -> None:
        """Usage alone: codes learn in another way, or not."""
        won = torch.bincount(codes, minlength=self.config.codebook_size).to(self.counts.dtype)
        self.counts.lerp_(won, 1 - self.config.decay)

    def _place(self, rows: Tensor, vectors: Tensor) -> None:
        raise NotImplementedError


class EmaQuantizer(Quantizer):
    """Codes are running means of the encoder outputs they won: online k-means (decay 0 = one
    k-means step).
    """

    sums: Tensor

    def __init__(self, config: QuantizerConfig, positions: int) -> None:
        super().__init__(config, positions)
        size = (config.codebook_size, config.code_dim)
        self.register_buffer("codebook", torch.randn(size) * config.code_dim**-0.5)
        self.register_buffer("sums", torch.zeros(size))

    @torch.no_grad()
    def _follow(self, z: Tensor, codes: Tensor) -> None:
        won = torch.bincount(codes, minlength=self.config.codebook_size).to(z.dtype)
        with full_precision(z):  # a product, because index_add_ is random on CUDA
            sums = functional.one_hot(codes, self.config.codebook_size).to(z.dtype).T @ z
        self.counts.lerp_(won, 1 - self.config.decay)
        self.sums.lerp_(sums, 1 - self.config.decay)
        known = (
            self.counts > 1e-6
        )  # a code that won nothing for long keeps its place until it is revived
        self.codebook[known] = self.sums[known] / self.counts[known, None]

    @torch.no_grad()
    def _place(self, rows: Tensor, vectors: Tensor) -> None:
        share = (
            self.counts.sum().clamp_min(float(self.config.codebook_size))
            / self.config.codebook_size
        )
        self.codebook[rows] = vectors
        self.counts[rows] = share
        self.sums[rows] = vectors * share


class GradientQuantizer(Quantizer):
    """Codes are parameters, started uniformly in ±1/K and moved by the optimiser (UniVLA's mode,
    minus its traps).

    Usage is an EMA of `bincount`; dead codes restart from current encoder outputs. Keep it out of
    weight decay (`training.loop.NO_DECAY` does).
    """

    def __init__(self, config: QuantizerConfig, positions: int) -> None:
        super().__init__(config, positions)
        size, bound = (config.codebook_size, config.code_dim), 1 / config.codebook_size
        self.codebook = nn.Parameter(torch.empty(size).uniform_(-bound, bound))

    @torch.no_grad()
    def _start(self, z: Tensor) -> None:
        self.started.fill_(True)  # faithful: no data initialisation

    def _codebook_loss(self, z: Tensor, codes: Tensor) -> Tensor:
        return (z.detach() - self.codebook[codes]).square().mean()

    @torch.no_grad()
    def _place(self, rows: Tensor, vectors: Tensor) -> None:
        self.codebook[rows] = vectors
        self.counts[rows] = self.counts.mean()


class FiniteScalarQuantizer(Quantizer):
    """Every dimension is squashed and rounded to a few levels; the code is the mixed-radix number
    of the levels.
    """

    radix: Tensor
    levels: Tensor

    def __init__(self, config: QuantizerConfig, positions: int) -> None:
        super().__init__(config, positions)
        levels = torch.tensor(config.levels)
        radix = torch.tensor([math.prod(config.levels[:i]) for i in range(len(config.levels))])
        self.register_buffer("levels", levels, persistent=False)
        self.register_buffer("radix", radix, persistent=False)
        digits = torch.arange(config.codebook_size)[:, None] // radix % levels  # (K, d)
        self.register_buffer(
            "codebook", 2 * digits / (levels - 1) - 1, persistent=False
        )  # each axis in -1 … 1

    def forward(self, z: Tensor) -> Quantized:
        squashed = torch.tanh(self._prepare(z, training=self.training))
        codes = self._digits(squashed)
        return Quantized(
            squashed + (self.lookup(codes) - squashed).detach(), codes, z.new_zeros(()), squashed
        )

    def _revive(self, z: Tensor) -> int:
        return 0  # the grid does not move

    def placed(self, z: Tensor) -> Tensor:
        return torch.tanh(super().placed(z))

    def _choose(self, z: Tensor) -> Tensor:
        return self._digits(torch.tanh(z))

    def _digits(self, squashed: Tensor) -> Tensor:
        digits = ((squashed + 1) / 2 * (self.levels - 1)).round().long()
        return (digits * self.radix).sum(-1)


class Continuous(Quantizer):
    """No codes: the encoder output is its own "code", (B, N, d) float instead of (B, N) int64. A
    comparator only.
    """

    def __init__(self, config: QuantizerConfig, positions: int) -> None:
        super().__init__(config, positions)
        self.register_buffer("codebook", torch.zeros(0, config.code_dim), persistent=False)

    def forward(self, z: Tensor) -> Quantized:
        z = self._prepare(z, training=self.training)
        return Quantized(z, z.detach(), z.new_zeros(()), z)

    def lookup(self, codes: Tensor) -> Tensor:
        return codes

    def learn(self, made: Quantized) -> int:
        return 0

    def _choose(self, z: Tensor) -> Tensor:
        return z


def build_quantizer(config: QuantizerConfig, positions: int) -> Quantizer:
    """The quantiser of a config's kind, for `positions` codes per transition."""
    kinds = {
        "ema": EmaQuantizer,
        "gradient": GradientQuantizer,
        "fsq": FiniteScalarQuantizer,
        "continuous": Continuous,
    }
    return kinds[config.kind](config, positions)


def _spread(z: Tensor, count: int) -> Tensor:
    """(count, d) rows of z far from each other (k-means++ seeding); repeats with small noise if z
    has too few.
    """
    if len(z) < count:
        z = z.repeat(math.ceil(count / len(z)), 1)
        z = z + 1e-3 * torch.randn(z.shape).to(z.device)
    chosen = [int(torch.randint(len(z), ()))]
    distance = (z - z[chosen[0]]).square().sum(-1)
    for _ in range(count - 1):
        weights = (distance + 1e-12).cpu()
        chosen.append(int(torch.multinomial(weights / weights.sum(), 1)))
        distance = torch.minimum(distance, (z - z[chosen[-1]]).square().sum(-1))
    return z[chosen]
