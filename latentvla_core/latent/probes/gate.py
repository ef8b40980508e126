"""Thresholds a model must reach before its labels are used."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from latentvla_core.errors import LatentVLAError
from latentvla_core.latent.pairs import AXES

Report = dict[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class QualityGate:
    """What a model must reach before its labels are used. NaN in a report fails."""

    usage: int = 16
    """Ego codes in use."""
    perplexity: float = 10.0
    """Of the ego codes."""
    gain_over_copy: float = 0.3
    """1 − MSE / MSE of copying the first frame."""
    longitudinal_r2: float = 0.7
    """Probe from ego codes."""
    yaw_r2: float = 0.5
    """Probe from ego codes."""
    environment_r2: float = 0.1
    """Largest probe R² from environment codes."""
    shuffle_ego: float = 0.05
    """Relative increase of the error when ego codes are shuffled."""
    shuffle_environment: float = 0.05
    """Same for environment codes."""

    @classmethod
    def paper(cls) -> QualityGate:
        return cls()

    @classmethod
    def embedded_world(cls) -> QualityGate:
        """The design's targets for `LatentActionConfig.long` on the embedded world."""
        return cls(gain_over_copy=0.2, longitudinal_r2=0.6, yaw_r2=0.4, environment_r2=0.2, shuffle_environment=-1.0)

    @classmethod
    def tiny(cls) -> QualityGate:
        """For a minute of training; only what collapses or encodes nothing fails."""
        return cls(
            usage=10,
            perplexity=6.0,
            gain_over_copy=0.2,
            longitudinal_r2=0.4,
            yaw_r2=-1.0,
            environment_r2=0.3,
            shuffle_environment=-1.0,
        )

    def faults(self, report: Report) -> list[str]:
        """One line per threshold missed; empty = pass."""
        leaks = [report.get(f"environment_r2_{axis}", 0.0) for axis in AXES]  # no such codes, no leak
        at_most = {"environment_r2": float(np.max(leaks))}
        at_least = {
            "usage": report["ego_usage"],
            "perplexity": report["ego_perplexity"],
            "gain_over_copy": report["gain_over_copy"],
            "longitudinal_r2": report["ego_r2_longitudinal"],
            "yaw_r2": report["ego_r2_yaw"],
            "shuffle_ego": report["shuffle_ego"],
            "shuffle_environment": report["shuffle_environment"],
        }
        limits = {f.name: getattr(self, f.name) for f in fields(self)}
        low = [f"{n} {v:.3g} < {limits[n]:g}" for n, v in at_least.items() if not v >= limits[n]]
        return low + [f"{n} {v:.3g} > {limits[n]:g}" for n, v in at_most.items() if not v <= limits[n]]


def require(report: Report, gate: QualityGate) -> None:
    """Raise, naming every threshold missed."""
    faults = gate.faults(report)
    if faults:
        raise LatentVLAError(
            f"latent action model not good enough: {'; '.join(faults)}; see docs/latent-actions.md, remedies"
        )
