"""Writes a world to disk as NAVSIM does: logs, pictures, lidar, maps, and split files. Same seed,
same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from latentvla_core.types import CAMERA_NAMES, FRAME_INTERVAL_S, MAP_LOCATIONS
from latentvla_core.world.actors.driving import STYLES
from latentvla_core.world.log_writer import (
    LogHeader,
    Moment,
    frame_token,
    log_frames,
    picture_path,
    sweep_path,
    write_log,
)
from latentvla_core.world.map_writer import write_map, write_map_index
from latentvla_core.world.scenario import KINDS, TrafficConfig
from latentvla_core.world.sensors.calibration import camera_rig
from latentvla_core.world.session import Recording, record
from latentvla_core.world.splits import write_splits
from latentvla_core.world.state import Scenery
from latentvla_core.world.streets.layout import LayoutConfig
from latentvla_core.world.streets.town import make_town, town_props

MANIFEST = "world.json"
SPLITS = "splits"
FORMAT = 1
"""Raise it when the same seed gives other bytes."""
FIRST_DRIVE = datetime(2021, 5, 25, 14, 16, 10, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorldConfig:
    """What is written. The bytes depend on everything here except `workers`."""

    seed: int = 0
    logs_train: int = 6
    logs_val: int = 1
    """They lie in navsim_logs/trainval like the training logs; only the split files tell them
    apart.
    """
    logs_test: int = 2
    seconds_per_log: float = 20.0
    warm_up_s: float = 5.0
    """Simulated before the first frame, so that traffic has settled."""
    cameras: tuple[str, ...] = ("CAM_F0", "CAM_L0", "CAM_R0")
    """Cameras that are drawn. Frames always name all eight."""
    picture_wh: tuple[int, int] = (448, 252)
    jpeg_quality: int = 88
    lidar: bool = False
    layout: LayoutConfig = field(default_factory=LayoutConfig)
    traffic: TrafficConfig = field(default_factory=TrafficConfig)
    workers: int = 0
    """Processes; 0 = one per CPU."""

    def __post_init__(self) -> None:
        if self.logs_train < 1 or min(self.logs_val, self.logs_test) < 0:
            raise ValueError(
                f"{self.logs_train} train, {self.logs_val} val, {self.logs_test} test logs; needs at least one train log"
            )
        if self.frames_per_log < 14:
            raise ValueError(
                f"{self.seconds_per_log} s give {self.frames_per_log} frames per log; a scene needs 4 + 10, so at least 7 s"
            )
        if unknown := sorted(set(self.cameras) - set(CAMERA_NAMES)):
            raise ValueError(
                f"camera {unknown[0]!r} is unknown; choose from {', '.join(CAMERA_NAMES)}"
            )

    @property
    def frames_per_log(self) -> int:
        return round(self.seconds_per_log / FRAME_INTERVAL_S)

    @property
    def logs(self) -> int:
        return self.logs_train + self.logs_val + self.logs_test

    @classmethod
    def for_logs(cls, logs: int, seed: int, **others: object) -> WorldConfig:
        """`logs` logs in all: about a fifth for test and an eighth for validation, at least one
        each from three on.
        """
        if logs < 1:
            raise ValueError(f"logs is {logs}; at least 1 is needed")
        test = max(1, round(logs * 0.2)) if logs > 1 else 0
        val = max(1, round(logs * 0.12)) if logs > 2 else 0
        return cls(seed=seed, logs_train=logs - test - val, logs_val=val, logs_test=test, **others)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class WorldTree:
    """What was written."""

    root: Path
    logs: dict[str, tuple[str, ...]]
    """Log names of "train", "val" and "test"."""

    @property
    def maps_root(self) -> Path:
        return self.root / "maps"

    def split_file(self, split: str) -> Path:
        """The devkit's split YAML (navtrain-like: every frame with a full window) of "train", "val"
        or "test".
        """
        return self.root / SPLITS / f"world_{split}.yaml"

    def log_path(self, split: str, log_name: str) -> Path:
        return self.root / "navsim_logs" / data_split(split) / f"{log_name}.pkl"


def data_split(split: str) -> str:
    """Folder of a split: validation logs lie among the training logs."""
    return "test" if split == "test" else "trainval"


@dataclass(frozen=True, slots=True)
class LogJob:
    """One log to write, by whatever process."""

    root: str
    config: WorldConfig
    index: int
    split: str
    number: int
    """Counts within the split, so that every split sees all kinds of scenario."""


Progress = Callable[[int, int], None]
"""Called with (frames written, frames in all)."""


def write_world(
    out_dir: str | Path, config: WorldConfig, progress: Progress | None = None
) -> WorldTree:
    """Writes the tree; a finished tree of the same config is left as it is."""
    root, done = Path(out_dir), 0
    total = config.logs * config.frames_per_log
    if (tree := _finished(root, config)) is not None:
        if progress:
            progress(total, total)
        return tree
    (root / MANIFEST).unlink(missing_ok=True)
    write_map_index(root / "maps")
    for location in MAP_LOCATIONS:
        write_map(root / "maps", make_town(config.seed, location, config.layout))
    names: dict[int, str] = {}
    jobs = _jobs(root, config)
    for index, name in _run(jobs, config.workers):
        names[index] = name
        done += config.frames_per_log
        if progress:
            progress(done, total)
    logs = {
        s: tuple(names[j.index] for j in jobs if j.split == s) for s in ("train", "val", "test")
    }
    write_splits(root / SPLITS, logs)
    _write_manifest(root, config, logs)
    return WorldTree(root, logs)


def _jobs(root: Path, config: WorldConfig) -> list[LogJob]:
    counts = {"train": config.logs_train, "val": config.logs_val, "test": config.logs_test}
    order = [(split, number) for split, n in counts.items() for number in range(n)]
    return [
        LogJob(str(root), config, index, split, number)
        for index, (split, number) in enumerate(order)
    ]


def _run(jobs: list[LogJob], workers: int):
    """Yields (index, log name) as logs are finished."""
    workers = min(workers or os.cpu_count() or 1, len(jobs))
    if workers == 1:
        yield from map(write_one_log, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(write_one_log, job) for job in jobs]):
            yield future.result()


def write_one_log(job: LogJob) -> tuple[int, str]:
    """Simulates, draws and writes one log; returns (index, log name). Sensors first, the log pickle
    last.
    """
    config = job.config
    rng = np.random.default_rng([config.seed, 2, job.index])
    location = MAP_LOCATIONS[(job.index + job.index // len(MAP_LOCATIONS)) % len(MAP_LOCATIONS)]
    network = make_town(config.seed, location, config.layout)
    style = list(STYLES)[int(rng.integers(len(STYLES)))]
    kind = KINDS[job.number % len(KINDS)]
    recording = record(
        network,
        kind,
        style,
        config.traffic,
        [config.seed, 3, job.index],
        config.warm_up_s,
        config.frames_per_log,
    )
    header = _header(job, location, recording, rng)
    _write_sensors(job, header, recording, rng)
    path = Path(job.root, "navsim_logs", data_split(job.split), f"{header.log_name}.pkl")
    write_log(path, log_frames(header, recording.moments))
    return job.index, header.log_name


def _header(
    job: LogJob, location: str, recording: Recording, rng: np.random.Generator
) -> LogHeader:
    """Name and tokens in nuPlan's manner; the hour differs from log to log, so names are unique."""
    config = job.config
    start = FIRST_DRIVE + timedelta(
        hours=job.index * 3 + config.seed % 3, seconds=int(rng.integers(0, 3000))
    )
    vehicle = f"veh-{int(rng.integers(10, 60)):02d}"
    second = int(rng.integers(5, 1800))
    stamp = start.strftime("%Y.%m.%d.%H.%M.%S")
    return LogHeader(
        log_name=f"{stamp}_{vehicle}_{second:05d}_{second + round(config.seconds_per_log):05d}",
        vehicle=vehicle,
        location=location,
        origin_m=recording.network.origin_m,
        start_us=round(start.timestamp() + second) * 1_000_000 + int(rng.integers(0, 1_000_000)),
        seed=f"world-{config.seed}-{job.index}",
        route=recording.route,
        cameras=camera_rig(config.picture_wh),
    )


