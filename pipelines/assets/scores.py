"""scores: every metric of every plan, and its mean with the number of scenes behind it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from latentvla_core.pdms.metrics import MEANINGS, METRIC_VERSIONS, metric_of
from latentvla_core.statistics import grouped_error
from pipelines import pictures
from pipelines.checks import complete
from pipelines.steps import declare
from pipelines.steps.context import Output, StageContext
from pipelines.steps.lineage import place_of
from pipelines.steps.reading import world_from_row

if TYPE_CHECKING:
    import polars as pl

GROUPED_BY = ("trajectory_id", "metric_version")
COLUMNS = (*MEANINGS, "score")
"""Sub-scores of all metrics, and the score: the number columns of both tables."""
Plans = dict[str, dict[str, dict[str, Any]]]
"""Planner → scene token → row of `trajectories`."""


@declare.shards(
    picture=pictures.worst_of_shard,
    deps=("scene_worlds", "baseline_trajectories", "trajectories"),
    group="scores",
    recipe=("metrics",),
    kinds=("numpy", "deltalake"),
)
def pdm_scores(context: StageContext, partition: str) -> Output:
    """PDMS v1.1 and EPDMS v2.2 (the recipe's `metrics`) of every plan of the shard: sub-scores,
    score, valid, reason.

    A plan that cannot be scored is never a zero.
    """
    place = place_of(partition)
    worlds = [world_from_row(row) for row in context.lake.rows("scene_worlds", place)]
    plans: Plans = defaultdict(dict)
    for row in context.lake.rows("trajectories", place):
        plans[row["trajectory_id"]][row["scene_token"]] = row
    tracked = context.track(f"pdm_scores {partition} (metrics)", context.recipe.metrics)
    rows = [row for metric in tracked for row in score_rows(metric, worlds, plans)]
    return Output(
        rows, groups=tuple(sorted(plans)), metadata={"plans": len(rows), "planners": len(plans)}
    )


def score_rows(metric: Any, worlds: list[Any], plans: Plans) -> list[dict[str, Any]]:
    """Rows of `pdm_scores` of one metric: one per planner and scene of the shard, scored or with
    the reason why not.

    All plans of a scene are one batch. A log lies in one shard, so the scene before, which
    two-frame comfort compares with, is among the worlds if the split has it.
    """
    from latentvla_core.pdms.score import score_trajectories

    names = [tuple(name for name in sorted(plans) if _usable(w, plans[name])) for w in worlds]
    kept = [(w, ids) for w, ids in zip(worlds, names, strict=True) if ids]
    poses = [
        np.stack([plans[name][w.scene_token]["poses"] for name in ids]).astype(np.float64)
        for w, ids in kept
    ]
    table = score_trajectories(
        [w for w, _ in kept], poses, metric=metric, trajectory_ids=[ids for _, ids in kept]
    )
    scored = {(row["trajectory_id"], row["scene_token"]): row for row in table.rows()}
    return [
        _score_row(
            metric, name, w, plans[name].get(w.scene_token), scored.get((name, w.scene_token))
        )
        for name in sorted(plans)
        for w in worlds
    ]


def _usable(world: Any, plans: dict[str, dict[str, Any]]) -> bool:
    plan = plans.get(world.scene_token)
    return bool(world.valid and plan is not None and plan["valid"])


def _score_row(
    metric: str, name: str, world: Any, plan: dict[str, Any] | None, score: dict[str, Any] | None
) -> dict[str, Any]:
    reason = world.reason or ("no plan for this scene" if plan is None else plan["reason"])
    values = score or {"valid": False, "reason": reason}
    return {
        "trajectory_id": name,
        "scene_token": world.scene_token,
        "log_name": world.log_name,
        **{key: values.get(key, np.nan) for key in COLUMNS},
        "valid": values["valid"],
        "reason": values["reason"],
        "metric_version": METRIC_VERSIONS[metric],
        "model_version": plan["model_version"] if plan else "",
    }


@declare.table(
    picture=pictures.worst_of_split,
    checks={"pdm_summary_complete": complete},
    deps=("scene_worlds", "pdm_scores"),
    group="scores",
    recipe=("metrics",),
    code_version="2",
    kinds=("deltalake",),
)
def pdm_summary(context: StageContext) -> Output:
    """Mean of every sub-score per planner, split and metric, with its standard error and "scored n
    of m".

    Incomplete means are NaN.
    """
    rows = [row for split in _splits(context) for row in _summary_rows(context, split)]
    headline = METRIC_VERSIONS[context.recipe.metrics[0]]
    means = {
        f"{r['split']}/{r['trajectory_id']}": r["score"]
        for r in rows
        if r["metric_version"] == headline
    }
    return Output(rows, metadata={name: mean for name, mean in means.items() if np.isfinite(mean)})


def _splits(context: StageContext) -> list[str]:
    """Splits that have scores, by name."""
    found = context.lake.scan("pdm_scores", columns=["split"]).unique().collect()
    return sorted(found["split"])


def _summary_rows(context: StageContext, split: str) -> Iterator[dict[str, Any]]:
    """A row per planner and metric. Only the columns of one split are in memory."""
    worlds = context.lake.scan("scene_worlds", {"split": split}, ["scene_token"]).collect()
    wanted = [*GROUPED_BY, "scene_token", "log_name", "valid", "reason", *COLUMNS]
    # in the order of scenes, so that means are the same to the last bit
    scores = context.lake.scan("pdm_scores", {"split": split}, wanted).sort("scene_token").collect()
    groups = scores.partition_by(*GROUPED_BY, as_dict=True)
    for name, version in sorted(groups):
        expected = set(worlds["scene_token"])
        yield _summary_row(split, name, version, groups[name, version], expected)


def _summary_row(
    split: str, name: str, version: str, scores: pl.DataFrame, expected: set[str]
) -> dict[str, Any]:
    from latentvla_core.pdms.summary import summarize

    def column(key: str, kind: type) -> np.ndarray:
        return scores[key].to_numpy().astype(kind)

    found = summarize(
        {key: column(key, float) for key in COLUMNS},
        column("scene_token", object),
        column("valid", bool),
        column("reason", object),
        expected=expected,
        metric=metric_of(version),
        metric_version=version,
    )
    valid = column("valid", bool)
    values, logs = column("score", float)[valid], column("log_name", object)[valid]
    spread = grouped_error(values, logs) if found.complete else np.nan
    most = sorted(found.reasons.items(), key=lambda item: -item[1])[:5]
    return {
        "split": split,
        "trajectory_id": name,
        "metric_version": version,
        **{key: mean if found.complete else np.nan for key, mean in found.means.items()},
        "score_stderr": spread,
        "num_scored": found.scored_scenes,
        "num_expected": found.expected_scenes,
        "reasons": "; ".join(f"{n} × {reason}" for reason, n in most),
    }
