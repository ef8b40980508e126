"""The nouns: frames, scenes, maps, and the columns of the arrays they are made of.

Legend: T time steps, N objects, H history frames (current included, last), F future frames, C
cameras. Axes follow ISO 8855: x forward, y left, z up; angles in radians, counter-clockwise. The
*ego* frame has its origin at the rear axle. *Global* is the UTM frame of the map's city (float64:
values reach 4.5e6 m).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
FRAME_INTERVAL_S = (
    0.5  # NAVSIM key frames are nominally 2 Hz; the devkit hard-codes this (navsim_format.md §5.7)
)
PLAN_STEPS = 8  # a plan is 8 poses, 0.5 s apart, without t = 0
NUM_ACTION_TOKENS = (
    12  # latent actions of a scene: 3 transitions × 4 codes, time-major (latentvla.md §2.6)
)
CODEBOOK_SIZE = 16  # ego codes, the words the VLM learns [article]
MOST_INT8_CODES = 128  # of a codebook whose codes int8 holds, as table latent_actions stores them
FRONT_CAMERA = "CAM_F0"
CAMERA_NAMES = (FRONT_CAMERA, "CAM_L0", "CAM_L1", "CAM_L2", "CAM_R0", "CAM_R1", "CAM_R2", "CAM_B0")
MAP_LOCATIONS = (
    "sg-one-north",
    "us-ma-boston",
    "us-nv-las-vegas-strip",
    "us-pa-pittsburgh-hazelwood",
)


class Pose(IntEnum):
    """Columns of a pose array (..., 3): metres, metres, radians."""

    X = 0
    Y = 1
    YAW = 2


class Box(IntEnum):
    """Columns of a box array (N, 7): centre in metres, size in metres, yaw in radians (not
    wrapped).
    """

    X = 0
    Y = 1
    Z = 2
    LENGTH = 3
    WIDTH = 4
    HEIGHT = 5
    YAW = 6


class ObjectClass(IntEnum):
    """nuPlan tracked object types; the first three (and EGO) are agents, the others static."""

    VEHICLE = 0
    PEDESTRIAN = 1
    BICYCLE = 2
    TRAFFIC_CONE = 3
    BARRIER = 4
    CZONE_SIGN = 5
    GENERIC_OBJECT = 6
    EGO = 7


class Command(IntEnum):
    """Driving command, the position of the one-hot in the log."""

    LEFT = 0
    FORWARD = 1
    RIGHT = 2
    UNKNOWN = 3


class Vehicle:
    """The ego vehicle of nuPlan ("Pacifica"), metres (pdms.md §3)."""

    LENGTH_M = 5.176
    WIDTH_M = 2.297
    HEIGHT_M = 1.777
    WHEEL_BASE_M = 3.089
    REAR_AXLE_TO_CENTER_M = 1.461
    REAR_AXLE_TO_REAR_M = 1.127


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera of one frame: a reference to the picture and its calibration, never the pixels."""

    path: str
    """JPEG path relative to the sensor root of the split; "" when the frame has no picture."""
    rotation: Array
    """(3, 3) camera → ego rotation (optical axes: x right, y down, z forward)."""
    translation_m: Array
    """(3,) camera position in the ego frame."""
    intrinsics_px: Array
    """(3, 3) pinhole matrix of the full-size picture."""
    distortion: Array
    """(5,) k1, k2, p1, p2, k3."""


@dataclass(frozen=True, slots=True)
class Objects:
    """Annotated road users and static objects of one frame; all arrays have one row per object."""

    boxes: Array
    """(N, 7) float64 in the ego frame, columns `Box`."""
    classes: Array
    """(N,) int8 `ObjectClass`."""
    velocities_mps: Array
    """(N, 3) float64 velocity over ground, in axes of the ego frame."""
    track_tokens: tuple[str, ...]
    instance_tokens: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.boxes)

    @staticmethod
    def empty() -> Objects:
        return Objects(np.zeros((0, 7)), np.zeros(0, np.int8), np.zeros((0, 3)), (), ())


