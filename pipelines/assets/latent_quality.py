"""latent quality: the report of a latent action model, and the gate between the model and its
labels (latentvla.md §2.8).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from latentvla_core.errors import SetupError
from pipelines.assets.latent_action_model import (
    Judged,
    judged_scenes,
    what_it_sees,
)
from pipelines.checks import FigureChecks, FigureVerdict
from pipelines.settings import TRAIN, VAL
from pipelines.steps import declare
from pipelines.steps.context import CURVES, Output, StageContext
from pipelines.steps.lineage import UNPARTITIONED
from pipelines.steps.reading import shown_at, training_records

if TYPE_CHECKING:
    from latentvla_core.latent.model import LatentActionModel
    from latentvla_core.latent.probes import Report
    from latentvla_core.latent.quality import Judgement

MODEL = "latent_action_model"


def measure(
    context: StageContext, model: LatentActionModel, judged: Judged
) -> tuple[Report, dict[str, Any]]:
    """The figures, and the codes (n, N) of the judged transitions by codebook. Every picture is
    decoded once.
    """
    from latentvla_core.latent.pairs import collect_pairs
    from latentvla_core.latent.probes import all_codes, evaluate

    cache = what_it_sees(context, model.config)
    report = evaluate(
        judged.records, model, device=context.device, cache=cache, probe_records=judged.others
    )
    pairs = collect_pairs(judged.records, model.config.gap_frames, cache)
    ego, environment = all_codes(model, pairs)
    return report, {"ego": ego, "environment": environment}


def read_curves_of(context: StageContext) -> dict[str, list[tuple[int, float]]]:
    """What the training logged, kept beside the model."""
    from latentvla_core.training.sinks import read_curves

    return read_curves(context.model_dir(MODEL) / CURVES)


def row_of(row: Judgement, version: str) -> dict[str, Any]:
    """Row of `latent_quality`."""
    return {
        "model_version": version,
        "name": row.name,
        "value": row.value,
        "at_least": row.bound.at_least,
        "at_most": row.bound.at_most,
        "required": row.required,
        "passed": row.passed,
        "meaning": row.figure.meaning,
        "cause": row.figure.cause,
        "remedy": row.figure.remedy,
    }


def judgement_of(row: dict[str, Any]) -> Judgement:
    """`row_of` backwards."""
    from latentvla_core.latent.quality import Bound, Judgement

    bound = Bound(row["name"], row["at_least"], row["at_most"])
    return Judgement(row["name"], row["value"], bound, row["required"], row["passed"])


def stored_judgements(context: StageContext, version: str) -> list[Judgement]:
    """What the report of one model version says; [] if there is none."""
    return [
        judgement_of(row) for row in context.lake.rows("latent_quality", {"model_version": version})
    ]


def approve(context: StageContext) -> None:
    """Raise unless the current model has a report whose every required figure holds the bounds of
    this recipe.

    The figures are the report's, the bounds are not: bounds may have moved since it was written.
    """
    from latentvla_core.latent.quality import QualityError, blocking, complaint, judge

    version = context.ledger.made_by(MODEL, UNPARTITIONED)
    rows = stored_judgements(context, version)
    if not rows:
        raise SetupError(
            f"latent action model {version} has no quality report; materialise asset latent_quality first"
        )
    figures = {row.name: row.value for row in rows}
    if stopped := blocking(judge(figures, context.recipe.latent_gate)):
        lines = [row.line() for row in stopped]
        raise QualityError(complaint(version, lines, str(context.page("latent_quality", version))))


def note_in_registry(context: StageContext, report: Report, *, passed: bool) -> None:
    """The figures on the run that made the model, the verdict on its registered version."""
    from pipelines.registry.tracking import note_quality

    version = context.ledger.made_by(MODEL, UNPARTITIONED)
    found: Sequence[dict[str, Any]] = context.lake.rows(
        "models", {"name": MODEL, "version": version}, ["mlflow_uri"]
    )
    if found:
        note_quality(
            context.settings, found[0]["mlflow_uri"], report, "passed" if passed else "failed"
        )


def figure_names() -> dict[str, str]:
    from latentvla_core.latent.quality import FIGURES

    return {name: figure.meaning for name, figure in FIGURES.items()}


def figure_verdicts(context: StageContext) -> list[FigureVerdict]:
    """A figure without a bound in this recipe passes, and says that it was not asked."""
    rows = stored_judgements(context, context.ledger.made_by(MODEL, UNPARTITIONED))
    verdicts = []
    for name in figure_names():
        mine = [row for row in rows if row.name == name]
        bad = [row for row in mine if not row.passed]
        told = "; ".join(row.line() for row in bad) or "; ".join(
            f"{row.value:.4g} {row.bound}".rstrip() for row in mine
        )
        bounds = {
            ("required" if row.required else "target"): str(row.bound) or "none" for row in mine
        }
        numbers = {"value": f"{mine[0].value:.6g}"} if mine else {}
        blocks = any(row.blocks for row in bad)
        verdicts.append(
            FigureVerdict(
                name, not bad, blocks, told or "not in this report", {**numbers, **bounds}
            )
        )
    return verdicts


@declare.table(
    figures=FigureChecks(figure_names, figure_verdicts),
    deps=("scenes", MODEL),
    group="latent_actions",
    recipe=("latent_gate", "roles"),
    reads=(TRAIN, VAL),
    files=("front",),
    approve=approve,
    code_version="3",
    kinds=("pytorch", "deltalake"),
    heavy=True,
)
def latent_quality(context: StageContext) -> Output:
    """The quality report of the latent action model: table, JSON and page. A required figure that
    misses its bound stops the line.

    Judged on the val split, which no training sees; with fewer than six logs there, training logs
    join, and the report says so.
    """
    from latentvla_core.latent.model import load
    from latentvla_core.latent.quality import blocking, judge
    from latentvla_core.viz.html import write_page
    from latentvla_core.viz.quality_page import QualityReport, quality_page

    version = context.ledger.made_by(MODEL, UNPARTITIONED)
    model, judged = (
        context.model(MODEL, load),
        judged_scenes(training_records(context, "unlabelled"), context.records(VAL)),
    )
    report, codes = measure(context, model, judged)
    rows = judge(report, context.recipe.latent_gate)
    sizes = {name: getattr(model.config, name).codebook_size for name in codes}
    curves = read_curves_of(context)
    shown = QualityReport(version, context.recipe.name, judged.sentence, rows, codes, sizes, curves)
    page = write_page(context.page("latent_quality", version), quality_page(shown))
    known = {
        name: value if math.isfinite(value) else None for name, value in report.items()
    }  # JSON has no NaN
    page.with_suffix(".json").write_text(json.dumps(known, indent=1, allow_nan=False))
    note_in_registry(context, report, passed=not blocking(rows))
    missed = [row.name for row in rows if not row.passed and not row.required]
    metadata = {
        "page": shown_at(context, MODEL, page),
        "judged_on": judged.sentence,
        "verdict": "; ".join(row.line() for row in blocking(rows)) or "may label",
        "targets_missed": ", ".join(missed) or "none",
        **{name: value for name, value in report.items() if value == value},
    }
    return Output([row_of(row, version) for row in rows], groups=(version,), metadata=metadata)
