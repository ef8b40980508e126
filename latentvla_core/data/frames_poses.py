"""Logs that are only pictures and poses (KITTI, nuScenes excerpts, your own car) → `Frame`s at 2
Hz.

Such a log has no map, no route, no objects and no command, so it trains latent actions and is never
scored. A sequence recorded faster than 2 Hz gives one log per phase (`name@0`, `name@1`, …): the
same drive sampled at shifted times, which makes more windows. T key frames, P poses of the file.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np

from latentvla_core.data import DataFormat
from latentvla_core.data.checks.against_pictures import check_against_pictures
from latentvla_core.data.pose_file import (
    COLUMNS,
    POSES_FILE,
    check_motion,
    check_times,
    read_poses,
)
from latentvla_core.data.sequences import SequenceConfig, describe
from latentvla_core.errors import DataError
from latentvla_core.geometry import rotate, to_global
from latentvla_core.types import FRAME_INTERVAL_S, FRONT_CAMERA, Array, Camera, Command, Frame, Pose

FRAMES_FOLDER = "frames"
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png")
OTHER_FOLDERS = ("image_2", "image_02", "images", "image", "rgb", "CAM_F0", "CAM_FRONT")
"""Where other data sets keep the pictures of the front camera."""
OPTICAL_TO_EGO = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
_EDGE_S = 1e-3  # nominal time stamps are rounded to this


def is_sequence(folder: str | Path) -> bool:
    """Whether a folder has pictures and poses, so that `read_logs` may take it."""
    return (Path(folder) / FRAMES_FOLDER).is_dir() and (Path(folder) / POSES_FILE).is_file()


def name_of(folder: str | Path) -> str:
    """What its logs are called: `name` of its sequence.yaml where that can be read, else the
    folder's name.
    """
    try:
        return describe(folder).name or Path(folder).name
    except DataError:
        return Path(folder).name


def read_sequence(folder: str | Path, config: SequenceConfig | None = None) -> list[Frame]:
    """All frames of all phases, one log after the other (see `read_logs` for them apart)."""
    return [frame for frames in read_logs(folder, config).values() for frame in frames]


def read_logs(
    folder: str | Path, config: SequenceConfig | None = None, name: str = ""
) -> dict[str, list[Frame]]:
    """{log name: frames at 2 Hz}. Picture paths are relative to `folder`, which is the logs' sensor
    root. `name` replaces that of the description.

    Poses are those of the rear axle in the frame of the sequence's first pose. A frame with a
    picture has the time and the pose of its picture. Raises DataError or DataFaults (all rows at
    once) when poses are missing, broken, impossible, too few or too far apart, or when no picture
    belongs to a pose.
    """
    folder = Path(folder)
    config = describe(folder) if config is None else config
    pictures = pictures_of(folder)
    file = folder / POSES_FILE
    if not file.is_file():
        raise DataError(
            f"no {POSES_FILE}: pictures without poses show no ego motion to learn from or to check"
            f" against, so the sequence is refused; add {POSES_FILE} with the columns"
            f" {','.join(COLUMNS)}",
            file=str(folder),
        )
    names, times_s, poses = read_poses(file)
    check_times(times_s, config.max_pose_gap_s, str(file))
    check_motion(times_s, poses, str(file), heading=config.heading_checked)
    rear = to_global(poses, np.array([-config.pose_ahead_of_rear_axle_m, 0.0, 0.0]))
    rear[:, Pose.YAW] = np.unwrap(poses[:, Pose.YAW])
    paths = _paths_of(names, pictures, folder)
    shown_s = times_s[[bool(path) for path in paths]]
    starts_s = _starts(shown_s if len(shown_s) >= 2 else times_s)
    name = name or config.name or folder.name
    logs = {
        f"{name}@{i}": _log((folder.name, f"{name}@{i}"), times_s, rear, paths, start_s, config)
        for i, start_s in enumerate(starts_s)
    }
    return {log: frames for log, frames in logs.items() if len(frames) >= 2}


def _starts(times_s: Array) -> Array:
    """First times of the phases: as many as pictures (or poses) lie in half a second."""
    phases = max(1, round(FRAME_INTERVAL_S / float(np.median(np.diff(times_s)))))
    return times_s[:phases]


def pictures_of(folder: Path) -> dict[str, str]:
    """{frame name: path relative to the folder}. Raises DataError when there is no folder of
    pictures, or when two pictures have one name.
    """
    frames = folder / FRAMES_FOLDER
    if not frames.is_dir():
        other = next((name for name in OTHER_FOLDERS if (folder / name).is_dir()), "")
        hint = f"; {other}/ is there: rename or link it to {FRAMES_FOLDER}/" if other else ""
        raise DataError(
            f"no folder {FRAMES_FOLDER}/ with pictures; a sequence is {FRAMES_FOLDER}/ and"
            f" {POSES_FILE}{hint}",
            file=str(folder),
        )
    found: dict[str, str] = {}
    for path in sorted(frames.iterdir()):
        if path.suffix.lower() in PICTURE_SUFFIXES:
            there = found.setdefault(path.stem, f"{FRAMES_FOLDER}/{path.name}")
            if there != f"{FRAMES_FOLDER}/{path.name}":
                raise DataError(
                    f"{Path(there).name} and {path.name} are both picture {path.stem!r};"
                    " remove one of them",
                    file=str(frames),
                )
    return found


def _paths_of(names: list[str], pictures: dict[str, str], folder: Path) -> list[str]:
    """Picture path of each pose, "" where it has none. Raises DataError when none has one though
    there are files in the folder of pictures.
    """
    paths = [pictures.get(name, "") for name in names]
    files = sorted(p.name for p in (folder / FRAMES_FOLDER).iterdir() if p.is_file())
    if any(paths) or not files:
        return paths
    kinds = ", ".join(PICTURE_SUFFIXES)
    remedy = (
        "write the picture's name without its suffix into column frame" if pictures
        else f"convert the pictures to one of {kinds}"
    )  # fmt: skip
    raise DataError(
        f"{POSES_FILE} names {names[0]!r}, {FRAMES_FOLDER}/ has {files[0]!r}; none of the"
        f" {len(names)} poses has a picture: {remedy}",
        file=str(folder), field="frame",
    )  # fmt: skip


def _log(
    names: tuple[str, str],
    times_s: Array,
    poses: Array,
    paths: list[str],
    start_s: float,
    config: SequenceConfig,
) -> list[Frame]:
    """Key frames every 0.5 s from `start_s` on; poses (P, 3) with unwrapped yaw; names: of the
    folder and of the log.
    """
    count = int((times_s[-1] - start_s + _EDGE_S) / FRAME_INTERVAL_S) + 1
    grid_s = np.minimum(start_s + FRAME_INTERVAL_S * np.arange(count), times_s[-1])  # (T,)
    camera = _camera(config)
    frames = []
    for i, grid in enumerate(grid_s):
        row = _nearest(float(grid), times_s, paths, config.picture_tolerance_s)
        time_s = float(grid if row is None else times_s[row])
        cameras = {} if row is None else {FRONT_CAMERA: Camera(paths[row], *camera)}
        pose = np.array([np.interp(time_s, times_s, poses[:, c]) for c in range(3)])
        motion = _motion(time_s, times_s, poses, config.smoothing_s)
        frames.append(_frame(names, i, round(time_s * 1e6), pose, motion, cameras))
    return frames


def _frame(
    names: tuple[str, str],
    index: int,
    stamp_us: int,
    pose: Array,
    motion: tuple[Array, Array],
    cameras: dict[str, Camera],
) -> Frame:
    """Tokens come from folder and log, so that one `name` given twice shares none of them."""
    (folder, log), (velocity, acceleration) = names, motion
    key = log if log.rpartition("@")[0] == folder else f"{folder}/{log}"
    half = pose[Pose.YAW] / 2
    return Frame(
        token=_token(f"{key}#{index}"),
        timestamp_us=stamp_us,
        frame_idx=index,
        log_name=log,
        scene_token=_token(key),
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


def _nearest(time_s: float, times_s: Array, paths: list[str], tolerance_s: float) -> int | None:
    """Row of the picture nearest in time, None when none is near enough."""
    offset = np.where([bool(path) for path in paths], np.abs(times_s - time_s), np.inf)
    best = int(offset.argmin())
    return best if offset[best] <= tolerance_s else None


def _camera(config: SequenceConfig) -> tuple[Array, Array, Array, Array]:
    """Rotation, translation, intrinsics (NaN where unknown) and distortion of the front camera."""
    intrinsics = np.full((3, 3), np.nan)
    if config.focal_px is not None and config.center_px is not None:
        (fx, fy), (cx, cy) = config.focal_px, config.center_px
        intrinsics = np.array([[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]])
    position = np.array([config.camera_ahead_of_rear_axle_m, 0.0, config.camera_height_m])
    return OPTICAL_TO_EGO, position, intrinsics, np.zeros(5)


def find_sequences(folder: Path) -> list[tuple[str, Path]]:
    """(name, folder) of every sequence at any depth. A folder's name that occurs twice becomes its
    relative path, `day1__front`: two drives, two names.
    """
    found = [(name_of(path), path) for path in _sequences(folder)]
    names = Counter(name for name, _ in found)
    return [
        (name if names[name] == 1 or name != path.name else _below(path, folder), path)
        for name, path in found
    ]


def _below(path: Path, folder: Path) -> str:
    return "__".join(path.relative_to(folder).parts) or path.name


def _sequences(folder: Path) -> list[Path]:
    """Folders with pictures or with poses, at any depth, links followed: one that lacks the other is
    listed too, so that ingest can say why it is refused.
    """
    found, seen = [], set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()  # a link back to where we were
            continue
        seen.add(real)
        if FRAMES_FOLDER in folders or POSES_FILE in files:
            found.append(Path(place))
            folders[:] = [name for name in folders if name != FRAMES_FOLDER]
    return sorted(found)


def _read(path: Path, name: str) -> tuple[list[list[Frame | None]], list[DataError]]:
    """A drive of which not one frame has a picture has poses, and nothing to label: a fault."""
    logs = [*read_logs(path, name=name).values()]
    if logs:
        check_against_pictures(logs[0], str(path), describe(path))
    if any(frame.cameras for frames in logs for frame in frames):
        return [list(frames) for frames in logs], []
    rule = "frames/ holds no picture, so nothing of this drive is labelled"
    return [list(frames) for frames in logs], [DataError(rule, file=str(path))]


FORMAT = DataFormat(
    what=f"sequence (a folder with {FRAMES_FOLDER}/ and {POSES_FILE})",
    find=find_sequences,
    read=_read,
    file=lambda path: path / POSES_FILE,
    sensors=lambda path: path,
)
