"""The kinds of files that benchmarks.fuzz mutates: an honest one of each, and who reads it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_STEP = "checkpoints/step_00000007"
_SETTINGS = {"steps": 9, "seed": 0}
_SOURCES = b"""embedded_world: true
splits:
  mine: {format: frames_poses, logs: "${DATA}/drives", part: [0.0, 0.8], filter: {has_route: false}}
  more: {logs: /data/logs, sensors: /data/blobs, maps: /data/maps}
"""
_RECIPE = b"""base: debug
latent: {gap_frames: 2, training: {seed: 1, learning_rate: 0.001}}
planner: {train: {training: {steps: 5}}}
metrics: [pdms]
"""


_YAML = b"""name: drive
pose_ahead_of_rear_axle_m: 1.03
camera_height_m: 1.65
focal_px: [370.7, 370.9]
center_px: [313.1, 95.6]
max_pose_gap_s: 1.0
heading_checked: true
"""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of file."""

    name: str
    honest: bytes
    place: str
    """Where the mutated file goes, below the working folder."""
    read: Callable[[Path], bool]
    """Reads the working folder; whether the result keeps the reader's promise."""


def kinds(world: Path) -> list[Kind]:
    """Honest files of every kind: those of an embedded world, and little ones made here."""
    with tempfile.TemporaryDirectory() as text:
        own = Path(text)
        _write_small(own)
        first = {suffix: next(world.rglob(f"*{suffix}")) for suffix in (".pkl", ".jpg")}
        maps = next(world.rglob("map.gpkg"))
        small = {path.name: path.read_bytes() for path in own.iterdir()}
        models = _trained(own / "trained")
    index = b'{"us-ma-boston": {"version": "1"}}'

    def map_of(folder: Path) -> bool:
        (folder / "nuplan-maps-v1.0.json").write_bytes(index)
        return _map(folder)

    return [
        Kind("log", first[".pkl"].read_bytes(), "log.pkl", _log),
        Kind("submission", small["plans.pkl"], "plans.pkl", _submission),
        Kind("trajectories", small["plans.parquet"], "plans.parquet", _trajectories),
        Kind("map", maps.read_bytes(), "us-ma-boston/1/map.gpkg", map_of),
        Kind("yaml", _YAML, "sequence.yaml", _yaml),
        Kind("csv", small["poses.csv"], "poses.csv", _poses),
        Kind("jpg", first[".jpg"].read_bytes(), "a.jpg", _picture("a.jpg")),
        Kind("png", small["a.png"], "a.png", _picture("a.png")),
        Kind("lidar", small["cloud.pcd"], "cloud.pcd", _lidar),
        Kind("sources", _SOURCES, "sources.yaml", _sources),
        Kind("recipe", _RECIPE, "mine.yaml", _recipe),
        *(
            Kind(name, models[place], place, beside(models, place, reader))
            for name, place, reader in (
                ("weights", "model/model.safetensors", _model),
                ("model config", "model/config.json", _model),
                ("checkpoint", f"{_STEP}/model.safetensors", _checkpoint),
                ("checkpoint state", f"{_STEP}/optimizer.pt", _checkpoint),
                ("checkpoint progress", f"{_STEP}/progress.json", _checkpoint),
            )
        ),
    ]


def beside(
    files: Mapping[str, bytes], mutated: str, read: Callable[[Path], bool]
) -> Callable[[Path], bool]:
    """Reads a folder in which the other files lie, too."""

    def whole(folder: Path) -> bool:
        for name, content in files.items():
            if name != mutated and name.split("/")[0] == mutated.split("/")[0]:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
        if mutated.startswith(_STEP) and not mutated.endswith("progress.json"):
            _sign(folder / _STEP)
        return read(folder)

    return whole


def _sign(step: Path) -> None:
    """Right checksums, so that what lies behind them is reached."""
    import json

    from latentvla_core.training.artifacts import file_sha256

    progress = json.loads((step / "progress.json").read_text())
    progress["sha256"] = {name: file_sha256(step / name) for name in progress["sha256"]}
    (step / "progress.json").write_text(json.dumps(progress))


def _log(folder: Path) -> bool:
    from latentvla_core.data.navsim import read_log_slots

    slots, faults = read_log_slots(folder / "log.pkl")
    if faults:
        raise faults[0]
    return all(np.isfinite(f.ego_pose).all() for f in slots if f is not None)


def _submission(folder: Path) -> bool:
    from latentvla_core.scoring.plans import read_trajectories

    return _are_plans(read_trajectories(folder / "plans.pkl"))


def _trajectories(folder: Path) -> bool:
    from latentvla_core.scoring.plans import read_trajectories

    return _are_plans(read_trajectories(folder / "plans.parquet"))


