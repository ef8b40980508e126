"""A run → its scores at several lengths, and its infractions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from latentvla_core.closed_loop.episode import Scene
from latentvla_core.closed_loop.scenes.situations import SITUATIONS
from latentvla_core.closed_loop.scores import comfort, contacts, formulas, plans, road
from latentvla_core.closed_loop.scores.drive import Actors, Drive, Ground, ground_of
from latentvla_core.closed_loop.steps import Run
from latentvla_core.pdms.state import State
from latentvla_core.types import Array

PREFIXES_S = (4.0, 8.0, 12.0, 16.0, 20.0)
METRIC_VERSION = "closed-loop-1"
TERMS = (*formulas.FACTORS, *formulas.WEIGHTS, "traffic_light")
SCORES = ("cls", "cls_tlc", "ds", "alpasim", "bridgesim", "ncap")


@dataclass(frozen=True, slots=True)
class Infraction:
    """Something that went wrong: what, when, where, with whom."""

    kind: str
    step: int
    x_m: float
    y_m: float
    partner: str
    at_fault: bool
    detail: str

    def to_row(self, key: dict[str, Any]) -> dict[str, Any]:
        return {
            **key,
            "kind": self.kind,
            "step": self.step,
            "time_s": round(self.step * 0.1, 1),
            "x_m": self.x_m,
            "y_m": self.y_m,
            "partner": self.partner,
            "at_fault": self.at_fault,
            "detail": self.detail,
        }


@dataclass(frozen=True, slots=True)
class Scored:
    """What a run is worth."""

    rows: list[dict[str, Any]]
    """One per prefix, the whole T last: rows of `closed_loop_scores`."""
    infractions: list[Infraction]

    @property
    def whole(self) -> dict[str, Any]:
        """The row over T."""
        return self.rows[-1]


@dataclass(frozen=True, eq=False, slots=True)
class Measured:
    """Everything about a run that does not depend on the prefix."""

    drive: Drive
    found: list[contacts.Contact]
    ttc_s: Array
    off_road: Array
    against_m: Array
    limit_mps: Array
    bad: Array
    outside_m: Array
    driven_m: Array
    """(T,) along the route."""
    start_m: float
    """Of the route, at the first step."""
    red: list[road.Crossing]
    signs: list[road.Crossing]
    plan_steps: Array
    plan_values: Array


def scene_ground(scene: Scene) -> Ground:
    """The ground of a scene, made once for all its runs."""
    from latentvla_core.closed_loop.scenes.scene import open_scene

    opened = open_scene(scene.spec)
    return ground_of(opened.town, opened.route)


def score_run(
    run: Run,
    scene: Scene,
    ground: Ground | None = None,
    *,
    reference_impact_mps: float = float("nan"),
) -> Scored:
    """Scores of a run at every prefix that fits into T, and T itself. A run that crashed counts
    zero at every length.
    """
    lengths = [s for s in PREFIXES_S if s < scene.seconds] + [scene.seconds]
    if not run.valid:
        return Scored([_failed(run, scene, s) for s in lengths], [])
    measured = measure(run, ground or scene_ground(scene), with_plans=True)
    infractions = _infractions(measured, run, scene)
    rows = [
        _row(run, scene, measured, infractions, seconds, reference_impact_mps)
        for seconds in lengths
    ]
    return Scored(rows, infractions)


def measure(run: Run, ground: Ground, *, with_plans: bool = False) -> Measured:
    """All series of a run; `with_plans`: also how good its plans were."""
    lights = [m.lights for m in run.moments]
    drive = Drive(run.states, Actors.of(run.moments), lights, ground)
    risky = contacts.careless(drive)
    found = contacts.contacts(drive, risky)
    passed = road.crossings(drive)
    at = ground.route.positions(run.states[:, :2])
    steps, values = plans.plan_scores(drive, run.plans if with_plans else {}, run.steps)
    return Measured(
        drive=drive,
        found=found,
        ttc_s=contacts.times_to_collision(drive, found, risky),
        off_road=road.off_road(drive),
        against_m=road.against_flow_m(drive),
        limit_mps=road.limits_mps(drive),
        bad=comfort.uncomfortable(run.states),
        outside_m=road.off_route_m(drive),
        driven_m=np.maximum.accumulate(at - at[0]),
        start_m=float(at[0]),
        red=road.red_light_runs(drive, passed),
        signs=road.stop_sign_runs(passed),
        plan_steps=steps,
        plan_values=values,
    )


def _row(
    run: Run,
    scene: Scene,
    m: Measured,
    infractions: list[Infraction],
    seconds: float,
    reference_impact_mps: float,
) -> dict[str, Any]:
    last = min(round(seconds * 10), run.steps)
    terms = _terms(m, last, float(m.driven_m[last]), float(scene.route_m[last]))
    whole = seconds == scene.seconds
    end = run.steps if whole else last
    goal = scene.goal_m if whole else float(scene.route_m[last])
    outside = float(m.outside_m[end]) / max(float(m.drive.moved_m[: end + 1].sum()), 1e-6)
    completion = formulas.route_completion(float(m.driven_m[end]), goal, min(outside, 1.0))
    counted = [i for i in infractions if i.step <= end and i.kind in formulas.COSTS]
    counted = [i for i in counted if whole or i.kind != "timeout"]
    score = formulas.cls(terms)
    values = m.plan_values[m.plan_steps + 40 <= last]
    return {
        **_head(run, seconds),
        "valid": True,
        "reason": "",
        **terms,
        "min_ttc_s": float(m.ttc_s[: last + 1].min()),
        "driven_m": float(m.driven_m[last]),
        "reference_m": float(scene.route_m[last]),
        "route_completion": completion,
        "infractions": len(counted),
        "success": bool(completion >= 1.0 - 1e-9 and not counted),
        "cls": score,
        "cls_tlc": score * terms["traffic_light"],
        "ds": formulas.driving_score(completion, [i.kind for i in counted]),
        "alpasim": formulas.alpasim(
            float(m.driven_m[last]),
            float(scene.route_m[last]),
            any(c.at_fault and c.step <= last for c in m.found),
            bool(m.off_road[: last + 1].any()),
        ),
        "bridgesim": completion * float(values.mean()) if len(values) else float("nan"),
        "ncap": _ncap(run, m, last, reference_impact_mps),
    }


def _terms(m: Measured, last: int, driven_m: float, reference_m: float) -> dict[str, float]:
    progress = formulas.ego_progress(driven_m, reference_m)
    speed = m.drive.states[:, State.VX]
    return {
        "no_at_fault_collisions": contacts.no_at_fault_collisions(m.drive, m.found, last).value,
        "drivable_area": road.drivable_area(m.off_road, last).value,
        "driving_direction": road.driving_direction(m.against_m, last).value,
        "making_progress": float(progress >= formulas.LEAST_PROGRESS),
        "time_to_collision": contacts.time_to_collision(m.ttc_s, last).value,
        "ego_progress": progress,
        "speed_limit": road.speed_limit(speed, m.limit_mps, last).value,
        "comfort": comfort.comfort(m.bad, last).value,
        "traffic_light": float(not any(c.step <= last for c in m.red)),
    }


def _ncap(run: Run, m: Measured, last: int, reference_mps: float) -> float:
    """N, NaN where the scene is not a staged dangerous one."""
    if not SITUATIONS[run.spec["situation"]].is_dangerous:
        return float("nan")
    crash = next((c.impact_mps for c in m.found if c.step <= last), float("nan"))
    return formulas.neuro_ncap(crash, reference_mps)


def _infractions(m: Measured, run: Run, scene: Scene) -> list[Infraction]:
    """All of them in order of time."""

    def at(kind: str, step: int, partner: str = "", fault: bool = True, detail: str = ""):
        x, y = m.drive.center[step]
        return Infraction(kind, int(step), float(x), float(y), partner, fault, detail)

    found = [
        at(
            contacts.kind_of(m.drive, c.actor),
            c.step,
            m.drive.actors.tokens[c.actor],
            c.at_fault,
            f"{c.why}, {c.impact_mps:.1f} m/s",
        )
        for c in m.found
    ]
    found += [at("red_light", c.step, c.line.connector_ids[0]) for c in m.red]
    found += [at("stop_sign", c.step, c.line.connector_ids[0]) for c in m.signs]
    if m.off_road.any():
        found.append(at("off_road", int(m.off_road.argmax())))
    if (m.against_m >= road.WRONG_WAY_HALF_M).any():
        first = int((m.against_m >= road.WRONG_WAY_HALF_M).argmax())
        found.append(at("wrong_way", first, detail=f"{m.against_m.max():.1f} m in a second"))
    if run.ended == "time" and m.driven_m[-1] < scene.goal_m:
        found.append(
            at("timeout", run.steps, detail=f"{m.driven_m[-1]:.0f} of {scene.goal_m:.0f} m")
        )
    return sorted(found, key=lambda i: (i.step, i.kind, i.partner))


def _head(run: Run, seconds: float) -> dict[str, Any]:
    return {
        **run.key,
        "situation": run.spec["situation"],
        "location": run.spec["location"],
        "prefix_s": seconds,
        "metric_version": METRIC_VERSION,
    }


def _failed(run: Run, scene: Scene, seconds: float) -> dict[str, Any]:
    """A crashed run: zero, said so."""
    dangerous = SITUATIONS[run.spec["situation"]].is_dangerous
    return {
        **_head(run, seconds),
        "valid": False,
        "reason": run.reason,
        **dict.fromkeys(TERMS, 0.0),
        "min_ttc_s": float("nan"),
        "driven_m": 0.0,
        "reference_m": float(scene.route_m[round(seconds * 10)]),
        "route_completion": 0.0,
        "infractions": 0,
        "success": False,
        **dict.fromkeys(SCORES, 0.0),
        "ncap": 0.0 if dangerous else float("nan"),
    }
