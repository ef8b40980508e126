"""Drives as a LeRobot data set (format v3.0): an episode per unbroken stretch of a log, a frame
every 0.5 s.

| feature | meaning |
|---|---|
| observation.images.front | front picture, all of one size |
| observation.state | speed, longitudinal and lateral acceleration, yaw rate |
| action | pose 0.5 s later in the ego frame: x, y, yaw; zeros in the last frame of an episode |
| latent_action | the four ego codes of the second that begins here; -1 where there is no label |
| latent_action_confidence | of each; 0 where there is no label |
| task | the driving command in words |

Times are nominal (frame / 2 Hz), as the format demands; `time_s` is the recorded one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.data.cameras import decode_image, image_size
from latentvla_core.data.files import join, read_bytes
from latentvla_core.errors import DataError
from latentvla_core.exports.shards import Written
from latentvla_core.geometry import to_local, wrap
from latentvla_core.lake.store import Lake
from latentvla_core.types import FRAME_INTERVAL_S, FRONT_CAMERA
from latentvla_core.viz.site.options import ViewOptions
from latentvla_core.viz.site.pictures import as_jpeg
from latentvla_core.viz.site.read import LogRows, chosen_scenes, read_log

FPS = round(1 / FRAME_INTERVAL_S)
IMAGE = "observation.images.front"
TASKS = ("turn left", "drive straight on", "turn right", "drive")
CHUNK = 1000
NO_CODE = -1
STATE = ("speed_mps", "acceleration_x_mps2", "acceleration_y_mps2", "yaw_rate_radps")
ACTION = ("x_m", "y_m", "yaw_rad")
VECTORS: dict[str, tuple[str, tuple[str, ...]]] = {
    "observation.state": ("float32", STATE),
    "action": ("float32", ACTION),
    "latent_action": ("int64", ("code_1", "code_2", "code_3", "code_4")),
    "latent_action_confidence": ("float32", ("code_1", "code_2", "code_3", "code_4")),
}
SCALARS = {
    "time_s": "float32",
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
Rows = list[dict[str, Any]]


def write_lerobot(lake: Lake, options: ViewOptions) -> Written:
    """Write the data set to `options.out`. Frames without a readable front picture end an episode
    and are told. Raises DataError when no frame has one.
    """
    done, size, episodes, totals = Written(), (0, 0), [], []
    chosen = chosen_scenes(lake, options)
    for place in sorted(chosen, key=lambda p: (p[0], p[2])):
        log = read_log(lake, place, chosen[place])
        size = size if size[0] else _size(log, options.width_px)
        for rows in _episodes(log, size, done):
            number = len(episodes)
            for row in rows:
                row["episode_index"], row["index"] = number, done.samples
                done.samples += 1
            done.files.append(_write_frames(options.out, number, rows))
            episodes.append(_episode(number, rows, done.samples, log))
            totals.append(_sums(rows))
    if not episodes:
        raise DataError(f"no frame of {options.log or 'the lake'} has a readable front picture")
    _write_meta(options.out, size, episodes, totals)
    return done


def _size(log: LogRows, width_px: int) -> tuple[int, int]:
    """(width, height) of all pictures: that of the first, at most `width_px` wide."""
    for frame in log.frames:
        path = _front(frame)
        try:
            w, h = image_size(frame["sensor_root"], path)
        except DataError:
            continue
        wide = min(w, width_px or w)
        return wide, round(wide * h / w)
    return 0, 0


def _front(frame: dict[str, Any]) -> str:
    names = list(frame["camera_names"])
    return frame["camera_paths"][names.index(FRONT_CAMERA)] if FRONT_CAMERA in names else ""


def _episodes(log: LogRows, size: tuple[int, int], done: Written) -> Iterator[Rows]:
    """Stretches without a gap whose pictures can be read, two frames or more."""
    codes = {
        r.scene_token: {row["step"]: row for row in log.labels.get(r.scene_token, [])}
        for r in log.records
    }
    stretch: Rows = []
    last = None
    for frame in log.frames:
        picture = _picture(frame, size, done)
        if picture is None or (last is not None and frame["log_index"] != last + 1):
            yield from _finished(stretch)
            stretch = []
        if picture is not None:
            label = codes.get(frame["token"], {}).get(0)
            stretch.append({"frame": frame, "jpeg": picture, "label": label})
        last = frame["log_index"]
    yield from _finished(stretch)


def _picture(frame: dict[str, Any], size: tuple[int, int], done: Written) -> bytes | None:
    path = _front(frame)
    if not path or not size[0]:
        return None
    name = join(frame["sensor_root"], path)
    try:
        data = read_bytes(name, remedy="the episode ends there")
        return as_jpeg(decode_image(data, size, name=name), size[0])
    except DataError as error:
        done.refused.append(str(error))
        return None


def _finished(stretch: Rows) -> Iterator[Rows]:
    if len(stretch) >= 2:
        yield [_row(stretch, k) for k in range(len(stretch))]


def _row(stretch: Rows, k: int) -> dict[str, Any]:
    frame, label = stretch[k]["frame"], stretch[k]["label"]
    after = stretch[min(k + 1, len(stretch) - 1)]["frame"]
    pose, time_us = np.asarray(frame["ego_pose"]), frame["timestamp_us"]
    gap_s = max((after["timestamp_us"] - time_us) / 1e6, 1e-3)
    rate = float(wrap(after["ego_pose"][2] - pose[2])) / gap_s if after is not frame else 0.0
    said = label if label is not None and label["valid"] else None
    acceleration = frame["ego_acceleration_mps2"]
    return {
        IMAGE: {"bytes": stretch[k]["jpeg"], "path": None},
        "observation.state": [
            float(np.hypot(*frame["ego_velocity_mps"])),
            float(acceleration[0]),
            float(acceleration[1]),
            rate,
        ],
        "action": to_local(pose, np.asarray(after["ego_pose"])).tolist(),
        "latent_action": list(map(int, said["ego_codes"])) if said else [NO_CODE] * 4,
        "latent_action_confidence": (
            list(map(float, said["ego_confidence"])) if said else [0.0] * 4
        ),
        "time_s": (time_us - stretch[0]["frame"]["timestamp_us"]) / 1e6,
        "timestamp": k / FPS,
        "frame_index": k,
        "task_index": int(frame["command"]),
    }


def features(size: tuple[int, int]) -> dict[str, Any]:
    """The features of `meta/info.json`."""
    found: dict[str, Any] = {
        IMAGE: {
            "dtype": "image",
            "shape": [size[1], size[0], 3],
            "names": ["height", "width", "channels"],
        }
    }
    for name, (dtype, parts) in VECTORS.items():
        found[name] = {"dtype": dtype, "shape": [len(parts)], "names": list(parts)}
    for name, dtype in SCALARS.items():
        found[name] = {"dtype": dtype, "shape": [1], "names": None}
    return found


def _write_frames(out: Path, number: int, rows: Rows) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"float32": pa.float32(), "int64": pa.int64()}
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [pa.field(IMAGE, picture)]
    fields += [
        pa.field(name, pa.list_(kinds[dtype], len(parts)))
        for name, (dtype, parts) in VECTORS.items()
    ]
    fields += [pa.field(name, kinds[dtype]) for name, dtype in SCALARS.items()]
    path = out / "data" / f"chunk-{number // CHUNK:03d}" / f"file-{number % CHUNK:03d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(fields)), path)
    return path


def _episode(number: int, rows: Rows, end: int, log: LogRows) -> dict[str, Any]:
    return {
        "episode_index": number,
        "tasks": sorted({TASKS[row["task_index"]] for row in rows}),
        "length": len(rows),
        "data/chunk_index": number // CHUNK,
        "data/file_index": number % CHUNK,
        "dataset_from_index": end - len(rows),
        "dataset_to_index": end,
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
        "log_name": log.name,
        "split": log.split,
    }


def _sums(rows: Rows) -> dict[str, Any]:
    """What statistics need of one episode: (n, sum, sum of squares, min, max) per feature."""
    found = {}
    for name in (*VECTORS, *SCALARS):
        values = np.array([np.atleast_1d(row[name]) for row in rows], float)
        found[name] = _parts(values)
    pixels = [decode_image(row[IMAGE]["bytes"]).reshape(-1, 3) / 255 for row in rows[::10]]
    found[IMAGE] = _parts(np.concatenate(pixels))
    return found


def _parts(values: np.ndarray) -> tuple[Any, ...]:
    squares = (values**2).sum(axis=0)
    return len(values), values.sum(axis=0), squares, values.min(axis=0), values.max(axis=0)


def statistics(totals: list[dict[str, Any]]) -> dict[str, Any]:
    """`meta/stats.json`: of the pictures, every tenth frame."""
    found = {}
    for name in totals[0]:
        count, total, squares, low, high = zip(*(part[name] for part in totals), strict=True)
        n = sum(count)
        mean = sum(total) / n
        spread = np.sqrt(np.maximum(sum(squares) / n - mean**2, 0.0))
        shape = (3, 1, 1) if name == IMAGE else (-1,)
        told = {
            "min": np.min(low, axis=0),
            "max": np.max(high, axis=0),
            "mean": mean,
            "std": spread,
        }
        found[name] = {key: np.reshape(value, shape).tolist() for key, value in told.items()}
        found[name]["count"] = [n]
    return found


def _write_meta(out: Path, size: tuple[int, int], episodes: Rows, totals: Rows) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    meta = out / "meta"
    (meta / "episodes" / "chunk-000").mkdir(parents=True, exist_ok=True)
    info = {
        "codebase_version": "v3.0",
        "robot_type": "car",
        "total_episodes": len(episodes),
        "total_frames": episodes[-1]["dataset_to_index"],
        "total_tasks": len(TASKS),
        "chunks_size": CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": FPS,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": features(size),
    }
    (meta / "info.json").write_text(json.dumps(info, indent=2))
    (meta / "stats.json").write_text(json.dumps(statistics(totals), indent=2))
    path = meta / "episodes" / "chunk-000" / "file-000.parquet"
    pq.write_table(pa.Table.from_pylist(episodes), path)
    tasks = pa.table({"task_index": list(range(len(TASKS))), "task": list(TASKS)})
    # the reader wants the text as index of a pandas frame
    note = {"index_columns": ["task"], "column_indexes": [], "columns": _pandas_columns()}
    pq.write_table(
        tasks.replace_schema_metadata({"pandas": json.dumps(note)}), meta / "tasks.parquet"
    )


def _pandas_columns() -> list[dict[str, Any]]:
    kinds = (("task_index", "int64", "int64"), ("task", "unicode", "object"))
    return [
        {"name": n, "field_name": n, "pandas_type": p, "numpy_type": k, "metadata": None}
        for n, p, k in kinds
    ]
