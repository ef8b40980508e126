"""How fast are logs read? Writes a tree of frames as rich as NAVSIM's, reads it back, prints frames
per second and core.

    python -m benchmarks.ingest --logs 8 --frames 200 --objects 60

Measures CPU time of one process, so other work on the machine matters little. The same files loaded
by plain `pickle` stand beside it: that is the floor that no reader can go below.
"""

from __future__ import annotations

import argparse
import pickle
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.data.filters import SceneFilter, scenes_of_log
from latentvla_core.data.navsim import load_log, read_log
from latentvla_core.data.records import scene_record
from latentvla_core.types import CAMERA_NAMES

CLASSES = ("vehicle", "pedestrian", "bicycle", "traffic_cone", "barrier", "generic_object")


def camera(path: str) -> dict[str, Any]:
    """Arrays of its own for every camera and frame: pickle would store shared ones once, the
    generator's files do not.
    """
    return {
        "data_path": path,
        "sensor2lidar_rotation": np.eye(3),
        "sensor2lidar_translation": np.array([1.6, 0.0, 1.5]),
        "cam_intrinsic": np.array([[1545.0, 0, 960], [0, 1545, 560], [0, 0, 1]]),
        "distortion": np.zeros(5),
    }


def frame(log: str, index: int, objects: int, rng: np.random.Generator) -> dict[str, Any]:
    """One frame with every key of the format that costs time to read."""
    token = f"{rng.integers(1 << 62):016x}"
    return {
        "token": token,
        "frame_idx": index,
        "timestamp": 1_621_944_000_000_000 + 500_000 * index,
        "log_name": log,
        "scene_token": "scene",
        "map_location": "us-ma-boston",
        "roadblock_ids": [str(i) for i in range(20)],
        "can_bus": rng.normal(size=18),
        "lidar_path": f"{log}/MergedPointCloud/{token}.pcd",
        "ego2global_translation": np.array([331_000.0 + index, 4_690_000.0, 12.0]),
        "ego2global_rotation": np.array([1.0, 0.0, 0.0, 0.0]),
        "ego_dynamic_state": [5.0, 0.0, 0.1, 0.0],
        "traffic_lights": [(i, i % 2 == 0) for i in range(10)],
        "driving_command": np.array([0, 1, 0, 0]),
        "cams": {name: camera(f"{log}/{name}/{token}.jpg") for name in CAMERA_NAMES},
        "ego2global": np.eye(4),
        "lidar2ego": np.eye(4),
        "lidar2global": np.eye(4),
        "anns": {
            "gt_boxes": np.abs(rng.normal(size=(objects, 7))) + 0.1,
            "gt_names": rng.choice(CLASSES, objects),
            "gt_velocity_3d": rng.normal(size=(objects, 3)),
            "instance_tokens": [f"{rng.integers(1 << 62):016x}" for _ in range(objects)],
            "track_tokens": [f"{i:016x}" for i in range(objects)],
        },
    }


def write_logs(folder: Path, logs: int, frames: int, objects: int) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [folder / f"log-{i:03d}.pkl" for i in range(logs)]
    for path in paths:
        path.write_bytes(
            pickle.dumps([frame(path.stem, i, objects, rng) for i in range(frames)], protocol=5)
        )
    return paths


def cpu_s(work: Callable[[Path], object], paths: Iterable[Path]) -> float:
    """Fastest of three passes."""
    passes = []
    for _ in range(3):
        started = time.process_time()
        for path in paths:
            work(path)
        passes.append(time.process_time() - started)
    return min(passes)


def records(path: Path) -> None:
    for scene in scenes_of_log(read_log(path), SceneFilter(frame_interval=1)):
        scene_record(scene, "")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--logs", type=int, default=8)
    parser.add_argument("--frames", type=int, default=200, help="per log; 200 are 100 s of driving")
    parser.add_argument("--objects", type=int, default=60, help="per frame")
    args = parser.parse_args()
    steps = {
        "plain pickle.load (the floor)": lambda path: pickle.loads(path.read_bytes()),
        "allow-list load": load_log,
        "read_log: checked frames": read_log,
        "read_log + scenes + records": records,
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = write_logs(Path(folder), args.logs, args.frames, args.objects)
        size_mb = sum(path.stat().st_size for path in paths) / 1e6
        total = args.logs * args.frames
        print(f"{args.logs} logs, {total:,} frames, {args.objects} objects each, {size_mb:.1f} MB")
        for name, work in steps.items():
            print(f"{name:32s} {total / cpu_s(work, paths):8,.0f} frames/s per core")


if __name__ == "__main__":
    main()
