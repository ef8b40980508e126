"""THE place for the lake's schemas: every table's columns, units, docs, key, partitioning and schema version.

Storage (`store.py`), blocking checks (`pipelines/checks.py`) and `docs/tables.md` all derive from `TABLES`.
A change of columns or meaning raises `TableSpec.version` and is named under *Data* in the changelog.
`python -m latentvla_core.tables > docs/tables.md` writes the page.
"""

from __future__ import annotations

from latentvla_core.schema import Column, TableSpec, flag, integer, page, real, single, text, to_arrow, to_rows

__all__ = ["NUM_TOKENS", "TABLES", "Column", "TableSpec", "to_arrow", "to_rows"]

NUM_TOKENS = 12  # latent actions per scene (latentvla.md §2.6)
CODEBOOK = 16  # entries of the ego codebook


SPLIT = text("split", "train, val, test, or the name of another source; splits never share a log")
SHARD = integer("shard", "hash of the log name modulo the number of shards; a shard is replaced whole", dtype="int32")
MADE_BY = text("made_by", "fingerprint of inputs, recipe and code version; joins `materialisations`")
SCENE = text("scene_token", "token of the scene's current frame")
LOG = text("log_name", "log the row comes from")
TIME = integer("timestamp_us", "time of the current frame", "us")
MODEL = text("model_version", "fingerprint of the model that made the row; joins `models`")
VALID = flag("valid", "false: the row could not be computed, see `reason`; never a zero")
REASON = text("reason", "why the row is not valid; empty if it is")
WHERE = (SPLIT, SHARD)

LOGS = TableSpec(
    "logs",
    "one driving log of one source",
    (
        SPLIT,
        SHARD,
        LOG,
        text("format", "navsim or frames_poses"),
        text("path", "log pickle, or folder of the sequence"),
        text("sensor_root", "folder that picture and lidar paths are relative to"),
        text("maps_root", "folder of the nuPlan maps; empty without maps"),
        integer("size_bytes", "size of the log file(s)", "B"),
        text("content_key", "changes when the file changes"),
        MADE_BY,
    ),
    key=("split", "log_name"),
    partition_by=(),
)

FRAMES = TableSpec(
    "frames",
    "one key frame of one log",
    (
        *WHERE,
        LOG,
        text("token", "frame token"),
        TIME,
        integer(
            "log_index", "position in the log file; a gap is a frame in quarantine, no window spans it", dtype="int32"
        ),
        integer("frame_idx", "index inside the nuPlan scene", dtype="int32"),
        text("drive_token", "nuPlan scene (stretch of recording) the frame belongs to"),
        text("map_location", "one of the four nuPlan maps; empty without a map"),
        text("sensor_root", "folder that picture and lidar paths are relative to"),
        real("ego_pose", "rear axle x, y, yaw, global", "m, m, rad", (3,)),
        real("ego_translation_m", "rear axle x, y, z, global", "m", (3,)),
        real("ego_rotation_wxyz", "quaternion", "", (4,)),
        real("ego_velocity_mps", "vx, vy, ego frame (float32 values, as the devkit rounds them)", "m/s", (2,)),
        real("ego_acceleration_mps2", "ax, ay, ego frame", "m/s2", (2,)),
        integer("command", "0 left, 1 forward, 2 right, 3 unknown", dtype="int8"),
        text("roadblock_ids", "route as logged", (-1,)),
        text("light_ids", "lane connectors with a light state", (-1,)),
        flag("light_is_red", "state per entry of light_ids", (-1,)),
        flag("has_objects", "false: the log has no annotations"),
        real("object_boxes", "x, y, z, length, width, height, yaw in the ego frame", "m, rad", (-1, 7)),
        integer("object_classes", "types.ObjectClass", "", (-1,), "int8"),
        real("object_velocities_mps", "vx, vy, vz over ground, ego axes", "m/s", (-1, 3)),
        text("track_tokens", "constant over a log", (-1,)),
        text("instance_tokens", "unique per frame and object", (-1,)),
        text("camera_names", "cameras with a picture reference", (-1,)),
        text("camera_paths", "relative to sensor_root", (-1,)),
        real("camera_rotations", "camera → ego", "", (-1, 3, 3)),
        real("camera_translations_m", "camera position in the ego frame", "m", (-1, 3)),
        real("camera_intrinsics_px", "pinhole matrix", "px", (-1, 3, 3)),
        real("camera_distortion", "k1, k2, p1, p2, k3", "", (-1, 5)),
        text("lidar_path", "relative to sensor_root; empty without lidar"),
        MADE_BY,
    ),
    key=("token", "log_name"),
)

