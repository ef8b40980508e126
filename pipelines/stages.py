"""The contents page: every stage of the line, in order. `assets/<stage>.py` says what each one does."""

from __future__ import annotations

from pipelines.assets import (
    distill,
    ingest,
    latent_actions,
    planners,
    registry,
    scenes,
    scores,
    vlm,
)
from pipelines.lineage import Stage

STAGES: dict[str, Stage] = {
    stage.name: stage
    for module in (ingest, scenes, latent_actions, vlm, distill, planners, scores, registry)
    for stage in module.STAGES
}
