"""An episode: a 10 Hz world, a plan every 0.5 s, the scorer's own tracker and bicycle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from latentvla_core.closed_loop.driver import (
    HISTORY_FRAMES,
    Driver,
    Observation,
    checked_plan,
)
from latentvla_core.closed_loop.drivers.baselines import Human
from latentvla_core.closed_loop.drivers.eyes import Eyes
from latentvla_core.closed_loop.drivers.oracle import planner_scene
from latentvla_core.closed_loop.scenes.scene import Opened, open_scene
from latentvla_core.closed_loop.scenes.spec import FIRST_US, STEPS_PER_PLAN, SceneSpec
from latentvla_core.closed_loop.steps import Moment, Run
from latentvla_core.errors import LatentVLAError
from latentvla_core.geometry import to_local
from latentvla_core.pdms.motion.tracker import reference_states, simulate
from latentvla_core.pdms.state import State
from latentvla_core.types import Array
from latentvla_core.world.actors.ego import EgoState
from latentvla_core.world.state import Snapshot

Traffic = Literal["reactive", "log"]
OVERTIME = 1.5
"""A run may last so many times its seconds before it is called a timeout."""
PLAN_US = 500_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A spec with what its human did: the reference of progress, and the log that traffic replays."""

    spec: SceneSpec
    seconds: float
    """T."""
    human: Run
    """1.5 · T long."""
    route_m: Array
    """(N + 1,) the human's metres along the route, from its start."""

    @property
    def goal_m(self) -> float:
        """Length of the route: what the human covers in T."""
        return float(self.route_m[round(self.seconds * 10)])


class World(Protocol):
    """Whatever surrounds the ego."""

    def step(self, ego: EgoState | None) -> Snapshot: ...


@dataclass(slots=True)
class ReactiveWorld:
    """Traffic that sees the ego and reacts."""

    opened: Opened

    def step(self, ego: EgoState | None) -> Snapshot:
        if self.opened.staged.script:
            self.opened.staged.script(self.opened.simulation)
        return self.opened.simulation.step(ego)


@dataclass(slots=True)
class LoggedWorld:
    """Traffic as it was around the human, whatever the ego does; it is there as far as the human
    saw, as in a log.
    """

    human: Run
    at: int = 0

    def step(self, ego: EgoState | None) -> Snapshot:
        if ego is None:
            raise LatentVLAError("in a log the human has driven already; use its run")
        self.at = min(self.at + 1, self.human.steps)
        return _snapshot(self.human, self.at, ego.pose)


def _snapshot(run: Run, step: int, pose: Array) -> Snapshot:
    moment = run.moments[step]
    return Snapshot(step * 0.1, pose, moment.actors, dict(moment.lights))


def prepare_scene(spec: SceneSpec, seconds: float = 20.0) -> Scene:
    """The scene of a spec, after its human has driven it once. Raises DataError where there is
    none.
    """
    return human_scene(open_scene(spec), seconds)


def human_scene(opened: Opened, seconds: float) -> Scene:
    """The scene of a freshly opened one: the human drives it."""
    run = _human_run(opened, round(OVERTIME * seconds * 10))
    at = opened.route.positions(run.states[:, :2])
    metres = np.maximum.accumulate(at - at[0])
    return Scene(spec=opened.spec, seconds=seconds, human=run, route_m=metres)


def _human_run(opened: Opened, steps: int) -> Run:
    simulation, world = opened.simulation, ReactiveWorld(opened)
    states, moments = [state_of(simulation.ego)], [_look(simulation.snapshot())]
    for _ in range(steps):
        snapshot = world.step(None)
        states.append(state_of(simulation.ego, states[-1]))
        moments.append(_look(snapshot))
    driven = np.stack(states)
    plans = {
        k: to_local(driven[k, :3], driven[k + 5 : k + 41 : 5, :3])
        for k in range(0, steps - 39, STEPS_PER_PLAN)
    }
    return Run(
        scene=opened.spec.token,
        spec=opened.spec.to_row(),
        driver="human",
        traffic="reactive",
        seed=opened.spec.seed,
        states=driven,
        moments=moments,
        plans=plans,
        ended="time",
    )


def _look(snapshot: Snapshot) -> Moment:
    return Moment(snapshot.actors, snapshot.lights)


def state_of(ego: EgoState, before: Array | None = None) -> Array:
    """(11,) the scorer's state of the world's ego; yaw acceleration from the state before."""
    state = np.zeros(11)
    state[:3] = ego.pose
    state[State.VX], state[State.VY], state[State.AX], state[State.AY] = ego.dynamics()
    state[State.STEER] = ego.steering_rad
    state[State.YAW_RATE] = ego.speed_mps * ego.curvature_per_m
    if before is not None:
        state[State.STEER_RATE] = (ego.steering_rad - before[State.STEER]) * 10.0
        state[State.YAW_ACCEL] = (state[State.YAW_RATE] - before[State.YAW_RATE]) * 10.0
    return state


def ego_of(state: Array) -> EgoState:
    """The world's ego of a scorer's state (11,); it does not drive backwards in the world's eyes."""
    speed = max(float(state[State.VX]), 0.0)
    return EgoState(state[:3].copy(), speed, float(state[State.AX]), float(state[State.STEER]))


