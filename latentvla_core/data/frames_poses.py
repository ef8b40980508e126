"""Logs that are only pictures and poses (KITTI, nuScenes excerpts, your own car) → `Frame`s at 2
Hz.

Such a log has no map, no route, no objects and no command, so it trains latent actions and is never
scored. A sequence recorded faster than 2 Hz gives one log per phase (`name@0`, `name@1`, …): the
same drive sampled at shifted times, which makes more windows. T key frames, P poses of the file.
"""

from __future__ import annotations

import csv
import hashlib
import math
from pathlib import Path

import numpy as np

from latentvla_core.data.fields import near_miss
from latentvla_core.data.sequences import DESCRIPTION_FILE, SequenceConfig, describe
from latentvla_core.errors import DataError, DataFaults
from latentvla_core.geometry import rotate, to_global
from latentvla_core.types import FRAME_INTERVAL_S, FRONT_CAMERA, Array, Camera, Command, Frame, Pose

COLUMNS = ("frame", "timestamp_s", "x", "y", "heading")
POSES_FILE, FRAMES_FOLDER = "poses.csv", "frames"
OPTICAL_TO_EGO = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
_STEP_US = round(FRAME_INTERVAL_S * 1e6)
_EDGE_S = 1e-3  # nominal time stamps are rounded to this


def is_sequence(folder: str | Path) -> bool:
    """Whether a folder has pictures and poses, so that `read_logs` may take it."""
    return (Path(folder) / FRAMES_FOLDER).is_dir() and (Path(folder) / POSES_FILE).is_file()


def read_sequence(folder: str | Path, config: SequenceConfig | None = None) -> list[Frame]:
    """All frames of all phases, one log after the other (see `read_logs` for them apart)."""
    return [frame for frames in read_logs(folder, config).values() for frame in frames]


def read_logs(folder: str | Path, config: SequenceConfig | None = None) -> dict[str, list[Frame]]:
    """{log name: frames at 2 Hz}. Picture paths are relative to `folder`, which is the logs' sensor
    root.

    Poses are those of the rear axle in the frame of the sequence's first pose. Raises DataError or
    DataFaults (all rows at once) when poses are missing, broken, too few or too far apart.
    """
    folder = Path(folder)
    config = describe(folder) if config is None else config
    pictures = _pictures(folder)
    names, times_s, poses = _read_poses(folder)
    _check_times(times_s, config, str(folder / POSES_FILE))
    rear = to_global(poses, np.array([-config.pose_ahead_of_rear_axle_m, 0.0, 0.0]))
    rear[:, Pose.YAW] = np.unwrap(poses[:, Pose.YAW])
    paths = [pictures.get(name, "") for name in names]
    phases = max(1, round(FRAME_INTERVAL_S / float(np.median(np.diff(times_s)))))
    name = config.name or folder.name
    logs = {
        f"{name}@{i}": _log(f"{name}@{i}", times_s, rear, paths, times_s[i], config)
        for i in range(phases)
    }
    return {log: frames for log, frames in logs.items() if len(frames) >= 2}


def _pictures(folder: Path) -> dict[str, str]:
    """{frame name: path relative to the folder}."""
    frames = folder / FRAMES_FOLDER
    if not frames.is_dir():
        raise DataError(
            f"no folder {FRAMES_FOLDER}/ with pictures; a sequence is {FRAMES_FOLDER}/ and {POSES_FILE}",
            file=str(folder),
        )
    suffixes = (".jpg", ".jpeg", ".png")
    return {
        p.stem: f"{FRAMES_FOLDER}/{p.name}"
        for p in sorted(frames.iterdir())
        if p.suffix.lower() in suffixes
    }


def _read_poses(folder: Path) -> tuple[list[str], Array, Array]:
    """Frame names, (P,) times in seconds and (P, 3) poses, as the file has them."""
    path = folder / POSES_FILE
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
    except FileNotFoundError as error:
        raise DataError(
            f"no {POSES_FILE}: pictures without poses show no ego motion to learn from or to check against, so the "
            f"sequence is refused; add {POSES_FILE} with the columns {','.join(COLUMNS)}",
            file=str(folder),
        ) from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"not a readable CSV ({error})", file=str(path)) from error
    have = list(rows[0]) if rows else []
    if missing := [column for column in COLUMNS if column not in have]:
        raise DataError(
            f"no column {missing[0]!r} (it has {', '.join(map(str, have)) or 'no rows'}){near_miss(missing[0], map(str, have))}",
            file=str(path),
        )
    faults: list[DataError] = []
    values = np.array(
        [
            [_number(row, i, column, path, faults) for column in COLUMNS[1:]]
            for i, row in enumerate(rows)
        ]
    )
    if faults:
        raise DataFaults(faults)
    return [str(row["frame"]) for row in rows], values[:, 0], values[:, 1:]


def _number(
    row: dict[str, str], index: int, column: str, path: Path, faults: list[DataError]
) -> float:
    try:
        value = float(row[column])
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        message = f"{row[column]!r} is not a finite number"
        faults.append(
            DataError(
                message, file=str(path), frame=f"{row['frame']} (line {index + 2})", field=column
            )
        )
    return value


