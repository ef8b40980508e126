"""Stopping a training that has already failed: a sink that looks at the numbers and raises.

A run of days must not end with "the codebook had collapsed in the first hour". Loss and gradients
that are not finite stop the training loop itself (`training.loop.DivergedError`); this stops what
stays finite and is dead all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from latentvla_core.errors import LatentVLAError
from latentvla_core.latent.quality import FIGURES


class CollapsedError(LatentVLAError):
    """The training goes on, but what it learns has collapsed."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A number of the training log that says the run is lost when it stays at or below `floor`."""

    key: str
    floor: float
    figure: str
    """Its figure in the quality report: cause and remedy are the same."""
    settled: float = 0.15
    """Part of the stage after which it counts; codes and decoder need some steps to wake up."""
    patience: int = 3
    """Bad lines in a row that are a verdict; one batch is none. A demo's training is stopped within
    seconds.
    """


ALARMS = (
    Alarm("stage2/ego_perplexity", 2.0, "ego_perplexity"),
    Alarm("stage2/ego_usage", 3.0, "ego_usage"),
    Alarm(
        "stage1/gain", -0.02, "gain_over_copy"
    ),  # decoders begin as the copy baseline: a sound run never falls below
    Alarm("stage2/gain", -0.02, "gain_over_copy"),
    # without compensation it grows slowly: -0.002 to 0.009 at half of a demo's stage, 0.02 to 0.04
    # at its end
    Alarm("stage1/quality/trajectory_use", 0.005, "trajectory_use", settled=0.5, patience=2),
)


class QualityWatch:
    """Raises CollapsedError when a number has been bad for `patience` of its lines in a row.

    Args:
        settled_lines: in a long run numbers count from this line of the log on, if that is earlier
        than their `settled`.
        before: what was logged up to the checkpoint that this training goes on from
        (`sinks.read_curves`). Began it to count
            anew, a training that is stopped and started again would pass on its third attempt.
    """

    def __init__(
        self,
        *,
        settled_lines: int = 20,
        alarms: tuple[Alarm, ...] = ALARMS,
        before: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    ) -> None:
        self.settled_lines, self.alarms = settled_lines, alarms
        self.bad: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()
        for alarm in alarms:
            progress = dict((before or {}).get(_progress(alarm), ()))
            for step, value in (before or {}).get(alarm.key, ()):
                self._note(alarm, value, progress.get(step, 1.0))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for alarm in self.alarms:
            if alarm.key not in metrics:
                continue
            self._note(alarm, metrics[alarm.key], metrics.get(_progress(alarm), 1.0))
            if self.bad[alarm.key] >= alarm.patience:
                raise CollapsedError(_told(alarm, metrics[alarm.key], step))

    def _note(self, alarm: Alarm, value: float, progress: float) -> None:
        self.lines[alarm.key] += 1
        if progress < alarm.settled and self.lines[alarm.key] < self.settled_lines:
            return
        # not (a > b): NaN is bad too
        self.bad[alarm.key] = self.bad[alarm.key] + 1 if not value > alarm.floor else 0


def _progress(alarm: Alarm) -> str:
    return f"{alarm.key.partition('/')[0]}/progress"


def _told(alarm: Alarm, value: float, step: int) -> str:
    figure = FIGURES[alarm.figure]
    return (
        f"training stopped at step {step}: {alarm.key} is {value:.3g}, and was at most {alarm.floor:g} for {alarm.patience} lines of"
        f" the log. Likely: {figure.cause}. Try: {figure.remedy}"
    )
