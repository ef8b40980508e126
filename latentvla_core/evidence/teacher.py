"""Teachers and students: what pictures of unlabelled driving say about the next four seconds.

A teacher is additive: a blind branch that knows the ego status, and a picture branch that starts at
zero and is trained afterwards with the blind branch frozen. So the blind branch alone is the exact
control, and what pictures add is one number: the drop of the loss on unseen logs.

Answers are one of three: `codes` (the 12 latent actions), `words` (one of 256 whole paths), `path`
(24 numbers). What is handed on is decoded motion: the mean path under the answer's distribution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from latentvla_core.evidence.menu import PATH_NUMBERS, Standard, mlp, run_phase, scaled, unscaled
from latentvla_core.evidence.scenes import EGO_NUMBERS
from latentvla_core.training.config import FitConfig
from latentvla_core.types import CODEBOOK_SIZE, NUM_ACTION_TOKENS, PLAN_STEPS, Array

Answer = Literal["codes", "words", "path"]
WORDS = 256
CODE_NUMBERS = NUM_ACTION_TOKENS * CODEBOOK_SIZE


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherConfig:
    """Sizes and lengths of both branches."""

    width: int = 128
    """Hidden width of the blind branch."""
    eye_width: int = 64
    """Hidden width of the picture branch."""
    dropout: float = 0.7
    """Of the picture's numbers."""
    training: FitConfig = field(
        default_factory=lambda: FitConfig(
            steps=1500, batch_size=128, weight_decay=0.3, warmup_steps=50, log_every=1500
        )
    )
    """Of the picture branch; its seed is that of both."""
    blind_steps: int = 1500
    """Steps of the blind branch."""
    blind_weight_decay: float = 0.03
    """Its own; the other knobs are the picture branch's."""

    @property
    def blind_training(self) -> FitConfig:
        """Knobs of the blind branch."""
        return replace(self.training, steps=self.blind_steps, weight_decay=self.blind_weight_decay)


@dataclass(frozen=True, slots=True)
class Decoder:
    """Answer → motion, by numbers that were fitted on unlabelled logs."""

    answer: Answer
    weights: Array
    """(A·C, 24) of codes: a linear map of one-hot codes, so the mean over a product distribution
    is the map of its probabilities; (256, 24) of words; empty for `path`.
    """
    mean: Array
    """(24,)"""

    @property
    def outputs(self) -> int:
        """Numbers in a raw answer."""
        return PATH_NUMBERS if self.answer == "path" else len(self.weights)

    def path(self, probabilities: Array) -> Array:
        """(N, A·C), (N, 256) or (N, 24) → (N, 24) mean path in networks' units."""
        if self.answer == "path":
            return probabilities
        return (probabilities @ self.weights + self.mean).astype(np.float32)


def one_hot(codes: Array) -> Array:
    """(N, 12) codes → (N, 12·16) float32."""
    return np.eye(CODEBOOK_SIZE, dtype=np.float32)[codes].reshape(len(codes), -1)


def flat_paths(path: Array) -> Array:
    """(N, 8, 3) → (N, 24) in networks' units."""
    return scaled(torch.from_numpy(np.asarray(path, np.float32))).flatten(1).numpy()


def code_decoder(codes: Array, path: Array, ridge: float = 1.0) -> Decoder:
    """Least squares from one-hot codes (N, 12) to paths (N, 8, 3)."""
    x, y = one_hot(codes).astype(np.float64), flat_paths(path).astype(np.float64)
    mean = y.mean(0)
    weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (y - mean))
    return Decoder("codes", weights.astype(np.float32), mean.astype(np.float32))


