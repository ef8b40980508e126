"""What a run leaves behind: one plain row per 0.1 s, from which it is scored, drawn and replayed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentvla_core.errors import DataError
from latentvla_core.pdms.state import State
from latentvla_core.types import PLAN_STEPS, Array, ObjectClass
from latentvla_core.world.state import Actor, LightColour

GREY = (128, 128, 128)
STATE_COLUMNS = (
    "x_m",
    "y_m",
    "yaw_rad",
    "vx_mps",
    "vy_mps",
    "ax_mps2",
    "ay_mps2",
    "steering_rad",
    "steering_rate_rad_s",
    "yaw_rate_rad_s",
    "yaw_accel_rad_s2",
)
"""Columns of a step row, in the order of `pdms.state.State`."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The world around the ego at one step, town frame."""

    actors: tuple[Actor, ...]
    lights: Mapping[str, LightColour]
    """Connector id → colour."""


@dataclass(slots=True, kw_only=True)
class Run:
    """One driven episode. Row 0 is the moment before the first plan takes effect."""

    scene: str
    """Token of the scene's spec."""
    spec: Mapping[str, Any]
    """`SceneSpec.to_row`."""
    driver: str
    traffic: str
    """reactive | log."""
    seed: int
    states: Array
    """(N + 1, 11) ego `State` every 0.1 s, town frame."""
    moments: list[Moment]
    """N + 1."""
    plans: dict[int, Array]
    """Step of a plan time → (8, 3) plan in the ego frame of that step."""
    ended: str
    """route_end | time | crashed."""
    reason: str = ""
    """Why it crashed: the text of the driver's error."""

    @property
    def valid(self) -> bool:
        """False when the driver failed; such a run counts zero."""
        return self.ended != "crashed"

    @property
    def steps(self) -> int:
        return len(self.states) - 1

    @property
    def key(self) -> dict[str, Any]:
        """What names the run in every table."""
        return {
            "scene": self.scene,
            "driver": self.driver,
            "traffic": self.traffic,
            "seed": self.seed,
        }

    def row(self) -> dict[str, Any]:
        """Its row of `closed_loop_runs`."""
        return {
            **self.key,
            "situation": self.spec["situation"],
            "location": self.spec["location"],
            "spec": json.dumps(self.spec, sort_keys=True),
            "steps": self.steps,
            "ended": self.ended,
            "valid": self.valid,
            "reason": self.reason,
        }

    def rows(self) -> Iterator[dict[str, Any]]:
        """Its rows of `closed_loop_steps`."""
        for step, (state, moment) in enumerate(zip(self.states, self.moments, strict=True)):
            plan = self.plans.get(step)
            yield {
                **self.key,
                "step": step,
                "time_s": round(step * 0.1, 1),
                **dict(zip(STATE_COLUMNS, state.tolist(), strict=True)),
                "plan": [] if plan is None else np.asarray(plan, float).ravel().tolist(),
                **_actor_columns(moment.actors),
                "light_ids": list(moment.lights),
                "light_colours": list(moment.lights.values()),
            }


def _actor_columns(actors: Sequence[Actor]) -> dict[str, Any]:
    boxes = [[*a.pose.tolist(), *a.size_m] for a in actors]
    return {
        "actor_tokens": [a.token for a in actors],
        "actor_classes": [int(a.cls) for a in actors],
        "actor_boxes": [float(v) for box in boxes for v in box],
        "actor_velocities": [float(v) for a in actors for v in a.velocity_mps],
    }


def run_of(run: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> Run:
    """The run of its table row and its step rows, in any order of steps."""
    ordered = sorted(rows, key=lambda r: r["step"])
    if [r["step"] for r in ordered] != list(range(int(run["steps"]) + 1)):
        raise DataError(
            f"run {run['scene']} of {run['driver']} has {len(ordered)} step rows, expected "
            f"{int(run['steps']) + 1} without gaps; store it again"
        )
    return Run(
        scene=run["scene"],
        spec=json.loads(run["spec"]),
        driver=run["driver"],
        traffic=run["traffic"],
        seed=int(run["seed"]),
        states=np.array([[r[c] for c in STATE_COLUMNS] for r in ordered], float),
        moments=[_moment(r) for r in ordered],
        plans={
            r["step"]: np.array(r["plan"], float).reshape(PLAN_STEPS, 3)
            for r in ordered
            if len(r["plan"])
        },
        ended=run["ended"],
        reason=run["reason"],
    )


def _moment(row: Mapping[str, Any]) -> Moment:
    boxes = np.array(row["actor_boxes"], float).reshape(-1, 6)
    velocities = np.array(row["actor_velocities"], float).reshape(-1, 2)
    actors = tuple(
        Actor(
            token,
            ObjectClass(cls),
            box[:3],
            (float(box[3]), float(box[4]), float(box[5])),
            velocity,
            brake_lights=False,
            indicator="off",
            rgb=GREY,
        )
        for token, cls, box, velocity in zip(
            row["actor_tokens"], row["actor_classes"], boxes, velocities, strict=True
        )
    )
    return Moment(actors, dict(zip(row["light_ids"], row["light_colours"], strict=True)))


def speeds(states: Array) -> Array:
    """(N,) signed speed along the heading of states (N, 11)."""
    return states[:, State.VX]
