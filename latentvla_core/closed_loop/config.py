"""What the lake's closed loop drives, in the sizes of the recipes, and what the gate asks of it."""

from __future__ import annotations

from dataclasses import dataclass

from latentvla_core.closed_loop.scenes.situations import DANGEROUS, SITUATIONS, USUAL

KINDS = ("reactive", "log")
SITUATIONS_DRIVEN = USUAL + DANGEROUS
GATED = ("cls", "cls_tlc", "ds", "alpasim", "bridgesim", "ncap")


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosedLoopConfig:
    """The set of scenes, and how every driver drives it."""

    situations: tuple[str, ...] = SITUATIONS_DRIVEN
    """Names of `scenes.situations`; each has the same number of scenes."""
    per_situation: int = 2
    """Scenes of each situation and seed."""
    seeds: tuple[int, ...] = (0,)
    """A set of scenes each, in towns of its own."""
    traffic: tuple[str, ...] = KINDS
    seconds: float = 20.0
    """T; runs may last 1.5 · T."""
    picture_wh: tuple[int, int] = (448, 252)
    """Size of the pictures that planners see."""

    def __post_init__(self) -> None:
        unknown = [n for n in self.situations if n not in SITUATIONS]
        if unknown or not self.situations:
            raise ValueError(
                f"situations is {self.situations}; use some of {', '.join(SITUATIONS)}"
            )
        if not self.traffic or any(kind not in KINDS for kind in self.traffic):
            raise ValueError(f"traffic is {self.traffic}; use reactive, log, or both")
        if self.per_situation < 1 or not self.seeds:
            raise ValueError("per_situation and seeds: nobody drives a set without scenes")
        if self.seconds < 4.0:
            raise ValueError(f"seconds is {self.seconds}; a plan alone is 4 s long")

    @staticmethod
    def debug() -> ClosedLoopConfig:
        """Two scenes of six seconds."""
        return ClosedLoopConfig(
            situations=("merge", "danger_lead"),
            per_situation=1,
            traffic=("reactive",),
            seconds=6.0,
            picture_wh=(224, 126),
        )

    @staticmethod
    def mini() -> ClosedLoopConfig:
        """Two scenes of every situation: minutes a planner on two cores."""
        return ClosedLoopConfig()

    @staticmethod
    def single_gpu() -> ClosedLoopConfig:
        """207 usual scenes and 46 dangerous ones."""
        return ClosedLoopConfig(per_situation=23)

    @staticmethod
    def paper() -> ClosedLoopConfig:
        """Three sets of that size."""
        return ClosedLoopConfig(per_situation=23, seeds=(0, 1, 2))


@dataclass(frozen=True, kw_only=True, slots=True)
class ClosedLoopGate:
    """Whether a candidate for `champion` must not fall in closed loop, and what falling is."""

    required: bool = False
    """Candidate and champion must both have driven the set; who has not, drives it then."""
    scores: tuple[str, ...] = ("cls", "ds")
    """Columns of `closed_loop_scores` that must not fall, over T and all kinds of traffic."""
    tolerance: float = 0.02
    """A mean may fall by this part of the score's range: 0.02 is 2 points of DS."""

    def __post_init__(self) -> None:
        unknown = [n for n in self.scores if n not in GATED]
        if unknown or not self.scores:
            raise ValueError(f"scores is {self.scores}; use some of {', '.join(GATED)}")
        if self.tolerance < 0:
            raise ValueError(f"tolerance is {self.tolerance}; a fall is a positive number")