def word_decoder(path: Array, words: int = WORDS, seed: int = 0, rounds: int = 15) -> Decoder:
    """K-means of whole paths: one token for four seconds."""
    points = flat_paths(path)
    rng = np.random.default_rng(seed)
    centers = points[rng.choice(len(points), min(words, len(points)), replace=False)]
    for _ in range(rounds):
        near = nearest_word(points, centers)
        sums = np.zeros_like(centers)
        np.add.at(sums, near, points)
        counts = np.bincount(near, minlength=len(centers))[:, None]
        centers = np.where(counts > 0, sums / np.maximum(counts, 1), centers)
    return Decoder("words", centers.astype(np.float32), np.zeros(PATH_NUMBERS, np.float32))


def nearest_word(points: Array, centers: Array) -> Array:
    """(N,) index of the nearest centre."""
    gaps = (centers**2).sum(1) - 2 * points @ centers.T
    return gaps.argmin(1)


class Teacher(nn.Module):
    """Ego status (B, 17) and pictures (B, D) → raw answer (B, A·C), (B, words) or (B, 24)."""

    def __init__(self, ego: Tensor, seen_dim: int, outputs: int, config: TeacherConfig) -> None:
        super().__init__()
        self.standard = Standard(ego)
        self.blind = mlp(EGO_NUMBERS, config.width, config.width, outputs, dropout=0.1)
        self.drop = nn.Dropout(config.dropout)
        self.eye = nn.Sequential(nn.Linear(seen_dim + EGO_NUMBERS, config.eye_width), nn.ReLU())
        self.read = nn.Linear(config.eye_width, outputs)
        nn.init.zeros_(self.read.weight)
        nn.init.zeros_(self.read.bias)

    def hidden(self, ego: Tensor, seen: Tensor) -> Tensor:
        """(B, eye_width): what the picture branch thinks, the study's E_v."""
        return self.eye(torch.cat([self.drop(seen), self.standard(ego)], -1))

    def forward(self, ego: Tensor, seen: Tensor | None) -> Tensor:
        out = self.blind(self.standard(ego))
        return out if seen is None else out + self.read(self.hidden(ego, seen))


def answer_loss(answer: Answer, raw: Tensor, target: Tensor) -> Tensor:
    """Mean negative log likelihood per token (codes, words), or L1 (path)."""
    if answer == "path":
        return F.l1_loss(raw, target)
    if answer == "words":
        return F.cross_entropy(raw, target)
    shaped = raw.unflatten(-1, (NUM_ACTION_TOKENS, CODEBOOK_SIZE))
    return F.cross_entropy(shaped.flatten(0, 1), target.flatten())


def probabilities(answer: Answer, raw: Tensor) -> Tensor:
    """Raw answers → distributions; a path is itself."""
    if answer == "path":
        return raw
    if answer == "words":
        return raw.softmax(-1)
    return raw.unflatten(-1, (NUM_ACTION_TOKENS, CODEBOOK_SIZE)).softmax(-1).flatten(-2)


def train_teacher(
    decoder: Decoder, ego: Array, seen: Array, target: Array, config: TeacherConfig
) -> Teacher:
    """The blind branch first, then the picture branch on top of it, frozen."""
    answer, model = decoder.answer, new_teacher(ego, seen.shape[1], decoder.outputs, config)
    e, s, t = (torch.from_numpy(x) for x in (ego, seen, target))

    def blind_loss(rows: Tensor, step: int) -> tuple[Tensor, Mapping[str, float]]:
        return answer_loss(answer, model(e[rows], None), t[rows]), {}

    def eye_loss(rows: Tensor, step: int) -> tuple[Tensor, Mapping[str, float]]:
        return answer_loss(answer, model(e[rows], s[rows]), t[rows]), {}

    run_phase(model, len(ego), blind_loss, config.blind_training)
    model.blind.requires_grad_(False)
    model.blind.eval()
    frozen = _StayEvaluating(model)
    run_phase(frozen, len(ego), eye_loss, config.training)
    return model.eval()


