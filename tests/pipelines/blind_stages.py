"""A line of one training, the blind planner's, and of one that always fails; imported by processes
of torchrun too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from latentvla_core.errors import DataError
from pipelines.stages import STAGES as WHOLE
from pipelines.steps.context import Model, StageContext
from pipelines.steps.lineage import Stage


def refused(context: StageContext, folder: Path) -> Model:
    raise DataError("the answer is no", file="a.pkl", frame="7")


BLIND = replace(WHOLE["ego_status_mlp"], deps=("scenes",))
SCENES = WHOLE["scenes"]
STAGES: dict[str, Stage] = {
    "frames": WHOLE["frames"], "logs": WHOLE["logs"], "scenes": SCENES, "ego_status_mlp": BLIND,
    "refused": replace(BLIND, name="refused", run=refused),
}  # fmt: skip
AT = "blind_stages:STAGES"
