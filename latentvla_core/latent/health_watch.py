"""Stopping a training that has already failed: a sink that looks at the numbers and raises.

A run of days must not end with "the codebook had collapsed in the first hour". Loss and gradients that are not finite
stop the training loop itself (`training.loop.DivergedError`); this stops what stays finite and is dead all the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

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


ALARMS = (
    Alarm("stage2/ego_perplexity", 2.0, "ego_perplexity"),
    Alarm("stage2/ego_usage", 3.0, "ego_usage"),
    Alarm(
        "stage1/gain", -0.02, "gain_over_copy"
    ),  # decoders begin as the copy baseline, so a sound run never falls below
    Alarm("stage2/gain", -0.02, "gain_over_copy"),
)


class HealthWatch:
    """Raises CollapsedError when a number has been bad for `patience` lines in a row.

    Args:
        settled: part of a stage after which numbers count; codes and decoder need some steps to wake up.
        settled_lines: in a long run they count from this line of the log on, if that is earlier.
        patience: one bad batch is no verdict. With three lines of ten steps, a demo's training is stopped within seconds.
    """

    def __init__(
        self, *, settled: float = 0.15, settled_lines: int = 20, patience: int = 3, alarms: tuple[Alarm, ...] = ALARMS
    ) -> None:
        self.settled, self.settled_lines, self.patience, self.alarms = settled, settled_lines, patience, alarms
        self.bad: Counter[str] = Counter()
        self.lines: Counter[str] = Counter()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for alarm in self.alarms:
            if alarm.key not in metrics:
                continue
            self.lines[alarm.key] += 1
            progress = metrics.get(f"{alarm.key.partition('/')[0]}/progress", 1.0)
            if progress < self.settled and self.lines[alarm.key] < self.settled_lines:
                continue
            # not (a > b): NaN is bad too
            self.bad[alarm.key] = self.bad[alarm.key] + 1 if not metrics[alarm.key] > alarm.floor else 0
            if self.bad[alarm.key] >= self.patience:
                raise CollapsedError(_told(alarm, metrics[alarm.key], step, self.patience))


def _told(alarm: Alarm, value: float, step: int, lines: int) -> str:
    figure = FIGURES[alarm.figure]
    return (
        f"training stopped at step {step}: {alarm.key} is {value:.3g}, and was at most {alarm.floor:g} for {lines} lines of"
        f" the log. Likely: {figure.cause}. Try: {figure.remedy}"
    )
