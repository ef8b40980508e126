"""Everything the page of one scene shows, and the page of a drive, as plain values."""

from __future__ import annotations

from typing import Any

import numpy as np

from latentvla_core.geometry import wrap
from latentvla_core.pdms.world import World
from latentvla_core.types import FRAME_INTERVAL_S, Array, SceneRecord
from latentvla_core.viz.site.files import centimetres, figures, milliradians
from latentvla_core.viz.site.plans import Before, plan_data
from latentvla_core.viz.site.read import LogRows
from latentvla_core.viz.site.roads import object_data, road_data
from latentvla_core.viz.site.sentences import PER_STEP, predicted, sentence, sentence_data


def frame_numbers(log: LogRows) -> dict[str, int]:
    """Frame token → its number in the log, which names its pictures."""
    return {frame["token"]: frame["log_index"] for frame in log.frames}


def window_of(record: SceneRecord, numbers: dict[str, int]) -> range:
    """Numbers of the scene's frames, history and future; a window spans no gap."""
    now = numbers.get(record.scene_token, record.num_history - 1)
    return range(now - record.num_history + 1, now + record.num_future + 1)


def signals(frames: list[dict[str, Any]]) -> dict[str, Any]:
    """Speed, acceleration and yaw rate of frames in order, and their times in seconds.

    Yaw rate is the change of heading to the next frame over the time between them; the last frame
    repeats the one before.
    """
    times_s = np.array([frame["timestamp_us"] for frame in frames], float) / 1e6
    yaw = np.array([frame["ego_pose"][2] for frame in frames])
    rate = np.zeros(len(frames))
    if len(frames) > 1:
        rate[:-1] = wrap(np.diff(yaw)) / np.maximum(np.diff(times_s), 1e-3)
        rate[-1] = rate[-2]
    speed = [float(np.hypot(*frame["ego_velocity_mps"])) for frame in frames]
    return {
        "time_s": times_s,
        "speed_mps": figures(speed, 2),
        "acceleration_mps2": figures([f["ego_acceleration_mps2"][0] for f in frames], 2),
        "yaw_rate_radps": figures(rate, 3),
    }


def scene_data(
    log: LogRows,
    record: SceneRecord,
    numbers: dict[str, int],
    sizes: dict[str, tuple[int, int]],
    worlds: dict[str, World],
) -> dict[str, Any]:
    """One scene. Positions are in the ego frame of now, cm and mrad; times in seconds from now."""
    token = record.scene_token
    world = worlds.get(token)
    window = window_of(record, numbers)
    frames = [frame for frame in log.frames if frame["log_index"] in window]
    told = signals(frames)
    now = record.timestamp_us / 1e6
    world_row = log.worlds.get(token)
    return {
        "token": token,
        "log": log.name,
        "split": log.split,
        "city": record.map_location,
        "command": int(record.command),
        "num_history": record.num_history,
        "frames": [frame["log_index"] for frame in frames],
        **told,
        "time_s": figures(told["time_s"] - now, 3),
        "path": _flat(np.concatenate([record.history_poses, record.future_poses])),
        "cameras": _cameras(record, sizes),
        "codes": sentence_data(
            log.labels.get(token, []), log.teacher.get(token), log.student.get(token)
        ),
        "plans": plan_data(
            log.plans.get(token, []),
            log.scores.get(token, []),
            world,
            _before(log, world, worlds),
        ),
        "road": road_data(world) if world else None,
        "objects": object_data(world) if world else _boxes_now(record),
        "no_world": "" if world else (world_row or {}).get("reason", "this log has no map"),
    }


def _flat(poses: Array) -> list[int]:
    """(n, 3) → n × (x cm, y cm, yaw mrad)."""
    xy, yaw = centimetres(poses[:, :2]), milliradians(poses[:, 2])
    return [v for i, a in enumerate(yaw) for v in (xy[2 * i], xy[2 * i + 1], a)]


def _before(log: LogRows, world: World | None, worlds: dict[str, World]) -> Before:
    """The plans of the scene 0.5 s earlier, where there is one."""
    earlier = worlds.get(world.previous_token) if world and world.previous_token else None
    if earlier is None:
        return {}
    return {
        row["trajectory_id"]: (earlier, np.asarray(row["poses"], float))
        for row in log.plans.get(earlier.scene_token, [])
        if row["valid"]
    }


def _cameras(record: SceneRecord, sizes: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """Calibration by camera, of the full-size picture."""
    return {
        name: {
            "size_px": sizes[name],
            "intrinsics_px": figures(record.camera_intrinsics_px[i], 2),
            "rotation": figures(record.camera_rotations[i], 5),
            "position_m": figures(record.camera_translations_m[i], 3),
        }
        for i, name in enumerate(record.camera_names)
        if name in sizes
    }


def _boxes_now(record: SceneRecord) -> list[dict[str, Any]]:
    """Annotated boxes of a scene that has no map, at this moment only."""
    return [
        {
            "class": int(record.object_classes[i]),
            "name": "",
            "size_cm": centimetres([box[3], box[4]]),
            "steps": [0, 0],
            "poses": [*centimetres(box[:2]), *milliradians(box[6:7])],
        }
        for i, box in enumerate(record.object_boxes)
    ]


def drive_data(log: LogRows, numbers: dict[str, int]) -> dict[str, Any]:
    """One drive: its clock, path, and the codes of each moment (transition 0 of each scene)."""
    told = signals(log.frames)
    start = told["time_s"][0] if len(log.frames) else 0.0
    poses = np.array([frame["ego_pose"] for frame in log.frames]).reshape(-1, 3)
    scenes = [record for record in log.records if record.scene_token in numbers]
    tokens = [record.scene_token for record in scenes]
    first = [sentence(log.labels.get(token, []))[:PER_STEP].tolist() for token in tokens]
    guesses = {
        name: [predicted(rows.get(token))[:PER_STEP].tolist() for token in tokens]
        for name, rows in (("teacher", log.teacher), ("student", log.student))
    }
    return {
        "log": log.name,
        "split": log.split,
        "city": log.records[0].map_location if log.records else "",
        "frames": [frame["log_index"] for frame in log.frames],
        **told,
        "time_s": figures(told["time_s"] - start, 3),
        "path": _flat(poses - np.append(poses[0, :2], 0.0)) if len(poses) else [],
        "scenes": [{"token": t, "frame": numbers[t]} for t in tokens],
        "codes": {"label": first, **guesses},
        "frame_interval_s": FRAME_INTERVAL_S,
        "cameras": sorted({name for frame in log.frames for name in frame["camera_names"]}),
    }
