"""The driver: states before now for history comfort, and the human's own plan (pdms.md §8.8, §10)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from latentvla_core.geometry import principal, to_local
from latentvla_core.pdms.state import State
from latentvla_core.types import PLAN_STEPS, Array, Frame, Pose

HISTORY_STEP_US = 100_000
NUM_STATES = 11


def ego_state(frame: Frame) -> Array:
    """(11,) `State` of the ego at a frame, global; steering, yaw rate and yaw acceleration are not
    logged and 0.
    """
    state = np.zeros(NUM_STATES)
    state[: State.VX] = frame.ego_pose
    state[State.VX : State.AX] = frame.ego_velocity_mps
    state[State.AX : State.STEER] = frame.ego_acceleration_mps2
    return state


def history_states(frames: Sequence[Frame]) -> tuple[Array, Array]:
    """Times (H,) int64 us and states (H, 11), global, that history comfort puts before the plan; H
    = 0 for one frame.

    Args:
        frames: history frames with their true time stamps, the current one last.

    The samples stop two steps short of now: the devkit's range leaves out its end and then its last
    element (pdms.md §17, quirk 15), so H is 14, or 15 when the history is a little longer than 1.5
    s.
    """
    times = np.array([frame.timestamp_us for frame in frames], np.int64)
    query = np.arange(times[0], times[-1], HISTORY_STEP_US)[:-1]
    if len(query) == 0:
        return query, np.zeros((0, NUM_STATES))
    knots = np.stack([ego_state(frame) for frame in frames])
    knots[:, State.YAW] = np.unwrap(knots[:, State.YAW])
    high = np.clip(np.searchsorted(times, query, side="left"), 1, len(times) - 1)
    low = high - 1
    slope = (knots[high] - knots[low]) / (times[high] - times[low]).astype(float)[:, None]
    states = slope * (query - times[low])[:, None] + knots[low]
    states[:, State.YAW] = principal(states[:, State.YAW])
    return query, states


def human_poses(current: Frame, future: Sequence[Frame]) -> Array:
    """(8, 3) logged poses 0.5 s apart in the current ego frame; NaN when the log ends before 4 s."""
    poses = np.full((PLAN_STEPS, 3), np.nan)
    if len(future) >= PLAN_STEPS:
        logged = np.stack([frame.ego_pose for frame in future[:PLAN_STEPS]])
        poses = to_local(current.ego_pose, logged)
        assert poses.shape[-1] == len(Pose)
    return poses
