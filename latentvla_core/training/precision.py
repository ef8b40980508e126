"""Where bf16 is not enough: a way out of the training loop's autocast, on any device."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor


def full_precision(like: Tensor) -> AbstractContextManager:
    """Inside, autocast is off on the device of `like`.

    For metres, which need more than bf16's eight bits (0.25 m at 50 m), for running statistics, and
    for what must be the same numbers inside and outside of training.
    """
    return torch.autocast(like.device.type, enabled=False)
