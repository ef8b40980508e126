"""Scenes → frame pairs one gap apart, each transition once however many scenes contain it.

Poses, waypoints: (x_m, y_m, yaw_rad) in the ego frame of the pair's first frame. States: speed_mps
along the heading, acceleration_mps2, yaw_rate_radps, all from 0.5 s differences of poses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from latentvla_core import geometry
from latentvla_core.data.projections import projections
from latentvla_core.errors import DataError
from latentvla_core.latent.environment.agents import AGENT_AXES, agent_motion
from latentvla_core.training.images import MISSING, ImageCache
from latentvla_core.types import FRAME_INTERVAL_S, FRONT_CAMERA, Array, Pose, SceneRecord

AXES = ("longitudinal", "lateral", "yaw")  # of ego motion, in the order of Pose
MAX_SPEED_MPS = 60.0
MAX_ACCELERATION_MPS2 = (
    25.0  # from 0.5 s differences of a good localisation; emergency braking is 10
)


@dataclass(frozen=True, slots=True)
class Pairs:
    """n transitions; pictures are rows of `cache.images`."""

    cache: ImageCache
    rows: Array
    """(n, 2) int64 picture rows of the first and second frame."""
    waypoints: Array
    """(n, gap, 3) float32 poses after 0.5 s, 1.0 s … the last one is the motion of the transition."""
    states: Array
    """(n, 3) float32 ego state at the first frame."""
    logs: Array
    """(n,) log names."""
    dropped: dict[str, int]
    """Reason → number of transitions that cannot be used."""
    projections: Array
    """(n, 3, 4) front camera, ego → picture parts (data.projections); NaN where it is not
    calibrated.
    """
    agents: Array = field(default_factory=lambda: np.zeros((0, len(AGENT_AXES))))
    """(n, A) what others do at the first frame, columns `agents.AGENT_AXES`; NaN where unknown."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def motion(self) -> Array:
        """(n, 3) relative ego motion over the transition."""
        return self.waypoints[:, -1]

    def told(self, index: Array, flip: Array | None = None) -> tuple[Array, Array, Array]:
        """(B,) → float32 waypoints (B, gap, 3), states (B, 3), projections (B, 3, 4); left and
        right exchanged where flip.
        """
        flip = np.zeros(len(index), bool) if flip is None else flip
        waypoints, states = mirrored(self.waypoints[index], self.states[index], flip)
        turned = np.where(
            flip[:, None, None],
            mirrored_projections(self.projections[index]),
            self.projections[index],
        )
        return waypoints, states, turned.astype(np.float32)

    def pictures(self, index: Array, flip: Array | None = None) -> Array:
        """(B,) → (B, 2, H, W, 3) uint8, or what else the cache holds; left and right exchanged
        where flip (B,).
        """
        return self.cache.take(
            self.rows[index], None if flip is None else np.repeat(flip[:, None], 2, axis=1)
        )


class Found(NamedTuple):
    """One transition."""

    waypoints: Array
    state: Array
    log: str
    projection: Array


def collect_pairs(
    records: Sequence[SceneRecord],
    gap_frames: int,
    cache: ImageCache,
    *,
    current_only: bool = False,
) -> Pairs:
    """All transitions at every start offset of every scene window, without repeats; decodes each
    picture once.

    Args:
        current_only: only those that start at the current frame of a scene, the one whose other
        agents are known.
    """
    first_seen: dict[tuple[str, str, str], Found] = {}
    current: dict[tuple[str, str, str], int] = {}
    refused: dict[
        tuple[str, str], str
    ] = {}  # by log and time: overlapping scenes show the same transition
    used: set[tuple[str, str]] = set()
    cameras = front_projections(records)
    for number, record in enumerate(records):
        poses = driven_poses(record)
        states = ego_states(poses)
        starts = range(min(len(poses), len(record.front_paths)) - gap_frames)
        for start in (
            starts[record.num_history - 1 : record.num_history] if current_only else starts
        ):
            paths = record.front_paths[start], record.front_paths[start + gap_frames]
            key = (record.sensor_root, *paths)
            if start == record.num_history - 1:
                current.setdefault(key, number)
            if key in first_seen:
                continue
            when = record.log_name, _nominal_time(record, start)
            waypoints = geometry.to_local(poses[start], poses[start + 1 : start + 1 + gap_frames])
            if not all(paths):
                refused[when] = "a frame has no front picture"
            elif why := implausible(waypoints, states[start]):
                refused[when] = why
            else:
                used.add(when)
                first_seen[key] = Found(waypoints, states[start], record.log_name, cameras[number])
    agents = agent_motion(records, np.array([current.get(key, -1) for key in first_seen], np.int64))
    dropped = Counter(why for when, why in refused.items() if when not in used)
    return _decoded(first_seen, agents, dropped, gap_frames, cache)


def _nominal_time(record: SceneRecord, start: int) -> str:
    """What tells a transition where a picture is missing: the time of its first frame, to a tenth
    of a second.
    """
    time_s = record.timestamp_us * 1e-6 + (start - record.num_history + 1) * FRAME_INTERVAL_S
    return f"{time_s:.1f}"


