"""THE place for the lake's schemas: every table's columns, units, docs, key, partitioning and
schema version.

Storage (`store.py`), blocking checks (`pipelines/checks.py`) and `docs/tables.md` all derive from
`TABLES`. A change of columns or meaning raises `TableSpec.version` and is named under *Data* in the
changelog. `python -m latentvla_core.tables > docs/tables.md` writes the page.
"""

from __future__ import annotations

from latentvla_core.schema import Column, TableSpec, page, to_arrow, to_rows, wrapped
from latentvla_core.tables import (
    actions,
    closed_loop,
    controls,
    drives,
    evidence,
    quality,
    records,
    rl,
    scores,
    views,
)

__all__ = ["TABLES", "Column", "TableSpec", "tables_page", "to_arrow", "to_rows"]

TABLES: dict[str, TableSpec] = {
    spec.name: spec
    for spec in (
        drives.LOGS,
        drives.FRAMES,
        drives.SCENES,
        scores.SCENE_WORLDS,
        quality.LATENT_QUALITY,
        actions.LATENT_ACTIONS,
        quality.LATENT_CODES,
        actions.VLM_SAMPLES,
        actions.VLM_FEATURES,
        actions.STUDENT_FEATURES,
        scores.TRAJECTORIES,
        scores.CHOICES,
        scores.PDM_SCORES,
        scores.PDM_SUMMARY,
        evidence.EVIDENCE_TEACHERS,
        evidence.EVIDENCE_RUNS,
        evidence.EVIDENCE_SUMMARY,
        closed_loop.SCENES,
        *closed_loop.DRIVEN,
        closed_loop.SUMMARY,
        controls.PLANNER_CONTROLS,
        controls.CONTROL_COMPARISONS,
        rl.RL_SUMMARY,
        records.MODELS,
        records.RELEASES,
        records.QUARANTINE,
        records.MATERIALISATIONS,
    )
}


def tables_page() -> str:
    """docs/tables.md: every table, then the views."""
    told = (
        "Known to `latentvla sql` and `Lake.sql` beside the tables. Stored rows stay flat lists and"
        " integers, which training reads as arrays without copies; a view costs nothing until it is"
        " asked for."
    )
    head = f"# Views\n\n{wrapped(told)}\n"
    return page(TABLES, [head, *(views.markdown(view) for view in views.VIEWS.values())])
