"""Sub-scores → score. Source: pdms.md §9."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from latentvla_core.types import Array

WEIGHTS_V1 = {"ego_progress": 5.0, "time_to_collision_within_bound": 5.0, "comfort": 2.0}
MULTIPLIERS_V1 = ("no_at_fault_collisions", "drivable_area_compliance")
WEIGHTS_V2 = {
    "ego_progress": 5.0,
    "time_to_collision_within_bound": 5.0,
    "lane_keeping": 2.0,
    "history_comfort": 2.0,
    "two_frame_extended_comfort": 2.0,
}
MULTIPLIERS_V2 = (
    "no_at_fault_collisions",
    "drivable_area_compliance",
    "driving_direction_compliance",
    "traffic_light_compliance",
)


def combine(
    columns: Mapping[str, Array], multipliers: tuple[str, ...], weights: Mapping[str, float]
) -> Array:
    """(...,) product of the multipliers times the weighted mean of the rest; a NaN entry leaves
    with its weight.

    Only `two_frame_extended_comfort` may be NaN: there is none without a previous frame (v2.2: / 14
    instead of / 16).
    """
    product = np.prod([columns[name] for name in multipliers], axis=0)
    total, weight = np.zeros_like(product), np.zeros_like(product)
    for name, share in weights.items():
        known = (
            np.isfinite(columns[name])
            if name == "two_frame_extended_comfort"
            else np.ones(product.shape, bool)
        )
        total = total + np.where(known, share * columns[name], 0.0)
        weight = weight + np.where(known, share, 0.0)
    return product * total / weight


def pdms(columns: Mapping[str, Array]) -> Array:
    """(...,) PDMS v1.1: NC · DAC · (5 EP + 5 TTC + 2 C) / 12."""
    return combine(columns, MULTIPLIERS_V1, WEIGHTS_V1)


def epdms(columns: Mapping[str, Array]) -> Array:
    """(...,) EPDMS v2.2: NC · DAC · DDC · TLC · (5 EP + 5 TTC + 2 LK + 2 HC + 2 EC) / 16, / 14
    without EC.
    """
    return combine(columns, MULTIPLIERS_V2, WEIGHTS_V2)
