"""The quality report of a latent action model as one page: verdict first, then every figure, then
the pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from latentvla_core.latent.quality import FIGURES, Judgement
from latentvla_core.types import Array
from latentvla_core.viz import svg
from latentvla_core.viz.html import cells, number, page, pill, table

AXES = ("longitudinal", "lateral", "yaw")
HELD_OUT = {
    "stage1": {
        "R² of ego motion, environment codes": tuple(f"environment_r2_{axis}" for axis in AXES),
        "use of trajectory, of codes": ("trajectory_use", "environment_use"),
        "R² of what others do": ("agent_r2_environment",),
    },
    "stage2": {
        "R² of ego motion, ego codes": tuple(f"ego_r2_{axis}" for axis in AXES),
        "transfer": ("transfer_longitudinal", "transfer_yaw"),
        "error with exchanged codes": ("shuffle_ego", "shuffle_environment"),
        "information on the motion": tuple(f"mutual_information_{axis}" for axis in AXES),
    },
}
"""Plots of the figures that streamed while the model was trained; what stage 2 cannot change is of
stage 1 only.
"""
Curves = Mapping[str, Sequence[tuple[int, float]]]


@dataclass(frozen=True, slots=True)
class QualityReport:
    """Everything the page shows."""

    model_version: str
    recipe: str
    judged_on: str
    """A sentence: which transitions, and whether the model was trained on them."""
    judgements: Sequence[Judgement]
    codes: Mapping[str, Array]
    """"ego" and "environment": (n, N) codes of the judged transitions."""
    sizes: Mapping[str, int]
    """Codebook sizes, by the same names."""
    curves: Curves
    """(step, value) by name, as logged in training; may be empty."""

    @property
    def values(self) -> dict[str, float]:
        return {row.name: row.value for row in self.judgements}


def quality_page(report: QualityReport) -> str:
    """(HTML) the page."""
    parts = [
        _head(report),
        _bounds(report),
        _codes(report),
        _probes(report),
        _exchanges(report),
        _curves(report.curves),
        _rest(report),
    ]
    return page(f"Quality of latent action model {report.model_version}", parts)


def _head(report: QualityReport) -> str:
    stopped = [row for row in report.judgements if row.blocks]
    missed = [row for row in report.judgements if not row.passed and not row.required]
    if stopped:
        verdict, kind = (
            f"Stopped: {len(stopped)} required figure(s) missed. This model must not label.",
            "bad",
        )
    elif missed:
        verdict, kind = (
            f"May label. {len(missed)} of the design's targets are missed; see below.",
            "warn",
        )
    else:
        verdict, kind = "May label. Every bound holds.", "good"
    facts = (
        f"model <code>{escape(report.model_version)}</code> · recipe <b>{escape(report.recipe)}</b>"
    )
    return (
        f"<h1>Is this latent action model fit to label?</h1><p class=soft>{facts}<br>{escape(report.judged_on)}</p>"
        f"<div class='banner {kind}'>{escape(verdict)}</div>"
    )


def _bounds(report: QualityReport) -> str:
    judged = [row for row in report.judgements if str(row.bound)]
    judged.sort(key=lambda row: (row.passed, not row.required))
    rows = "".join(_bound_row(row) for row in judged)
    note = (
        "<p>A <b>required</b> figure that misses its bound stops the line. A <b>target</b> is what the design wants of a long"
        " training: reported, never hidden, and not required of this recipe. Ticks mark bounds.</p>"
    )
    header = ("figure", "value", "", "bound", "", "what it says")
    return f"<h2>Bounds</h2>{note}<div class=card>{table(header, [rows])}</div>"


def _bound_row(row: Judgement) -> str:
    kind, label = (
        ("good", "holds")
        if row.passed
        else ("bad", "stops the line")
        if row.required
        else ("warn", "target missed")
    )
    colour = {"good": svg.GOOD, "bad": svg.BAD, "warn": svg.WARN}[kind]
    bar = svg.marked_bar(row.value, row.bound.at_least, row.bound.at_most, colour)
    word = "required" if row.required else "target"
    bound = f"<span class=line>{escape(str(row.bound))} <small>{word}</small></span>"
    line = cells(
        f"<b>{escape(row.name)}</b>",
        number(row.value),
        bar,
        bound,
        pill(kind, label),
        escape(row.figure.meaning),
    )
    if row.passed:
        return line
    shade = "why" if row.required else "why target"
    advice = f"<b>Likely:</b> {escape(row.figure.cause)}.<br><b>Try, in this order:</b> {escape(row.figure.remedy)}."
    return f"{line}<tr class='{shade}'><td></td><td colspan=5>{advice}</td></tr>"


def _codes(report: QualityReport) -> str:
    cards = []
    for name, codes in report.codes.items():
        if codes.size == 0 or codes.ndim == 3:  # none, or continuous ones, which cannot be counted
            continue
        size, positions = report.sizes[name], range(codes.shape[1])
        layers = [np.bincount(codes[:, p], minlength=size) / codes.size for p in positions]
        bars = svg.stacked_bars(
            layers,
            [str(i) for i in range(size)],
            layer_names=[f"position {p + 1}" for p in positions],
            level=1 / size,
        )
        used, spread = (
            report.values.get(f"{name}_usage", np.nan),
            report.values.get(f"{name}_perplexity", np.nan),
        )
        told = f"{number(used)} of {size} codes used; as many as {number(spread)} equally used ones would carry"
        cards.append(f"<div class=card><h3>{name} codes</h3><p class=soft>{told}.</p>{bars}</div>")
    note = "<p>Shares of each code, stacked over the positions of a transition (dark = first). Dashed: all codes equally used.</p>"
    return f"<h2>Codebooks</h2>{note}{''.join(cards)}"


def _probes(report: QualityReport) -> str:
    kinds = [
        kind
        for kind in ("ego", "environment", "joint")
        if f"{kind}_r2_longitudinal" in report.values
    ]
    groups = {
        axis: {kind: report.values.get(f"{kind}_r2_{axis}", np.nan) for kind in kinds}
        for axis in AXES
    }
    asked = {row.bound.at_least for row in report.judgements if row.name.startswith("ego_r2_")}
    agents = {
        k.removeprefix("agent_r2_"): v
        for k, v in report.values.items()
        if k in [f"agent_r2_{n}" for n in kinds]
    }
    if agents:
        groups["what others do"] = agents
    bars = svg.grouped_bars(groups, levels=sorted(v for v in asked if v == v))
    note = (
        "<p>How much of the motion a linear probe reads from the codes, on logs it was not fitted on: 1 = all, 0 or less ="
        " nothing. Ego codes should know the ego's motion, environment codes should not. Dashed: bounds for ego codes.</p>"
    )
    return f"<h2>What the codes know (R²)</h2>{note}<div class=card>{bars}</div>"


def _exchanges(report: QualityReport) -> str:
    values = report.values
    of_stage_one = {k: values.get(k, np.nan) for k in ("trajectory_use", "environment_use")}
    shuffles = {k: v for k, v in values.items() if k.startswith("shuffle_")} | of_stage_one
    transfer = {k: v for k, v in values.items() if k.startswith("transfer")}
    used = "".join(
        cells(escape(k), f"{v:+.1%}" if v == v else "–", svg.share_bar(v))
        for k, v in shuffles.items()
    )
    same = "".join(
        cells(escape(k), f"{v:.0%}" if v == v else "–", _chance_bar(v)) for k, v in transfer.items()
    )
    gain = number(values.get("gain_over_copy", np.nan))
    first = (
        "<h3>Are the codes used?</h3><p class=soft>Increase of the error when they are exchanged between transitions."
        f" Gain over copying the first frame: <b>{gain}</b>.</p><table>{used}</table>"
    )
    second = (
        "<h3>Do they mean the same elsewhere?</h3><p class=soft>One car's frame driven by another car's codes: how often the"
        f" sign of the motion follows. Tick: chance.</p><table>{same}</table>"
    )
    cards = f"<div class=card>{first}</div><div class=card>{second}</div>"
    return f"<h2>Exchanging codes</h2><div class=row>{cards}</div>"


def _chance_bar(value: float) -> str:
    return svg.marked_bar(value, 0.5, np.nan, svg.SHADES[1], scale=1.0)


def _curves(curves: Curves) -> str:
    """Small multiples: what each stage learned over its steps."""
    if not curves:
        return "<h2>Training</h2><p class=soft>No curves are stored with this model.</p>"
    wanted = {
        "reconstruction and copy": ("reconstruction", "copy"),
        "gain over copying": ("gain",),
        "codes used": ("ego_usage", "environment_usage"),
        "perplexity": ("ego_perplexity", "environment_perplexity"),
        "commitment": ("vq",),
        "ego motion": ("action", "leak"),
        "R² of ego motion in the batch": tuple(f"action_r2_{axis}" for axis in AXES),
        "gradient norm": ("gradient_norm",),
    }
    blocks = []
    for stage, label in (("stage1", "Stage 1: environment"), ("stage2", "Stage 2: ego")):
        plots, looks = (
            _plots(curves, f"{stage}/", wanted),
            _plots(curves, f"{stage}/quality/", HELD_OUT[stage]),
        )
        note = (
            "<p class=soft>Figures of this report on a sample of the judged logs, while it was trained:</p>"
            if looks
            else ""
        )
        blocks.append(
            f"<div class=card><h3>{label}</h3><div class=row>{plots}</div>{note}<div class=row>{looks}</div></div>"
        )
    return "<h2>Training</h2>" + "".join(blocks)


def _plots(curves: Curves, prefix: str, wanted: Mapping[str, Sequence[str]]) -> str:
    """A plot for each title whose curves there are; names lose what all of a plot begin with."""
    plots = []
    for title, names in wanted.items():
        found = [name for name in names if f"{prefix}{name}" in curves]
        alike = len(found) > len({name.rpartition("_")[0] for name in found}) == 1
        series = {
            name.rpartition("_")[2] if alike else name: curves[f"{prefix}{name}"] for name in found
        }
        plots.append(svg.curves(series, title) if series else "")
    return "".join(plots)


def _rest(report: QualityReport) -> str:
    rows = [
        cells(
            f"<code>{escape(name)}</code>",
            number(value),
            escape(FIGURES[name].meaning) if name in FIGURES else "",
        )
        for name, value in report.values.items()
    ]
    return f"<details><summary>All {len(rows)} figures</summary><div class=card>{table(('figure', 'value', ''), rows)}</div></details>"
