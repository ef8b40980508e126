"""Hand-made scenes for the planner tests: three flat pictures, a few boxes, a future that follows
from the command.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from latentvla_core.geometry import box_corners
from latentvla_core.pdms.state import Layer, State
from latentvla_core.pdms.world import World
from latentvla_core.types import Command, ObjectClass, SceneRecord
from latentvla_core.vlm.features import VlmFeatures

CAMERAS = ("CAM_F0", "CAM_L0", "CAM_R0")
PICTURE_WH = (192, 108)
YAWS_RAD = {"CAM_F0": 0.0, "CAM_L0": np.deg2rad(55.0), "CAM_R0": np.deg2rad(-55.0)}
FEATURE_DIM = 8
CURVATURE_RAD_PER_M = {
    Command.LEFT: 0.03,
    Command.FORWARD: 0.0,
    Command.RIGHT: -0.03,
    Command.UNKNOWN: 0.01,
}


def make_records(root: Path, count: int, seed: int = 0) -> list[SceneRecord]:
    """Scenes that drive arcs: curvature by command, speed by the ego status, so that a planner can
    learn them.
    """
    rng = np.random.default_rng(seed)
    return [make_record(root, i, rng) for i in range(count)]


def make_record(root: Path, index: int, rng: np.random.Generator) -> SceneRecord:
    command, speed_mps = Command(index % 4), 2.0 + 8.0 * rng.random()
    boxes = np.zeros((3, 7))
    boxes[:, :2] = rng.uniform(-20, 20, (3, 2))
    boxes[:, 3:6] = (4.5, 2.0, 1.6)
    return SceneRecord(
        scene_token=f"{index:016x}",
        log_name=f"log{index // 4}",
        split="train",
        map_location="",
        timestamp_us=index * 500_000,
        sensor_root=str(root),
        ego_pose=np.zeros(3),
        ego_velocity_mps=np.array([speed_mps, 0.0]),
        ego_acceleration_mps2=np.zeros(2),
        command=int(command),
        history_poses=np.zeros((4, 3)),
        history_velocities_mps=np.tile([speed_mps, 0.0], (4, 1)),
        history_accelerations_mps2=np.zeros((4, 2)),
        future_poses=arc(speed_mps, CURVATURE_RAD_PER_M[command]),
        front_paths=("",) * 12,
        camera_names=CAMERAS,
        camera_paths=tuple(_picture(root, index, name, rng) for name in CAMERAS),
        camera_intrinsics_px=np.tile(_intrinsics(), (3, 1, 1)),
        camera_rotations=np.stack([camera_rotation(YAWS_RAD[name]) for name in CAMERAS]),
        camera_translations_m=np.tile([1.6, 0.0, 1.5], (3, 1)),
        lidar_path="",
        object_boxes=boxes,
        object_classes=np.array(
            [ObjectClass.VEHICLE, ObjectClass.VEHICLE, ObjectClass.PEDESTRIAN], np.int8
        ),
        object_velocities_mps=np.zeros((3, 2)),
        roadblock_ids=(),
        has_objects=True,
    )


def arc(speed_mps: float, curvature: float) -> np.ndarray:
    """(8, 3) poses on a circle at constant speed."""
    length_m = speed_mps * 0.5 * np.arange(1, 9)
    yaw = curvature * length_m
    safe = curvature if curvature else 1.0
    x = np.sin(yaw) / safe if curvature else length_m
    y = (1 - np.cos(yaw)) / safe if curvature else np.zeros(8)
    return np.stack([x, y, yaw], axis=1)


def camera_rotation(yaw_rad: float) -> np.ndarray:
    """(3, 3) camera (x right, y down, z forward) → ego (x forward, y left, z up), turned left by
    yaw.
    """
    forward = np.array([np.cos(yaw_rad), np.sin(yaw_rad), 0.0])
    right = np.array([np.sin(yaw_rad), -np.cos(yaw_rad), 0.0])
    return np.stack([right, [0.0, 0.0, -1.0], forward], axis=1)


def _intrinsics() -> np.ndarray:
    width, height = PICTURE_WH
    return np.array([[width * 0.8, 0, width / 2], [0, width * 0.8, height / 2], [0, 0, 1.0]])


def _picture(root: Path, index: int, name: str, rng: np.random.Generator) -> str:
    path = Path(f"log{index // 4}") / name / f"{index:04d}.jpg"
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(PICTURE_WH).save(root / path, quality=85)
    return str(path)


def make_features(records: list[SceneRecord], seed: int = 0) -> VlmFeatures:
    """VLM embeddings, 5 picture tokens and 12 action tokens of width 8, and random answers."""
    rng = np.random.default_rng(seed)
    count = len(records)
    logits = rng.standard_normal((count, 12, 16)).astype(np.float32)
    return VlmFeatures(
        codes=logits.argmax(-1).astype(np.int8),
        logits=logits,
        reasons=("",) * count,
        visual=rng.standard_normal((count, 5, FEATURE_DIM)).astype(np.float16),
        action=rng.standard_normal((count, 12, FEATURE_DIM)).astype(np.float16),
        valid=np.ones(count, bool),
        scene_tokens=tuple(r.scene_token for r in records),
    )


def straight_world(record: SceneRecord, parked_at_m: float | None = None) -> World:
    """A lane 10 m wide along x on the route, 200 m long, with a reference that drives 8 m/s; maybe
    a car parked in it.
    """
    half_width_m = 5.0
    ring = np.array(
        [[-50, -half_width_m], [150, -half_width_m], [150, half_width_m], [-50, half_width_m]]
    )
    ring = np.concatenate([ring, ring[:1]])
    count = 0 if parked_at_m is None else 1
    corners = np.full((51, count, 4, 2), np.nan)
    if parked_at_m is not None:
        corners[:, 0] = box_corners(np.array([parked_at_m, 0.0, 0.0]), 4.5, 2.0)
    reference = np.zeros((51, 3))
    reference[:, 0] = 8.0 * 0.1 * np.arange(51)
    ego = np.zeros(11)
    ego[State.VX] = record.ego_velocity_mps[0]
    return World(
        scene_token=record.scene_token,
        log_name=record.log_name,
        map_location="",
        timestamp_us=record.timestamp_us,
        previous_token="",
        is_synthetic=False,
        origin_m=np.zeros(2),
        ego_state=ego,
        object_tokens=("parked",) * count,
        object_classes=np.zeros(count, np.int8),
        object_speed_mps=np.zeros(count),
        object_corners=corners,
        object_valid=np.ones((51, count), bool),
        object_valid_v2=np.ones((41, count), bool),
        object_overlaps_ego=np.zeros(count, bool),
        light_ids=(),
        light_vertices=np.zeros((0, 2)),
        light_offsets=np.zeros(1, np.int64),
        light_active=np.zeros((41, 0), bool),
        polygon_ids=("block", "lane"),
        polygon_layers=np.array([Layer.ROADBLOCK, Layer.LANE], np.int8),
        polygon_on_route=np.array([False, True]),
        ring_vertices=np.concatenate([ring, ring]).astype(float),
        ring_offsets=np.array([0, 5, 10]),
        polygon_ring_offsets=np.array([0, 1, 2]),
        centerline=np.array([[-50.0, 0, 0], [50.0, 0, 0], [150.0, 0, 0]]),
        route_lane_ids=("lane",),
        reference_v1=reference,
        reference_v2=reference,
        history_states=np.zeros((4, 11)),
        human_poses=record.future_poses,
        human_valid=True,
        has_v1=True,
        valid=True,
        reason="",
    )
