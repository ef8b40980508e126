"""THE place for the lake's schemas: every table's columns, units, docs, key, partitioning and schema version.

Storage (`store.py`), blocking checks (`pipelines/checks.py`) and `docs/tables.md` all derive from `TABLES`.
A change of columns or meaning raises `TableSpec.version` and is named under *Data* in the changelog.
"""

from __future__ import annotations

from latentvla_core.schema import Column, TableSpec, to_arrow, to_rows

__all__ = ["NUM_TOKENS", "TABLES", "Column", "TableSpec", "to_arrow", "to_rows"]

NUM_TOKENS = 12  # latent actions per scene (latentvla.md §2.6)
CODEBOOK = 16  # entries of the ego codebook


def _text(name: str, doc: str, shape: tuple[int, ...] | None = None) -> Column:
    return Column(name, "string", doc, shape=shape)


def _real(name: str, doc: str, unit: str = "", shape: tuple[int, ...] | None = None) -> Column:
    return Column(name, "float64", doc, unit, shape)


def _single(name: str, doc: str, unit: str = "", shape: tuple[int, ...] | None = None) -> Column:
    return Column(name, "float32", doc, unit, shape)


def _int(name: str, doc: str, unit: str = "", shape: tuple[int, ...] | None = None, dtype: str = "int64") -> Column:
    return Column(name, dtype, doc, unit, shape)


def _flag(name: str, doc: str, shape: tuple[int, ...] | None = None) -> Column:
    return Column(name, "bool", doc, shape=shape)


SPLIT = _text("split", "train, val, test, or the name of another source; splits never share a log")
SHARD = _int("shard", "hash of the log name modulo the number of shards; a shard is replaced whole", dtype="int32")
MADE_BY = _text("made_by", "fingerprint of inputs, recipe and code version; joins `materialisations`")
SCENE = _text("scene_token", "token of the scene's current frame")
LOG = _text("log_name", "log the row comes from")
TIME = _int("timestamp_us", "time of the current frame", "us")
MODEL = _text("model_version", "fingerprint of the model that made the row; joins `models`")
VALID = _flag("valid", "false: the row could not be computed, see `reason`; never a zero")
REASON = _text("reason", "why the row is not valid; empty if it is")
WHERE = (SPLIT, SHARD)

