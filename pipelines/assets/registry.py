"""registry: which planner holds the alias `champion`, and on what evidence."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latentvla_core.errors import SetupError
from latentvla_core.pdms.metrics import METRIC_VERSIONS
from pipelines.assets.controls import unused_fusion
from pipelines.assets.planners import PLANNERS
from pipelines.assets.scores import score_rows
from pipelines.registry.cards import describe
from pipelines.registry.connection import answering, connect
from pipelines.registry.fetch import fetch_model
from pipelines.registry.gates import (
    CHAMPION,
    DEPLOYED,
    PROMOTED,
    REFUSED,
    ROLLED_BACK,
    SAFETY,
    Comparison,
    Rules,
    best_champion,
    compare,
    decide,
)
from pipelines.registry.latency import latency_ms_of
from pipelines.registry.wheel import drives_against
from pipelines.registry.words import SPEAKERS, metric_of, word_scores
from pipelines.settings import TEST
from pipelines.steps import declare
from pipelines.steps.context import Output, StageContext
from pipelines.steps.drives import planner_seat
from pipelines.steps.reading import world_from_row

GATED = (*PLANNERS, *SPEAKERS)
Rows = Sequence[Mapping[str, Any]]


@declare.table(
    deps=(
        "scenes",
        "scene_worlds",
        "pdm_scores",
        "pdm_summary",
        "latent_actions",
        "vlm_features",
        "student_features",
    ),
    group="registry",
    after=("closed_loop_scores",),
    recipe=("metrics", "closed_loop_gate", "latency_budget_ms"),
    code_version="4",
    kinds=("mlflow", "deltalake"),
)
def releases(context: StageContext) -> Output:
    """The promotion gate: a model becomes `champion` only if it is better than the champion on the
    same scenes, beyond chance, no less safe, and within its latency budget. One row per decision,
    for ever.

    Planners are judged by the recipe's first metric on the held-out split, models that speak in
    codes by `registry/words.py`; if the recipe's `closed_loop_gate`
    asks for it, what is better must not fall at the wheel either. A champion whose plans are not in
    the lake any more plans again. The planners' best champion gets the alias `deployed`.
    """
    before = decided_before(context)
    with answering(context.settings, "start MLflow or set MLFLOW_TRACKING_URI, and run again"):
        client = connect(context.settings)
        rows = [judge(context, client, name, before, TEST) for name in GATED]
        deployed = deploy(client, [row for row in rows if row["name"] in PLANNERS])
        describe(context, client, PLANNERS)
    promoted = [row["name"] for row in rows if row["decision"] == PROMOTED]
    told = {"promoted": ", ".join(promoted) or "none", "deployed": deployed or "none"}
    return Output([*before, *rows], groups=GATED, metadata=told)


def decided_before(context: StageContext) -> list[dict[str, Any]]:
    """Earlier decisions. Those of schema version 1 had no time and no scenes; they are given the
    time of the run that wrote them.
    """
    where, stored = {"name": list(GATED)}, context.lake.delta("releases")
    if stored is None or "decided_us" in {field.name for field in stored.schema().fields}:
        return [dict(row) for row in context.lake.rows("releases", where)]
    last = context.ledger.latest.get(("releases", ""))
    time_us = last["finished_us"] if last else 0
    unknown = dict.fromkeys(("difference", "difference_low", "difference_high"), math.nan)
    return [
        {**row, **unknown, "scenes": 0, "decided_us": time_us + number}
        for number, row in enumerate(stored.to_pyarrow_table().to_pylist())
    ]


def judge(
    context: StageContext, client: Any, name: str, before: Rows, split: str
) -> dict[str, Any]:
    """One decision as a row of `releases`; moves the alias when it promotes."""
    made_by = context.ledger.made_by(name, "")
    found = context.lake.rows("models", {"name": name, "version": made_by})
    trial = _trial(context, name, made_by, split) if found else None
    metric = trial.metric if trial else metric_version(context, name)
    row = {"name": name, "split": split, "metric_version": metric}
    if trial is None or not trial.ours:
        nothing = Comparison(0, 0, math.nan, math.nan, None, {})
        reason = f"no trained model, or no {metric} scores on split {split}"
        return {**row, **decision_row("", REFUSED, "", nothing, reason)}
    version = found[0]["mlflow_uri"].rpartition("/")[2]
    champion = str(client.get_registered_model(name).aliases.get(CHAMPION, ""))
    try:
        same = champion == version or has_weights_of(context, client, name, made_by, champion)
        held = trial.ours if same else scores_of_champion(context, client, name, champion, split)
        comparison = compare(trial.ours, held, trial.expected, trial.safety)
    except (SetupError, ValueError) as error:
        alone = compare(trial.ours, None, trial.expected, trial.safety)
        why = _no_match(name, champion, version, error)
        return {**row, **decision_row(version, REFUSED, champion, alone, why)}
    rules = Rules(latency_budget_ms=context.recipe.latency_budget_ms)
    took_ms = latency_ms_of(client, name, version) if rules.latency_budget_ms else math.nan
    decision, reason = decide(comparison, rules, same=same, latency_ms=took_ms)
    gone = [r for r in before if r["name"] == name and r["decision"] == ROLLED_BACK]
    if decision == PROMOTED and version in {r["version"] for r in gone}:
        decision, reason = REFUSED, f"version {version} was rolled back by hand; {reason}"
    if decision == PROMOTED and (unused := unused_fusion(context, name)):
        decision, reason = REFUSED, unused
    drives = name in PLANNERS and context.recipe.closed_loop_gate.required
    if decision == PROMOTED and champion and drives:
        plans = context.recipe.metrics[0]
        told = f"{plans} {comparison.score:.4f} after {comparison.champion_score:.4f}, {reason}"
        if fall := at_the_wheel(context, client, name, made_by, champion, told):
            decision, reason = REFUSED, fall
    if decision == PROMOTED:
        client.set_registered_model_alias(name, CHAMPION, version)
        champion = version
    return {**row, **decision_row(version, decision, champion, comparison, reason)}


@dataclass(frozen=True, slots=True)
class Trial:
    """What a candidate is judged by."""

    metric: str
    ours: Rows
    """The candidate's scores, scene by scene."""
    expected: int
    safety: Sequence[str]
    """Sub-scores that must not fall."""


