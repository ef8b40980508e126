"""What the torch score hands back: sub-scores, and a reason where there is none."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import IntEnum

from torch import Tensor

from latentvla_core.pdms.measure import FAR, NOT_FINITE


class Reason(IntEnum):
    """Why a plan has no score."""

    SCORED = 0
    SCENE = 1
    """The scene cannot be scored: `TorchWorlds.reasons` says why."""
    NOT_FINITE = 2
    FAR = 3
    UNKNOWN_SCENE = 4
    """Its scene number is not that of a prepared scene."""


TEXTS = {
    Reason.SCENE: "the scene cannot be scored",
    Reason.NOT_FINITE: NOT_FINITE,
    Reason.FAR: FAR,
    Reason.UNKNOWN_SCENE: "the scene is not among those prepared; give numbers from TorchWorlds.index",
}


@dataclass(frozen=True, slots=True)
class TorchScores:
    """Scores of a batch; every tensor has the leading dimensions (...) of the plans."""

    metric: str
    metric_version: str
    columns: dict[str, Tensor]
    """Sub-scores and "score", float64; NaN where not valid."""
    valid: Tensor
    """bool"""
    reason: Tensor
    """int8 `Reason`."""

    def __getitem__(self, name: str) -> Tensor:
        return self.columns[name]

    def failures(self) -> dict[str, int]:
        """Why and how often plans have no score. Waits for the device."""
        found = Counter(self.reason.flatten().tolist())
        return {
            TEXTS[Reason(code)]: count
            for code, count in sorted(found.items())
            if code != Reason.SCORED
        }
