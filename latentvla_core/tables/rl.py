"""What learning from the score changed."""

from __future__ import annotations

from latentvla_core.schema import TableSpec, integer, real, text
from latentvla_core.tables.columns import MADE_BY, SPLIT

_FIGURES = {
    "score": "mean PDMS v1.1, which it trained on",
    "epdms": "mean EPDMS v2.2",
    "extended_comfort": "mean two-frame comfort of plans half a second apart",
    "progress": "mean progress, a part of PDMS",
    "reversing": "part of plans with a step backwards of more than 0.5 m",
    "jumping": "part of plans whose last step differs from the one before by 6 m/s² or more",
    "dead_groups": "part of groups of drawn plans that are all worth the same and teach nothing",
    "collapsed": "part of scenes whose every drawn plan is worth less than 0.05",
    "easy_share": "part of the advantage that falls on the easier half of the scenes",
}
RL_SUMMARY = TableSpec(
    "rl_summary",
    "one host before and after it learned from the PDM score, on a held-out split",
    (
        text("planner", "model after the training"),
        text("start", "model before it"),
        SPLIT,
        integer("scenes", "scenes that could be scored"),
        integer("logs", "their logs"),
        *(
            real(f"{name}_{when}", f"{meaning}; {when} the training")
            for name, meaning in _FIGURES.items()
            for when in ("before", "after")
        ),
        *(
            column
            for name in ("score", "epdms")
            for column in (
                real(f"{name}_gain", f"after − before of {name}, paired by scene"),
                real(f"{name}_low", "lower end of its 95 % interval over logs"),
                real(f"{name}_high", "upper end"),
            )
        ),
        text("warnings", "what the detectors of known pitfalls say; empty if nothing"),
        MADE_BY,
    ),
    key=("planner", "split"),
    partition_by=(),
    version=2,
)
