"""Scene records → what the student reads: the pictures and numbers that the language model's prompt
is made of.

B scenes, C views, n pictures that exist in the batch, 3 history steps. Nothing of the future is
read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from latentvla_core.distill.config import StudentConfig
from latentvla_core.training.images import MISSING, ImageCache
from latentvla_core.types import Array, SceneRecord
from latentvla_core.vlm.prompts import HISTORY_STEPS, MotionState, motion_state

STATE_SCALE = np.array(
    [10.0, 2.0, 2.0, 0.3], np.float32
)  # m/s, m/s², m/s², rad/s: brings all to about ±1
POSITION_SCALE_M = 10.0


class StudentInputs(NamedTuple):
    """One batch."""

    pictures: Tensor
    """(n, H, W, 3) uint8, scene after scene, views in the order of `config.cameras`."""
    view_mask: Tensor
    """(B, C) bool, True where a view exists; n = its sum."""
    state: Tensor
    """(B, 4) speed, longitudinal and lateral acceleration, yaw rate; scaled."""
    history: Tensor
    """(B, 3, 4) x, y, sin yaw, cos yaw of the past 1.5 s, oldest first; scaled."""
    history_mask: Tensor
    """(B, 3) bool"""
    command: Tensor
    """(B,) int64 `Command`."""


class StudentScenes:
    """Records prepared once: numbers as arrays, pictures as rows of a cache, and which scenes can
    be used.
    """

    def __init__(
        self, records: Sequence[SceneRecord], config: StudentConfig, cache: ImageCache
    ) -> None:
        self.cache = cache
        states = [motion_state(record) for record in records]
        self.rows = _picture_rows(records, config.cameras, cache)
        self.state = (
            np.array([_numbers(s) for s in states], np.float32).reshape(-1, 4) / STATE_SCALE
        )
        self.history, self.history_mask = _histories(states)
        self.command = np.array([int(s.command) for s in states], np.int64)
        self.reasons = tuple(
            _reason(record, config.cameras, rows, state, cache)
            for record, rows, state in zip(records, self.rows, states, strict=True)
        )
        self.valid = np.array([not reason for reason in self.reasons], bool)

    def __len__(self) -> int:
        return len(self.valid)

    def batch(self, indices: Array) -> StudentInputs:
        """Tensors of these scenes, which must be valid."""
        rows = self.rows[indices]  # (B, C)
        present = rows != MISSING
        arrays = (
            present,
            self.state[indices],
            self.history[indices],
            self.history_mask[indices],
            self.command[indices],
        )
        view_mask, state, history, history_mask, command = (
            torch.from_numpy(np.ascontiguousarray(a)) for a in arrays
        )
        pictures = torch.from_numpy(np.ascontiguousarray(self.cache.take(rows[present])))
        return StudentInputs(pictures, view_mask, state, history, history_mask, command)


def _picture_rows(
    records: Sequence[SceneRecord], cameras: tuple[str, ...], cache: ImageCache
) -> Array:
    """(N, C) rows in the cache; `MISSING` where a scene has no such view or it cannot be read."""
    paths = [dict(zip(r.camera_names, r.camera_paths, strict=True)) for r in records]
    pictures = [
        (r.sensor_root, own.get(name, ""))
        for r, own in zip(records, paths, strict=True)
        for name in cameras
    ]
    return cache.indices(pictures).reshape(len(records), len(cameras))


def _numbers(state: MotionState) -> tuple[float, float, float, float]:
    return (state.speed_mps, *state.acceleration_mps2, state.yaw_rate_radps)


def _histories(states: Sequence[MotionState]) -> tuple[Array, Array]:
    """(N, 3, 4) poses and (N, 3) which of them exist; short histories are padded at the old end."""
    poses = np.zeros((len(states), HISTORY_STEPS, 3), np.float32)
    mask = np.zeros((len(states), HISTORY_STEPS), bool)
    for i, state in enumerate(states):
        if state.past_poses:
            poses[i, -len(state.past_poses) :] = state.past_poses
            mask[i, -len(state.past_poses) :] = True
    yaw = poses[..., 2:]
    return np.concatenate(
        [poses[..., :2] / POSITION_SCALE_M, np.sin(yaw), np.cos(yaw)], axis=-1
    ), mask


def _reason(
    record: SceneRecord,
    cameras: tuple[str, ...],
    rows: Array,
    state: MotionState,
    cache: ImageCache,
) -> str:
    """Why a scene cannot be used: the rule of vlm.samples, so that teacher and student refuse the
    same scenes.
    """
    paths = dict(zip(record.camera_names, record.camera_paths, strict=True))
    if not paths.get(cameras[0]):
        return f"no picture of {cameras[0]} at the current time"
    if not state.finite:
        return "the ego state or its history holds a value that is not finite"
    broken = [
        paths[name]
        for name, row in zip(cameras, rows, strict=True)
        if paths.get(name) and row == MISSING
    ]
    return f"{broken[0]}: {cache.faults.get(broken[0], 'cannot be read')}" if broken else ""