SCENES = TableSpec(
    "scenes",
    "a window of frames to plan in (see types.SceneRecord)",
    (
        *WHERE,
        SCENE,
        LOG,
        text("map_location", "one of the four nuPlan maps; empty without a map"),
        TIME,
        text("sensor_root", "folder that picture and lidar paths are relative to"),
        real("ego_pose", "rear axle x, y, yaw, global", "m, m, rad", (3,)),
        real("ego_velocity_mps", "ego frame", "m/s", (2,)),
        real("ego_acceleration_mps2", "ego frame", "m/s2", (2,)),
        integer("command", "0 left, 1 forward, 2 right, 3 unknown", dtype="int8"),
        real("history_poses", "relative to the current pose, which is the last row", "m, m, rad", (-1, 3)),
        real("history_velocities_mps", "each in the ego frame of its own time", "m/s", (-1, 2)),
        real("history_accelerations_mps2", "each in the ego frame of its own time", "m/s2", (-1, 2)),
        real("future_poses", "the human's drive, 0.5 s apart, relative to the current pose", "m, m, rad", (-1, 3)),
        text("front_paths", "CAM_F0 pictures of the whole window; empty where missing", (-1,)),
        text("camera_names", "cameras with a picture now", (-1,)),
        text("camera_paths", "relative to sensor_root", (-1,)),
        real("camera_intrinsics_px", "pinhole matrices", "px", (-1, 3, 3)),
        real("camera_rotations", "camera → ego", "", (-1, 3, 3)),
        real("camera_translations_m", "camera position in the ego frame", "m", (-1, 3)),
        text("lidar_path", "relative to sensor_root; empty without lidar"),
        real("object_boxes", "x, y, z, length, width, height, yaw, ego frame, now", "m, rad", (-1, 7)),
        integer("object_classes", "types.ObjectClass", "", (-1,), "int8"),
        real("object_velocities_mps", "vx, vy, ego axes", "m/s", (-1, 2)),
        text("roadblock_ids", "route as logged", (-1,)),
        flag("has_objects", "false: the log has no annotations"),
        MADE_BY,
    ),
    key=("scene_token",),
)

SCENE_WORLDS = TableSpec(
    "scene_worlds",
    "what scoring needs of one scene (see pdms.world.World); coordinates are global minus origin_m",
    (
        *WHERE,
        SCENE,
        LOG,
        text("map_location", "one of the four nuPlan maps"),
        TIME,
        text("previous_token", "scene 0.5 s earlier, for two-frame comfort; empty = none"),
        flag("is_synthetic", "a scene of v2's second stage"),
        real("origin_m", "whole metres, global", "m", (2,)),
        real(
            "ego_state",
            "x, y, heading, vx, vy, ax, ay, steering angle and rate, yaw rate and acceleration",
            "m, s, rad",
            (11,),
        ),
        text("object_tokens", "track tokens", (-1,)),
        integer("object_classes", "types.ObjectClass", "", (-1,), "int8"),
        real("object_speed_mps", "at the first appearance", "m/s", (-1,)),
        real("object_corners", "boxes every 0.1 s for 5 s; NaN where absent", "m", (51, -1, 4, 2)),
        flag("object_valid", "present, as v1.1 sees it", (51, -1)),
        flag("object_valid_v2", "present, as v2.2 sees it", (41, -1)),
        flag("object_overlaps_ego", "touches the ego now; v2.2 log replay removes these", (-1,)),
        text("light_ids", "lane connectors of the route that show red at some step", (-1,)),
        real("light_vertices", "their outlines", "m", (-1, 2)),
        integer("light_offsets", "first vertex of each, and the end", "", (-1,)),
        flag("light_active", "red at that step", (41, -1)),
        text("polygon_ids", "drivable map, in the devkit's order", (-1,)),
        integer("polygon_layers", "pdms.state.Layer", "", (-1,), "int8"),
        flag("polygon_on_route", "lane or connector of the corrected route", (-1,)),
        real("ring_vertices", "closed rings, shells and holes", "m", (-1, 2)),
        integer("ring_offsets", "first vertex of each ring, and the end", "", (-1,)),
        integer("polygon_ring_offsets", "first ring of each polygon, and the end", "", (-1,)),
        real("centerline", "centre line of the route ahead", "m, m, rad", (-1, 3)),
        text("route_lane_ids", "lanes and connectors of the corrected route, in order", (-1,)),
        real("reference_v1", "PDM-Closed poses every 0.1 s, chosen by the v1.1 scorer", "m, m, rad", (51, 3)),
        real("reference_v2", "the same, chosen by the v2.2 scorer", "m, m, rad", (51, 3)),
        real("history_states", "past states that v2.2 puts before the plan", "m, s, rad", (-1, 11)),
        real("human_poses", "logged future, ego frame, 0.5 s apart", "m, m, rad", (8, 3)),
        flag("human_valid", "the human can be scored"),
        flag("has_v1", "the log reaches the 5 s ahead that v1.1 needs"),
        VALID,
        REASON,
        MADE_BY,
    ),
    key=("scene_token",),
)

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


TRAJECTORIES = TableSpec(
    "trajectories",
    "the plan of one planner for one scene",
    (
        *WHERE,
        text("trajectory_id", "the planner's name"),
        SCENE,
        LOG,
        single("poses", "8 poses, 0.5 s apart, ego frame", "m, m, rad", (-1, 3)),
        VALID,
        REASON,
        MODEL,
        MADE_BY,
    ),
    key=("scene_token", "trajectory_id"),
    partition_by=("split", "shard", "trajectory_id"),
)

