"""Scene records → questions for the language model. What makes a scene unusable is a reason, not a
crash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from latentvla_core.training.images import MISSING, ImageCache
from latentvla_core.types import Array, SceneRecord
from latentvla_core.vlm.config import VlmConfig
from latentvla_core.vlm.prompts import motion_state, user_text
from latentvla_core.vlm.tokens import CODEBOOK_SIZE, NUM_ACTION_TOKENS


@dataclass(frozen=True, slots=True)
class VlmSample:
    """One question, and its answer where a label exists. Nothing here comes from after the current
    time but `codes`.
    """

    scene_token: str
    log_name: str
    split: str
    text: str
    """Words of the user's turn, see `prompts.user_text`."""
    sensor_root: str
    cameras: tuple[str, ...]
    """Views that are shown, in prompt order."""
    image_paths: tuple[str, ...]
    """Picture of each view, relative to `sensor_root`."""
    codes: Array | None
    """(12,) int8 label; None = no label. Read by training and evaluation only, never by prediction."""
    valid: bool
    reason: str
    """Why the scene cannot be asked about; "" when it can."""

    @property
    def pictures(self) -> list[tuple[str, str]]:
        return [(self.sensor_root, path) for path in self.image_paths]


def build_samples(
    records: Sequence[SceneRecord], codes: Array | None = None, config: VlmConfig | None = None
) -> list[VlmSample]:
    """One sample per record, in order.

    Args:
        codes: (N, 12) labels; a row with any value outside 0 … 15 (say -1) means that the scene has
        no label.
        config: decides cameras and template; default `VlmConfig.mini()`.
    """
    config = config or VlmConfig.mini()
    if codes is not None and np.shape(codes) != (len(records), NUM_ACTION_TOKENS):
        raise ValueError(
            f"codes are {np.shape(codes)}, expected ({len(records)}, {NUM_ACTION_TOKENS}): one row a record"
        )
    labels = [None] * len(records) if codes is None else [_label(row) for row in np.asarray(codes)]
    return [_sample(record, label, config) for record, label in zip(records, labels, strict=True)]


def _label(row: Array) -> Array | None:
    known = bool(((row >= 0) & (row < CODEBOOK_SIZE)).all())
    return row.astype(np.int8) if known else None


def _sample(record: SceneRecord, label: Array | None, config: VlmConfig) -> VlmSample:
    state = motion_state(record)
    paths = dict(zip(record.camera_names, record.camera_paths, strict=True))
    cameras = tuple(name for name in config.cameras if paths.get(name))
    reason = ""
    if config.cameras[0] not in cameras:
        reason = f"no picture of {config.cameras[0]} at the current time"
    elif not state.finite:
        reason = "the ego state or its history holds a value that is not finite"
    return VlmSample(
        scene_token=record.scene_token,
        log_name=record.log_name,
        split=record.split,
        text="" if reason else user_text(state, config.template_version),
        sensor_root=record.sensor_root,
        cameras=cameras,
        image_paths=tuple(paths[name] for name in cameras),
        codes=label,
        valid=not reason,
        reason=reason,
    )


def with_pictures(samples: Sequence[VlmSample], cache: ImageCache) -> list[VlmSample]:
    """The samples after decoding their pictures; those with an unreadable one are invalid and say
    which and why.
    """
    pictures = [picture for sample in samples if sample.valid for picture in sample.pictures]
    rows = dict(zip(pictures, cache.indices(pictures).tolist(), strict=True))
    return [_checked(sample, rows, cache) for sample in samples]


def _checked(sample: VlmSample, rows: dict[tuple[str, str], int], cache: ImageCache) -> VlmSample:
    broken = [
        path for root, path in sample.pictures if sample.valid and rows[root, path] == MISSING
    ]
    if not broken:
        return sample
    return replace(
        sample, valid=False, reason=f"{broken[0]}: {cache.faults.get(broken[0], 'cannot be read')}"
    )


def code_frequencies(codes: Array) -> Array:
    """(12, 16) smoothed frequencies of (N, 12) codes: half a count more of each, so that no code is
    impossible.
    """
    counts = (
        np.stack(
            [np.bincount(column, minlength=CODEBOOK_SIZE) for column in codes.astype(np.int64).T]
        )
        + 0.5
    )
    return counts / counts.sum(1, keepdims=True)
