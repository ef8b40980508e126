"""Cards of scored models: the description of a registered version, made anew when scores are known."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from latentvla_core.viz.report.card import model_card
from latentvla_core.viz.report.facts import read_facts

if TYPE_CHECKING:
    from pipelines.steps.context import StageContext


def describe(context: StageContext, client: Any, names: Iterable[str]) -> None:
    """Give the latest registered version of each model its card with scores."""
    facts = read_facts(context.lake)
    rows = {(r["name"], r["version"]): r for r in context.lake.rows("models")}
    for name in names:
        row = rows.get((name, context.ledger.made_by(name, "")))
        if row is None or not row["mlflow_uri"]:
            continue
        card = model_card(
            name,
            version=row["version"],
            recipe=row["recipe"],
            commit=row["commit"],
            parameters=row["parameters"],
            inputs=json.loads(row["inputs"] or "{}"),
            metrics=json.loads(row["metrics"] or "{}"),
            facts=facts,
        )
        version = row["mlflow_uri"].rpartition("/")[2]
        client.update_model_version(name, version, description=card)
