"""Comfort of a whole run (C): the same filters as in the PDM score, nuPlan's bounds.

The sideways acceleration is speed times yaw rate: the tracker's own state says 0.
"""

from __future__ import annotations

import numpy as np

from latentvla_core.closed_loop.scores.drive import Value
from latentvla_core.pdms.motion.comfort import (
    JERK_WINDOW_V2,
    LOWER,
    SMOOTH_WINDOW,
    UPPER,
    YAW_WINDOW,
    smooth,
    unwrapped,
)
from latentvla_core.pdms.state import State
from latentvla_core.types import Array


def signals(states: Array) -> Array:
    """(6, T) longitudinal and lateral acceleration, jerk, longitudinal jerk, yaw acceleration, yaw
    rate of states (T, 11).
    """
    along = states[:, State.AX]
    aside = states[:, State.VX] * states[:, State.YAW_RATE]
    heading = unwrapped(states[:, State.YAW])
    calm = smooth(np.hypot(along, aside), SMOOTH_WINDOW, 2, 0)
    return np.stack(
        [
            smooth(along, SMOOTH_WINDOW, 2, 0),
            smooth(aside, SMOOTH_WINDOW, 2, 0),
            smooth(calm, JERK_WINDOW_V2, 2, 1),
            smooth(smooth(along, SMOOTH_WINDOW, 2, 0), JERK_WINDOW_V2, 2, 1),
            smooth(heading, YAW_WINDOW, 3, 2),
            smooth(heading, YAW_WINDOW, 2, 1),
        ]
    )


def uncomfortable(states: Array) -> Array:
    """(T,) bool: a signal is at or beyond its bound."""
    series = signals(states)
    beyond = (series <= LOWER[:, None]) | (series >= UPPER[:, None])
    return np.asarray(beyond.any(axis=0), bool)


def comfort(bad: Array, last: int) -> Value:
    """C over steps 0 … last."""
    return Value(float(not bad[: last + 1].any()))
