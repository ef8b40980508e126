"""Cards of models: the description of a registered version, made anew when scores are known."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from latentvla_core.training.sinks import read_curves
from latentvla_core.viz.addresses import url_of
from latentvla_core.viz.curves import curves_picture
from latentvla_core.viz.report.card import Card, Latency, base_weights, model_card, spaced
from latentvla_core.viz.report.facts import read_facts
from latentvla_core.viz.report.model_page import model_page
from pipelines.registry.artifacts import keep_pictures, parameters_of, plans_shown
from pipelines.registry.latency import recalled
from pipelines.steps.context import CURVES

if TYPE_CHECKING:
    from pipelines.steps.context import StageContext
    from pipelines.steps.lineage import Stage

CARD, PAGE = "model_card.txt", "model_page.html"  # among the artifacts of the run


def card_of(
    context: StageContext,
    stage: Stage,
    folder: Path,
    row: Mapping[str, Any],
    latency: Latency | None,
) -> Card:
    """The card of a model folder; `row` as in table `models`, with metrics and inputs as mappings."""
    return Card(
        name=stage.name,
        version=row["version"],
        recipe=row["recipe"],
        commit=row["commit"],
        parameters=row["parameters"],
        inputs=row["inputs"],
        metrics=row["metrics"],
        family=stage.family,
        base=weights_of(folder),
        latency=latency,
        url=url_of(context.settings.site_url, stage.name, is_planner=stage.family == "planner"),
        splits=stage.reads,
    )


def weights_of(folder: Path) -> list[tuple[str, str]]:
    """Published weights that a model folder and the models it needs start from."""
    found: list[tuple[str, str]] = []
    parts = json.loads((folder / "summary.json").read_text())["parts"]
    for place in (folder, *map(Path, parts.values())):
        if (config := place / "config.json").is_file():
            found += base_weights(json.loads(config.read_text()).get("config", {}))
    return found


def describe(context: StageContext, client: Any, names: Iterable[str]) -> None:
    """Give the latest registered version of each planner its card with scores, and its run a page
    of its own with pictures of its plans.
    """
    facts = read_facts(context.lake)
    rows = {(r["name"], r["version"]): r for r in context.lake.rows("models")}
    for name in names:
        row = rows.get((name, context.ledger.made_by(name, "")))
        if row is None or not row["mlflow_uri"]:
            continue
        version = row["mlflow_uri"].rpartition("/")[2]
        run = client.get_run(client.get_model_version(name, version).run_id)
        told = {key: json.loads(row[key] or "{}") for key in ("inputs", "metrics")}
        latency = recalled(run.data.metrics, run.data.tags)
        folder = context.model_dir(name)
        of_run = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"  # MLflow's own
        card = replace(
            card_of(context, context.stages[name], folder, row | told, latency),
            page=f"{of_run}/artifacts/{PAGE}",
        )
        plans, text = plans_shown(context, name), model_card(card, facts)
        client.update_model_version(name, version, description=spaced(text))
        client.log_text(run.info.run_id, text, CARD)
        curves = curves_picture(read_curves(folder / CURVES))
        parameters = parameters_of(context.recipe, context.stages[name].recipe)
        page = model_page(card, facts, plans, curves, parameters)
        client.log_text(run.info.run_id, page, PAGE)
        keep_pictures(client, run.info.run_id, plans)
