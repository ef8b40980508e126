"""The floors of every table: drivers that need no training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentvla_core.closed_loop.driver import PLAN_PERIOD_S, Driver, Observation
from latentvla_core.errors import SetupError
from latentvla_core.geometry import to_local
from latentvla_core.pdms.pdm_closed.reference import plan_reference
from latentvla_core.pdms.state import State
from latentvla_core.types import PLAN_STEPS, Array, Command

TIMES_S = np.arange(1, PLAN_STEPS + 1) * PLAN_PERIOD_S


@dataclass(frozen=True, slots=True)
class StandStill:
    """Stops and stays."""

    name: str = "stand_still"
    cameras: tuple[str, ...] = ()
    is_privileged: bool = False

    def start(self, seed: int) -> None: ...

    def drive(self, seen: Observation) -> Array:
        return np.zeros((PLAN_STEPS, 3))


@dataclass(frozen=True, slots=True)
class ConstantVelocity:
    """Straight ahead at the speed of now, as NAVSIM's agent of that name."""

    name: str = "constant_velocity"
    cameras: tuple[str, ...] = ()
    is_privileged: bool = False

    def start(self, seed: int) -> None: ...

    def drive(self, seen: Observation) -> Array:
        poses = np.zeros((PLAN_STEPS, 3))
        poses[:, 0] = float(np.hypot(*seen.velocity_mps)) * TIMES_S
        return poses


BLIND_SPEED_MPS, BLIND_ACCEL_MPS2, BLIND_TURN_M = 8.0, 1.0, 16.0


@dataclass(frozen=True, slots=True)
class Blind:
    """Ego state and command alone: keeps turning as it turns, gathers town speed, and takes the
    command for a turn of common radius. The floor for everything that looks at pictures.
    """

    name: str = "blind"
    cameras: tuple[str, ...] = ()
    is_privileged: bool = False

    def start(self, seed: int) -> None: ...

    def drive(self, seen: Observation) -> Array:
        speed = float(np.hypot(*seen.velocity_mps))
        curvature = self._curvature(seen, speed)
        goal = BLIND_SPEED_MPS if abs(curvature) < 0.03 else BLIND_SPEED_MPS / 2
        accel = np.clip((goal - speed) / TIMES_S[3], -2 * BLIND_ACCEL_MPS2, BLIND_ACCEL_MPS2)
        travelled = np.maximum(speed * TIMES_S + 0.5 * accel * TIMES_S**2, 0.0)
        yaw = curvature * travelled
        bend = yaw / 2
        chord = travelled * np.sinc(bend / np.pi)
        return np.stack([chord * np.cos(bend), chord * np.sin(bend), yaw], axis=1)

    def _curvature(self, seen: Observation, speed: float) -> float:
        turned = -float(seen.history_poses[-2, 2])
        now = turned / max(speed * PLAN_PERIOD_S, 1.0)
        wish = {Command.LEFT: 1.0 / BLIND_TURN_M, Command.RIGHT: -1.0 / BLIND_TURN_M}
        return 0.5 * now + 0.5 * wish.get(seen.command, 0.0)


@dataclass(frozen=True, slots=True)
class Human:
    """The world's own human at the pedals: a row of every table, and the reference of progress.

    It does not plan; the episode lets the world drive.
    """

    name: str = "human"
    cameras: tuple[str, ...] = ()
    is_privileged: bool = True

    def start(self, seed: int) -> None: ...

    def drive(self, seen: Observation) -> Array:
        raise SetupError("the human drives inside the world and gives no plans; use run_episode")


@dataclass(frozen=True, slots=True)
class PdmClosed:
    """PDM-Closed with true positions of everything, true lights and the map: what rules can do."""

    name: str = "pdm_closed"
    cameras: tuple[str, ...] = ()
    is_privileged: bool = True

    def start(self, seed: int) -> None: ...

    def drive(self, seen: Observation) -> Array:
        if seen.privileged is None:
            raise SetupError("pdm_closed needs the privileged part of an observation")
        scene = seen.privileged()
        poses = plan_reference(scene).poses_v2
        return to_local(scene.ego_state[: State.VX], poses[5 : 5 * PLAN_STEPS + 1 : 5])


FLOORS: dict[str, type[Driver]] = {
    "stand_still": StandStill,
    "constant_velocity": ConstantVelocity,
    "blind": Blind,
    "human": Human,
    "pdm_closed": PdmClosed,
}


def floor(name: str) -> Driver:
    """The baseline of a name."""
    if name not in FLOORS:
        raise SetupError(f"baseline {name!r} is unknown; choose one of {', '.join(FLOORS)}")
    return FLOORS[name]()