def metric_version(context: StageContext, name: str) -> str:
    """What a model is judged by, with the version of its definition."""
    return metric_of(name) if name in SPEAKERS else METRIC_VERSIONS[context.recipe.metrics[0]]


def _trial(context: StageContext, name: str, made_by: str, split: str) -> Trial:
    metric = metric_version(context, name)
    if name in SPEAKERS:
        scores = word_scores(context, name, context.model_dir(name), split, stored=True)
        return Trial(metric, scores, len(scores), ())
    where = {"split": split, "trajectory_id": name, "metric_version": metric}
    rows = context.lake.rows("pdm_scores", where)
    worlds = context.lake.read("scene_worlds", {"split": split}, ["scene_token"])
    ours = [row for row in rows if row["model_version"] == made_by]
    return Trial(metric, ours, worlds.num_rows, SAFETY)


def at_the_wheel(
    context: StageContext, client: Any, name: str, made_by: str, champion: str, told: str
) -> str:
    """Why a version that plans better is not promoted: it drives worse, or nobody can tell; "" if
    neither.
    """
    try:
        ours = planner_seat(name, context.settings.models / name / made_by, made_by)
        before = client.get_model_version(name, champion).tags["made_by"]
        theirs = planner_seat(name, champion_folder(context, client, name, champion), before)
        return drives_against(context, ours, theirs, told)
    except (SetupError, ValueError) as error:
        return f"{str(error).splitlines()[0][:300]}; plans: {told}"


