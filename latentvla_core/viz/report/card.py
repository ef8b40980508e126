"""A model's card in Markdown: what it was made of, how it does, what it is not for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from latentvla_core.viz.report.facts import FEW_LOGS, Facts, Standing
from latentvla_core.viz.site.files import figure

LICENCES = {
    "vlm": "Qwen2.5-VL: 3B under the Qwen research licence (no commercial use), 7B under Apache-2.0;"
    " recipes debug and mini start from no published weights",
    "latent_action_model": "DINOv2: Apache-2.0; EfficientNet-Lite0: Apache-2.0; recipes debug and"
    " mini may start from no published weights",
}
NO_BASE = "none of its own; those of the models it reads apply"
LIMITS = (
    "Plans four seconds from one moment; scores replay or simulate the others and say nothing of"
    " driving alone for longer.",
    "Trained and judged on the logs named above; other towns, sensors and weather are not covered.",
    "Not for use on public roads.",
)


def model_card(
    name: str,
    *,
    version: str,
    recipe: str,
    commit: str,
    parameters: int,
    inputs: Mapping[str, int],
    metrics: Mapping[str, float],
    facts: Facts | None = None,
) -> str:
    """The card; without `facts` (not scored yet) it says so."""
    lines = [
        f"# {name} `{version}`",
        "",
        f"recipe **{recipe}** · {parameters:,} weights · commit `{commit or 'unknown'}`",
        "",
        "## Made of",
        "",
        "| input | Delta version |",
        "|---|---|",
        *(f"| {table} | {at} |" for table, at in sorted(inputs.items())),
        "",
        "## Figures of its training",
        "",
        *(_figures(metrics) or ["None were recorded."]),
        "",
        "## Scores",
        "",
        *_scores(name, facts),
        "",
        "## Limits",
        "",
        *(f"* {limit}" for limit in LIMITS),
        "",
        "## Licence of base weights",
        "",
        LICENCES.get(name, NO_BASE) + ".",
    ]
    return "\n".join(lines) + "\n"


def _figures(metrics: Mapping[str, float]) -> list[str]:
    shown = {key: figure(value, 4) for key, value in metrics.items()}
    return [f"* {key}: {value}" for key, value in sorted(shown.items()) if value is not None][:20]


def _scores(name: str, facts: Facts | None) -> Sequence[str]:
    found = [s for s in facts.standings if s.planner == name] if facts else []
    if not found:
        return ["Not scored: it is no planner, or its plans wait for `pdm_scores`."]
    rows = [
        "| split | metric | mean, 95 % over logs | scenes | logs |",
        "|---|---|---|---|---|",
        *map(_score, found),
    ]
    few = any(s.score and s.score.groups < FEW_LOGS for s in found)
    note = f"With fewer than {FEW_LOGS} logs even these intervals are too narrow." if few else ""
    return [*rows, "", note, "A mean is no ranking: see the report for what is evidence."]


def _score(row: Standing) -> str:
    scenes = f"{row.scored} of {row.expected}"
    if row.score is None:
        return f"| {row.split} | {row.metric} | none: {row.reasons} | {scenes} | 0 |"
    told = f"{row.score.mean:.3f}"
    if row.score.groups > 1:
        told += f" [{row.score.low:.3f}, {row.score.high:.3f}]"
    if not row.is_whole:
        told += " (in part)"
    return f"| {row.split} | {row.metric} | {told} | {scenes} | {row.score.groups} |"
