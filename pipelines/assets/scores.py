"""scores: the PDM score of every plan, and its mean with the number of scenes behind it."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import numpy as np

from latentvla_core.types import SceneRecord
from pipelines.engine import Engine, Output
from pipelines.lineage import Stage

SUBSCORES = (
    "no_at_fault_collisions",
    "drivable_area_compliance",
    "driving_direction_compliance",
    "ego_progress",
    "time_to_collision_within_bound",
    "comfort",
    "score",
)


def world_from_row(row: dict[str, Any]) -> Any:
    """A row of `scene_worlds` as the scorer's World."""
    from latentvla_core.pdms.world import World

    return World.from_row(row)


def worlds_of(engine: Engine, records: list[SceneRecord]) -> list[Any]:
    """The World of each scene in order, None where the scene has none or cannot be scored."""
    splits = sorted({record.split for record in records})
    rows = engine.lake.rows("scene_worlds", {"split": splits, "valid": True})
    worlds = {row["scene_token"]: world_from_row(row) for row in rows}
    return [worlds.get(record.scene_token) for record in records]


def pdm_scores(engine: Engine, partition: str) -> Output:
    """PDM score v1.1 of every plan of the shard: sub-scores, score, valid, reason. A plan that cannot be scored is never a zero."""
    split, _, shard = partition.rpartition("-")
    place = {"split": split, "shard": int(shard)}
    worlds = [world_from_row(row) for row in engine.lake.rows("scene_worlds", place)]
    plans: dict[str, dict[str, Any]] = defaultdict(dict)
    for row in engine.lake.rows("trajectories", place):
        plans[row["trajectory_id"]][row["scene_token"]] = row
    tracked = engine.track(f"pdm_scores {partition} (planners)", sorted(plans))
    rows = [row for name in tracked for row in score_rows(name, worlds, plans[name])]
    return Output(rows, groups=tuple(sorted(plans)), metadata={"plans": len(rows), "planners": len(plans)})


def score_rows(name: str, worlds: list[Any], plans: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `pdm_scores` of one planner: one per scene of the shard, scored or with the reason why not."""
    from latentvla_core.pdms.score import score_trajectories

    usable = [w for w in worlds if w.valid and w.scene_token in plans and plans[w.scene_token]["valid"]]
    scored = {}
    if usable:
        poses = np.stack([plans[w.scene_token]["poses"] for w in usable])[:, None].astype(np.float64)
        table = score_trajectories(usable, poses, metric="pdms")
        scored = {row["scene_token"]: row for row in table.rows()}
    return [_score_row(name, w, plans.get(w.scene_token), scored.get(w.scene_token)) for w in worlds]


def _score_row(name: str, world: Any, plan: dict[str, Any] | None, score: dict[str, Any] | None) -> dict[str, Any]:
    from latentvla_core.pdms.score import METRIC_VERSIONS

    reason = world.reason or ("no plan for this scene" if plan is None else plan["reason"])
    values = score or {**dict.fromkeys(SUBSCORES, np.nan), "valid": False, "reason": reason}
    return {
        "trajectory_id": name, "scene_token": world.scene_token, "log_name": world.log_name,
        **{key: values[key] for key in (*SUBSCORES, "valid", "reason")},
        "metric_version": METRIC_VERSIONS["pdms"], "model_version": plan["model_version"] if plan else "",
    }  # fmt: skip


def pdm_summary(engine: Engine) -> Output:
    """Mean of every sub-score per planner and split, with its standard error and "scored n of m". Incomplete means are NaN."""
    table = engine.lake.rows("pdm_scores")
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in table:
        groups[row["split"], row["trajectory_id"], row["metric_version"]].append(row)
    expected = Counter(engine.lake.read("scene_worlds", columns=["split"])["split"].to_pylist())
    rows = [_summary_row(*key, rows, expected[key[0]]) for key, rows in sorted(groups.items())]
    return Output(
        rows, metadata={f"{r['split']}/{r['trajectory_id']}": r["score"] for r in rows if np.isfinite(r["score"])}
    )


def _summary_row(split: str, name: str, version: str, rows: list[dict[str, Any]], expected: int) -> dict[str, Any]:
    valid = [row for row in rows if row["valid"]]
    complete = len(valid) == expected > 0
    scores = np.array([row["score"] for row in valid])
    reasons = Counter(row["reason"] for row in rows if not row["valid"])
    means = {key: float(np.mean([row[key] for row in valid])) if complete else np.nan for key in SUBSCORES}
    return {
        "split": split, "trajectory_id": name, "metric_version": version, **means,
        "score_stderr": float(scores.std(ddof=1) / np.sqrt(len(scores))) if complete and len(scores) > 1 else np.nan,
        "num_scored": len(valid), "num_expected": expected,
        "reasons": "; ".join(f"{n} × {reason}" for reason, n in reasons.most_common(5)),
    }  # fmt: skip


STAGES = (
    Stage(name="pdm_scores", run=pdm_scores, kind="shards", table="pdm_scores",
          deps=("scene_worlds", "baseline_trajectories", "trajectories"), group="scores", doc=pdm_scores.__doc__ or "",
          kinds=("numpy", "deltalake")),
    Stage(name="pdm_summary", run=pdm_summary, kind="table", table="pdm_summary", deps=("scene_worlds", "pdm_scores"),
          group="scores", doc=pdm_summary.__doc__ or "", kinds=("deltalake",)),
)  # fmt: skip
