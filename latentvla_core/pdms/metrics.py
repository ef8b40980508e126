"""THE place for names: metrics, their versions and their sub-scores. Tables, reports and pictures
derive from here.

Needs nothing but the standard library, so that naming a column does not load the scorer.
"""

from __future__ import annotations

from typing import Literal

Metric = Literal["pdms", "epdms"]
METRIC_VERSIONS: dict[str, str] = {"pdms": "pdms-v1.1", "epdms": "epdms-v2.2"}
METRIC_LABELS: dict[str, str] = {"pdms": "PDMS", "epdms": "EPDMS"}
REACTIVE = "reactive"
"""Suffix of the version when traffic reacts to the plan: such scores do not compare with those of
log replay.
"""
MEANINGS: dict[str, tuple[str, str]] = {
    "no_at_fault_collisions": ("NC", "0, ½ (static object) or 1"),
    "drivable_area_compliance": ("DAC", "0 or 1"),
    "driving_direction_compliance": ("DDC", "0, ½ or 1; weight 0 in v1.1"),
    "traffic_light_compliance": ("TLC", "0 or 1; v2.2"),
    "ego_progress": ("EP", "0…1 of the reference planner's progress"),
    "time_to_collision_within_bound": ("TTC", "0 or 1"),
    "lane_keeping": ("LK", "0 or 1; v2.2"),
    "comfort": ("C", "0 or 1; v1.1"),
    "history_comfort": ("HC", "0 or 1; v2.2"),
    "two_frame_extended_comfort": ("EC", "0 or 1; v2.2, NaN without a plan 0.5 s before"),
}
"""Devkit name → (short name, values), of every sub-score of any metric, in the order of the tables."""
_ONLY = {
    "traffic_light_compliance": "epdms",
    "lane_keeping": "epdms",
    "history_comfort": "epdms",
    "two_frame_extended_comfort": "epdms",
    "comfort": "pdms",
}
SUB_SCORES: dict[str, tuple[str, ...]] = {
    metric: tuple(name for name in MEANINGS if _ONLY.get(name, metric) == metric)
    for metric in METRIC_VERSIONS
}
"""Metric → its sub-scores by their devkit names."""


def metric_of(version: str) -> str:
    """The metric of a version such as "epdms-v2.2" or "epdms-v2.2-reactive"."""
    return version.partition("-")[0]


def short(name: str) -> str:
    """Short name of a sub-score: NC, DAC, …"""
    return MEANINGS[name][0]
