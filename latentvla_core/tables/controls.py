"""The arms that fused planners are compared with, and what follows."""

from __future__ import annotations

from latentvla_core.schema import TableSpec, integer, real, text
from latentvla_core.tables.columns import LOG, MADE_BY, SCENE, SPLIT

_HOST = text("host", "host whose fused planner is compared")

PLANNER_CONTROLS = TableSpec(
    "planner_controls",
    "what one arm of one host planned in one scene of val or test",
    (
        _HOST,
        text("arm", "host, latent, student, swapped, missing, or one of planner/variants.py"),
        SPLIT,
        SCENE,
        LOG,
        real("score", "PDMS v1.1 of the plan, 0 … 1; NaN where the scene cannot be scored"),
        real("best_score", "the same of its best proposal, chosen with the answer known"),
        real("ade_m", "mean distance of the plan's poses to the logged ones", "m"),
        real("min_ade_m", "the same of its nearest proposal", "m"),
        MADE_BY,
    ),
    key=("host", "arm", "scene_token"),
    partition_by=(),
)
CONTROL_COMPARISONS = TableSpec(
    "control_comparisons",
    "one arm against another: the mean difference over scenes, its interval over whole logs",
    (
        _HOST,
        SPLIT,
        text("a", "arm"),
        text("b", "the arm it is compared with"),
        text("meaning", "what a − b says"),
        text("figure", "score (more is better) or ade_m (less is better)"),
        real("difference", "a − b in the figure's own unit"),
        real("low", "lower end of its 95 % interval"),
        real("high", "upper end"),
        integer("scenes", "scenes that both planned and that have a value"),
        integer("logs", "logs that were drawn again"),
        text(
            "verdict", "holds: a is better with its whole interval; against: worse; open: neither"
        ),
        MADE_BY,
    ),
    key=("host", "split", "a", "b", "figure"),
    partition_by=(),
)