def _decoded(
    found: dict[tuple[str, str, str], Found],
    agents: Array,
    dropped: Counter[str],
    gap: int,
    cache: ImageCache,
) -> Pairs:
    pictures = [(root, path) for root, *paths in found for path in paths]
    rows = cache.indices(pictures).reshape(-1, 2)
    good = (rows != MISSING).all(axis=1)
    if not good.all():
        dropped["a picture cannot be read"] += int((~good).sum())
    values = [value for value, use in zip(found.values(), good, strict=True) if use]
    if not values:
        why = (
            ", ".join(f"{reason}: {count}" for reason, count in dropped.items())
            or "no scene is long enough"
        )
        raise DataError(
            f"no pair of front pictures {gap} frames apart can be used ({why}); check sensor roots and blobs"
        )
    waypoints, states = (
        np.stack([getattr(v, name) for v in values]).astype(np.float32)
        for name in ("waypoints", "state")
    )
    logs, cameras = np.array([v.log for v in values]), np.stack([v.projection for v in values])
    return Pairs(cache, rows[good], waypoints, states, logs, dict(dropped), cameras, agents[good])


def driven_poses(record: SceneRecord) -> Array:
    """(T, 3) float64 poses of a scene's frames, past and future."""
    return np.concatenate([record.history_poses, record.future_poses]).astype(np.float64)


def require_change(pairs: Pairs) -> None:
    """Raises DataError where the second picture of every transition is the first one again. Sound
    data ends the search at once.
    """
    for i in np.random.default_rng(0).permutation(len(pairs)):
        first, second = pairs.pictures(np.array([i]))[0]
        if not np.array_equal(first, second):
            return
    raise DataError(
        f"no picture changes in {len(pairs)} transitions of logs {', '.join(sorted(set(pairs.logs))[:3])} …: there is nothing to"
        " learn from; look at the front pictures (a covered or frozen camera? one file under many names?)"
    )


def front_projections(records: Sequence[SceneRecord]) -> Array:
    """(N, 3, 4) of the front camera, whose pictures transitions are made of."""
    return projections(records, (FRONT_CAMERA,))[:, 0]


def implausible(waypoints: Array, state: Array) -> str:
    """Why a motion (gap, 3) from a state (3,) cannot be learned from, "" if it can."""
    finite, smooth = plausible(waypoints, state)
    if finite and smooth:
        return ""
    return "the pose jumps" if finite else "a pose is not finite"


def plausible(waypoints: Array, states: Array) -> tuple[Array, Array]:
    """Motions (..., gap, 3) from states (..., 3) → two (...) bool: everything is finite; nothing
    jumps.

    One localisation jump would outweigh a thousand drives.
    """
    finite = np.isfinite(waypoints).all((-2, -1)) & np.isfinite(states).all(-1)
    with np.errstate(invalid="ignore"):  # of what is not finite
        steps = np.diff(waypoints[..., :2], axis=-2, prepend=0.0)
    speed_mps = np.maximum(
        np.linalg.norm(steps, axis=-1).max(-1) / FRAME_INTERVAL_S, np.abs(states[..., 0])
    )
    return np.asarray(finite), ~(
        (speed_mps > MAX_SPEED_MPS) | (np.abs(states[..., 1]) > MAX_ACCELERATION_MPS2)
    )


def ego_states(poses: Array) -> Array:
    """(..., T, 3) poses 0.5 s apart → (..., T, 3) speed, acceleration, yaw rate, by backward
    differences where there are any.
    """
    if poses.shape[-2] < 2:
        return np.zeros_like(poses)
    steps = geometry.to_local(poses[..., :-1, :], poses[..., 1:, :])  # (..., T - 1, 3)
    speed, yaw_rate = (
        _from_the_second(steps[..., axis] / FRAME_INTERVAL_S) for axis in (Pose.X, Pose.YAW)
    )
    acceleration = np.diff(speed, axis=-1, prepend=speed[..., :1]) / FRAME_INTERVAL_S
    if acceleration.shape[-1] > 2:
        acceleration[..., :2] = acceleration[..., 2:3]
    return np.stack([speed, acceleration, yaw_rate], axis=-1)


def _from_the_second(values: Array) -> Array:
    """(..., T - 1) → (..., T): the first frame, which has none before it, gets the second's."""
    return np.concatenate([values[..., :1], values], axis=-1)


def mirrored(waypoints: Array, states: Array, flip: Array) -> tuple[Array, Array]:
    """Left and right exchanged where flip (B,): waypoints (B, S, 3), states (B, 3)."""
    sign = np.where(flip, -1.0, 1.0).astype(np.float32)
    waypoints = waypoints * np.stack([np.ones_like(sign), sign, sign], axis=-1)[:, None]
    states = states * np.stack([np.ones_like(sign), np.ones_like(sign), sign], axis=-1)
    return waypoints, states


def mirrored_projections(projections: Array) -> Array:
    """(..., 3, 4) of pictures and drives with left and right exchanged: u becomes 1 − u, and y of
    the ego frame −y.
    """
    across = np.array([[-1.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    return across @ projections @ np.diag([1.0, -1.0, 1.0, 1.0])
