"""The closed loop as a gymnasium environment: the same episode, a plan as the action.

Needs the extra `rl` (gymnasium). One step is half a second; the reward has AlpaGym's shape: metres
along the route as a share of the human's, less a fixed price for contacts and for leaving the road.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentvla_core.closed_loop.driver import HISTORY_FRAMES, Observation
from latentvla_core.closed_loop.drivers.eyes import Eyes
from latentvla_core.closed_loop.episode import Episode, Scene, Traffic, prepare_scene
from latentvla_core.closed_loop.scenes.scene import open_scene
from latentvla_core.closed_loop.scenes.spec import SceneSpec
from latentvla_core.closed_loop.scores import contacts, road
from latentvla_core.closed_loop.scores.drive import Actors, Drive, Ground, ground_of
from latentvla_core.errors import SetupError
from latentvla_core.types import PLAN_STEPS, Array, Command

try:
    import gymnasium
    from gymnasium import spaces

    Base: Any = gymnasium.Env
except ImportError:  # the extra `rl` is not installed
    gymnasium = None
    Base = object

FARTHEST_M = 160.0
"""No pose of a plan is farther away: 4 s at 40 m/s."""


@dataclass(frozen=True, slots=True)
class Reward:
    """Prices."""

    progress: float = 1.0
    """For the whole of the human's way."""
    contact: float = -10.0
    """For each contact that is the ego's fault."""
    off_road: float = -5.0
    """Once."""


class DriveEnv(Base):
    """Drives scenes one after the other; `reset(seed=k)` starts scene k of the list."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        specs: Sequence[SceneSpec],
        *,
        seconds: float = 20.0,
        traffic: Traffic = "reactive",
        cameras: tuple[str, ...] = (),
        picture_wh: tuple[int, int] = (448, 252),
        reward: Reward | None = None,
        prepare: Callable[[SceneSpec, float], Scene] = prepare_scene,
    ) -> None:
        if gymnasium is None:
            raise SetupError("gymnasium is not installed; install latentvla[rl]")
        if not specs:
            raise SetupError("no scenes; give at least one SceneSpec, see scenes.sets.freeze")
        self.specs, self.seconds = tuple(specs), seconds
        self.traffic: Traffic = traffic
        self.cameras, self.picture_wh = cameras, picture_wh
        self.reward, self.prepare = reward or Reward(), prepare
        self.render_mode = None
        self.observation_space = _observations(cameras, picture_wh)
        bound = np.tile([FARTHEST_M, FARTHEST_M, np.pi], (PLAN_STEPS, 1)).astype(np.float32)
        self.action_space = spaces.Box(-bound, bound, dtype=np.float32)
        self.episode: Episode | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        """The next scene, or scene `seed` of the list."""
        super().reset(seed=seed)
        number = seed if seed is not None else int(self.np_random.integers(len(self.specs)))
        spec = self.specs[number % len(self.specs)]
        scene = self.prepare(spec, self.seconds)
        opened = open_scene(spec)
        self.ground: Ground = ground_of(opened.town, opened.route)
        eyes = Eyes(self.cameras, self.picture_wh)
        self.episode = Episode(scene, self.traffic, eyes, driver="gymnasium")
        self.contacts, self.was_off_road = 0, False
        return as_arrays(self.episode.reset()), {"scene": spec.token}

    def step(self, action: Array):
        """Half a second of a plan (8, 3)."""
        if self.episode is None:
            raise SetupError("step before reset; call reset() first")
        before = self.episode.route_m
        seen = self.episode.step(np.asarray(action, np.float64))
        hit, off = self._faults()
        gained = (self.episode.route_m - before) / max(self.episode.scene.goal_m, 1.0)
        reward = self.reward.progress * gained + self.reward.contact * (hit - self.contacts)
        reward += self.reward.off_road * (off and not self.was_off_road)
        self.contacts, self.was_off_road = hit, off or self.was_off_road
        ended = self.episode.ended
        info = {"route_m": self.episode.route_m, "contacts": hit, "off_road": self.was_off_road}
        return as_arrays(seen), float(reward), ended == "route_end", ended == "time", info

    def _faults(self) -> tuple[int, bool]:
        """Contacts at fault so far, and whether the ego has left the road in the last half second."""
        assert self.episode is not None, "reset() comes first"
        moments, states = self.episode.moments, np.stack(self.episode.states)
        drive = Drive(states, Actors.of(moments), [m.lights for m in moments], self.ground)
        found = contacts.contacts(drive)
        return sum(c.at_fault for c in found), bool(road.off_road(drive)[-5:].any())


def _observations(cameras: tuple[str, ...], picture_wh: tuple[int, int]) -> Any:
    width, height = picture_wh
    shown = {name: spaces.Box(0, 255, (height, width, 3), np.uint8) for name in cameras}
    motion = spaces.Box(-np.inf, np.inf, (HISTORY_FRAMES, 7), np.float32)
    return spaces.Dict({"command": spaces.Discrete(len(Command)), "motion": motion, **shown})


def as_arrays(seen: Observation) -> dict[str, Any]:
    """command, motion (4, 7): relative pose, velocity, acceleration of 4 moments; a picture per
    camera.
    """
    motion = np.concatenate(
        [seen.history_poses, seen.history_velocities_mps, seen.history_accelerations_mps2], axis=1
    ).astype(np.float32)
    return {"command": np.int64(seen.command), "motion": motion, **seen.pictures}
