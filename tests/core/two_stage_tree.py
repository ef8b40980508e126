"""A little tree in navhard's layout: two original scenes of an embedded log, and synthetic scenes
that continue them.

The synthetic scenes repeat what the log shows four seconds later, some with the ego moved aside. So
the second stage is
known: a scene with the ego where it was must be scored like the log's own.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from devkit_lookalikes import Kind, Status, detections, tracked

from latentvla_core.data.navsim import read_log
from latentvla_core.geometry import to_global
from latentvla_core.pdms.observation import key_frame
from latentvla_core.types import Frame
from latentvla_core.world.write import WorldConfig, write_world

NAME = "little_two_stage"
NOW = 12  # frame of the first stage; the second stage is 8 frames later
LATER = NOW + 8
ASIDE_M = (0.0, 0.4, -0.3)  # where the ego stands in the synthetic scenes, sideways


@dataclass(frozen=True)
class Tree:
    """The tree, and which scenes it has."""

    root: Path
    frames: tuple[Frame, ...]
    now: str
    previous: str
    followers: tuple[tuple[str, str], ...]

    @property
    def split_file(self) -> Path:
        return self.root / f"{NAME}.yaml"

    @property
    def tokens(self) -> list[str]:
        return [self.now, self.previous, *(token for pair in self.followers for token in pair)]


def write_tree(root: Path, devkit: dict[str, Any]) -> Tree:
    config = WorldConfig(
        seed=4, logs_train=1, logs_val=0, logs_test=1, seconds_per_log=18.0, cameras=(), workers=1
    )
    world = write_world(root, config)
    frames = read_log(world.log_path("test", world.logs["test"][0]))
    folder = root / NAME / "synthetic_scene_pickles"
    folder.mkdir(parents=True)
    pairs = []
    for number, aside in enumerate(ASIDE_M):
        pair = tuple(f"{number}{index:016x}" for index in (LATER, LATER - 1))
        for token, index in zip(pair, (LATER, LATER - 1), strict=True):
            raw = synthetic(devkit, frames, index, token, aside)
            (folder / f"scene-{token}.pkl").write_bytes(pickle.dumps(raw, 5))
        pairs.append(pair)
    tree = Tree(root, frames, frames[NOW].token, frames[NOW - 1].token, tuple(pairs))  # type: ignore[arg-type]
    tree.split_file.write_text(_split(tree))
    return tree


def _split(tree: Tree) -> str:
    pairs = ", ".join(f"['{a}', '{b}']" for a, b in tree.followers)
    scenes = "num_history_frames: 4, num_future_frames: 8, frame_interval: 1, has_route: true"
    tokens = f"tokens: ['{tree.now}', '{tree.previous}'], include_synthetic_scenes: true"
    mapping = f"- ['{tree.now}', '{tree.previous}', [{pairs}]]"
    return f"data_split: test\nscene_filter: {{{scenes}, {tokens}}}\nreactive_all_mapping:\n{mapping}\n"


def synthetic(
    devkit: dict[str, Any], frames: tuple[Frame, ...], index: int, token: str, aside_m: float
) -> dict[str, Any]:
    """The scene pickle whose current frame is `index` of the log, the ego moved to its left."""
    past, future = frames[index - 3 : index + 1], frames[index + 1 : index + 9]
    shown = [
        _frame(frame, token if frame is past[-1] else f"{frame.token}x", aside_m) for frame in past
    ]
    meta = {
        "log_name": past[-1].log_name,
        "scene_token": f"scene-{token}",
        "map_name": past[-1].map_location,
    }
    meta |= {"initial_token": token, "num_history_frames": 4, "num_future_frames": 0}
    meta |= {
        "corresponding_original_scene": past[-1].token,
        "corresponding_original_initial_token": frames[index - 8].token,
    }
    return {
        "scene_metadata": meta,
        "frames": shown,
        "extended_detections_tracks": [_detections(devkit, frame) for frame in future],
        "extended_traffic_light_data": [_lights(devkit, frame) for frame in future],
    }


def _frame(frame: Frame, token: str, aside_m: float) -> dict[str, Any]:
    assert frame.objects is not None
    pose = to_global(frame.ego_pose, np.array([0.0, aside_m, 0.0]))
    boxes = np.array(frame.objects.boxes)
    boxes[:, 1] -= aside_m  # they stand where they stood, so nearer to the ego's right
    names = {
        0: "vehicle",
        1: "pedestrian",
        2: "bicycle",
        3: "traffic_cone",
        4: "barrier",
        5: "czone_sign",
    }
    count = len(boxes)
    notes = {
        "boxes": boxes,
        "names": np.array([names.get(int(c), "generic_object") for c in frame.objects.classes]),
        "velocity_3d": np.column_stack([frame.objects.velocities_mps[:, :2], np.zeros(count)]),
        "instance_tokens": [f"i{k}" for k in range(count)],
        "track_tokens": list(frame.objects.track_tokens),
    }
    command = np.zeros(4, int)
    command[int(frame.command)] = 1
    ego = {
        "ego_pose": pose,
        "ego_velocity": frame.ego_velocity_mps,
        "ego_acceleration": frame.ego_acceleration_mps2,
    }
    ego |= {"driving_command": command, "in_global_frame": True}
    lights = [(int(lane), red) for lane, red in frame.traffic_lights]
    return {
        "token": token,
        "timestamp": frame.timestamp_us,
        "roadblock_ids": list(frame.roadblock_ids),
        "traffic_lights": lights,
        "annotations": notes,
        "ego_status": ego,
        "lidar_path": None,
        "camera_dict": {},
    }


def _detections(devkit: dict[str, Any], frame: Frame) -> Any:
    seen = key_frame(frame).detections
    return detections(devkit, [
        tracked(
            devkit, Kind(int(kind)), token, pose, (*size, 1.5),
            velocity if kind <= 2 else None, frame.timestamp_us,
        )
        for token, kind, pose, size, velocity in zip(
            seen.tokens, seen.classes, seen.poses, seen.sizes_m, seen.velocities_mps, strict=True
        )
    ])  # fmt: skip


def _lights(devkit: dict[str, Any], frame: Frame) -> Any:
    states = [
        devkit["TrafficLightStatusData"](
            status=Status.RED if red else Status.GREEN, lane_connector_id=int(lane), timestamp=0
        )
        for lane, red in frame.traffic_lights
    ]
    return devkit["TrafficLightStatuses"](traffic_lights=states)
