"""Who drives: the one interface between planners and whatever world they drive in.

A driver sees pictures, its own motion, its history and a command, and answers with 8 poses. Doors
to other simulators (NAVSIM agent, gRPC, HTTP) serve a `Driver`; hosts, students and baselines are
drivers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from latentvla_core.errors import DataError
from latentvla_core.pdms.pdm_closed.reference import PlannerScene
from latentvla_core.types import PLAN_STEPS, Array, Camera, Command

PLAN_PERIOD_S = 0.5
"""Time between two plans, and between the poses of a plan."""
HISTORY_FRAMES = 4
"""Now and the three plan times before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a driver may know at a plan time. Frames: ego, rear axle, x forward, y left."""

    token: str
    """Names this moment: scene, driver, step."""
    time_s: float
    """Since the episode began."""
    timestamp_us: int
    pictures: Mapping[str, Array] = field(default_factory=dict)
    """Camera name → (H, W, 3) uint8 RGB, for the cameras that the driver asked for."""
    cameras: Mapping[str, Camera] = field(default_factory=dict)
    """Their calibration, for pictures of this size."""
    velocity_mps: Array
    """(2,)"""
    acceleration_mps2: Array
    """(2,)"""
    history_poses: Array
    """(4, 3) at -1.5, -1, -0.5 and 0 s, relative to now; the last row is zero."""
    history_velocities_mps: Array
    """(4, 2), each in the ego frame of its own time."""
    history_accelerations_mps2: Array
    """(4, 2)"""
    command: Command
    privileged: Callable[[], PlannerScene] | None = None
    """What no car can know, for drivers with `is_privileged` alone; in coordinates of the town."""


@runtime_checkable
class Driver(Protocol):
    """A planner at the wheel."""

    @property
    def name(self) -> str: ...

    @property
    def cameras(self) -> tuple[str, ...]:
        """Which pictures it needs; () = it drives blind, and nothing is rendered."""
        ...

    @property
    def is_privileged(self) -> bool:
        """Whether it may ask for `Observation.privileged`."""
        ...

    def start(self, seed: int) -> None:
        """A new episode begins: forget the last one."""
        ...

    def drive(self, seen: Observation) -> Array:
        """(8, 3) poses x_m, y_m, yaw_rad at 0.5 … 4.0 s in the ego frame of now."""
        ...


def checked_plan(plan: Array, driver: str) -> Array:
    """(8, 3) float64, or a DataError that says what is wrong with a plan."""
    poses = np.asarray(plan, np.float64)
    if poses.shape != (PLAN_STEPS, 3):
        raise DataError(
            f"{driver} planned poses of shape {poses.shape}; a plan is ({PLAN_STEPS}, 3): x_m, "
            "y_m, yaw_rad every 0.5 s, without now"
        )
    if not np.isfinite(poses).all():
        raise DataError(f"{driver} planned poses with NaN or infinity; all must be finite")
    return poses
