"""The contents page: every stage of the line, in order. `assets/<stage>.py` says what each one
does.
"""

from __future__ import annotations

from pipelines.assets import (
    choices,
    closed_loop,
    controls,
    distill,
    evidence,
    ingest,
    latent_action_model,
    latent_actions,
    latent_codes,
    latent_quality,
    planners,
    registry,
    scenes,
    scores,
    vlm,
)
from pipelines.assets.studies import rl
from pipelines.steps.declare import stages_of
from pipelines.steps.lineage import Stage

STAGES: dict[str, Stage] = {
    stage.name: stage
    for module in (
        ingest,
        scenes,
        latent_action_model,
        latent_quality,
        latent_actions,
        latent_codes,
        vlm,
        distill,
        planners,
        scores,
        closed_loop,
        choices,
        registry,
        controls,
        rl,
        evidence,
    )
    for stage in stages_of(module)
}
