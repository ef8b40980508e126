"""One row of `latent_actions`, for tests that need some table."""

from __future__ import annotations

from typing import Any

import numpy as np


def label(token: str, shard: int = 0, **changes: Any) -> dict[str, Any]:
    """A valid row of one transition; `changes` replace columns."""
    row = {
        "split": "train",
        "shard": shard,
        "scene_token": token,
        "log_name": "log",
        "timestamp_us": 1,
        "step": 0,
        "gap_s": 1.0,
        "ego_codes": np.arange(4),
        "environment_codes": [],
        "ego_distances": np.zeros(4),
        "ego_confidence": np.ones(4),
        "training_distance": 0.5,
        "speed_mps": 5.0,
        "delta_speed_mps": 0.0,
        "forward_m": 5.0,
        "delta_heading_rad": np.nan,
        "valid": True,
        "reason": "",
        "model_version": "m",
        "data_version": "d",
        "made_by": "f",
    }
    return {**row, **changes}