_SUBSCORES = {
    "no_at_fault_collisions": "NC: 0, ½ (static object) or 1",
    "drivable_area_compliance": "DAC: 0 or 1",
    "driving_direction_compliance": "DDC: 0, ½ or 1; weight 0 in v1.1",
    "ego_progress": "EP: 0…1 of the reference planner's progress",
    "time_to_collision_within_bound": "TTC: 0 or 1",
    "comfort": "C: 0 or 1",
    "score": "PDM score",
}
PDM_SCORES = TableSpec(
    "pdm_scores",
    "the PDM score (v1.1) of one plan; NaN where not valid",
    (
        *WHERE,
        text("trajectory_id", "the planner's name"),
        SCENE,
        LOG,
        *(real(name, doc) for name, doc in _SUBSCORES.items()),
        VALID,
        REASON,
        text("metric_version", "metric name and devkit version"),
        MODEL,
        MADE_BY,
    ),
    key=("scene_token", "trajectory_id", "metric_version"),
    partition_by=("split", "shard", "trajectory_id"),
)

PDM_SUMMARY = TableSpec(
    "pdm_summary",
    "the mean PDM score of one planner on one split; NaN unless every expected scene was scored",
    (
        SPLIT,
        text("trajectory_id", "the planner's name"),
        text("metric_version", "metric name and devkit version"),
        *(real(name, f"mean of {doc}") for name, doc in _SUBSCORES.items()),
        real("score_stderr", "standard error of the mean score"),
        integer("num_scored", "scenes with a valid score"),
        integer("num_expected", "scenes of the split that should have one"),
        text("reasons", "why the others have none, with counts"),
        MADE_BY,
    ),
    key=("split", "trajectory_id", "metric_version"),
    partition_by=(),
)

MODELS = TableSpec(
    "models",
    "one trained model",
    (
        text("name", "model name"),
        text("version", "fingerprint; the folder below models/<name>/"),
        text("recipe", "named configuration it was trained with"),
        text("path", "folder with config.json and safetensors"),
        integer("parameters", "number of weights"),
        text("metrics", "JSON: final metrics"),
        text("inputs", "JSON: table → Delta version read"),
        text("commit", "git commit of the code, if known"),
        real("seconds", "training time", "s"),
        text("mlflow_uri", "models:/… of the registered version"),
        MADE_BY,
    ),
    key=("name", "version"),
    partition_by=("name", "version"),
)

RELEASES = TableSpec(
    "releases",
    "one decision of the promotion gate",
    (
        text("name", "registered model"),
        text("version", "registered version that was judged"),
        text("decision", "promoted, kept, or refused"),
        text("champion", "version that holds the alias afterwards"),
        text("split", "held-out split"),
        text("metric_version", "metric name and devkit version"),
        real("challenger_score", "mean score of the judged version"),
        real("champion_score", "mean score of the previous champion on the same scenes; NaN when there was none"),
        text("reason", "the rule that decided"),
        MADE_BY,
    ),
    key=("name", "version", "split"),
    partition_by=("name",),
)

QUARANTINE = TableSpec(
    "quarantine",
    "something that could not be used, and why",
    (
        text("stage", "stage that refused it"),
        *WHERE,
        text("file", "file, or log"),
        text("frame", "frame or scene token, if it is about one"),
        text("field", "field, if it is about one"),
        text("reason", "value, rule, remedy"),
        MADE_BY,
    ),
    key=("stage", "file", "frame", "field", "reason"),
    partition_by=("stage", "split", "shard"),
)

MATERIALISATIONS = TableSpec(
    "materialisations",
    "one finished piece of work: the lineage of every row",
    (
        text("asset", "asset"),
        text("partition", "<split>-<shard>, or empty"),
        MADE_BY,
        text("table_name", "table written"),
        integer("delta_version", "its Delta version after the write"),
        integer("rows", "rows written"),
        integer("quarantined", "rows refused"),
        text("inputs", "JSON: upstream asset → Delta version read"),
        text("recipe", "named configuration"),
        text("code_version", "code version of the asset"),
        text("commit", "git commit, if known"),
        text("run_id", "Dagster run"),
        real("seconds", "wall time", "s"),
        integer("finished_us", "when", "us"),
    ),
    key=("asset", "partition", "made_by", "finished_us"),
    partition_by=(),
)

TABLES: dict[str, TableSpec] = {
    spec.name: spec
    for spec in (
        LOGS,
        FRAMES,
        SCENES,
        SCENE_WORLDS,
        LATENT_ACTIONS,
        VLM_SAMPLES,
        _features("vlm_features", "VLM"),
        _features("student_features", "distilled student"),
        TRAJECTORIES,
        PDM_SCORES,
        PDM_SUMMARY,
        MODELS,
        RELEASES,
        QUARANTINE,
        MATERIALISATIONS,
    )
}


if __name__ == "__main__":
    print(page(TABLES), end="")
