"""Which scene comes before which: what two-frame comfort compares (pdms.md §12.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latentvla_core.pdms.motion.comfort import MAX_FRAME_GAP_S
from latentvla_core.pdms.state import DT_S
from latentvla_core.pdms.world import World


def pairs_of(worlds: Sequence[World]) -> tuple[Tensor, tuple[int, ...]]:
    """(S,) scene before each, -1 = none (§12.2); and the gaps in steps that occur."""
    place = {w.scene_token: s for s, w in enumerate(worlds)}
    before = np.array(
        [place.get(w.previous_token, -1) if w.previous_token else -1 for w in worlds], np.int64
    )
    synthetic = np.array([w.is_synthetic for w in worlds])
    before = np.where(synthetic | synthetic[before], -1, before)
    times = np.array([w.timestamp_us for w in worlds])
    gaps = (times - times[before])[before >= 0] * 1e-6
    gaps = gaps[(gaps > 0) & (gaps < MAX_FRAME_GAP_S)]
    usual = round(0.5 / DT_S)  # for frames that a caller pairs by itself
    return torch.tensor(before), tuple(sorted({round(float(gap) / DT_S) for gap in gaps} | {usual}))
