"""A lake of as many scenes as wanted, made up in seconds, to measure and test the browser with.

Poses, codes and scores are drawn at random: the lake has the shape of a real one and says nothing
about driving.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.data.frame_rows import row_from_frame
from latentvla_core.data.records import row_from_record, scene_record
from latentvla_core.lake.store import Lake
from latentvla_core.pdms.metrics import METRIC_VERSIONS, SUB_SCORES
from latentvla_core.tables import TABLES
from latentvla_core.types import Camera, Command, Frame, Objects, Scene

HISTORY, FUTURE, PER_LOG = 4, 10, 25
PLANNERS = ("human", "constant_velocity", "ipad", "ipad_latent", "ipad_student", "transfuser")
EMPTY = {"proposals": np.zeros((0, 8, 3)), "logits": np.zeros((0, 6))}
CITIES = ("us-ma-boston", "sg-one-north")
SPLITS = ("train", "val", "test")
PICTURE_WH = (64, 36)


def write_lake(root: Path, num_scenes: int, seed: int = 0, pictures: Path | None = None) -> Lake:
    """Write tables of `num_scenes` scenes in logs of 25; `pictures`: a folder to put tiny JPEGs in."""
    lake, rng = Lake(str(root)), np.random.default_rng(seed)
    tables: dict[str, dict[tuple[Any, ...], list[dict[str, Any]]]] = {}
    for number in range(-(-num_scenes // PER_LOG)):
        count = min(PER_LOG, num_scenes - number * PER_LOG)
        for name, rows in _log(number, count, rng, pictures).items():
            spec = TABLES[name]
            for row in rows:
                place = tuple(row[column] for column in spec.partition_by)
                tables.setdefault(name, {}).setdefault(place, []).append(row)
    for name, parts in tables.items():
        for place, rows in parts.items():
            lake.replace(name, rows, dict(zip(TABLES[name].partition_by, place, strict=True)))
    return lake


def _log(
    number: int, count: int, rng: np.random.Generator, pictures: Path | None
) -> dict[str, list[dict[str, Any]]]:
    """Rows of one log, by table."""
    name = f"2026.01.01.00.00.{number:05d}_veh-1"
    place = {"split": SPLITS[number % 3], "shard": 0}
    frames = _frames(name, count + HISTORY + FUTURE - 1, rng, CITIES[number % 2])
    root = str(pictures or "")
    if pictures:
        _write_pictures(pictures, frames)
    made: dict[str, list[dict[str, Any]]] = {
        "logs": [_log_row(name, place)],
        "frames": [
            place | row_from_frame(frame, i, root) | {"made_by": "b"}
            for i, frame in enumerate(frames)
        ],
    }
    for first in range(count):
        window = frames[first : first + HISTORY + FUTURE]
        scene = Scene(frames=tuple(window), num_history=HISTORY, split=place["split"])
        record = scene_record(scene, root, "b")
        made.setdefault("scenes", []).append(place | row_from_record(record) | {"made_by": "b"})
        keys = place | {"scene_token": record.scene_token, "log_name": name, "made_by": "b"}
        for table, rows in _of_scene(keys, record.timestamp_us, record.future_poses, rng).items():
            made.setdefault(table, []).extend(rows)
    return made


def _log_row(name: str, place: dict[str, Any]) -> dict[str, Any]:
    blank = dict.fromkeys(("path", "sensor_root", "maps_root", "content_key"), "")
    return {**place, **blank, "log_name": name, "format": "navsim", "size_bytes": 1, "made_by": "b"}


def _frames(name: str, count: int, rng: np.random.Generator, city: str) -> list[Frame]:
    speed = np.clip(8 + np.cumsum(rng.normal(0, 0.6, count)), 0, 20)
    yaw = np.cumsum(rng.normal(0, 0.03, count))
    xy = np.cumsum(0.5 * speed[:, None] * np.stack([np.cos(yaw), np.sin(yaw)], -1), axis=0)
    return [
        Frame(
            token=f"{rng.integers(2**63):016x}",
            timestamp_us=1_700_000_000_000_000 + 500_000 * i,
            frame_idx=i,
            log_name=name,
            scene_token=name,
            map_location=city,
            ego_pose=np.array([*xy[i], yaw[i]]),
            ego_translation_m=np.array([*xy[i], 0.0]),
            ego_rotation_wxyz=np.array([np.cos(yaw[i] / 2), 0, 0, np.sin(yaw[i] / 2)]),
            ego_velocity_mps=np.array([speed[i], 0.0]),
            ego_acceleration_mps2=np.array([rng.normal(0, 0.6), 0.0]),
            command=Command(int(rng.integers(3))),
            roadblock_ids=(),
            traffic_lights=(),
            objects=Objects.empty(),
            cameras={"CAM_F0": _camera(f"{name}/CAM_F0/{i}.jpg")},
        )
        for i in range(count)
    ]


def _camera(path: str) -> Camera:
    rotation = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    intrinsics = np.array([[50.0, 0.0, 32.0], [0.0, 50.0, 18.0], [0.0, 0.0, 1.0]])
    return Camera(path, rotation, np.array([1.6, 0.0, 1.5]), intrinsics, np.zeros(5))


def _write_pictures(root: Path, frames: list[Frame]) -> None:
    from PIL import Image

    for i, frame in enumerate(frames):
        path = root / frame.cameras["CAM_F0"].path
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", PICTURE_WH, (20 + 5 * i % 200, 90, 140)).save(path)


def _of_scene(
    keys: dict[str, Any], now_us: int, future: np.ndarray, rng: np.random.Generator
) -> dict[str, list[dict[str, Any]]]:
    """Labels, predictions, plans and scores of one scene."""
    said = rng.integers(16, size=12)
    labels = [_label(keys, now_us, step, said[4 * step : 4 * step + 4], rng) for step in range(3)]
    guess = np.where(rng.random(12) < 0.5, said, rng.integers(16, size=12))
    told = {"valid": True, "reason": "", "model_version": "m1"}
    features = {
        **keys,
        **told,
        "codes": guess,
        "logits": 3.0 * np.eye(16)[guess] + rng.normal(0, 0.5, (12, 16)),
        "visual": [],
        "action": [],
    }
    plans, scores = [], []
    for planner in PLANNERS:
        noise = 0.0 if planner == "human" else 0.4
        poses = future[:8] + noise * rng.normal(size=3) * np.linspace(0.1, 1, 8)[:, None]
        named = {**keys, **told, "trajectory_id": planner}
        plans.append({**named, "poses": poses, "chosen": -1, **EMPTY})
        scores += [{**named, **_score(metric, rng)} for metric in METRIC_VERSIONS]
    return {
        "latent_actions": labels,
        "vlm_features": [features],
        "student_features": [dict(features)],
        "trajectories": plans,
        "pdm_scores": scores,
    }


def _label(
    keys: dict[str, Any], now_us: int, step: int, codes: np.ndarray, rng: np.random.Generator
) -> dict[str, Any]:
    moved = ("speed_mps", "delta_speed_mps", "forward_m", "delta_heading_rad")
    return {
        **keys,
        "timestamp_us": now_us + 1_000_000 * step,
        "step": step,
        "gap_s": 1.0,
        "ego_codes": codes,
        "environment_codes": [0, 1],
        "ego_distances": rng.gamma(2.0, 1.0, 4),
        "ego_confidence": rng.random(4),
        "training_distance": rng.random(),
        **dict.fromkeys(moved, 1.0),
        "valid": True,
        "reason": "",
        "model_version": "latent1",
        "data_version": "d",
    }


def _score(metric: str, rng: np.random.Generator) -> dict[str, Any]:
    values = {name: float(rng.random() > 0.1) for name in SUB_SCORES[metric]}
    blank = dict.fromkeys(
        (name for names in SUB_SCORES.values() for name in names if name not in values), np.nan
    )
    score = float(np.mean(list(values.values())))
    return {**blank, **values, "score": score, "metric_version": METRIC_VERSIONS[metric]}
