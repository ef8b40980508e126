"""No at-fault collision (NC) and time to collision (TTC): one scene, B proposals against boxes over
time.

Source: pdms.md §8.1, §8.2, §8.7. Only the first contact of a (proposal, object) pair counts: one
that is not the ego's fault silences the object for good, one that is cannot be judged differently
later.
"""

from __future__ import annotations

import numpy as np

from latentvla_core.pdms import backend
from latentvla_core.pdms.contacts.collision_kernels import first_contacts_numba, first_hits_numba
from latentvla_core.pdms.contacts.collision_numpy import first_contacts_numpy, first_hits_numpy
from latentvla_core.pdms.state import Event, Obstacles, ego_motion
from latentvla_core.types import Array

STATIC_COLLISION = 0.5
TTC_LAST_STEP_V1, TTC_LAST_STEP_V2 = 40, 31


def no_at_fault_collisions(
    states: Array, risky: Array, obstacles: Obstacles, *, motion: Array | None = None
) -> Event:
    """NC: 1, ½ (hit a static object) or 0 (hit an agent) per proposal.

    Args:
        states: (B, T, 11) simulated states.
        risky: (B, T) bool: ego in multiple lanes or off the drivable area; makes side contacts its
        fault.
        motion: (B, T, 7) `ego_motion(states)`, to save making it again.
    """
    motion = ego_motion(states) if motion is None else motion
    first_step, fault = _contacts(motion, np.ascontiguousarray(risky), obstacles)
    found = np.where(fault, first_step, np.iinfo(np.int64).max)  # (B, A)
    cost = np.where(fault, np.where(obstacles.is_agent, 0.0, STATIC_COLLISION), 1.0)
    return _event(found, cost.min(axis=1, initial=1.0))


def time_to_collision(
    states: Array,
    risky: Array,
    obstacles: Obstacles,
    *,
    last_step: int = TTC_LAST_STEP_V1,
    motion: Array | None = None,
) -> Event:
    """TTC: 0 if the ego, moved on at its speed for 0, 0.3, 0.6 or 0.9 s, would run into something,
    else 1.

    Args:
        states: (B, T, 11) simulated states.
        risky: (B, T) bool: ego in multiple lanes, off the drivable area, or its rear axle in an
        intersection; then
            everything that is not behind counts, otherwise only what is ahead.
        last_step: 40 in v1.1, 31 in v2.2; obstacles must reach `last_step` + 9.
        motion: (B, T, 7) `ego_motion(states)`, to save making it again.
    """
    motion = ego_motion(states) if motion is None else motion
    first_step, violated = _hits(motion, np.ascontiguousarray(risky), obstacles, last_step)
    found = np.where(violated, first_step, np.iinfo(np.int64).max)
    return _event(found, np.where(violated.any(axis=1), 0.0, 1.0))


def _contacts(motion: Array, risky: Array, world: Obstacles) -> tuple[Array, Array]:
    """(B, A) first contact step and whether it is the ego's fault."""
    kernel = first_contacts_numba if backend.active() == "numba" else first_contacts_numpy
    return kernel(
        motion,
        risky,
        world.boxes,
        world.reach,
        world.valid,
        world.is_agent,
        world.speed_mps,
        world.step_row,
    )


def _hits(motion: Array, risky: Array, world: Obstacles, last: int) -> tuple[Array, Array]:
    """(B, A) step of the first qualifying projected hit and whether it is a violation."""
    kernel = first_hits_numba if backend.active() == "numba" else first_hits_numpy
    return kernel(motion, risky, world.boxes, world.reach, world.valid, world.step_row, last)


def _event(found: Array, value: Array) -> Event:
    """Earliest violation per proposal from violation steps (B, A), int64 max = none."""
    if found.shape[1] == 0:
        none = np.full(len(found), -1, np.int64)
        return Event(value, none, none.copy())
    who = found.argmin(axis=1)
    step = found[np.arange(len(found)), who]
    none = step == np.iinfo(np.int64).max
    return Event(value, np.where(none, -1, step), np.where(none, -1, who))
