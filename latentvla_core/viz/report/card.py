"""A model's card in Markdown: what it was made of, how it does, how long it takes, what it is not
for, and whose weights it starts from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentvla_core.pdms.metrics import short
from latentvla_core.viz.report.facts import FEW_LOGS, Facts, Standing
from latentvla_core.viz.site.files import figure

QWEN_3B, QWEN_7B = 2048, 3584  # width of Qwen2.5-VL's language model by size
QWEN_LICENCES = {QWEN_3B: "Qwen Research License, no commercial use", QWEN_7B: "Apache-2.0"}
LIMITS = {
    "planner": (
        "Plans four seconds from one moment; open-loop scores replay the others and say nothing of"
        " driving alone for longer.",
        "Other towns, sensors and weather than those of its logs are not covered.",
    ),
    "": (
        "Its codes are words of the data it was trained on: they mean nothing in logs with other"
        " cameras or another rate, and no code has a meaning that somebody gave it.",
        "It drives nothing; what a planner makes of it is the planner's to be judged by.",
    ),
}
ROADS = "Not for use on public roads."


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds from scenes on disk to the answer, one scene at a time, pictures read."""

    median_ms: float
    slowest_ms: float
    runs: int
    machine: str
    """Processor and threads."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """What is known of one version of a model."""

    name: str
    version: str
    recipe: str
    commit: str
    parameters: int
    inputs: Mapping[str, int]
    """Table → Delta version."""
    metrics: Mapping[str, float]
    family: str = ""
    """`planner`, or the kind of model."""
    base: Sequence[tuple[str, str]] = ()
    """(published weights, their licence) it starts from, its parts included."""
    latency: Latency | None = None
    url: str = ""
    """The page of the browser that shows what it does."""
    page: str = ""
    """Where its own page lies, seen from where the card is shown."""
    splits: Sequence[str] = ()
    """Splits it was trained on."""


def model_card(card: Card, facts: Facts | None = None) -> str:
    """The card; without `facts` (not scored yet) it says so."""
    lines = [
        f"# {card.name} `{card.version}`",
        "",
        f"recipe **{card.recipe}** · {card.parameters:,} weights · commit"
        f" `{card.commit or 'unknown'}`",
        "",
        *_links(card),
        *_section("Made of", _inputs(card)),
        *_section("Figures of its training", _figures(card.metrics) or ["None were recorded."]),
        *_section("Scores", _scores(card, facts)),
        *_section("Latency", [latency_told(card.latency)]),
        *_section("Limits", [f"* {limit}" for limit in limits(card, facts)]),
        *_section("Licence of base weights", licences(card.base)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def spaced(card: str) -> str:
    """The card for a place that draws tables without any space between columns, as MLflow does."""
    lines = card.split("\n")
    return "\n".join(
        line.replace(" | ", "&emsp; | ") if line.startswith("| ") else line for line in lines
    )


def _links(card: Card) -> list[str]:
    pages = {"Its page, with pictures of its plans": card.page}
    pages |= {"What it does, scene by scene": card.url}
    found = [f"[{text}]({address})" for text, address in pages.items() if address]
    return [" · ".join(found), ""] if found else []


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *lines, ""]


def _inputs(card: Card) -> list[str]:
    rows = [f"| {table} | {at} |" for table, at in sorted(card.inputs.items())]
    read = f"Trained on split {', '.join(card.splits)}." if card.splits else ""
    return [*([read, ""] if read else []), "| input | Delta version |", "|---|---|", *rows]


def _figures(metrics: Mapping[str, float]) -> list[str]:
    shown = {key: figure(value, 4) for key, value in metrics.items()}
    return [f"* {key}: {value}" for key, value in sorted(shown.items()) if value is not None][:20]


def _scores(card: Card, facts: Facts | None) -> Sequence[str]:
    found = _standings(card, facts)
    if not found:
        waits = "Not scored: its plans wait for `pdm_scores`."
        return [waits if card.family == "planner" else "None of its own: it is no planner."]
    rows = [
        "| split | metric | mean, 95 % over logs | scenes | logs |",
        "|---|---|---|---|---|",
        *map(_score, found),
    ]
    closed = facts.closed.get(card.name) if facts else None
    driven = f"Closed loop, whole runs: CLS {closed}." if closed else "Closed loop: not driven."
    few = any(s.score and s.score.groups < FEW_LOGS for s in found)
    note = f"With fewer than {FEW_LOGS} logs even these intervals are too narrow." if few else ""
    return [*rows, "", driven, note, "A mean is no ranking: see the report for what is evidence."]


def _standings(card: Card, facts: Facts | None) -> list[Standing]:
    return [s for s in facts.standings if s.planner == card.name] if facts else []


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


def latency_told(latency: Latency | None) -> str:
    """A sentence with the machine it was measured on."""
    if latency is None:
        return "Not measured."
    return (
        f"{latency.median_ms:.0f} ms a scene (median of {latency.runs}, slowest"
        f" {latency.slowest_ms:.0f} ms), one scene at a time with its pictures read from disk, on"
        f" {latency.machine}."
    )


def limits(card: Card, facts: Facts | None) -> list[str]:
    """What it is not good for, with what it fails at most where it was scored."""
    found = [s for s in _standings(card, facts) if s.score is not None]
    own = list(LIMITS.get(card.family, LIMITS[""]))
    if found:
        first = found[0]
        weak = sorted((v, k) for k, v in first.sub.items() if figure(v) is not None and v < 1.0)
        if weak:
            told = ", ".join(f"{short(name)} {value:.2f}" for value, name in weak[:3])
            own.append(f"Loses most in {told} (means of {first.metric}, split {first.split}).")
    return [*own, ROADS]


def licences(base: Sequence[tuple[str, str]]) -> list[str]:
    """One line per set of published weights."""
    if not base:
        return ["It starts from no published weights: all were drawn at random and trained here."]
    return [f"* {weights}: {licence}" for weights, licence in dict.fromkeys(base)]


def base_weights(config: Any) -> list[tuple[str, str]]:
    """(published weights, their licence) that a model's configuration names, at any depth."""
    if isinstance(config, list | tuple):
        return [found for part in config for found in base_weights(part)]
    if not isinstance(config, Mapping):
        return []
    found = [_named(config, key, value) for key, value in config.items()]
    deeper = [base_weights(value) for value in config.values()]
    return [f for f in found if f is not None] + [f for part in deeper for f in part]


def _named(config: Mapping[str, Any], key: str, value: Any) -> tuple[str, str] | None:
    if key in ("kind", "name") and value == "efficientnet_lite0":
        return "EfficientNet-Lite0 (ImageNet)", "Apache-2.0"
    if not isinstance(value, str) or not value:
        return None
    folder = value.rstrip("/").rpartition("/")[2]
    if key == "pretrained_path":
        return f"Qwen2.5-VL ({folder})", _qwen(Path(value))
    kind = config.get("name") if key == "folder" else key
    if kind in ("backbone", "dinov2"):
        return f"DINOv2 ({folder})", "Apache-2.0"
    if kind in ("image_weights", "backbone_path", "resnet"):
        return f"ResNet ({folder})", "that of the folder it was read from; see its model card"
    return None


def _qwen(folder: Path) -> str:
    """By size, which the folder's own configuration tells: the smaller one may not earn money."""
    try:
        told = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        told = {}
    width = told.get("hidden_size") or told.get("text_config", {}).get("hidden_size")
    both = f"3B: {QWEN_LICENCES[QWEN_3B]}; 7B: {QWEN_LICENCES[QWEN_7B]}"
    return QWEN_LICENCES.get(width, both)