@dataclass(slots=True)
class Episode:
    """One scene, being driven. `reset`, then `step` with a plan until it says that it is over."""

    scene: Scene
    traffic: Traffic = "reactive"
    eyes: Eyes = field(default_factory=Eyes)
    """Which cameras look, and how large their pictures are."""
    privileged: bool = False
    driver: str = "driver"
    states: list[Array] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    plans: dict[int, Array] = field(default_factory=dict)
    _opened: Opened | None = None
    _world: World | None = None
    _seen: Snapshot | None = None
    _past: list[Array] = field(default_factory=list)
    _at_m: float = 0.0
    _start_m: float = 0.0

    def reset(self) -> Observation:
        """The world at its first moment."""
        self._opened = opened = open_scene(self.scene.spec)
        log = self.traffic == "log"
        self._world = LoggedWorld(self.scene.human) if log else ReactiveWorld(opened)
        self._seen = _snapshot(self.scene.human, 0, opened.simulation.ego.pose)
        self._past = _states(opened.past)
        self.states = [self.scene.human.states[0].copy()]
        self.moments, self.plans = [_look(self._seen)], {}
        self._at_m = self._start_m = opened.route.project(self.states[0][:2])
        self.eyes.open(self.scene.spec, opened.town.network)
        return self._observe()

    @property
    def steps(self) -> int:
        return len(self.states) - 1

    @property
    def route_m(self) -> float:
        """Metres along the route so far."""
        return self._at_m - self._start_m

    @property
    def ended(self) -> str:
        """ "" while it goes on; route_end after T with the route done; time after 1.5 · T."""
        if self.steps >= round(OVERTIME * self.scene.seconds * 10):
            return "time"
        long_enough = self.steps >= round(self.scene.seconds * 10)
        return "route_end" if long_enough and self.route_m >= self.scene.goal_m else ""

    def step(self, plan: Array) -> Observation:
        """Drives half a second of a plan (8, 3)."""
        poses = checked_plan(plan, self.driver)
        self.plans[self.steps] = poses
        now = self.states[-1]
        reference = reference_states(poses, now, FIRST_US + self.steps * 100_000)
        driven = simulate(reference, now)
        for k in range(1, STEPS_PER_PLAN + 1):
            self._advance(driven[k])
        return self._observe()

    def _advance(self, state: Array) -> None:
        assert self._opened is not None and self._world is not None, "reset() comes first"
        self._seen = self._world.step(ego_of(state))
        self.states.append(state.copy())
        self.moments.append(_look(self._seen))
        self._at_m = max(self._at_m, self._opened.route.project(state[:2], self._at_m))

    def _observe(self) -> Observation:
        assert self._opened is not None and self._seen is not None, "reset() comes first"
        past = np.stack([*self._past, *self.states[1:]])[-1:-16:-STEPS_PER_PLAN][::-1]
        past = _whole(past)
        now, route = past[-1], self._opened.route
        lateral = past[:, State.VX] * past[:, State.YAW_RATE]
        step = self.steps
        return Observation(
            token=f"{self.scene.spec.token}-{self.driver}-{step}",
            time_s=step * 0.1,
            timestamp_us=FIRST_US + step * 100_000,
            pictures=self.eyes.look(self._seen, now[:3]),
            cameras=self.eyes.rig,
            velocity_mps=now[State.VX : State.AX].copy(),
            acceleration_mps2=np.array([now[State.AX], lateral[-1]]),
            history_poses=to_local(now[:3], past[:, :3]),
            history_velocities_mps=past[:, State.VX : State.AX].copy(),
            history_accelerations_mps2=np.column_stack([past[:, State.AX], lateral]),
            command=route.command_at(self._at_m),
            privileged=self._oracle if self.privileged else None,
        )

    def _oracle(self):
        assert self._opened is not None, "reset() comes first"
        return planner_scene(self._opened, self.states[-1], self.moments[-1], self._at_m)

    def run(self, ended: str = "", reason: str = "") -> Run:
        """What has been driven so far."""
        return Run(
            scene=self.scene.spec.token,
            spec=self.scene.spec.to_row(),
            driver=self.driver,
            traffic=self.traffic,
            seed=self.scene.spec.seed,
            states=np.stack(self.states),
            moments=list(self.moments),
            plans=dict(self.plans),
            ended=ended or self.ended or "time",
            reason=reason,
        )


def _states(past: Sequence[EgoState]) -> list[Array]:
    out: list[Array] = []
    for ego in past:
        out.append(state_of(ego, out[-1] if out else None))
    return out


def _whole(past: Array) -> Array:
    """(4, 11): the first state stands for moments before there was one."""
    missing = HISTORY_FRAMES - len(past)
    return np.concatenate([np.repeat(past[:1], missing, axis=0), past]) if missing > 0 else past


def run_episode(
    driver: Driver,
    scene: Scene,
    *,
    traffic: Traffic = "reactive",
    picture_wh: tuple[int, int] = (448, 252),
) -> Run:
    """Drives a scene from its first moment to its end. A driver that fails makes a run that says
    so, and counts zero.
    """
    if isinstance(driver, Human):
        return human_run(scene, traffic)
    episode = Episode(
        scene,
        traffic,
        Eyes(driver.cameras, picture_wh),
        privileged=driver.is_privileged,
        driver=driver.name,
    )
    driver.start(scene.spec.seed)
    seen = episode.reset()
    while not episode.ended:
        try:
            plan = checked_plan(driver.drive(seen), driver.name)
        except Exception as error:  # a planner may fail in any way; the run says how
            return episode.run("crashed", f"{type(error).__name__}: {error}")
        seen = episode.step(plan)
    return episode.run()


def human_run(scene: Scene, traffic: Traffic) -> Run:
    """The human's run as a row of the table: to the route's end, which it reaches at T."""
    last = round(scene.seconds * 10)
    run = scene.human
    return Run(
        scene=run.scene,
        spec=run.spec,
        driver="human",
        traffic=traffic,
        seed=run.seed,
        states=run.states[: last + 1],
        moments=run.moments[: last + 1],
        plans={k: p for k, p in run.plans.items() if k < last},
        ended="route_end",
    )
