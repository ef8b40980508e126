"""Latent action codes of scenes: three transitions of 1 s from the current frame on, four codes each, time-major."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from latentvla_core.latent.model import LatentActionModel
from latentvla_core.training.images import MISSING, ImageCache
from latentvla_core.types import Array, SceneRecord


@dataclass(frozen=True, slots=True)
class Labels:
    """One row per scene, in the order given. A row that is not valid holds zeros and says why."""

    codes: Array
    """(N, 12) int8, 0 … 15: transition 1's codes, then transition 2's, then transition 3's."""
    valid: Array
    """(N,) bool."""
    reason: tuple[str, ...]
    """"" where valid."""

    def __len__(self) -> int:
        return len(self.codes)


def label_scenes(
    records: Sequence[SceneRecord],
    model: LatentActionModel,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    cache: ImageCache | None = None,
) -> Labels:
    """Encode what happens after the current frame of each scene; only front pictures are read, no pose.

    Each transition is encoded once, however many scenes share it.
    """
    config = model.config
    cache = cache or ImageCache(config.features.image_size_wh)
    needed = [needed_pictures(record, config.num_transitions, config.gap_frames) for record in records]
    rows = [cache.indices([(r.sensor_root, p) for p in paths]) for r, (paths, _) in zip(records, needed, strict=True)]
    reasons = [why or _unreadable(row, paths, cache) for row, (paths, why) in zip(rows, needed, strict=True)]
    valid = np.array([not why for why in reasons], bool)
    codes = np.zeros((len(records), config.num_tokens), np.int8)
    if valid.any():
        frames = np.stack([row for row, use in zip(rows, valid, strict=True) if use])  # (n, transitions + 1)
        transitions = np.stack([frames[:, :-1], frames[:, 1:]], axis=-1).reshape(-1, 2)
        unique, where = np.unique(transitions, axis=0, return_inverse=True)
        found = encode(model.to(device).eval(), unique, cache, batch_size)
        codes[valid] = found[where.reshape(-1)].reshape(len(frames), config.num_tokens)
    return Labels(codes, valid, tuple(reasons))


def encode(model: LatentActionModel, rows: Array, cache: ImageCache, batch_size: int) -> Array:
    """(n, 2) picture rows → (n, codes per transition) int8."""
    parts = [cache.take(rows[i : i + batch_size]) for i in range(0, len(rows), batch_size)]
    codes = [model.codes(torch.from_numpy(np.ascontiguousarray(p))).cpu().numpy() for p in parts]
    return np.concatenate(codes).astype(np.int8)


def needed_pictures(record: SceneRecord, transitions: int, gap_frames: int) -> tuple[tuple[str, ...], str]:
    """Paths of the current frame and one frame per transition, and what is missing ("" = nothing)."""
    current = record.num_history - 1
    wanted = [current + i * gap_frames for i in range(transitions + 1)]
    if wanted[-1] >= len(record.front_paths):
        have, need = len(record.front_paths) - 1 - current, transitions * gap_frames
        return (), f"{have} future frames, {need} needed"
    paths = tuple(record.front_paths[i] for i in wanted)
    empty = [i - current for i, path in zip(wanted, paths, strict=True) if not path]
    return paths, f"no front picture at frame {empty[0]:+d}" if empty else ""


def _unreadable(row: Array, paths: Sequence[str], cache: ImageCache) -> str:
    bad = [path for path, r in zip(paths, row, strict=True) if r == MISSING]
    return f"picture {bad[0]} cannot be read: {cache.faults.get(bad[0], 'unknown')}" if bad else ""
