"""Scene sets: frozen by the human's success alone, never by a planner's; the rejection rate is said.

Candidates are tried in one fixed order, so a set of n scenes is the beginning of a set of more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from latentvla_core.closed_loop.driver import Observation
from latentvla_core.closed_loop.episode import Scene, run_episode
from latentvla_core.closed_loop.pool import in_order
from latentvla_core.closed_loop.scenes.prepared import open_prepared
from latentvla_core.closed_loop.scenes.scene import Opened
from latentvla_core.closed_loop.scenes.situations import situation
from latentvla_core.closed_loop.scenes.spec import SceneSpec
from latentvla_core.closed_loop.scores.drive import Ground
from latentvla_core.closed_loop.scores.score import Measured, measure
from latentvla_core.errors import DataError, SetupError
from latentvla_core.geometry import to_local
from latentvla_core.types import MAP_LOCATIONS, PLAN_STEPS, Array
from latentvla_core.world.actors.driving import STYLES
from latentvla_core.world.scenario import TrafficConfig
from latentvla_core.world.streets.layout import LayoutConfig

HELD_OUT = 900_000
"""World seeds from here on are for closed loop: no training world uses them."""
LEAST_DRIVE_M, DANGEROUS_DRIVE_M = 30.0, 10.0
TOWNS = 8
"""Worlds of four towns each that the candidates of a set come from."""
MOST_TRIES = 80
"""Candidates per wanted scene before a set is given up."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the human made of a candidate."""

    spec: SceneSpec
    reason: str
    """Why it is no scene; "" = it is one."""
    reference_impact_mps: float = float("nan")
    """Staged dangerous scenes: how hard who does not react hits."""


@dataclass(slots=True)
class SceneSet:
    """Frozen scenes, and what it cost to find them."""

    scenes: list[Verdict]
    tried: dict[str, int] = field(default_factory=dict)
    """Candidates by situation."""
    reasons: dict[str, int] = field(default_factory=dict)
    """Rejections by reason."""

    @property
    def rejection_rate(self) -> float:
        total = sum(self.tried.values())
        return 1.0 - len(self.scenes) / total if total else float("nan")

    def save(self, path: Path) -> None:
        """JSON."""
        rows = [
            {"spec": v.spec.to_row(), "reference_impact_mps": _number(v.reference_impact_mps)}
            for v in self.scenes
        ]
        content = {"scenes": rows, "tried": self.tried, "reasons": self.reasons}
        path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path) -> SceneSet:
        """What `save` wrote."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            rows = [(spec_of(r["spec"]), r["reference_impact_mps"]) for r in content["scenes"]]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SetupError(
                f"{path}: no scene set ({error}); give a file SceneSet.save wrote"
            ) from error
        scenes = [Verdict(s, "", float("nan") if i is None else float(i)) for s, i in rows]
        return SceneSet(scenes, content["tried"], content["reasons"])


def _number(value: float) -> float | None:
    return None if value != value else value


def spec_of(row: dict[str, Any]) -> SceneSpec:
    """The spec of `SceneSpec.to_row`, also after JSON, which knows no tuples."""
    layout: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in row["layout"].items()
    }
    parts = {"layout": LayoutConfig(**layout), "traffic": TrafficConfig(**row["traffic"])}
    return SceneSpec(**{**row, **parts})


def candidates(name: str, seed: int) -> Iterator[SceneSpec]:
    """Endless candidates of a situation in a fixed order; towns and styles take turns."""
    styles, number = tuple(STYLES), 0
    while True:
        yield SceneSpec(
            situation=name,
            world_seed=HELD_OUT + seed * TOWNS + number // len(MAP_LOCATIONS) % TOWNS,
            location=MAP_LOCATIONS[number % len(MAP_LOCATIONS)],
            style=styles[number % len(styles)],
            seed=number,
            warm_up_s=situation(name).warm_up_s,
        )
        number += 1


def judge(spec: SceneSpec, seconds: float = 20.0) -> Verdict:
    """Whether a candidate is a scene."""
    verdict, _ = judged(spec, seconds)
    return verdict


def judged(spec: SceneSpec, seconds: float) -> tuple[Verdict, tuple[Scene, Ground] | None]:
    """The verdict, and the scene with its ground if it is one."""
    try:
        scene, ground, opened = open_prepared(spec, seconds)
    except DataError as error:
        return Verdict(spec, _short(str(error))), None
    reason = _fault(scene, measure(scene.human, ground), opened)
    if reason:
        return Verdict(spec, reason), None
    if not situation(spec.situation).is_dangerous:
        return Verdict(spec, ""), (scene, ground)
    verdict = _dangerous(spec, scene, ground)
    return verdict, None if verdict.reason else (scene, ground)


def _short(text: str) -> str:
    """Places and seeds taken out, so that reasons can be counted."""
    return "the town has no such place" if text.startswith("town ") else text


def _fault(scene: Scene, m: Measured, opened: Opened) -> str:
    """What is wrong with the human's drive within 1.5 · T; "" = nothing."""
    end = len(m.driven_m) - 1
    least = DANGEROUS_DRIVE_M if situation(scene.spec.situation).is_dangerous else LEAST_DRIVE_M
    if scene.goal_m < least:
        return f"the human drives less than {least:.0f} m"
    if opened.route.length_m - float(m.driven_m[end]) - m.start_m < 60.0:
        return "the route is too short"
    if m.found:
        return "the human touches somebody"
    if m.off_road.any():
        return "the human leaves the road"
    if m.red or m.signs:
        return "the human runs a red light or a stop sign"
    if float(m.outside_m[round(scene.seconds * 10)]) > 1.0:
        return "the human leaves the route"
    return _event_fault(scene, opened)


