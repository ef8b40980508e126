"""Scenes of the study as arrays: what a blind planner knows, the logged path, the situation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from latentvla_core.errors import SetupError
from latentvla_core.planner.features import ego_status
from latentvla_core.types import PLAN_STEPS, Array, SceneRecord

ROLES = ("unlabelled", "labelled", "val", "test", "test_towns")
"""What a log is for. unlabelled: pictures and poses only; test_towns: towns nobody trained in."""
HISTORY = 3
EGO_NUMBERS = 8 + 3 * HISTORY
PAST_FRAMES = 2
"""Key frames between the two pictures of a scene: 1 s."""


@dataclass(frozen=True, slots=True)
class Scenes:
    """N scenes, arrays in one order."""

    tokens: Array
    """(N,) str."""
    logs: Array
    """(N,) str."""
    roles: Array
    """(N,) str, of `ROLES`."""
    ego: Array
    """(N, 17) float32: command one-hot 4, velocity 2, acceleration 2, past poses 3 x 3."""
    path: Array
    """(N, 8, 3) float32 logged future in the ego frame; metres, radians."""
    pictures: Array
    """(N, 2) str: front picture now and 1 s ago, "" where there is none."""
    situations: Array
    """(N,) str, of `situations.SITUATIONS`."""

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, rows: Array) -> Scenes:
        """Some of the scenes."""
        return Scenes(*(getattr(self, field.name)[rows] for field in fields(self)))

    def of_role(self, role: str) -> Array:
        """(n,) rows of a role."""
        return np.nonzero(self.roles == role)[0]

    @staticmethod
    def concat(parts: Sequence[Scenes]) -> Scenes:
        """One after the other."""
        return Scenes(
            *(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Scenes))
        )


def scenes_of(records: Sequence[SceneRecord], situations: Sequence[str], role: str) -> Scenes:
    """Arrays of scenes with a whole future and at least 1.5 s of history."""
    short = [
        r.scene_token for r in records if r.num_future < PLAN_STEPS or r.num_history <= HISTORY
    ]
    if short:
        raise SetupError(
            f"scene {short[0]} (and {len(short) - 1} more) has less than 1.5 s of history or 4 s of "
            "future; filter scenes with 4 history and 10 future frames"
        )
    count = len(records)  # 0 for a log without a single window: shapes are said, not found
    past = np.array([r.history_poses[-1 - HISTORY : -1] for r in records], np.float32)
    path = np.array([r.future_poses[:PLAN_STEPS] for r in records], np.float32)
    status = ego_status(records).reshape(count, EGO_NUMBERS - 3 * HISTORY)
    return Scenes(
        np.array([r.scene_token for r in records], np.str_),
        np.array([r.log_name for r in records], np.str_),
        np.full(count, role),
        np.concatenate([status, past.reshape(count, 3 * HISTORY)], 1).astype(np.float32),
        path.reshape(count, PLAN_STEPS, 3),
        np.array([_pictures(r) for r in records], np.str_).reshape(count, 2),
        np.array(situations, np.str_),
    )


def _pictures(record: SceneRecord) -> tuple[str, str]:
    now = record.num_history - 1
    return record.front_paths[now], record.front_paths[now - PAST_FRAMES]


def check_disjoint(logs_of_role: Mapping[str, Sequence[str]]) -> None:
    """Raises SetupError that names every log with two roles."""
    seen: dict[str, str] = {}
    twice = []
    for role, logs in logs_of_role.items():
        for log in set(logs):
            if log in seen:
                twice.append(f"{log} is {seen[log]} and {role}")
            seen[log] = role
    if twice:
        raise SetupError(
            f"{len(twice)} logs have two roles: {'; '.join(sorted(twice)[:3])}; a log may serve one"
        )


def labelled_rows(scenes: Scenes, logs: int) -> Array:
    """(n,) rows of the first `logs` labelled logs, in the order of their names.

    Smaller sets are parts of larger ones, so that a curve over them is one experiment.
    """
    names = sorted(set(scenes.logs[scenes.of_role("labelled")].tolist()))
    if logs > len(names):
        raise SetupError(f"{logs} labelled logs are asked for, there are {len(names)}")
    return np.nonzero(np.isin(scenes.logs, names[:logs]))[0]
