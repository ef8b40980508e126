"""What the models say of a scene: latent action codes, the questions to the VLM, and its answers."""

from __future__ import annotations

from latentvla_core.schema import TableSpec, integer, real, single, text
from latentvla_core.tables.columns import CODEBOOK, LOG, MADE_BY, MODEL, REASON, SCENE, VALID, WHERE

LATENT_ACTIONS = TableSpec(
    "latent_actions",
    "the latent action codes of one transition of one scene, by one model version; step 0, 1, 2 make its 12 codes",
    (
        *WHERE,
        SCENE,
        LOG,
        integer(
            "timestamp_us",
            "time of the transition's first picture; nominal where there is none",
            "us",
        ),
        integer(
            "step", "transition after the current frame: 0, 1, 2; nominally 1 s each", dtype="int8"
        ),
        real(
            "gap_s", "time between the transition's two pictures; nominal where one is missing", "s"
        ),
        integer("ego_codes", "4 ego action codes, 0…15; empty where not valid", "", (-1,), "int8"),
        integer(
            "environment_codes",
            "codes of the frozen first stage, one per upright strip of the picture, left to right; empty where the trajectory is "
            "unknown or jumps",
            "",
            (-1,),
            "int8",
        ),
        single(
            "ego_distances",
            "squared distance of z to its code, in the quantiser's standardised space",
            "",
            (-1,),
        ),
        single(
            "ego_confidence",
            "1 − nearest / second squared distance: 0 a coin's toss, 1 exactly a code",
            "",
            (-1,),
        ),
        single(
            "training_distance",
            "how unlike those of the model's training the two pictures are: 1 as far as one in a hundred of those, above"
            " it codes mean little; NaN where not known",
        ),
        single(
            "speed_mps", "at the transition's start; NaN where poses are unknown or jump", "m/s"
        ),
        single("delta_speed_mps", "change of speed over the transition", "m/s"),
        single("forward_m", "way along the heading at its start", "m"),
        single(
            "delta_heading_rad", "change of heading over the transition, left is positive", "rad"
        ),
        VALID,
        REASON,
        MODEL,
        text("data_version", "fingerprint of the shard of `scenes` that was labelled"),
        MADE_BY,
    ),
    key=("scene_token", "step", "model_version"),
    partition_by=("split", "shard", "model_version"),
    order=("log_name", "timestamp_us", "scene_token", "step"),
    version=3,
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