@dataclass(frozen=True, slots=True)
class Frame:
    """One key frame of one log, as a NAVSIM log pickle or a frames-and-poses log gives it."""

    token: str
    timestamp_us: int
    frame_idx: int
    log_name: str
    scene_token: str
    map_location: str
    """One of `MAP_LOCATIONS`, or "" for a log without a map."""
    ego_pose: Array
    """(3,) float64 global rear-axle pose; yaw by the devkit's formula (navsim_format.md §5.1)."""
    ego_translation_m: Array
    """(3,) float64 global."""
    ego_rotation_wxyz: Array
    """(4,) float64 quaternion."""
    ego_velocity_mps: Array
    """(2,) float64 holding float32 values, ego frame."""
    ego_acceleration_mps2: Array
    """(2,) float64 holding float32 values, ego frame."""
    command: Command
    roadblock_ids: tuple[str, ...]
    """Route as logged, duplicates possible; empty = no route."""
    traffic_lights: tuple[tuple[str, bool], ...]
    """(lane connector id, is red)."""
    objects: Objects | None
    """None when the log has no annotations."""
    cameras: dict[str, Camera] = field(default_factory=dict)
    lidar_path: str = ""
    """PCD path relative to the sensor root; "" when there is none."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A window of frames to plan in. Its identity is the token of its current frame."""

    frames: tuple[Frame, ...]
    num_history: int
    """History frames including the current one, which is frames[num_history - 1]."""
    split: str = ""

    @property
    def current(self) -> Frame:
        return self.frames[self.num_history - 1]

    @property
    def token(self) -> str:
        return self.current.token

    @property
    def log_name(self) -> str:
        return self.current.log_name

    @property
    def history(self) -> tuple[Frame, ...]:
        return self.frames[: self.num_history]

    @property
    def future(self) -> tuple[Frame, ...]:
        return self.frames[self.num_history :]


@dataclass(frozen=True, slots=True)
class SceneRecord:
    """One row of the `scenes` table as arrays: what every training and planning stage reads.

    Relative poses are in the ego frame of the current time step; the current pose itself is (0, 0,
    0).
    """

    scene_token: str
    log_name: str
    split: str
    map_location: str
    timestamp_us: int
    sensor_root: str
    """Folder (or s3:// prefix) that picture and lidar paths are relative to."""
    ego_pose: Array
    """(3,) global."""
    ego_velocity_mps: Array
    """(2,)"""
    ego_acceleration_mps2: Array
    """(2,)"""
    command: int
    history_poses: Array
    """(H, 3) relative, last row zeros."""
    history_velocities_mps: Array
    """(H, 2), each in the ego frame of its own time."""
    history_accelerations_mps2: Array
    """(H, 2)"""
    future_poses: Array
    """(F, 3) relative, 0.5 s apart."""
    front_paths: tuple[str, ...]
    """H + F picture paths of CAM_F0 for the whole window; "" where missing."""
    camera_names: tuple[str, ...]
    """C cameras that have a picture at the current time, in the order of CAMERA_NAMES."""
    camera_paths: tuple[str, ...]
    camera_intrinsics_px: Array
    """(C, 3, 3)"""
    camera_rotations: Array
    """(C, 3, 3) camera → ego."""
    camera_translations_m: Array
    """(C, 3)"""
    lidar_path: str
    object_boxes: Array
    """(N, 7) ego frame, current time."""
    object_classes: Array
    """(N,)"""
    object_velocities_mps: Array
    """(N, 2) ego frame axes."""
    roadblock_ids: tuple[str, ...]
    has_objects: bool
    made_by: str = ""
    """Fingerprint of what produced the row."""

    @property
    def num_history(self) -> int:
        return len(self.history_poses)

    @property
    def num_future(self) -> int:
        return len(self.future_poses)


@dataclass(frozen=True, slots=True)
class Polygons:
    """A map layer of polygons: `ids[i]` names `shapes[i]` (shapely geometry, global frame), in file
    row order.
    """

    ids: tuple[str, ...]
    shapes: Array
    """(n,) object array of shapely polygons."""

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Lanes(Polygons):
    """`lanes_polygons`: one lane between two intersections."""

    group_ids: tuple[str, ...]
    index: Array
    """(n,) lane_index, increasing left → right inside a group."""
    speed_limit_mps: Array
    """(n,) NaN = unknown."""
    baselines: tuple[Array, ...]
    """(m, 2) vertices of each lane's baseline path, global."""


@dataclass(frozen=True, slots=True)
class LaneConnectors(Polygons):
    """`lane_connectors`: a path through an intersection. `shapes` are the polygons of the
    scaled-width layer.
    """

    group_connector_ids: tuple[str, ...]
    from_lane_ids: tuple[str, ...]
    """The lane it starts from: column `exit_lane_fid` (navsim_format.md §7.4)."""
    to_lane_ids: tuple[str, ...]
    speed_limit_mps: Array
    baselines: tuple[Array, ...]
    stop_line_ids: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class GroupConnectors(Polygons):
    """`lane_group_connectors` (ROADBLOCK_CONNECTOR)."""

    from_group_ids: tuple[str, ...]
    to_group_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RoadMap:
    """A nuPlan vector map in its projected frame. ROADBLOCK = lane group, ROADBLOCK_CONNECTOR =
    group connector.
    """

    location: str
    lanes: Lanes
    connectors: LaneConnectors
    lane_groups: Polygons
    group_connectors: GroupConnectors
    intersections: Polygons
    carparks: Polygons
    crosswalks: Polygons
    stop_polygons: Polygons
    walkways: Polygons
    generic_drivable: Polygons
    boundaries: tuple[Array, ...] = ()
    """(m, 2) painted and physical lane boundaries; for pictures only."""
