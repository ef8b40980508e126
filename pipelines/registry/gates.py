"""The promotion gate: who may hold the alias `champion`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from latentvla_core.pdms.metrics import METRIC_VERSIONS
from pipelines.registry.connection import answering, connect

if TYPE_CHECKING:
    from pipelines.steps.context import StageContext

CHAMPION = "champion"


def judge(context: StageContext, name: str, split: str) -> dict[str, Any]:
    """One decision as a row of `releases`, by the recipe's first metric; moves the alias when it
    promotes.
    """
    with answering(context.settings, "start MLflow or set MLFLOW_TRACKING_URI, and run again"):
        return _judged(context, connect(context.settings), name, split)


def _judged(context: StageContext, client: Any, name: str, split: str) -> dict[str, Any]:
    made_by = context.ledger.made_by(name, "")
    found = context.lake.rows("models", {"name": name, "version": made_by})
    metric = METRIC_VERSIONS[context.recipe.metrics[0]]
    summary = context.lake.rows(
        "pdm_summary", {"split": split, "trajectory_id": name, "metric_version": metric}
    )
    if not found or not summary:
        return _row(
            name,
            "",
            "refused",
            "",
            split,
            metric,
            math.nan,
            math.nan,
            f"no trained model, or no {metric} scores on the held-out split",
        )
    version = found[0]["mlflow_uri"].rpartition("/")[2]
    score = summary[0]["score"]
    champion, champion_score = _champion(client, name, metric, split)
    decision, reason = decide(
        score,
        champion_score,
        summary[0]["num_scored"],
        summary[0]["num_expected"],
        same=champion == version,
    )
    client.set_model_version_tag(name, version, score_tag(metric, split), repr(score))
    if decision == "promoted":
        client.set_registered_model_alias(name, CHAMPION, version)
    return _row(
        name,
        version,
        decision,
        version if decision == "promoted" else champion,
        split,
        metric,
        score,
        champion_score,
        reason,
    )


def score_tag(metric: str, split: str) -> str:
    """Tag of a registered version that holds its mean score."""
    return f"score.{metric}.{split}"


def _champion(client: Any, name: str, metric: str, split: str) -> tuple[str, float]:
    aliases = client.get_registered_model(name).aliases
    if CHAMPION not in aliases:
        return "", math.nan
    version = str(aliases[CHAMPION])
    return version, float(
        client.get_model_version(name, version).tags.get(score_tag(metric, split), "nan")
    )


def decide(
    score: float, champion_score: float, scored: int, expected: int, *, same: bool = False
) -> tuple[str, str]:
    """("promoted" | "kept" | "refused", the rule that decided)."""
    if not 0 < expected == scored or not math.isfinite(score):
        return (
            "refused",
            f"scored {scored} of {expected} scenes; a mean over an incomplete split proves nothing",
        )
    if same:
        return "kept", "it is the champion already"
    if math.isnan(champion_score):
        return "promoted", "there was no champion with a score on this split"
    if score >= champion_score:
        return (
            "promoted",
            f"score {score:.4f} is not lower than the champion's {champion_score:.4f}",
        )
    return "refused", f"score {score:.4f} is lower than the champion's {champion_score:.4f}"


def _row(
    name: str,
    version: str,
    decision: str,
    champion: str,
    split: str,
    metric: str,
    score: float,
    before: float,
    reason: str,
) -> dict[str, Any]:
    return {
        "name": name,
        "version": version,
        "decision": decision,
        "champion": champion,
        "split": split,
        "metric_version": metric,
        "challenger_score": score,
        "champion_score": before,
        "reason": reason,
    }
