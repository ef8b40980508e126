"""Scene → chat messages, by a versioned template (latentvla.md §3.2).

Only what is known at the current time enters: motion state, the last 1.5 s of positions, the
command. No field of the future is read in this file, and no language annotation exists.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentvla_core.geometry import wrap
from latentvla_core.types import FRAME_INTERVAL_S, Command, Pose, SceneRecord

SYSTEM = "You are the planner of an autonomous car. Answer only with latent action tokens."
COMMAND_WORDS = {
    Command.LEFT: "left",
    Command.FORWARD: "straight",
    Command.RIGHT: "right",
    Command.UNKNOWN: "unknown",
}
HISTORY_STEPS = 3  # 1.5 s at 2 Hz, without the current pose, which is the origin


@dataclass(frozen=True, slots=True)
class MotionState:
    """What the prompt says in words and the student reads as numbers, for one scene; SI units, ego
    frame.
    """

    speed_mps: float
    acceleration_mps2: tuple[float, float]
    yaw_rate_radps: float
    past_poses: tuple[tuple[float, float, float], ...]
    """(x, y, yaw) of up to the last `HISTORY_STEPS` time steps, oldest first, relative to the
    current pose.
    """
    command: Command

    @property
    def finite(self) -> bool:
        numbers = (
            self.speed_mps,
            *self.acceleration_mps2,
            self.yaw_rate_radps,
            *(v for p in self.past_poses for v in p),
        )
        return all(math.isfinite(number) for number in numbers)


def motion_state(record: SceneRecord) -> MotionState:
    """The state at the current time. The yaw rate is the heading change of the last interval (2 Hz
    key frames).
    """
    past = np.asarray(record.history_poses, float)[:-1][-HISTORY_STEPS:]
    yaw_rate = float(wrap(-past[-1, Pose.YAW])) / FRAME_INTERVAL_S if len(past) else 0.0
    ax, ay = (float(a) for a in record.ego_acceleration_mps2)
    return MotionState(
        speed_mps=float(np.hypot(*record.ego_velocity_mps)),
        acceleration_mps2=(ax, ay),
        yaw_rate_radps=yaw_rate,
        past_poses=tuple((float(p[Pose.X]), float(p[Pose.Y]), float(p[Pose.YAW])) for p in past),
        command=Command(int(record.command)),
    )


def _v1(state: MotionState) -> str:
    """The template of latentvla.md §3.2."""
    ax, ay = state.acceleration_mps2
    past = (
        ", ".join("(" + ", ".join(number(v, 2) for v in pose) + ")" for pose in state.past_poses)
        or "unknown"
    )
    return (
        f"Speed {number(state.speed_mps, 2)} m/s, acceleration ({number(ax, 2)}, {number(ay, 2)}) m/s², "
        f"yaw rate {number(state.yaw_rate_radps, 3)} rad/s.\n"
        f"Past 1.5 s positions: {past}. Command: {COMMAND_WORDS[state.command]}.\n"
        "Predict the next 12 latent actions."
    )


TEMPLATES: dict[str, Callable[[MotionState], str]] = {"v1": _v1}
"""Versions stay for ever: a model is asked in the words it was trained with."""


def user_text(state: MotionState, version: str = "v1") -> str:
    """The words of the user's turn; pictures come before them."""
    if version not in TEMPLATES:
        raise ValueError(f"template_version {version!r} is unknown; one of {sorted(TEMPLATES)}")
    return TEMPLATES[version](state)


def messages(text: str, num_images: int) -> list[dict[str, Any]]:
    """Chat of one question: system, then pictures and words. The answer is appended as token ids,
    not as text.
    """
    content: list[dict[str, str]] = [{"type": "image"} for _ in range(num_images)]
    return [
        {"role": "system", "content": [{"type": "text", "text": SYSTEM}]},
        {"role": "user", "content": [*content, {"type": "text", "text": text}]},
    ]


def number(value: float, decimals: int) -> str:
    """Fixed decimals; never "-0.00", which would be a second spelling of zero."""
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0.0 else text
