"""Plans of a scene with their scores, and where each plan lost its points."""

from __future__ import annotations

from typing import Any

import numpy as np

from latentvla_core.errors import LatentVLAError
from latentvla_core.geometry import to_local
from latentvla_core.pdms.explain import Explanation, Failure, explain
from latentvla_core.pdms.metrics import METRIC_VERSIONS, SUB_SCORES, metric_of, short
from latentvla_core.pdms.world import World
from latentvla_core.viz.site.files import centimetres, figure, milliradians
from latentvla_core.viz.site.roads import ego_frame

HUMAN = "human"
Rows = list[dict[str, Any]]


Before = dict[str, tuple[World, np.ndarray]]
"""Planner → its world and plan (8, 3) 0.5 s earlier, which two-frame comfort compares with."""


def plan_data(
    rows: Rows, scores: Rows, world: World | None, before: Before | None = None
) -> dict[str, Any]:
    """{planner: plan, scores by metric version, driven path and failures}; the human first."""
    by_planner: dict[str, Rows] = {}
    for score in scores:
        by_planner.setdefault(score["trajectory_id"], []).append(score)
    order = sorted(rows, key=lambda row: (row["trajectory_id"] != HUMAN, row["trajectory_id"]))
    return {
        row["trajectory_id"]: _plan(
            row,
            by_planner.get(row["trajectory_id"], []),
            world,
            (before or {}).get(row["trajectory_id"]),
        )
        for row in order
    }


def _plan(
    row: dict[str, Any],
    scores: Rows,
    world: World | None,
    before: tuple[World, np.ndarray] | None,
) -> dict[str, Any]:
    plan: dict[str, Any] = {
        "model": row["model_version"],
        "valid": bool(row["valid"]),
        "reason": row["reason"],
        "scores": {s["metric_version"]: score_data(s) for s in scores},
    }
    poses = np.asarray(row["poses"], float)
    if row["valid"] and np.isfinite(poses).all():
        plan |= {"xy_cm": centimetres(poses[:, :2]), "yaw_mrad": milliradians(poses[:, 2])}
        if world is not None:
            lost = [s for s in scores if s["valid"] and s["score"] < 1.0]
            plan |= _why(world, poses, sorted({s["metric_version"] for s in lost}), before)
    return plan


def score_data(row: dict[str, Any]) -> dict[str, Any]:
    """Score and sub-scores by short name; null for what the metric does not have."""
    names = SUB_SCORES[metric_of(row["metric_version"])]
    return {
        "score": figure(row["score"], 4),
        "valid": bool(row["valid"]),
        "reason": row["reason"],
        "sub": {short(name): figure(row[name], 4) for name in names},
    }


def _why(
    world: World,
    poses: np.ndarray,
    versions: list[str],
    before: tuple[World, np.ndarray] | None,
) -> dict[str, Any]:
    """Driven path and failures by metric version. What cannot be explained says so in words."""
    found: dict[str, Any] = {"why": {}}
    for version in versions:
        metric = metric_of(version)
        if version != METRIC_VERSIONS[metric]:  # reactive traffic is not in the table
            continue
        pair = before if metric == "epdms" else None
        try:
            told = explain(world, poses, metric, before=pair)  # type: ignore[arg-type]
        except LatentVLAError as error:
            found["why"][version] = [{"sub": "", "text": f"not explained: {error}"}]
            continue
        found["driven"] = _driven(told, world)
        failures = sorted(told.failures, key=lambda f: (f.step < 0, f.step))
        found["why"][version] = [failure_data(failure, world) for failure in failures]
    return found


def _driven(told: Explanation, world: World) -> list[int]:
    """41 × (x cm, y cm, yaw mrad) flat: the plan as the simulated car drives it, every 0.1 s."""
    poses = to_local(np.asarray(world.ego_state)[:3], np.asarray(told.states)[:, :3])
    xy, yaw = centimetres(poses[:, :2]), milliradians(poses[:, 2])
    return [v for i, a in enumerate(yaw) for v in (xy[2 * i], xy[2 * i + 1], a)]


def failure_data(failure: Failure, world: World) -> dict[str, Any]:
    """One lost sub-score: when, where, with whom; shapes in the ego frame, cm."""
    data: dict[str, Any] = {
        "sub": short(failure.sub_score),
        "value": figure(failure.value, 4),
        "text": failure.text,
        "step": int(failure.step),
        "forgiven": bool(failure.forgiven),
    }
    if np.isfinite(failure.place).all():
        data["place_cm"] = centimetres(ego_frame(world, failure.place))
    for name in ("shape", "stretch"):
        points = getattr(failure, name)
        if len(points) and np.isfinite(points).all():
            data[f"{name}_cm"] = centimetres(ego_frame(world, points))
    if len(failure.egos):
        data["egos_cm"] = [centimetres(ego_frame(world, box)) for box in failure.egos]
    return data