def _event_fault(scene: Scene, opened: Opened) -> str:
    script, met = opened.staged.script, opened.staged.met
    if script is not None and not getattr(script, "fired", True):
        return "the staged event does not happen"
    steps = scene.human.moments[: round(scene.seconds * 10)]
    if met and not any(a.token == met for m in steps for a in m.actors):
        return "the human never meets whom the scene is about"
    return ""


@dataclass
class NoReaction:
    """Follows the centre line of the route at the speed it has, whatever happens."""

    name: str = "no_reaction"
    cameras: tuple[str, ...] = ()
    is_privileged: bool = True

    def start(self, seed: int) -> None: ...

    def drive(self, seen: Observation) -> Array:
        import numpy as np

        from latentvla_core.closed_loop.scenes.route import Route

        if seen.privileged is None:
            raise SetupError("no_reaction needs the privileged part of an observation")
        scene = seen.privileged()
        path, pose = Route.of(scene.centerline[:, :2]), scene.ego_state[:3]
        reach = np.arange(1, PLAN_STEPS + 1) * 0.5 * max(float(scene.ego_state[3]), 3.0)
        return to_local(pose, path.pose_at(path.project(pose[:2]) + reach))


def _dangerous(spec: SceneSpec, scene: Scene, ground: Ground) -> Verdict:
    """A dangerous scene is one where not reacting means a crash."""
    run = run_episode(NoReaction(), scene)
    found = measure(run, ground).found
    if not found:
        return Verdict(spec, "who does not react gets away with it")
    return Verdict(spec, "", found[0].impact_mps)


class Search:
    """Which candidates are tried, situations in turn, and which of them become the set.

    Verdicts must come in the order in which `specs` gave the candidates; how far `specs` is read
    ahead makes no difference to the set.
    """

    def __init__(self, names: Sequence[str], per_situation: int, seed: int) -> None:
        self.names, self.wanted = tuple(names), per_situation
        self._sources = {name: candidates(name, seed) for name in names}
        self.found: dict[str, list[Verdict]] = {name: [] for name in names}
        self.tried = dict.fromkeys(names, 0)
        self.reasons: dict[str, int] = {}

    def specs(self) -> Iterator[SceneSpec]:
        """Candidates, until every situation has its scenes."""
        while open_names := [n for n in self.names if len(self.found[n]) < self.wanted]:
            for name in open_names:
                if self.tried[name] >= MOST_TRIES * self.wanted:
                    raise DataError(
                        f"{name}: {len(self.found[name])} of {self.wanted} scenes in "
                        f"{self.tried[name]} candidates; ask for fewer"
                    )
                yield next(self._sources[name])

    def take(self, verdict: Verdict) -> bool:
        """Notes a verdict; True when its candidate is a scene of the set."""
        name = verdict.spec.situation
        if len(self.found[name]) >= self.wanted:
            return False  # read ahead, not needed
        self.tried[name] += 1
        if verdict.reason:
            self.reasons[verdict.reason] = self.reasons.get(verdict.reason, 0) + 1
            return False
        self.found[name].append(verdict)
        return True

    @property
    def result(self) -> SceneSet:
        scenes = [v for name in self.names for v in self.found[name]]
        return SceneSet(scenes, dict(self.tried), dict(sorted(self.reasons.items())))


def freeze(
    names: Sequence[str],
    per_situation: int,
    seed: int = 0,
    *,
    seconds: float = 20.0,
    workers: int = 0,
) -> SceneSet:
    """The first `per_situation` scenes of every situation."""
    search = Search(names, per_situation, seed)
    for verdict in in_order(partial(judge, seconds=seconds), search.specs(), workers):
        search.take(verdict)
    return search.result
