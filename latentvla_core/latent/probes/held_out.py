"""The quality report while a model is trained: the same figures, on a sample of logs that training
does not see.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentvla_core.latent.model import LatentActionModel
from latentvla_core.latent.pairs import Pairs, collect_pairs, require_change
from latentvla_core.latent.probes.numbers import Report
from latentvla_core.latent.probes.report import report_on, report_on_stage_one
from latentvla_core.training.images import ImageCache
from latentvla_core.types import SceneRecord

JUDGED_SCENES, FITTED_SCENES = (
    300,
    600,
)  # a transition each: ten per weight of a probe, and a look takes seconds


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Transitions to look at a model with, again and again; small, because training waits for it."""

    judged: Pairs
    fitted: Pairs | None
    """Of other logs, for the probes; None: cross-validation over the logs of `judged`."""

    @classmethod
    def of(
        cls,
        records: Sequence[SceneRecord],
        probe_records: Sequence[SceneRecord] | None,
        gap_frames: int,
        cache: ImageCache,
    ) -> HeldOut:
        """A sample of scenes, of each the transition whose other agents are known; arguments as for
        `probes.evaluate`.
        """

        def sample(scenes: Sequence[SceneRecord], most: int) -> Pairs:
            return collect_pairs(
                spread_over_logs(scenes, most), gap_frames, cache, current_only=True
            )

        judged = sample(records, JUDGED_SCENES)
        require_change(judged)
        return cls(judged, None if probe_records is None else sample(probe_records, FITTED_SCENES))

    def report(self, model: LatentActionModel, stage: int) -> Report:
        """Figures of stage 1, or of both stages; what this sample cannot tell is left out."""
        measure = report_on_stage_one if stage == 1 else report_on
        return {
            name: value
            for name, value in measure(model, self.judged, self.fitted).items()
            if math.isfinite(value)
        }


def spread_over_logs(records: Sequence[SceneRecord], most: int) -> list[SceneRecord]:
    """At most so many scenes, in their order: one of every log, then another of every log …, drawn
    by a fixed seed.
    """
    seen, turns = Counter[str](), list[tuple[int, int]]()
    for number in np.random.default_rng(0).permutation(len(records)).tolist():
        log = records[number].log_name
        turns.append((seen[log], number))
        seen[log] += 1
    turns.sort(key=lambda turn: turn[0])  # stable: among those of one turn the drawn order stays
    return [records[number] for number in sorted(number for _, number in turns[:most])]