def _are_plans(plans: Any) -> bool:
    """Every plan is (8, 3) numbers, or says why it is none; every key is a text."""
    found = [
        (token, name, plan) for token, of in plans.of_scene.items() for name, plan in of.items()
    ]
    return all(
        isinstance(token, str) and isinstance(name, str)
        and (bool(plan) if isinstance(plan, str) else plan.shape == (8, 3) and plan.dtype == float)
        for token, name, plan in found
    )  # fmt: skip


def _map(folder: Path) -> bool:
    import shapely

    from latentvla_core.data.map_files.maps import load_map

    road = load_map(folder, "us-ma-boston")
    return bool(np.isfinite(shapely.get_coordinates(road.lanes.shapes)).all())


def _yaml(folder: Path) -> bool:
    from latentvla_core.data.sequences import describe

    found = describe(folder)
    return bool(np.isfinite(found.pose_ahead_of_rear_axle_m)) and found.max_pose_gap_s > 0


def _poses(folder: Path) -> bool:
    from latentvla_core.data.pose_file import check_motion, check_times, read_poses

    file = folder / "poses.csv"
    _, times_s, poses = read_poses(file)
    check_times(times_s, 1.0, str(file))
    check_motion(times_s, poses, str(file), heading=True)
    return bool(np.isfinite(times_s).all() and np.isfinite(poses).all())


def _picture(name: str) -> Callable[[Path], bool]:
    def read(folder: Path) -> bool:
        from latentvla_core.data.cameras import load_image

        return load_image(str(folder), name, (64, 36)).shape == (36, 64, 3)

    return read


def _lidar(folder: Path) -> bool:
    from latentvla_core.data.lidar import read_pcd

    points = read_pcd(folder / "cloud.pcd")
    return (
        points.shape[0] == 6 and points.dtype == np.float32 and bool(np.isfinite(points[:3]).all())
    )


def _model(folder: Path) -> bool:
    """A model folder whose weights or configuration were changed; the checksum is made right, so
    that what lies behind it is reached.
    """
    import json

    from latentvla_core.planner.model import load
    from latentvla_core.training.artifacts import file_sha256

    config = folder / "model" / "config.json"
    try:
        content = json.loads(config.read_text())
        if "weights_sha256" in content:
            content["weights_sha256"] = file_sha256(folder / "model" / "model.safetensors")
            config.write_text(json.dumps(content))
    except (ValueError, TypeError, OSError):
        pass  # the reader says so
    return sum(p.numel() for p in load(folder / "model").parameters()) > 0


def _checkpoint(folder: Path) -> bool:
    """The newest checkpoint of a training; resumed with its own settings."""
    import torch

    from latentvla_core.training import checkpoint

    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    return checkpoint.load(folder / "checkpoints", network, optimizer, _SETTINGS) == 7


def _sources(folder: Path) -> bool:
    from pipelines.settings import read_sources

    found = read_sources(folder / "sources.yaml", {"DATA": "/data"}, folder)
    return all(source.split and source.logs and source.format for source in found)


def _recipe(folder: Path) -> bool:
    from latentvla_core.recipes import recipe_named

    return recipe_named(str(folder / "mine.yaml")).name == "mine"


def _trained(folder: Path) -> dict[str, bytes]:
    """Relative name → content of a tiny model's folder and of a checkpoint."""
    import torch

    from latentvla_core.planner.baselines import EgoStatusConfig, EgoStatusMlp
    from latentvla_core.planner.model import save
    from latentvla_core.training import checkpoint

    save(EgoStatusMlp(EgoStatusConfig.debug()), folder / "model")
    network = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint.save(folder / "checkpoints", network, optimizer, 7, _SETTINGS)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def _write_small(folder: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    from latentvla_core.data.lidar import write_pcd
    from latentvla_core.data.v2.submissions import Plan, Submission, write_submission

    t = np.arange(0, 4, 0.1)
    rows = [f"{i:06d},{s:.3f},{8 * s:.4f},0.0,0.0" for i, s in enumerate(t)]
    (folder / "poses.csv").write_text("\n".join(["frame,timestamp_s,x,y,heading", *rows]))
    grey = np.arange(36 * 64 * 3, dtype=np.uint8).reshape(36, 64, 3)
    Image.fromarray(grey).save(folder / "a.png")
    write_pcd(folder / "cloud.pcd", np.abs(np.random.default_rng(0).normal(5, 1, (6, 50))))
    plan = [[float(i), 0.0, 0.0] for i in range(8)]
    tokens = [f"{i:016x}" for i in range(20)]
    columns = {"scene_token": tokens, "trajectory_id": ["a"] * 20, "poses": [plan] * 20}
    pq.write_table(pa.table(columns), folder / "plans.parquet")
    found = {token: Plan(np.array(plan, np.float32)) for token in tokens}
    write_submission(folder / "plans.pkl", Submission(version="v1", first_stage=found))
