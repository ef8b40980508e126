"""The study: what its arms drove, what its teachers knew, and what follows from both."""

from __future__ import annotations

from latentvla_core.pdms.metrics import MEANINGS
from latentvla_core.schema import Column, TableSpec, flag, integer, real, text
from latentvla_core.tables.columns import LOG, MADE_BY

_VARIANT = text("variant", "arm of the study, `HOST+SOURCE`; evidence/variants.py says what for")
_LABELLED = integer("labelled", "labelled logs that proposals and scorer were trained on")
_ROLE = text("role", "val, test or test_towns")
_SITUATIONS = ("start", "stop", "entering", "bend", "turn", "follow", "cruise")
_SUB_SCORES = (
    "no_at_fault_collisions",
    "drivable_area_compliance",
    "ego_progress",
    "time_to_collision_within_bound",
    "comfort",
)


def _figures(scale: str) -> tuple[Column, ...]:
    return (
        real("pdms", f"PDMS v1.1, {scale}"),
        real("epdms", f"EPDMS v2.2, {scale}; two-frame comfort is that of the chosen plans"),
        real("ade_m", "mean distance of the plan's poses to the logged ones", "m"),
        real("min_ade_m", "the same of the menu's nearest proposal", "m"),
        real("best_pdms", f"PDMS of the best proposal, chosen with the answer known, {scale}"),
        *(real(name, f"{MEANINGS[name][0]}, {scale}") for name in _SUB_SCORES),
    )


EVIDENCE_TEACHERS = TableSpec(
    "evidence_teachers",
    "what one teacher or student of the study knows about logs that nobody was trained on",
    (
        text("teacher", "teacher, words, path, student or student_alone"),
        integer("seed", "of everything that was trained"),
        real("loss", "nats a token; of a path, L1 in networks' units"),
        real("blind_loss", "the same of its blind branch, which knows the ego status only"),
        real("marginal_loss", "the same of the training answers' frequencies"),
        real("accuracy", "part of tokens answered right; NaN for a path"),
        real("blind_accuracy", "the same of the blind branch"),
        real("marginal_accuracy", "the same of the most frequent answer"),
        real("gain", "blind_loss − loss, paired by scene"),
        real("gain_low", "lower end of its 95 % interval over logs"),
        real("gain_high", "upper end"),
        flag("is_handed_on", "its loss is below its blind branch's; else no scorer is told it"),
        text("refused", "why it is not handed on; empty if it is"),
        MADE_BY,
    ),
    key=("teacher", "seed"),
    partition_by=(),
)
EVIDENCE_RUNS = TableSpec(
    "evidence_runs",
    "means over the scenes of one log and situation, of one arm, seed and number of labelled logs",
    (
        _VARIANT,
        integer("seed", "of everything that was trained"),
        _LABELLED,
        _ROLE,
        LOG,
        text("situation", "what the scenes ask of the driver, evidence/situations.py"),
        integer("scenes", "scenes behind the means"),
        *_figures("0 … 1"),
        MADE_BY,
    ),
    key=("variant", "seed", "labelled", "role", "log_name", "situation"),
    partition_by=("variant",),
)
EVIDENCE_SUMMARY = TableSpec(
    "evidence_summary",
    "one arm of the study with one number of labelled logs: means over seeds, intervals over logs",
    (
        _VARIANT,
        _LABELLED,
        _ROLE,
        *_figures("points"),
        real("pdms_low", "lower end of PDMS's 95 % interval, whole logs drawn again"),
        real("pdms_high", "upper end"),
        integer("scenes", "scenes behind the means"),
        integer("logs", "logs that were drawn again"),
        integer("seeds", "seeds that were averaged"),
        real("seed_spread", "standard deviation of PDMS between seeds, points"),
        real("eyes_pdms", "PDMS where eyes are needed: mean over four situations, each alike"),
        *(
            real(f"pdms_{name}", "PDMS in this situation, points; NaN = none")
            for name in _SITUATIONS
        ),
        MADE_BY,
    ),
    key=("variant", "labelled", "role"),
    partition_by=(),
)
