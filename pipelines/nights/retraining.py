"""Whether a night has something to train: how much is new, what is stale, or why it skips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NEW_SHARE = 0.05
"""Scenes beyond those that the last model was trained on, as a part of those, that are worth a
training.
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """Assets to make, or why none is."""

    assets: tuple[str, ...] = ()
    reason: str = ""


def plan(
    stale: Sequence[tuple[str, str]],
    models: Mapping[str, Any],
    scenes: int,
    trained_on: int,
    running: Sequence[str],
) -> Plan:
    """What tonight does.

    Args:
        stale: (asset, partition) that a run of the whole line would do, in order.
        models: names of assets that are trainings.
        scenes: training scenes there are.
        trained_on: training scenes of the last finished training; 0 = none yet.
        running: runs that write to this home now.
    """
    if running:
        return Plan(reason=f"run {running[0]} works on this home; the next night tries again")
    assets = tuple(dict.fromkeys(asset for asset, _ in stale))
    if not assets:
        return Plan(reason="nothing is stale: inputs, recipe and code are unchanged")
    new = scenes - trained_on
    trains = [asset for asset in assets if asset in models]
    if trains and trained_on and 0 < new < NEW_SHARE * trained_on:
        return Plan(
            reason=f"{new} new training scenes are less than {NEW_SHARE:.0%} of the {trained_on}"
            " that the models know; labels are made as logs arrive"
        )
    return Plan(assets)