class _StayEvaluating(nn.Module):
    """The picture branch trains; dropout of the frozen blind branch stays off."""

    def __init__(self, teacher: Teacher) -> None:
        super().__init__()
        self.teacher = teacher

    def train(self, mode: bool = True) -> _StayEvaluating:
        super().train(mode)
        self.teacher.blind.eval()
        return self


def new_teacher(ego: Array, seen_dim: int, outputs: int, config: TeacherConfig) -> Teacher:
    """Untrained, from the config's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return Teacher(torch.from_numpy(ego), seen_dim, outputs, config)


def random_teacher(ego: Array, seen_dim: int, outputs: int, config: TeacherConfig) -> Teacher:
    """Untrained, but its picture branch speaks: what any network at all would hand on."""
    model = new_teacher(ego, seen_dim, outputs, config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed + 99)
        model.read.reset_parameters()
    return model.eval()


def train_student(
    ego: Array,
    seen: Array,
    target: Array,
    config: TeacherConfig,
    taught: Array | None,
    temperature: float = 2.0,
) -> Teacher:
    """A smaller eye learns the teacher's distribution `taught` (N, A·C raw), and the labels by half
    as much (latentvla.md §5); with None, the labels alone.
    """
    model = new_teacher(ego, seen.shape[1], CODE_NUMBERS, config)
    e, s, t = (torch.from_numpy(x) for x in (ego, seen, target))
    soft = None if taught is None else torch.from_numpy(taught)

    def distilled(raw: Tensor, rows: Tensor) -> Tensor:
        labels = answer_loss("codes", raw, t[rows])
        if soft is None:
            return labels
        shape = (NUM_ACTION_TOKENS, CODEBOOK_SIZE)
        own, wanted = (x.unflatten(-1, shape) / temperature for x in (raw, soft[rows]))
        gap = F.kl_div(own.log_softmax(-1), wanted.softmax(-1), reduction="none").sum(-1).mean()
        return temperature**2 * gap + 0.5 * labels

    def blind_loss(rows: Tensor, step: int) -> tuple[Tensor, Mapping[str, float]]:
        return distilled(model(e[rows], None), rows), {}

    def eye_loss(rows: Tensor, step: int) -> tuple[Tensor, Mapping[str, float]]:
        return distilled(model(e[rows], s[rows]), rows), {}

    run_phase(model, len(ego), blind_loss, config.blind_training)
    model.blind.requires_grad_(False)
    frozen = _StayEvaluating(model)
    run_phase(frozen, len(ego), eye_loss, config.training)
    return model.eval()


@torch.no_grad()
def raw_answers(teacher: Teacher, ego: Array, seen: Array | None) -> Array:
    """(N, …) raw answers; without pictures those of the blind branch."""
    given = None if seen is None else torch.from_numpy(seen)
    return teacher.eval()(torch.from_numpy(ego), given).numpy()


@torch.no_grad()
def hidden_states(teacher: Teacher, ego: Array, seen: Array) -> Array:
    """(N, eye_width) states of the picture branch."""
    return teacher.eval().hidden(torch.from_numpy(ego), torch.from_numpy(seen)).numpy()


def scene_losses(answer: Answer, raw: Array, target: Array) -> Array:
    """(N,) loss of each scene: nats per token, or L1 in networks' units."""
    r, t = torch.from_numpy(raw), torch.from_numpy(target)
    if answer == "path":
        return (r - t).abs().mean(-1).numpy()
    if answer == "words":
        return F.cross_entropy(r, t, reduction="none").numpy()
    shaped = r.unflatten(-1, (NUM_ACTION_TOKENS, CODEBOOK_SIZE))
    each = F.cross_entropy(shaped.flatten(0, 1), t.flatten(), reduction="none")
    return each.unflatten(0, t.shape).mean(-1).numpy()


def metres(paths: Array) -> Array:
    """(N, 24) in networks' units → (N, 8, 3) metres, radians."""
    return unscaled(torch.from_numpy(paths).unflatten(-1, (PLAN_STEPS, 3))).numpy()
