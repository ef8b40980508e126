"""What scorers are told, by name: every source of a seed, trained on unlabelled logs alone.

A teacher is handed on only if its loss on unseen logs (`val`) is below its blind branch's; else its
name is in `refused` and its arms do not run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from latentvla_core.errors import SetupError
from latentvla_core.evidence import teacher as teaching
from latentvla_core.evidence.scenes import Scenes
from latentvla_core.evidence.teacher import (
    Answer,
    Decoder,
    TeacherConfig,
    code_decoder,
    flat_paths,
    nearest_word,
    one_hot,
    raw_answers,
    scene_losses,
    train_student,
    train_teacher,
    word_decoder,
)
from latentvla_core.statistics import Interval, paired_difference
from latentvla_core.types import NUM_ACTION_TOKENS, Array


@dataclass(frozen=True, slots=True)
class Sights:
    """What is known of all N scenes' pictures and futures."""

    seen: Array
    """(N, 2 D) float32: pictures now and 1 s ago."""
    small: Array
    """(N, d) float32: the student's smaller eye, the whole view now."""
    black: Array
    """(2 D,) of two black pictures."""
    codes: Array
    """(N, 12) latent actions of the seed's latent model."""


@dataclass(frozen=True, slots=True)
class Quality:
    """A teacher on unseen logs."""

    name: str
    loss: float
    blind_loss: float
    marginal_loss: float
    accuracy: float
    blind_accuracy: float
    marginal_accuracy: float
    gain: Interval
    """Blind loss − loss, paired by log."""

    @property
    def is_handed_on(self) -> bool:
        """Whether it knows more than its blind branch."""
        return self.loss < self.blind_loss


@dataclass(frozen=True, slots=True)
class Told:
    """Sources of a seed, rows of all N scenes."""

    sources: dict[str, Array]
    quality: dict[str, Quality]
    refused: dict[str, str]
    """Source → why no scorer is told it."""


def tell(scenes: Scenes, sights: Sights, config: TeacherConfig) -> Told:
    """Trains every teacher of a seed on `unlabelled` and asks it about all scenes. Raises SetupError
    when there is nothing to train or to judge on.
    """
    _check_roles(scenes)
    free, seen = scenes.of_role("unlabelled"), sights.seen
    rng = np.random.default_rng([config.training.seed, 7])
    decoder = code_decoder(sights.codes[free], scenes.path[free])
    out = _Telling(scenes, seen, free, config)
    blank = np.zeros(seen.shape[1], np.float32)
    sources: dict[str, Array] = {
        "pictures": seen,
        "black": np.broadcast_to(sights.black, seen.shape).copy(),
        "noise": rng.normal(size=(len(scenes), 24)).astype(np.float32),
        "constant": np.zeros((len(scenes), 24), np.float32),
        "oracle": decoder.path(one_hot(sights.codes)),
        "oracle_path": flat_paths(scenes.path),
    }
    codes = sights.codes.astype(np.int64)
    model = out.teach("teacher", codes, decoder)
    shuffled = codes.copy()
    shuffled[free] = codes[free][rng.permutation(len(free))]
    out.teach("shuffled", shuffled, decoder, is_control=True)
    random = teaching.random_teacher(scenes.ego[free], seen.shape[1], decoder.outputs, config)
    sources["random"] = decoder.path(
        out.probabilities("codes", raw_answers(random, scenes.ego, seen))
    )
    sources["visual"] = teaching.hidden_states(model, scenes.ego, seen)
    sources["actions"] = out.probabilities("codes", raw_answers(model, scenes.ego, seen))
    words = word_decoder(scenes.path[free], seed=config.training.seed)
    out.teach("words", nearest_word(flat_paths(scenes.path), words.weights), words)
    path = Decoder("path", blank, blank)
    out.teach("path", flat_paths(scenes.path), path)
    out.learn(codes, sights.small, raw_answers(model, scenes.ego, seen), decoder)
    return Told(sources | out.sources, out.quality, out.refused)


def _check_roles(scenes: Scenes) -> None:
    without = [role for role in ("unlabelled", "val") if not len(scenes.of_role(role))]
    if without:
        raise SetupError(
            f"no scene of role {' and '.join(without)}; teachers are trained on unlabelled logs and "
            "judged on val logs: give each role logs with a map, an annotation and 7 s or more"
        )