def _write_sensors(
    job: LogJob, header: LogHeader, recording: Recording, rng: np.random.Generator
) -> None:
    config = job.config
    if not config.cameras and not config.lidar:
        return
    from latentvla_core.world.shapes.scenery import make_scenery

    scenery = make_scenery(
        recording.network, town_props(config.seed, header.location, config.layout), rng
    )
    folder = Path(job.root, "sensor_blobs", data_split(job.split))
    if config.cameras:
        _write_pictures(folder, config, header, recording.moments, scenery)
    if config.lidar:
        _write_sweeps(folder, header, recording.moments, scenery)


def _write_pictures(
    folder: Path, config: WorldConfig, header: LogHeader, moments: list[Moment], scenery: Scenery
) -> None:
    from PIL import Image

    from latentvla_core.world.sensors.render import Renderer

    renderer = Renderer(scenery, header.cameras, config.picture_wh)
    for camera in config.cameras:
        (folder / header.log_name / camera).mkdir(parents=True, exist_ok=True)
        for index, moment in enumerate(moments):
            picture = Image.fromarray(renderer.render(moment.snapshot, camera))
            picture.save(
                folder / picture_path(header, camera, index),
                "JPEG",
                quality=config.jpeg_quality,
                subsampling=0,
            )


def _write_sweeps(folder: Path, header: LogHeader, moments: list[Moment], scenery: Scenery) -> None:
    from latentvla_core.data.lidar import write_pcd
    from latentvla_core.world.sensors.lidar import sweep

    for index, moment in enumerate(moments):
        seed = int(frame_token(header, index)[:8], 16)
        write_pcd(folder / sweep_path(header, index), sweep(scenery, moment.snapshot, seed))


def _write_manifest(root: Path, config: WorldConfig, logs: dict[str, tuple[str, ...]]) -> None:
    text = json.dumps(
        {"format": FORMAT, "config": _config_key(config), "logs": logs}, indent=2, sort_keys=True
    )
    partial = root / f"{MANIFEST}.partial"
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(root / MANIFEST)


def _config_key(config: WorldConfig) -> dict[str, object]:
    key = asdict(config)
    del key["workers"]
    return json.loads(json.dumps(key))


def _finished(root: Path, config: WorldConfig) -> WorldTree | None:
    """The tree, if it was written completely with this config."""
    try:
        found = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if found.get("format") != FORMAT or found.get("config") != _config_key(config):
        return None
    return WorldTree(root, {split: tuple(names) for split, names in found["logs"].items()})