def _no_match(name: str, champion: str, version: str, error: Exception) -> str:
    """Why the two cannot be compared, and what a person may do about it."""
    return (
        f"champion {champion} cannot plan on these scenes with this code:"
        f" {str(error).splitlines()[0][:300]}; to promote without a comparison:"
        f" latentvla rollback {name} --to {version}"
    )


def decision_row(
    version: str, decision: str, champion: str, found: Comparison, reason: str
) -> dict[str, Any]:
    """The columns of `releases` that a decision fills."""
    difference = found.difference
    return {
        "version": version,
        "decided_us": time.time_ns() // 1000,
        "decision": decision,
        "champion": champion,
        "scenes": found.scored,
        "challenger_score": found.score,
        "champion_score": found.champion_score,
        "difference": difference.mean if difference else math.nan,
        "difference_low": difference.low if difference else math.nan,
        "difference_high": difference.high if difference else math.nan,
        "reason": reason,
    }


def deploy(client: Any, rows: Rows) -> str:
    """Give the alias `deployed` to the best champion alone; returns its planner, "" when no champion
    has a score.
    """
    scores = {
        row["name"]: row[
            "challenger_score" if row["champion"] == row["version"] else "champion_score"
        ]
        for row in rows
        if row["champion"]
    }
    best = best_champion(scores)
    champions = {row["name"]: row["champion"] for row in rows}
    for name in scores if best else ():
        if name == best:
            client.set_registered_model_alias(name, DEPLOYED, champions[name])
        elif DEPLOYED in client.get_registered_model(name).aliases:
            client.delete_registered_model_alias(name, DEPLOYED)
    return best


def champion_folder(context: StageContext, client: Any, name: str, version: str) -> Path:
    """Folder of a registered version's weights, fetched when it is not on this machine."""
    made_by = client.get_model_version(name, version).tags["made_by"]
    folder = context.settings.models / name / made_by
    if not folder.is_dir():
        fetch_model(context.settings, f"models:/{name}/{version}", folder)
    return folder


def has_weights_of(
    context: StageContext, client: Any, name: str, made_by: str, champion: str
) -> bool:
    """Whether a model trained anew came out as the champion, tensor by tensor."""
    if not champion:
        return False
    ours = context.settings.models / name / made_by / "config.json"
    theirs = champion_folder(context, client, name, champion) / "config.json"
    sums = [json.loads(p.read_text()).get("weights_sha256") for p in (ours, theirs) if p.is_file()]
    return len(sums) == 2 and sums[0] is not None and sums[0] == sums[1]


def scores_of_champion(
    context: StageContext, client: Any, name: str, champion: str, split: str
) -> Rows | None:
    """Scores of the champion on the held-out scenes; it plans or speaks again, since the lake holds
    what the latest version said alone. None: there is no champion.
    """
    if not champion:
        return None
    folder = champion_folder(context, client, name, champion)
    if name in SPEAKERS:
        return word_scores(context, name, folder, split, stored=False)
    records = context.records(split)
    poses = plan_again(folder, records, context.device)
    plans = {
        record.scene_token: {"poses": plan, "valid": True, "reason": "", "model_version": champion}
        for record, plan in zip(records, poses, strict=True)
    }
    worlds = [world_from_row(row) for row in context.lake.rows("scene_worlds", {"split": split})]
    return score_rows(context.recipe.metrics[0], worlds, {name: plans})


def plan_again(folder: Path, records: list[Any], device: str) -> Any:
    """(N, 8, 3) plans of a model folder, with the model whose features it was trained on."""
    from latentvla_core.planner.model import load
    from latentvla_core.planner.plan import plan

    parts = json.loads((folder / "summary.json").read_text())["parts"]
    features = None
    if part := parts.get("features"):
        from pipelines.registry.model_code import features_of, load_family

        family = json.loads((Path(part) / "summary.json").read_text())["family"]
        features = features_of(family, load_family(family, Path(part)), records)
    return plan(load(folder), records, features, device=device)
