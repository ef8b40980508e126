"""Closed-loop runs as pages: what drove where, every 0.1 s, on which road, what it saw, with
infractions marked.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.geometry import to_local
from latentvla_core.viz.report.facts import BASELINES
from latentvla_core.viz.runs.pictures import calibrations, write_pictures
from latentvla_core.viz.runs.road import lights_of, road_of, town_of
from latentvla_core.viz.runs.source import (
    INFRACTIONS,
    KEY,
    RUNS,
    SCORES,
    STEPS,
    Rows,
    Tables,
    by_run,
    key_of,
)
from latentvla_core.viz.site.files import centimetres, figure, figures, milliradians, write_data

REACH_M = 70.0
"""Others farther from the ego than this at a step are left out."""
HUMAN = "human"
SHOWN_SCORES = ("cls", "ds", "route_completion", "min_ttc_s", "driven_m")


def write_runs(
    site: Path,
    sources: Sequence[Tables],
    with_pictures: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Write `data/runs/<n>.js` for every run; returns the list of runs, the worst first. So many
    get pictures, see `pictured`.
    """
    found = sorted((each for source in sources for each in _driven(source)), key=_worst_first)
    drawn = pictured([each.run for each in found], with_pictures)
    for number, each in enumerate(found):
        each.facts["run"] = number
        steps = each.steps()
        data = run_data(each.run, steps, each.infractions) | {"human": each.human_path()}
        if number in drawn and steps:
            data["frames"] = write_pictures(site, number, each.run, steps)
            data["cameras"] = calibrations()
        each.facts["pictures"] = bool(data.get("frames"))
        write_data(site, f"runs/{number}", {**each.facts, **data})
        if progress:
            progress(number + 1, len(found))
    return [each.facts for each in found]


def pictured(runs: Sequence[Mapping[str, Any]], count: int) -> set[int]:
    """Which runs are drawn: the first of each driver and scene, planners before floors."""
    known = [n for n, run in enumerate(runs) if run["driver"] != HUMAN and run["spec"]]
    first: dict[tuple[str, str], int] = {}
    for number in known:
        first.setdefault((runs[number]["driver"], runs[number]["scene"]), number)
    order = sorted(first.values(), key=lambda n: (runs[n]["driver"] in BASELINES, n))
    return set(order[:count])


@dataclass
class _Driven:
    """One run, its steps not yet read."""

    source: Tables
    run: dict[str, Any]
    facts: dict[str, Any]
    infractions: Rows

    def steps(self) -> Rows:
        """Its step rows in order."""
        rows = self.source.rows(STEPS, {name: self.run[name] for name in KEY})
        return sorted(rows, key=lambda row: row["step"])

    def human_path(self) -> list[int]:
        """The way of the human in the same scene and traffic, in the frame of its start; empty
        where it is the human, or did not drive.
        """
        if self.run["driver"] == HUMAN:
            return []
        where = {name: self.run[name] for name in KEY} | {"driver": HUMAN}
        rows = sorted(self.source.rows(STEPS, where), key=lambda row: row["step"])
        return _flat(to_local(_poses(rows)[0], _poses(rows))) if rows else []


def _driven(source: Tables) -> list[_Driven]:
    scores, infractions = by_run(source.rows(SCORES)), by_run(source.rows(INFRACTIONS))
    found = []
    for run in source.rows(RUNS):
        told = infractions.get(key_of(run), [])
        facts = run_facts(run, scores.get(key_of(run), []), told)
        found.append(_Driven(source, run, facts, told))
    return found


def _worst_first(each: _Driven) -> tuple[Any, ...]:
    """What was not scored comes last."""
    cls = each.facts["scores"].get("cls")
    return (2.0 if cls is None else cls, -each.facts["infractions"], *map(str, key_of(each.run)))


def run_facts(run: dict[str, Any], scores: Rows, infractions: Rows) -> dict[str, Any]:
    """One line of the list of runs: who drove where, how it ended, scores over the whole run."""
    whole = max(scores, key=lambda row: row["prefix_s"], default=None)
    return {
        **{name: run[name] for name in (*KEY, "situation", "location", "ended", "reason")},
        "model": run.get("model_version", ""),
        "seconds": round(run["steps"] * 0.1, 1),
        "scores": {name: figure(whole[name], 4) for name in SHOWN_SCORES} if whole else {},
        "infractions": len(infractions),
        "kinds": sorted({row["kind"] for row in infractions}),
    }


def run_data(run: dict[str, Any], rows: Rows, infractions: Rows) -> dict[str, Any]:
    """The steps of one run in the frame of its first pose, cm and mrad; empty without steps."""
    if not rows:
        return {"time_s": [], "path": [], "others": [], "plans": {}, "marks": []}
    poses = _poses(rows)
    origin, town = poses[0], town_of(run["spec"])
    return {
        "road": road_of(town, poses) if town else [],
        "lights": lights_of(town, rows, poses) if town else [],
        "time_s": figures([row["time_s"] for row in rows], 2),
        "path": _flat(to_local(origin, poses)),
        "speed_mps": figures([np.hypot(row["vx_mps"], row["vy_mps"]) for row in rows], 2),
        "acceleration_mps2": figures([row["ax_mps2"] for row in rows], 2),
        "yaw_rate_radps": figures([row["yaw_rate_rad_s"] for row in rows], 3),
        "others": _others(rows, origin, poses),
        "plans": {row["step"]: _flat(_plan(row)) for row in rows if len(row["plan"])},
        "marks": [_mark(row, origin) for row in sorted(infractions, key=lambda r: r["step"])],
    }


def _poses(rows: Rows) -> np.ndarray:
    """(N, 3) x, y, yaw of the rear axle, town frame."""
    return np.array([[row["x_m"], row["y_m"], row["yaw_rad"]] for row in rows], float)


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
        if not len(row["actor_tokens"]):
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
    detail = f": {row['detail'].replace('_', ' ')}" if row["detail"] else ""
    mark = {
        "kind": row["kind"],
        "step": int(row["step"]),
        "at_fault": bool(row["at_fault"]),
        "text": f"{row['kind'].replace('_', ' ')}{partner}{whose}{detail}",
    }
    if np.isfinite(place[:2]).all():
        mark["place_cm"] = centimetres(place[:2])
    return mark
