"""Scenes as WebDataset shards: plain tar files, one sample per scene, readable as a stream.

A sample `TOKEN` has `TOKEN.front.jpg` (the front picture now), `TOKEN.json` (state, command, codes
by who says them, where it comes from) and `TOKEN.future.npy` ((F, 3) human poses, ego frame,
metres and radians).
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.errors import DataError
from latentvla_core.lake.store import Lake
from latentvla_core.types import FRONT_CAMERA, SceneRecord
from latentvla_core.viz.site.files import figures, file_name
from latentvla_core.viz.site.options import ViewOptions
from latentvla_core.viz.site.pictures import scaled
from latentvla_core.viz.site.read import LogRows, chosen_scenes, read_log
from latentvla_core.viz.site.sentences import MISSING, predicted, sentence

PER_SHARD = 1000


@dataclass
class Written:
    """What an export wrote, and what it had to leave out."""

    samples: int = 0
    files: list[Path] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)


def write_shards(lake: Lake, options: ViewOptions, per_shard: int = PER_SHARD) -> Written:
    """Write `<split>-000000.tar` …; a scene whose front picture cannot be read is left out and
    told.
    """
    done, split = Written(), ""
    options.out.mkdir(parents=True, exist_ok=True)
    shard: tarfile.TarFile | None = None
    count = number = 0
    chosen = chosen_scenes(lake, options)
    try:
        for place in sorted(chosen, key=lambda p: (p[0], p[2])):
            log = read_log(lake, place, chosen[place])
            for name, sample in _samples(log, options.width_px, done):
                if shard is None or log.split != split or count >= per_shard:
                    number = number + 1 if log.split == split else 0
                    count, split = 0, log.split
                    shard = _next(shard, options.out / f"{split}-{number:06d}.tar", done)
                for suffix, data in sample.items():
                    _add(shard, f"{name}.{suffix}", data)
                count += 1
                done.samples += 1
    finally:
        if shard is not None:
            shard.close()
    return done


def _next(shard: tarfile.TarFile | None, path: Path, done: Written) -> tarfile.TarFile:
    if shard is not None:
        shard.close()
    done.files.append(path)
    return tarfile.open(path, "w")


def _add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    """Same rows, same bytes: no time, no owner."""
    entry = tarfile.TarInfo(name)
    entry.size, entry.mtime = len(data), 0
    shard.addfile(entry, io.BytesIO(data))


def _samples(log: LogRows, width_px: int, done: Written) -> Iterator[tuple[str, dict[str, bytes]]]:
    for record in log.records:
        sample = {"json": json.dumps(facts(log, record), sort_keys=True).encode()}
        future = io.BytesIO()
        np.save(future, np.asarray(record.future_poses, np.float32))
        sample["future.npy"] = future.getvalue()
        if width_px and FRONT_CAMERA in record.camera_names:
            path = record.camera_paths[record.camera_names.index(FRONT_CAMERA)]
            try:
                sample["front.jpg"] = scaled(record.sensor_root, path, width_px)
            except DataError as error:
                done.refused.append(str(error))
                continue
        # a dot would end the key of a sample
        yield file_name(record.scene_token).replace(".", "~2E"), sample


def facts(log: LogRows, record: SceneRecord) -> dict[str, Any]:
    """State, command and codes of a scene; null where nobody says a code."""
    token = record.scene_token
    labels = log.labels.get(token, [])
    return {
        "scene_token": token,
        "log_name": log.name,
        "split": log.split,
        "map_location": record.map_location,
        "timestamp_us": record.timestamp_us,
        "command": int(record.command),
        "velocity_mps": figures(record.ego_velocity_mps, 4),
        "acceleration_mps2": figures(record.ego_acceleration_mps2, 4),
        "history_poses": figures(record.history_poses, 4),
        "codes": {
            "label": _known(sentence(labels)),
            "teacher": _known(predicted(log.teacher.get(token))),
            "student": _known(predicted(log.student.get(token))),
        },
        "label_model": labels[0]["model_version"] if labels else "",
    }


def _known(codes: np.ndarray) -> list[int | None]:
    return [None if code == MISSING else int(code) for code in codes]