LOGS = TableSpec(
    "logs",
    "one driving log of one source",
    (
        SPLIT,
        SHARD,
        LOG,
        _text("format", "navsim or frames_poses"),
        _text("path", "log pickle, or folder of the sequence"),
        _text("sensor_root", "folder that picture and lidar paths are relative to"),
        _text("maps_root", "folder of the nuPlan maps; empty without maps"),
        _int("size_bytes", "size of the log file(s)", "B"),
        _text("content_key", "changes when the file changes"),
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
        _text("token", "frame token"),
        TIME,
        _int("log_index", "position in the log file; a gap is a frame in quarantine, no window spans it", dtype="int32"),
        _int("frame_idx", "index inside the nuPlan scene", dtype="int32"),
        _text("drive_token", "nuPlan scene (stretch of recording) the frame belongs to"),
        _text("map_location", "one of the four nuPlan maps; empty without a map"),
        _text("sensor_root", "folder that picture and lidar paths are relative to"),
        _real("ego_pose", "rear axle x, y, yaw, global", "m, m, rad", (3,)),
        _real("ego_translation_m", "rear axle x, y, z, global", "m", (3,)),
        _real("ego_rotation_wxyz", "quaternion", "", (4,)),
        _real("ego_velocity_mps", "vx, vy, ego frame (float32 values, as the devkit rounds them)", "m/s", (2,)),
        _real("ego_acceleration_mps2", "ax, ay, ego frame", "m/s2", (2,)),
        _int("command", "0 left, 1 forward, 2 right, 3 unknown", dtype="int8"),
        _text("roadblock_ids", "route as logged", (-1,)),
        _text("light_ids", "lane connectors with a light state", (-1,)),
        _flag("light_is_red", "state per entry of light_ids", (-1,)),
        _flag("has_objects", "false: the log has no annotations"),
        _real("object_boxes", "x, y, z, length, width, height, yaw in the ego frame", "m, rad", (-1, 7)),
        _int("object_classes", "types.ObjectClass", "", (-1,), "int8"),
        _real("object_velocities_mps", "vx, vy, vz over ground, ego axes", "m/s", (-1, 3)),
        _text("track_tokens", "constant over a log", (-1,)),
        _text("instance_tokens", "unique per frame and object", (-1,)),
        _text("camera_names", "cameras with a picture reference", (-1,)),
        _text("camera_paths", "relative to sensor_root", (-1,)),
        _real("camera_rotations", "camera → ego", "", (-1, 3, 3)),
        _real("camera_translations_m", "camera position in the ego frame", "m", (-1, 3)),
        _real("camera_intrinsics_px", "pinhole matrix", "px", (-1, 3, 3)),
        _real("camera_distortion", "k1, k2, p1, p2, k3", "", (-1, 5)),
        _text("lidar_path", "relative to sensor_root; empty without lidar"),
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
        _text("map_location", "one of the four nuPlan maps; empty without a map"),
        TIME,
        _text("sensor_root", "folder that picture and lidar paths are relative to"),
        _real("ego_pose", "rear axle x, y, yaw, global", "m, m, rad", (3,)),
        _real("ego_velocity_mps", "ego frame", "m/s", (2,)),
        _real("ego_acceleration_mps2", "ego frame", "m/s2", (2,)),
        _int("command", "0 left, 1 forward, 2 right, 3 unknown", dtype="int8"),
        _real("history_poses", "relative to the current pose, which is the last row", "m, m, rad", (-1, 3)),
        _real("history_velocities_mps", "each in the ego frame of its own time", "m/s", (-1, 2)),
        _real("history_accelerations_mps2", "each in the ego frame of its own time", "m/s2", (-1, 2)),
        _real("future_poses", "the human's drive, 0.5 s apart, relative to the current pose", "m, m, rad", (-1, 3)),
        _text("front_paths", "CAM_F0 pictures of the whole window; empty where missing", (-1,)),
        _text("camera_names", "cameras with a picture now", (-1,)),
        _text("camera_paths", "relative to sensor_root", (-1,)),
        _real("camera_intrinsics_px", "pinhole matrices", "px", (-1, 3, 3)),
        _real("camera_rotations", "camera → ego", "", (-1, 3, 3)),
        _real("camera_translations_m", "camera position in the ego frame", "m", (-1, 3)),
        _text("lidar_path", "relative to sensor_root; empty without lidar"),
        _real("object_boxes", "x, y, z, length, width, height, yaw, ego frame, now", "m, rad", (-1, 7)),
        _int("object_classes", "types.ObjectClass", "", (-1,), "int8"),
        _real("object_velocities_mps", "vx, vy, ego axes", "m/s", (-1, 2)),
        _text("roadblock_ids", "route as logged", (-1,)),
        _flag("has_objects", "false: the log has no annotations"),
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
        _int(
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
        _text("template_version", "version of the prompt template"),
        _text("prompt", "user text; pictures are inserted by the processor"),
        _text("camera_names", "pictures shown, in order", (-1,)),
        _text("camera_paths", "relative to the scene's sensor_root", (-1,)),
        _int("answer_codes", "the 12 ego codes", "", (-1,), "int8"),
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
            _int("codes", "12 generated codes; -1 where not valid", "", (-1,), "int8"),
            _single("logits", "over the 16 codes at each of the 12 positions", "", (-1, CODEBOOK)),
            _single("visual", "pooled states at picture tokens, (M, D) flattened", "", (-1,)),
            _single("action", "states at the 12 generated tokens, (12, D) flattened", "", (-1,)),
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
        _text("trajectory_id", "the planner's name"),
        SCENE,
        LOG,
        _single("poses", "8 poses, 0.5 s apart, ego frame", "m, m, rad", (-1, 3)),
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
        _text("trajectory_id", "the planner's name"),
        SCENE,
        LOG,
        *(_real(name, doc) for name, doc in _SUBSCORES.items()),
        VALID,
        REASON,
        _text("metric_version", "metric name and devkit version"),
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
        _text("trajectory_id", "the planner's name"),
        _text("metric_version", "metric name and devkit version"),
        *(_real(name, f"mean of {doc}") for name, doc in _SUBSCORES.items()),
        _real("score_stderr", "standard error of the mean score"),
        _int("num_scored", "scenes with a valid score"),
        _int("num_expected", "scenes of the split that should have one"),
        _text("reasons", "why the others have none, with counts"),
        MADE_BY,
    ),
    key=("split", "trajectory_id", "metric_version"),
    partition_by=(),
)

MODELS = TableSpec(
    "models",
    "one trained model",
    (
        _text("name", "model name"),
        _text("version", "fingerprint; the folder below models/<name>/"),
        _text("recipe", "named configuration it was trained with"),
        _text("path", "folder with config.json and safetensors"),
        _int("parameters", "number of weights"),
        _text("metrics", "JSON: final metrics"),
        _text("inputs", "JSON: table → Delta version read"),
        _text("commit", "git commit of the code, if known"),
        _real("seconds", "training time", "s"),
        _text("mlflow_uri", "models:/… of the registered version"),
        MADE_BY,
    ),
    key=("name", "version"),
    partition_by=("name", "version"),
)

RELEASES = TableSpec(
    "releases",
    "one decision of the promotion gate",
    (
        _text("name", "registered model"),
        _text("version", "registered version that was judged"),
        _text("decision", "promoted, kept, or refused"),
        _text("champion", "version that holds the alias afterwards"),
        _text("split", "held-out split"),
        _text("metric_version", "metric name and devkit version"),
        _real("challenger_score", "mean score of the judged version"),
        _real("champion_score", "mean score of the previous champion on the same scenes; NaN when there was none"),
        _text("reason", "the rule that decided"),
        MADE_BY,
    ),
    key=("name", "version", "split"),
    partition_by=("name",),
)

QUARANTINE = TableSpec(
    "quarantine",
    "something that could not be used, and why",
    (
        _text("stage", "stage that refused it"),
        *WHERE,
        _text("file", "file, or log"),
        _text("frame", "frame or scene token, if it is about one"),
        _text("field", "field, if it is about one"),
        _text("reason", "value, rule, remedy"),
        MADE_BY,
    ),
    key=("stage", "file", "frame", "field", "reason"),
    partition_by=("stage", "split", "shard"),
)

MATERIALISATIONS = TableSpec(
    "materialisations",
    "one finished piece of work: the lineage of every row",
    (
        _text("asset", "asset"),
        _text("partition", "<split>-<shard>, or empty"),
        MADE_BY,
        _text("table_name", "table written"),
        _int("delta_version", "its Delta version after the write"),
        _int("rows", "rows written"),
        _int("quarantined", "rows refused"),
        _text("inputs", "JSON: upstream asset → Delta version read"),
        _text("recipe", "named configuration"),
        _text("code_version", "code version of the asset"),
        _text("commit", "git commit, if known"),
        _text("run_id", "Dagster run"),
        _real("seconds", "wall time", "s"),
        _int("finished_us", "when", "us"),
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
