"""May this model label? Every figure of the quality report with what it means, what a bad value
says, and what to try.

`probes.evaluate` measures; this file judges: bounds by recipe, one judgement per figure, one
message for all that is wrong. Causes and remedies are those of latentvla.md §2.8, in the order to
try. No torch in here: the code location reads the names of the figures to declare its checks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from latentvla_core.errors import LatentVLAError

NOT_FINITE = "not_finite"
_ENVIRONMENT_R2 = ("environment_r2_longitudinal", "environment_r2_lateral", "environment_r2_yaw")
OF_STAGE_ONE = (
    *_ENVIRONMENT_R2,
    "environment_usage",
    "environment_perplexity",
    "shuffle_environment",
    "trajectory_use",
    "environment_use",
    "agent_advantage",
)
"""Figures that a model of one stage does not have."""
OF_CHANGE = ("environment_use",)
"""Figures that a model whose first stage predicts no change does not have (change_weight 0, as in
`faithful`).
"""
_DATA_MAY_NOT_TELL = (
    "_r2_",
    "transfer_",
    "mutual_information_",
    "agent_",
)  # NaN where nothing turns or nobody moves


@dataclass(frozen=True, slots=True)
class Figure:
    """What a number of the report means, and what to do when it is bad."""

    meaning: str
    cause: str
    remedy: str


_DEAD = "lower ego.decay (0.97 to 0.9) and ego.revive_every (25 to 10), then ego.code_dim 8, then ego.kind 'fsq'"
_LEAK = "the environment stage ignores the trajectory, so ego motion leaks into its codes"
_LEAK_REMEDY = (
    "compensate=True (is the front camera calibrated in these logs?), raise leak_weight (0.5 to 2), without compensation "
    "also code_dropout (0.5 to 0.7); agent_weight 0; train stage 1 longer"
)
_APPEARANCE = "the codes are a small picture of the second frame, not what the ego did"
_APPEARANCE_REMEDY = "action_weight up (0.3 to 1), DINOv2 features instead of pixels, fewer codes, more logs or steps"
_UNREADABLE = "the codes mean different things in different places, or the encoder cannot read what the decoder draws"
_UNREADABLE_REMEDY = "cycle_weight 0.2 with action_weight 1, train longer, on a mixture of logs, mirror=True; look at the atlas per map"
_LEARNING = "learning_rate down tenfold, warmup_steps up, then more steps; then a larger gap_frames"

FIGURES: dict[str, Figure] = {
    NOT_FINITE: Figure(
        "figures of the report that are not finite though any data can tell them",
        "the weights are not finite: the training diverged",
        "learning_rate down tenfold, clip_norm 0.5",
    ),
    "transitions": Figure(
        "transitions the report is measured on",
        "the val split has no usable pair of front pictures",
        "put logs with pictures and plausible poses into the val split; look at table quarantine",
    ),
    "ego_usage": Figure(
        "ego codes above 0.2 % of uses",
        "dead codes: most of the codebook is never the nearest",
        _DEAD,
    ),
    "ego_perplexity": Figure(
        "number of equally used ego codes that would carry as much",
        "a few codes take nearly all transitions",
        _DEAD,
    ),
    "ego_largest_share": Figure(
        "share of the most used ego code",
        "one manoeuvre dominates the logs, or the codebook collapses",
        "train on more kinds of drives (scene filter, more logs); then as for ego_usage",
    ),
    "ego_redundancy": Figure(
        "shared information between positions: 1 = all say the same",
        "the positions of a transition repeat each other",
        "fewer codes_per_transition, or another seed of the queries",
    ),
    "environment_usage": Figure(
        "environment codes above 0.2 % of uses",
        "the environment branch collapsed",
        "env_source 'stage1_frozen', leak_weight and independence_weight down, then as for ego_usage",
    ),
    "environment_perplexity": Figure(
        "number of equally used environment codes that would carry as much",
        "the environment branch collapsed",
        "env_source 'stage1_frozen', leak_weight and independence_weight down, then as for ego_usage",
    ),
    "gain_over_copy": Figure(
        "1 − error / error of predicting that nothing changes",
        "the forward model predicts worse than a copy: it has diverged or has hardly been trained",
        _LEARNING,
    ),
    "ego_r2_longitudinal": Figure(
        "speed read from ego codes by a linear probe", _APPEARANCE, _APPEARANCE_REMEDY
    ),
    "ego_r2_lateral": Figure(
        "sideways motion read from ego codes", _APPEARANCE, _APPEARANCE_REMEDY
    ),
    "ego_r2_yaw": Figure(
        "change of heading read from ego codes",
        "too few different turns were seen in training",
        "more logs with turns (48 logs of 20 s overfit), mirror=True, action_weight up",
    ),
    "environment_r2_longitudinal": Figure("speed read from environment codes", _LEAK, _LEAK_REMEDY),
    "environment_r2_lateral": Figure(
        "sideways motion read from environment codes", _LEAK, _LEAK_REMEDY
    ),
    "environment_r2_yaw": Figure(
        "change of heading read from environment codes", _LEAK, _LEAK_REMEDY
    ),
    "trajectory_use": Figure(
        "relative increase of stage 1's error when trajectories are exchanged between transitions",
        _LEAK,
        "compensate=True, conditioning 'added' (the trajectory to every patch in the decoder), without compensation code_dropout "
        "0.5, train stage 1 longer",
    ),
    "shuffle_ego": Figure(
        "relative increase of the error when ego codes are exchanged between samples",
        "the decoder ignores the ego codes: the environment codes already explain everything, or too little changes",
        "fewer environment_codes, environment_dropout 0.3, action_weight up, larger gap_frames, fewer decoder layers",
    ),
    "shuffle_environment": Figure(
        "relative increase of the error when environment codes are exchanged between samples",
        "the decoder ignores the environment codes",
        "soft_start 0.3 to 0.5, environment_sectors=True, change_weight up, leak_weight and independence_weight down, "
        "without compensation code_dropout 0",
    ),
    "environment_use": Figure(
        "relative increase of stage 1's error on where the unexpected happens when environment codes are exchanged",
        "the first stage's decoder ignores its own codes, so they say nothing",
        "soft_start 0.3 to 0.5, environment_sectors=True, change_weight up, without compensation code_dropout 0, train stage 1 longer",
    ),
    "agent_advantage": Figure(
        "what others do: R² read from environment codes, less that from ego codes (or less 0 if those know nothing)",
        "the environment codes do not tell what others do",
        "agent_weight up (0.1 to 0.3; it needs boxes: do these logs have them?), compensate=True, change_weight up, train stage 1 longer",
    ),
    "transfer_longitudinal": Figure(
        "A's frame driven by B's ego codes: share whose speed then differs from the mean as B's did; 0.5 = chance",
        _UNREADABLE,
        _UNREADABLE_REMEDY,
    ),
    "transfer_yaw": Figure("the same for the sign of turning", _UNREADABLE, _UNREADABLE_REMEDY),
}
"""Figures that a gate may bound; each is an asset check of `latent_quality`."""
_UNNAMED = Figure("see docs/latent-actions.md", "", "")


@dataclass(frozen=True, slots=True)
class Bound:
    """What one figure must reach; NaN = no bound on that side."""

    name: str
    at_least: float = math.nan
    at_most: float = math.nan

    def holds(self, value: float) -> bool:
        """NaN never holds."""
        low = math.isnan(self.at_least) or value >= self.at_least
        return low and (math.isnan(self.at_most) or value <= self.at_most) and not math.isnan(value)

    def __str__(self) -> str:
        sides = (("at least", self.at_least), ("at most", self.at_most))
        return " and ".join(f"{word} {side:g}" for word, side in sides if not math.isnan(side))


def _no_leak(at_most: float) -> tuple[Bound, ...]:
    return tuple(Bound(name, at_most=at_most) for name in _ENVIRONMENT_R2)


_STRUCTURE = (Bound(NOT_FINITE, at_most=0), Bound("transitions", at_least=1))
_FULL = (
    Bound("ego_usage", at_least=16),
    Bound("ego_perplexity", at_least=10),
    Bound("shuffle_ego", at_least=0.05),
)
_USED = (Bound("trajectory_use", at_least=0.05),)
_TRANSFER = (Bound("transfer_longitudinal", at_least=0.8), Bound("transfer_yaw", at_least=0.8))
_SPEAKING = (Bound("environment_perplexity", at_least=6), Bound("environment_use", at_least=0.2))
"""Codes that are free of ego motion because they say nothing are no success either."""
_LISTENING = (Bound("shuffle_environment", at_least=0.05),)
_ENVIRONMENT_USED = _SPEAKING + _LISTENING
_OTHERS = (Bound("agent_advantage", at_least=0.0),)
"""Never required: it needs boxes."""
_EMBEDDED = (
    *_FULL,
    Bound("gain_over_copy", at_least=0.2),
    Bound("ego_r2_longitudinal", at_least=0.6),
    Bound("ego_r2_yaw", at_least=0.4),
    *_no_leak(0.2),
)
"""The design's targets for the embedded world."""
_PAPER = (
    *_FULL,
    Bound("gain_over_copy", at_least=0.3),
    Bound("ego_r2_longitudinal", at_least=0.7),
    Bound("ego_r2_yaw", at_least=0.5),
    *_no_leak(0.1),
    *_LISTENING,
)
"""latentvla.md §2.8, paper scale."""


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityGate:
    """When a latent action model may label (`required`), and what it should reach (`targets`:
    reported, not required).
    """

    required: tuple[Bound, ...]
    targets: tuple[Bound, ...] = ()

    def without(self, names: Sequence[str]) -> QualityGate:
        """The gate of a model that does not have these figures."""
        kept = [
            tuple(b for b in bounds if b.name not in names)
            for bounds in (self.required, self.targets)
        ]
        return QualityGate(required=kept[0], targets=kept[1])

    @classmethod
    def debug(cls) -> QualityGate:
        """Two steps teach nothing: only figures that any data can tell must be finite."""
        return cls(required=_STRUCTURE, targets=_EMBEDDED + _TRANSFER + _ENVIRONMENT_USED)

    @classmethod
    def mini(cls) -> QualityGate:
        """A minute of training: not collapsed, codes used, no leak. The design's targets are
        reported.
        """
        alive = (
            Bound("ego_usage", at_least=10),
            Bound("ego_perplexity", at_least=6),
            Bound("ego_largest_share", at_most=0.6),
            Bound("gain_over_copy", at_least=0.1),
            Bound("shuffle_ego", at_least=0.02),
            *_USED,
            *_no_leak(0.5),
        )
        return cls(required=_STRUCTURE + alive, targets=_EMBEDDED + _TRANSFER + _ENVIRONMENT_USED)

    @classmethod
    def long(cls) -> QualityGate:
        """What `LatentActionConfig.long` is judged by on the embedded world: the design's targets,
        required.
        """
        return cls(
            required=_STRUCTURE + _EMBEDDED + _USED + _TRANSFER + _SPEAKING,
            targets=_LISTENING + _OTHERS,
        )

    @classmethod
    def single_gpu(cls) -> QualityGate:
        return cls.paper()

    @classmethod
    def paper(cls) -> QualityGate:
        """latentvla.md §2.8, paper scale."""
        return cls(required=_STRUCTURE + _PAPER + _USED + _TRANSFER, targets=_SPEAKING + _OTHERS)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One figure against one bound. A figure with a required bound and a target is judged twice."""

    name: str
    value: float
    bound: Bound
    required: bool
    passed: bool

    @property
    def figure(self) -> Figure:
        return FIGURES.get(self.name, _UNNAMED)

    @property
    def blocks(self) -> bool:
        return self.required and not self.passed

    def line(self) -> str:
        """Figure, value, bound, likely reason, remedy: all that someone needs at three in the
        morning.
        """
        told = f"{self.name} is {self.value:.3g}, must be {self.bound} ({self.figure.meaning})"
        if math.isnan(self.value):
            why = "the val split holds nothing that tells it, or the model lacks that part"
            return f"{told}. Likely: {why}. Try: more logs with turns and traffic in val"
        return f"{told}. Likely: {self.figure.cause}. Try: {self.figure.remedy}"


def judge(report: Mapping[str, float], gate: QualityGate) -> list[Judgement]:
    """Every figure of the report, in its order: against what is required, against its target, or as
    it is.

    A bound on a figure that the report lacks is judged as NaN, so a renamed figure cannot slip
    through. A model of one stage has no environment codes: what is asked of them is not asked of
    it. Nor is the use that only a prediction of change can tell, of a model that makes none.
    """
    if not any(name.startswith("environment_") for name in report):
        gate = gate.without(OF_STAGE_ONE)
    elif not any(name in report for name in OF_CHANGE):
        gate = gate.without(OF_CHANGE)
    values = {NOT_FINITE: float(len(_not_finite(report))), **report}
    values |= {b.name: math.nan for b in (*gate.required, *gate.targets) if b.name not in values}
    rows = []
    for name, value in values.items():
        bounds = [(b, True) for b in gate.required if b.name == name]
        bounds += [(b, False) for b in gate.targets if b.name == name]
        for bound, required in bounds or [(Bound(name), False)]:
            free = not bounds  # nothing is asked of it: NaN is then an answer too
            rows.append(Judgement(name, float(value), bound, required, free or bound.holds(value)))
    return rows


def _not_finite(report: Mapping[str, float]) -> list[str]:
    """Figures that are not finite, but for those that are NaN where the data has nothing to tell."""
    return [
        name
        for name, value in report.items()
        if not math.isfinite(value)
        and not (math.isnan(value) and any(part in name for part in _DATA_MAY_NOT_TELL))
    ]


class QualityError(LatentVLAError):
    """A latent action model that must not label."""


def require(report: Mapping[str, float], gate: QualityGate) -> None:
    """Raise QualityError with a line for every required bound that the report misses."""
    if lines := [row.line() for row in blocking(judge(report, gate))]:
        raise QualityError(
            "latent action model not good enough:" + "".join(f"\n  - {line}" for line in lines)
        )


def complaint(version: str, lines: Sequence[str], report: str) -> str:
    """One message for every bound missed."""
    listed = "\n".join(f"  - {line}" for line in lines)
    return (
        f"latent action model {version} must not label, {len(lines)} required figure(s) missed:\n{listed}\n"
        f"Report: {report}\nChange section `latent` of the recipe (or its logs) and run again: the model is trained anew, "
        "what is finished is kept. The bounds are the recipe's `latent_gate`"
    )


def blocking(rows: Iterable[Judgement]) -> list[Judgement]:
    """Those that stop the line."""
    return [row for row in rows if row.blocks]
