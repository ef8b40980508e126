"""The student that replaces the language model on the road: same question, same answer, a hundredth
of the weights.

`config`, `inputs` (records → tensors), `network`, `losses`, `train`, `model` (what training returns
and disks hold), `evaluation`. The names below are fetched when first used, because they bring torch
with them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from latentvla_core.distill.config import StudentConfig
    from latentvla_core.distill.evaluation import evaluate
    from latentvla_core.distill.model import Student, load_student
    from latentvla_core.distill.train import train_student

__all__ = ["Student", "StudentConfig", "evaluate", "load_student", "train_student"]

_HOMES = {
    "Student": "model",
    "StudentConfig": "config",
    "evaluate": "evaluation",
    "load_student": "model",
    "train_student": "train",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(
            f"module {__name__} has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