def _check_times(times_s: Array, config: SequenceConfig, file: str) -> None:
    if len(times_s) < 3:
        raise DataError(f"{len(times_s)} pose(s); at least 3 are needed for velocities", file=file)
    steps = np.diff(times_s)
    faults = [
        DataError(
            f"{steps[i]:.3f} s after the row before; time must increase",
            file=file,
            frame=f"line {i + 3}",
        )
        for i in np.flatnonzero(steps <= 0)
    ]
    faults += [
        DataError(
            f"{steps[i]:.2f} s without a pose; at most {config.max_pose_gap_s} s are interpolated. Split the sequence "
            f"there, or raise max_pose_gap_s in {DESCRIPTION_FILE}",
            file=file,
            frame=f"line {i + 3}",
        )
        for i in np.flatnonzero(steps > config.max_pose_gap_s)
    ]
    if faults:
        raise DataFaults(faults)


def _log(
    name: str,
    times_s: Array,
    poses: Array,
    paths: list[str],
    start_s: float,
    config: SequenceConfig,
) -> list[Frame]:
    """Key frames every 0.5 s from `start_s` on; poses (P, 3) with unwrapped yaw."""
    count = int((times_s[-1] - start_s + _EDGE_S) / FRAME_INTERVAL_S) + 1
    grid_s = np.minimum(start_s + FRAME_INTERVAL_S * np.arange(count), times_s[-1])  # (T,)
    camera = _camera(config)
    frames = []
    for i, time_s in enumerate(grid_s):
        pose = np.array([np.interp(time_s, times_s, poses[:, c]) for c in range(3)])
        velocity, acceleration = _motion(time_s, times_s, poses, config.smoothing_s)
        path = _nearest(time_s, times_s, paths, config.picture_tolerance_s)
        cameras = {FRONT_CAMERA: Camera(path, *camera)} if path else {}
        stamp_us = round(start_s * 1e6) + _STEP_US * i
        frames.append(_frame(name, i, stamp_us, pose, velocity, acceleration, cameras))
    return frames


def _frame(
    log: str,
    index: int,
    stamp_us: int,
    pose: Array,
    velocity: Array,
    acceleration: Array,
    cameras: dict[str, Camera],
) -> Frame:
    half = pose[Pose.YAW] / 2
    return Frame(
        token=_token(f"{log}#{index}"),
        timestamp_us=stamp_us,
        frame_idx=index,
        log_name=log,
        scene_token=_token(log),
        map_location="",
        ego_pose=np.array(
            [pose[Pose.X], pose[Pose.Y], math.remainder(pose[Pose.YAW], 2 * math.pi)]
        ),
        ego_translation_m=np.array([pose[Pose.X], pose[Pose.Y], 0.0]),
        ego_rotation_wxyz=np.array([math.cos(half), 0.0, 0.0, math.sin(half)]),
        ego_velocity_mps=rotate(velocity, -pose[Pose.YAW])
        .astype(np.float32)
        .astype(np.float64),  # as logs store them
        ego_acceleration_mps2=rotate(acceleration, -pose[Pose.YAW])
        .astype(np.float32)
        .astype(np.float64),
        command=Command.UNKNOWN,
        roadblock_ids=(),
        traffic_lights=(),
        objects=None,
        cameras=cameras,
    )


def _token(text: str) -> str:
    """16 hex characters, as NAVSIM's original frames have; the same text gives the same token
    everywhere.
    """
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _motion(time_s: float, times_s: Array, poses: Array, window_s: float) -> tuple[Array, Array]:
    """(2,) velocity and (2,) acceleration in the frame of the poses: parabola through the poses
    around `time_s`.
    """
    offset = np.abs(times_s - time_s)
    near = np.flatnonzero(
        offset <= max(window_s + _EDGE_S, np.partition(offset, 2)[2])
    )  # three or more
    powers = np.vander(times_s[near] - time_s, 3, increasing=True)  # (n, 3): 1, t, t²
    fit = np.linalg.lstsq(powers, poses[near, :2], rcond=None)[0]  # (3, 2)
    return fit[1], 2 * fit[2]


def _nearest(time_s: float, times_s: Array, paths: list[str], tolerance_s: float) -> str:
    """Path of the picture nearest in time, or ""."""
    offset = np.where([bool(path) for path in paths], np.abs(times_s - time_s), np.inf)
    best = int(offset.argmin())
    return paths[best] if offset[best] <= tolerance_s else ""


def _camera(config: SequenceConfig) -> tuple[Array, Array, Array, Array]:
    """Rotation, translation, intrinsics (NaN where unknown) and distortion of the front camera."""
    intrinsics = np.full((3, 3), np.nan)
    if config.focal_px is not None and config.center_px is not None:
        (fx, fy), (cx, cy) = config.focal_px, config.center_px
        intrinsics = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    position = np.array([config.camera_ahead_of_rear_axle_m, 0.0, config.camera_height_m])
    return OPTICAL_TO_EGO, position, intrinsics, np.zeros(5)
