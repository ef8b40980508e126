"""What was driven: logs, their key frames, and the windows to plan in."""

from __future__ import annotations

from latentvla_core.schema import TableSpec, flag, integer, real, text
from latentvla_core.tables.columns import LOG, MADE_BY, SCENE, SHARD, SPLIT, TIME, WHERE

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
            "log_index",
            "position in the log file; a gap is a frame in quarantine, no window spans it",
            dtype="int32",
        ),
        integer("frame_idx", "index inside the nuPlan scene", dtype="int32"),
        text("drive_token", "nuPlan scene (stretch of recording) the frame belongs to"),
        text("map_location", "one of the four nuPlan maps; empty without a map"),
        text("sensor_root", "folder that picture and lidar paths are relative to"),
        real("ego_pose", "rear axle x, y, yaw, global", "m, m, rad", (3,)),
        real("ego_translation_m", "rear axle x, y, z, global", "m", (3,)),
        real("ego_rotation_wxyz", "quaternion", "", (4,)),
        real(
            "ego_velocity_mps",
            "vx, vy, ego frame (float32 values, as the devkit rounds them)",
            "m/s",
            (2,),
        ),
        real("ego_acceleration_mps2", "ax, ay, ego frame", "m/s2", (2,)),
        integer("command", "0 left, 1 forward, 2 right, 3 unknown", dtype="int8"),
        text("roadblock_ids", "route as logged", (-1,)),
        text("light_ids", "lane connectors with a light state", (-1,)),
        flag("light_is_red", "state per entry of light_ids", (-1,)),
        flag("has_objects", "false: the log has no annotations"),
        real(
            "object_boxes",
            "x, y, z, length, width, height, yaw in the ego frame",
            "m, rad",
            (-1, 7),
        ),
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
        real(
            "history_poses",
            "relative to the current pose, which is the last row",
            "m, m, rad",
            (-1, 3),
        ),
        real("history_velocities_mps", "each in the ego frame of its own time", "m/s", (-1, 2)),
        real(
            "history_accelerations_mps2", "each in the ego frame of its own time", "m/s2", (-1, 2)
        ),
        real(
            "future_poses",
            "the human's drive, 0.5 s apart, relative to the current pose",
            "m, m, rad",
            (-1, 3),
        ),
        text("front_paths", "CAM_F0 pictures of the whole window; empty where missing", (-1,)),
        text("camera_names", "cameras with a picture now", (-1,)),
        text("camera_paths", "relative to sensor_root", (-1,)),
        real("camera_intrinsics_px", "pinhole matrices", "px", (-1, 3, 3)),
        real("camera_rotations", "camera → ego", "", (-1, 3, 3)),
        real("camera_translations_m", "camera position in the ego frame", "m", (-1, 3)),
        text("lidar_path", "relative to sensor_root; empty without lidar"),
        real(
            "object_boxes", "x, y, z, length, width, height, yaw, ego frame, now", "m, rad", (-1, 7)
        ),
        integer("object_classes", "types.ObjectClass", "", (-1,), "int8"),
        real("object_velocities_mps", "vx, vy, ego axes", "m/s", (-1, 2)),
        text("roadblock_ids", "route as logged", (-1,)),
        flag("has_objects", "false: the log has no annotations"),
        MADE_BY,
    ),
    key=("scene_token",),
)