class _Telling:
    """Teachers of one seed, and what came of them."""

    def __init__(self, scenes: Scenes, seen: Array, free: Array, config: TeacherConfig) -> None:
        self.scenes, self.seen, self.free, self.config = scenes, seen, free, config
        self.sources: dict[str, Array] = {}
        self.quality: dict[str, Quality] = {}
        self.refused: dict[str, str] = {}

    def teach(
        self, name: str, target: Array, decoder: Decoder, is_control: bool = False
    ) -> teaching.Teacher:
        """A teacher and its blind branch as sources; refused if it knows no more than that."""
        ego, free, answer = self.scenes.ego, self.free, decoder.answer
        model = train_teacher(decoder, ego[free], self.seen[free], target[free], self.config)
        raw, blind = (raw_answers(model, ego, s) for s in (self.seen, None))
        self.sources[name] = decoder.path(self.probabilities(answer, raw))
        if not is_control:
            suffix = "" if name == "teacher" else f"_{name}"
            self.sources["blind_teacher" if not suffix else f"blind{suffix}"] = decoder.path(
                self.probabilities(answer, blind)
            )
            self._judge(name, answer, raw, blind, target)
        return model

    def learn(self, codes: Array, small: Array, taught: Array, decoder: Decoder) -> None:
        """Student with and without the teacher."""
        ego, free = self.scenes.ego, self.free
        config = replace(self.config, width=96, eye_width=32)
        for name, soft in (("student", taught[free]), ("student_alone", None)):
            model = train_student(ego[free], small[free], codes[free], config, soft)
            raw, blind = (raw_answers(model, ego, s) for s in (small, None))
            self.sources[name] = decoder.path(self.probabilities("codes", raw))
            self._judge(name, "codes", raw, blind, codes)

    @staticmethod
    def probabilities(answer: Answer, raw: Array) -> Array:
        import torch

        return teaching.probabilities(answer, torch.from_numpy(raw)).numpy()

    def _judge(self, name: str, answer: Answer, raw: Array, blind: Array, target: Array) -> None:
        rows = self.scenes.of_role("val")
        quality = judge(
            name, answer, (raw[rows], blind[rows]), target[rows], target[self.free],
            self.scenes.logs[rows],
        )  # fmt: skip
        self.quality[name] = quality
        if not quality.is_handed_on:
            self.refused[name] = (
                f"loss {quality.loss:.4f} on val logs is not below its blind branch's "
                f"{quality.blind_loss:.4f}"
            )


def judge(
    name: str,
    answer: Answer,
    raw_and_blind: tuple[Array, Array],
    target: Array,
    training_target: Array,
    logs: Array,
) -> Quality:
    """Losses and accuracies of a teacher, its blind branch and the marginal of training answers."""
    raw, blind = raw_and_blind
    losses = [scene_losses(answer, r, target) for r in (raw, blind)]
    common = marginal(answer, training_target, raw.shape[1])
    all_same = np.broadcast_to(common, raw.shape).copy()
    accuracy = [accuracy_of(answer, r, target) for r in (raw, blind, all_same)]
    gain = paired_difference(losses[1], losses[0], logs)
    third = float(scene_losses(answer, all_same, target).mean())
    return Quality(
        name, float(losses[0].mean()), float(losses[1].mean()), third, *accuracy, gain=gain
    )


def marginal(answer: Answer, target: Array, outputs: int) -> Array:
    """(outputs,) the raw answer that is the same for every scene and fits training answers best."""
    if answer == "path":
        return np.median(target, 0).astype(np.float32)
    if answer == "words":
        counts = np.bincount(target, minlength=outputs)[None]
    else:
        size = outputs // NUM_ACTION_TOKENS
        counts = np.stack([np.bincount(column, minlength=size) for column in target.T])
    shares = (counts + 0.5) / (counts + 0.5).sum(-1, keepdims=True)
    return np.log(shares).astype(np.float32).reshape(-1)


def accuracy_of(answer: Answer, raw: Array, target: Array) -> float:
    """Part of tokens answered right; NaN for paths."""
    if answer == "path":
        return float("nan")
    if answer == "words":
        return float((raw.argmax(-1) == target).mean())
    return float((raw.reshape(*target.shape, -1).argmax(-1) == target).mean())
