"""Rows of `latent_actions` → the 12 codes of a scene, which the VLM, the student and pictures read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from latentvla_core.schema import to_rows
from latentvla_core.tables.actions import LATENT_ACTIONS
from latentvla_core.types import Array

if TYPE_CHECKING:
    import pyarrow as pa


def sentences(labels: pa.Table, steps: int = 3) -> dict[str, Array]:
    """Scene → (12,) int8 ego codes, transition after transition; scenes with a transition that is
    not valid are left out.

    `labels` has columns scene_token, step, valid, ego_codes, of one model version.
    """
    found: dict[str, dict[int, Array]] = {}
    for row in to_rows(LATENT_ACTIONS, labels):
        if row["valid"]:
            found.setdefault(row["scene_token"], {})[row["step"]] = row["ego_codes"]
    return {
        token: np.concatenate([codes[step] for step in range(steps)])
        for token, codes in found.items()
        if len(codes) == steps
    }
