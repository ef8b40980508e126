"""Stopping a training that has already failed: a sink that looks at the numbers and raises.

A run of days must not end with "the codebook had collapsed in the first hour". Loss and gradients that are not finite
stop the training loop itself (`training.loop.DivergedError`); this stops what stays finite and is dead all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from latentvla_core.errors import LatentVLAError
from latentvla_core.latent.health import FIGURES


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
    """Bad lines in a row that are a verdict; one batch is none. A demo's training is stopped within seconds."""


ALARMS = (
    Alarm("stage2/ego_perplexity", 2.0, "ego_perplexity"),
    Alarm("stage2/ego_usage", 3.0, "ego_usage"),
    Alarm("stage1/gain", -0.02, "gain_over_copy"),  # decoders begin as the copy baseline: a sound run never falls below
    Alarm("stage2/gain", -0.02, "gain_over_copy"),
    # without compensation it grows slowly: -0.002 to 0.009 at half of a demo's stage, 0.02 to 0.04 at its end
    Alarm("stage1/quality/trajectory_use", 0.005, "trajectory_use", settled=0.5, patience=2),
)


class HealthWatch:
    """Raises CollapsedError when a number has been bad for `patience` of its lines in a row.

    Args:
        settled_lines: in a long run numbers count from this line of the log on, if that is earlier than their `settled`.
        before: what earlier attempts at this training logged (`sinks.read_curves`). A run that goes on from a checkpoint must
            not begin to count anew: three attempts would pass what one does not.
    """

    def __init__(
        self,
        *,
        settled_lines: int = 20,
        alarms: tuple[Alarm, ...] = ALARMS,
        before: Mapping[str, Sequence[tuple[int, float]]] | None = None,
    ) -> None:
        self.settled_lines, self.alarms = settled_lines, alarms
        self.lines: dict[str, list[_Line]] = {alarm.key: [] for alarm in alarms}
        for alarm in alarms:
            progress = dict((before or {}).get(_progress(alarm), ()))
            for step, value in (before or {}).get(alarm.key, ()):
                self._note(alarm, step, value, progress.get(step, 1.0))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for alarm in self.alarms:
            if alarm.key not in metrics:
                continue
            self._note(alarm, step, metrics[alarm.key], metrics.get(_progress(alarm), 1.0))
            last = self.lines[alarm.key][-alarm.patience :]
            if len(last) == alarm.patience and all(line.bad for line in last):
                raise CollapsedError(_told(alarm, metrics[alarm.key], step))

    def _note(self, alarm: Alarm, step: int, value: float, progress: float) -> None:
        """One more line; those of an earlier attempt at this step or later ones are no more."""
        lines = [line for line in self.lines[alarm.key] if line.step < step]
        settled = progress >= alarm.settled or len(lines) + 1 >= self.settled_lines
        bad = settled and not value > alarm.floor  # not (a > b): NaN is bad too
        self.lines[alarm.key] = [*lines, _Line(step, bad)]


class _Line(NamedTuple):
    step: int
    bad: bool


def _progress(alarm: Alarm) -> str:
    return f"{alarm.key.partition('/')[0]}/progress"


def _told(alarm: Alarm, value: float, step: int) -> str:
    figure = FIGURES[alarm.figure]
    return (
        f"training stopped at step {step}: {alarm.key} is {value:.3g}, and was at most {alarm.floor:g} for {alarm.patience} lines of"
        f" the log. Likely: {figure.cause}. Try: {figure.remedy}"
    )
