"""Closed-loop runs as pages: what drove where, every 0.1 s, with infractions marked.

Reads the tables that `latentvla drive --out` writes: closed_loop_runs, closed_loop_steps,
closed_loop_scores and closed_loop_infractions as Parquet in one folder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.errors import SetupError
from latentvla_core.geometry import to_local
from latentvla_core.viz.site.files import centimetres, figure, figures, milliradians, write_data

TABLES = ("closed_loop_runs", "closed_loop_steps", "closed_loop_scores", "closed_loop_infractions")
KEY = ("scene", "driver", "traffic", "seed")
REACH_M = 70.0
"""Others farther from the ego than this at a step are left out."""
Rows = list[dict[str, Any]]


def write_runs(site: Path, folder: Path) -> list[dict[str, Any]]:
    """Write `data/runs/<n>.js` for every run of a folder; returns the list of runs."""
    import pyarrow.parquet as pq

    missing = [name for name in TABLES if not (folder / f"{name}.parquet").is_file()]
    if missing:
        raise SetupError(
            f"--runs {folder} has no {missing[0]}.parquet; give a folder that latentvla drive wrote"
        )
    runs, _, scores, infractions = (
        [] if name == "closed_loop_steps" else pq.read_table(folder / f"{name}.parquet").to_pylist()
        for name in TABLES
    )
    found = []
    for number, run in enumerate(runs):
        chosen = [(name, "=", run[name]) for name in KEY]
        steps = pq.read_table(folder / "closed_loop_steps.parquet", filters=chosen).to_pylist()
        told = [row for row in infractions if _same(row, run)]
        facts = run_facts(number, run, [row for row in scores if _same(row, run)], told)
        write_data(site, f"runs/{number}", {**facts, **run_data(steps, told)})
        found.append(facts)
    return found


def _same(row: dict[str, Any], run: dict[str, Any]) -> bool:
    return all(row[name] == run[name] for name in KEY)


def run_facts(number: int, run: dict[str, Any], scores: Rows, infractions: Rows) -> dict[str, Any]:
    """One line of the list of runs: who drove where, how it ended, scores over the whole run."""
    whole = max(scores, key=lambda row: row["prefix_s"], default=None)
    names = ("cls", "ds", "route_completion", "min_ttc_s", "driven_m")
    return {
        "run": number,
        **{name: run[name] for name in (*KEY, "situation", "location", "ended", "reason")},
        "seconds": round(run["steps"] * 0.1, 1),
        "scores": {name: figure(whole[name], 4) for name in names} if whole else {},
        "infractions": len(infractions),
    }


def run_data(steps: Rows, infractions: Rows) -> dict[str, Any]:
    """The steps of one run in the frame of its first pose, cm and mrad; empty without steps."""
    rows = sorted(steps, key=lambda row: row["step"])
    if not rows:
        return {"time_s": [], "path": [], "others": [], "plans": {}, "marks": []}
    poses = np.array([[row["x_m"], row["y_m"], row["yaw_rad"]] for row in rows])
    origin = poses[0]
    return {
        "time_s": figures([row["time_s"] for row in rows], 2),
        "path": _flat(to_local(origin, poses)),
        "speed_mps": figures([np.hypot(row["vx_mps"], row["vy_mps"]) for row in rows], 2),
        "acceleration_mps2": figures([row["ax_mps2"] for row in rows], 2),
        "yaw_rate_radps": figures([row["yaw_rate_rad_s"] for row in rows], 3),
        "others": _others(rows, origin, poses),
        "plans": {row["step"]: _flat(_plan(row)) for row in rows if row["plan"]},
        "marks": [_mark(row, origin) for row in sorted(infractions, key=lambda r: r["step"])],
    }


def _plan(row: dict[str, Any]) -> np.ndarray:
    """(8, 3) in the ego frame of its step."""
    return np.asarray(row["plan"], float).reshape(-1, 3)


def _flat(poses: np.ndarray) -> list[int]:
    xy, yaw = centimetres(poses[:, :2]), milliradians(poses[:, 2])
    return [v for i, a in enumerate(yaw) for v in (xy[2 * i], xy[2 * i + 1], a)]


def _others(rows: Rows, origin: np.ndarray, ego: np.ndarray) -> list[dict[str, Any]]:
    """Everybody else: class, size, the steps they are near, and a pose for each of those."""
    found: dict[str, dict[str, Any]] = {}
    for step, row in enumerate(rows):
        boxes = np.asarray(row["actor_boxes"], float)
        if not row["actor_tokens"]:
            continue
        boxes = boxes.reshape(len(row["actor_tokens"]), -1)  # x, y, yaw, length, width, …
        near = np.hypot(*(boxes[:, :2] - ego[step, :2]).T) < REACH_M
        poses = to_local(origin, boxes[:, :3])
        for i in np.flatnonzero(near):
            size = centimetres(boxes[i, 3:5])
            fresh = {"class": int(row["actor_classes"][i]), "size_cm": size, "at": [], "poses": []}
            entry = found.setdefault(row["actor_tokens"][i], fresh)
            entry["at"].append(step)
            entry["poses"] += _flat(poses[i : i + 1])
    return [{"name": name, **entry} for name, entry in found.items()]


def _mark(row: dict[str, Any], origin: np.ndarray) -> dict[str, Any]:
    place = to_local(origin, np.array([row["x_m"], row["y_m"], 0.0]))
    partner = f" with {row['partner'][:8]}" if row["partner"] else ""
    whose = "" if row["at_fault"] else ", not at fault"
    mark = {
        "kind": row["kind"],
        "step": int(row["step"]),
        "at_fault": bool(row["at_fault"]),
        "text": f"{row['kind'].replace('_', ' ')}{partner}{whose}: {row['detail']}",
    }
    if np.isfinite(place[:2]).all():
        mark["place_cm"] = centimetres(place[:2])
    return mark
