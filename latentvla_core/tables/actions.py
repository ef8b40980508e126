"""What the models say of a scene: latent action codes, the questions to the VLM, and its answers."""

from __future__ import annotations

from latentvla_core.schema import TableSpec, integer, single, text
from latentvla_core.tables.columns import CODEBOOK, LOG, MADE_BY, MODEL, REASON, SCENE, TIME, VALID, WHERE

LATENT_ACTIONS = TableSpec(
    "latent_actions",
    "the latent action codes of one scene",
    (
        *WHERE,
        SCENE,
        LOG,
        TIME,
        integer(
            "ego_codes", "12 ego action codes, 0…15: 3 transitions of 1 s, 4 codes each, time-major", "", (-1,), "int8"
        ),
        VALID,
        REASON,
        MODEL,
        MADE_BY,
    ),
    key=("scene_token",),
)

VLM_SAMPLES = TableSpec(
    "vlm_samples",
    "one question to the VLM with its answer",
    (
        *WHERE,
        SCENE,
        LOG,
        text("template_version", "version of the prompt template"),
        text("prompt", "user text; pictures are inserted by the processor"),
        text("camera_names", "pictures shown, in order", (-1,)),
        text("camera_paths", "relative to the scene's sensor_root", (-1,)),
        integer("answer_codes", "the 12 ego codes", "", (-1,), "int8"),
        VALID,
        REASON,
        MADE_BY,
    ),
    key=("scene_token",),
)


def _features(name: str, teacher: str) -> TableSpec:
    return TableSpec(
        name,
        f"what the {teacher} predicts for one scene, from generated tokens only",
        (
            *WHERE,
            SCENE,
            LOG,
            integer("codes", "12 generated codes; -1 where not valid", "", (-1,), "int8"),
            single("logits", "over the 16 codes at each of the 12 positions", "", (-1, CODEBOOK)),
            single("visual", "pooled states at picture tokens, (M, D) flattened", "", (-1,)),
            single("action", "states at the 12 generated tokens, (12, D) flattened", "", (-1,)),
            VALID,
            REASON,
            MODEL,
            MADE_BY,
        ),
        key=("scene_token",),
    )


VLM_FEATURES = _features("vlm_features", "VLM")
STUDENT_FEATURES = _features("student_features", "distilled student")
