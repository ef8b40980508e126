"""From logs to what the study needs: scenes with their worlds, what is seen of them, their codes.

Each step is a function of files and seeds and is kept in a folder, so that a study that was stopped
goes on where it was. Only arrays are stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.data.filters import SceneFilter, iter_scenes
from latentvla_core.data.map_files.maps import MapStore
from latentvla_core.data.records import scene_record
from latentvla_core.encoders.encoder import EncoderConfig, FrozenEncoder
from latentvla_core.evidence.eye import Eye, EyeConfig
from latentvla_core.evidence.scenes import Scenes, check_disjoint, scenes_of
from latentvla_core.evidence.situations import situation_of
from latentvla_core.evidence.told import Sights
from latentvla_core.latent.config import LatentActionConfig
from latentvla_core.latent.label import label_scenes
from latentvla_core.latent.model import LatentActionModel
from latentvla_core.latent.train import train_latent_action_model
from latentvla_core.pdms.world import World, build
from latentvla_core.training.images import ImageCache
from latentvla_core.types import Array, SceneRecord

STUDENT_DIM = 64
"""Numbers of the student's smaller eye: the first components of the whole view, now."""
LATENT_STRIDE = 4


@dataclass(frozen=True, slots=True)
class Log:
    """One log and what it is for."""

    root: Path
    """Tree in NAVSIM's layout: navsim_logs/, sensor_blobs/, maps/."""
    split: str
    """Folder below navsim_logs/."""
    name: str
    role: str


@dataclass(frozen=True, slots=True)
class Material:
    """Scenes of all roles in one order, and what scoring and labelling need."""

    scenes: Scenes
    worlds: list[World]
    records: list[SceneRecord]


def read_logs(logs: Sequence[Log]) -> Material:
    """Every window of 4 history and 10 future frames of the logs."""
    by_role: dict[str, list[str]] = {}
    for log in logs:
        by_role.setdefault(log.role, []).append(log.name)
    check_disjoint(by_role)
    maps: dict[Path, MapStore] = {}
    parts, worlds, records = [], [], []
    for log in logs:
        store = maps.setdefault(log.root, MapStore(log.root / "maps"))
        path = log.root / "navsim_logs" / log.split / f"{log.name}.pkl"
        found = list(iter_scenes([path], SceneFilter(frame_interval=1), faults=[]))
        own = [scene_record(s, str(log.root / "sensor_blobs" / log.split)) for s in found]
        new = [build(scene, store.get(scene.current.map_location)) for scene in found]
        situations = [situation_of(r, w) for r, w in zip(own, new, strict=True)]
        parts.append(scenes_of(own, situations, log.role))
        worlds += new
        records += own
    return Material(Scenes.concat(parts), worlds, records)


def gather(
    records: Mapping[str, Sequence[SceneRecord]], worlds: Mapping[str, Sequence[World | None]]
) -> Material:
    """Material of scenes by role whose worlds are known; a scene without a world is left out."""
    check_disjoint({role: [r.log_name for r in found] for role, found in records.items()})
    parts, kept_worlds, kept_records = [], [], []
    for role, found in records.items():
        both = [(r, w) for r, w in zip(found, worlds[role], strict=True) if w is not None]
        own = [record for record, _ in both]
        situations = [situation_of(record, world) for record, world in both]
        parts.append(scenes_of(own, situations, role))
        kept_worlds += [world for _, world in both]
        kept_records += own
    return Material(Scenes.concat(parts), kept_worlds, kept_records)


def look(material: Material, config: EyeConfig, encoder: EncoderConfig) -> dict[str, Array]:
    """`features` (P, D) of P pictures, `rows` (N, 2) of the scenes' two, `black` (D,)."""
    scenes, roots = material.scenes, _roots(material.records)
    paths = sorted(set(scenes.pictures.reshape(-1).tolist()))
    free = sorted(set(scenes.pictures[scenes.of_role("unlabelled")].reshape(-1).tolist()))
    eye = Eye(FrozenEncoder(encoder), config)
    eye.fit([(roots[path], path) for path in free])
    place = {path: row for row, path in enumerate(paths)}
    rows = np.array([[place[path] for path in pair] for pair in scenes.pictures.tolist()])
    seen = eye([(roots[path], path) for path in paths])
    return {"features": seen, "rows": rows, "black": eye.black()}


def _roots(records: Iterable[SceneRecord]) -> dict[str, str]:
    return {path: r.sensor_root for r in records for path in r.front_paths}


def latent_codes(
    material: Material, config: LatentActionConfig, folder: Path
) -> tuple[Array, LatentActionModel]:
    """(N, 12) codes of a latent model that is trained on every fourth window of `unlabelled`: two
    seconds apart, since a window has three transitions of one second.
    """
    scenes, chosen = material.scenes, []
    seen: Counter[str] = Counter()
    for row in scenes.of_role("unlabelled"):
        record = material.records[row]
        if seen[record.log_name] % LATENT_STRIDE == 0:
            chosen.append(record)
        seen[record.log_name] += 1
    model = train_latent_action_model(chosen, config, checkpoint_dir=folder)
    return label_by_log(material.records, model), model


def label_by_log(records: Sequence[SceneRecord], model: LatentActionModel) -> Array:
    """(N, 12), log by log, so that pictures are let go of."""
    cache, parts, start = ImageCache(model.config.features.image_size_wh), [], 0
    for stop in range(1, len(records) + 1):
        if stop == len(records) or records[stop].log_name != records[start].log_name:
            cache.forget()
            parts.append(label_scenes(records[start:stop], model, cache=cache).codes)
            start = stop
    return np.concatenate(parts)


def sights_of(looked: Mapping[str, Array], codes: Array) -> Sights:
    """What a seed's sources are made from."""
    features, rows = looked["features"], looked["rows"]
    return Sights(
        features[rows].reshape(len(rows), -1),
        features[rows[:, 0], :STUDENT_DIM].copy(),
        np.tile(looked["black"], 2),
        codes.astype(np.int64),
    )


def kept(path: Path, make: Callable[[], Mapping[str, Array]]) -> dict[str, Array]:
    """Arrays of a .npz file, made when it is not there; written whole or not at all."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"partial-{path.name}")
        arrays: dict[str, Any] = dict(make())
        np.savez(partial, **arrays)
        partial.replace(path)
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}
