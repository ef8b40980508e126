"""Judging a checkpoint twice: its plans on held-out logs, and its drives in scenes of other towns.

What is done is kept per checkpoint (open loop) and per scene and checkpoint (drives), so that a
killed study goes on where it was, and a new checkpoint drives alone.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.correlation.checkpoints import Checkpoint
from benchmarks.rl import Part
from latentvla_core.closed_loop.driver import Driver, Observation, checked_plan
from latentvla_core.closed_loop.drivers.baselines import Blind, Human, floor
from latentvla_core.closed_loop.drivers.eyes import Eyes
from latentvla_core.closed_loop.drivers.planners import load_folder
from latentvla_core.closed_loop.episode import Episode, Scene, human_run
from latentvla_core.closed_loop.scenes.prepared import open_prepared
from latentvla_core.closed_loop.scenes.sets import spec_of
from latentvla_core.closed_loop.scores.score import score_run
from latentvla_core.closed_loop.steps import Run
from latentvla_core.geometry import to_local
from latentvla_core.pdms.tensors.torch_score import TorchWorlds
from latentvla_core.planner.baselines import constant_velocity, human
from latentvla_core.planner.plan import plan
from latentvla_core.types import PLAN_STEPS, Array, Command, SceneRecord

SECONDS = 20.0
PICTURE_WH = (224, 126)
"""As the training logs were drawn."""
CUT = "cut"
"""How a run ends here: at T, wherever it is. DS of every length is that of a prefix."""

# ---- open loop ---------------------------------------------------------------------------------


def open_loop(checkpoint: Checkpoint, folder: Path, held_out: Part) -> list[dict[str, Any]]:
    """A row per held-out scene: PDMS and EPDMS of the checkpoint's plan, NaN where there is none."""
    plans = torch.from_numpy(np.asarray(plans_of(checkpoint, folder, held_out), np.float64))
    v1, v2 = (_worlds(held_out, metric) for metric in ("pdms", "epdms"))
    before = plans[v2.previous.clamp(min=0)]
    pdms, epdms = v1.score(plans)["score"], v2.score(plans, previous=before)["score"]
    return [
        {
            "checkpoint": checkpoint.name, "log": record.log_name, "scene": record.scene_token,
            "pdms": float(a), "epdms": float(b),
        }
        for record, a, b in zip(held_out.records, pdms, epdms, strict=True)
    ]  # fmt: skip


_tables: dict[tuple[int, str], TorchWorlds] = {}


def _worlds(part: Part, metric: Any) -> TorchWorlds:
    """Made once per process and part."""
    key = (id(part), metric)
    if key not in _tables:
        _tables[key] = TorchWorlds.from_worlds(part.worlds, metric=metric)
    return _tables[key]


def plans_of(checkpoint: Checkpoint, folder: Path, part: Part) -> Array:
    """(N, 8, 3) plans of the part's scenes, in order."""
    floors: dict[str, Callable[[], Array]] = {
        "stand_still": lambda: np.zeros((len(part.records), PLAN_STEPS, 3)),
        "constant_velocity": lambda: constant_velocity(part.records),
        "blind": lambda: np.stack([Blind().drive(observed(r)) for r in part.records]),
        "human": lambda: human(part.records),
        "pdm_closed": lambda: np.stack([pdm_closed(world) for world in part.worlds]),
    }
    if checkpoint.is_floor:
        return floors[checkpoint.name]()
    driver = load_folder(folder, checkpoint.name, _features(checkpoint))
    return plan(driver.planner, part.records, driver.features_of(part.records))


def _features(checkpoint: Checkpoint) -> Path | None:
    return Path(checkpoint.features) if checkpoint.features else None


def observed(record: SceneRecord) -> Observation:
    """What a driver without cameras may know of a logged scene."""
    return Observation(
        token=record.scene_token,
        time_s=0.0,
        timestamp_us=record.timestamp_us,
        velocity_mps=record.ego_velocity_mps,
        acceleration_mps2=record.ego_acceleration_mps2,
        history_poses=record.history_poses,
        history_velocities_mps=record.history_velocities_mps,
        history_accelerations_mps2=record.history_accelerations_mps2,
        command=Command(record.command),
    )


def pdm_closed(world: Any) -> Array:
    """(8, 3) the reference plan that the score measures progress by."""
    return to_local(world.ego_state[:3], world.reference_v2[5 : 5 * PLAN_STEPS + 1 : 5])


# ---- drives ------------------------------------------------------------------------------------


def drive(driver: Driver, scene: Scene, seconds: float = SECONDS) -> Run:
    """A run in reactive traffic that is cut at T."""
    if isinstance(driver, Human):
        return human_run(scene, "reactive")
    episode = Episode(
        scene,
        eyes=Eyes(driver.cameras, PICTURE_WH),
        privileged=driver.is_privileged,
        driver=driver.name,
    )
    driver.start(scene.spec.seed)
    seen = episode.reset()
    while episode.steps < round(seconds * 10):
        try:
            answer = checked_plan(driver.drive(seen), driver.name)
        except Exception as error:  # a planner may fail in any way; the run says how
            return episode.run("crashed", f"{type(error).__name__}: {error}")
        seen = episode.step(answer)
    return episode.run(CUT)


@lru_cache(maxsize=64)
def driver_of(checkpoint: Checkpoint, planners: Path) -> Driver:
    """Loaded once per process."""
    if checkpoint.is_floor:
        return floor(checkpoint.name)
    folder = Path(checkpoint.folder) if checkpoint.folder else planners / checkpoint.name
    return load_folder(folder, checkpoint.name, _features(checkpoint))


def drive_scene(
    spec: dict[str, Any], checkpoints: Sequence[Checkpoint], planners: Path, out: Path
) -> int:
    """Drives a scene by all who have not driven it; the number of new runs."""
    token = spec_of(spec).token
    missing = [c for c in checkpoints if not part_of(out, c, token).exists()]
    if not missing:
        return 0
    scene, ground, _ = open_prepared(spec_of(spec), SECONDS)
    for checkpoint in missing:
        run = drive(driver_of(checkpoint, planners), scene)
        scored = score_run(run, scene, ground)
        _write(
            part_of(out, checkpoint, token),
            {
                "closed_loop_runs": [run.row()],
                "closed_loop_steps": list(run.rows()),
                "closed_loop_scores": scored.rows,
                "closed_loop_infractions": [i.to_row(run.key) for i in scored.infractions],
            },
        )
    return len(missing)


def part_of(out: Path, checkpoint: Checkpoint, scene: str) -> Path:
    """Where a run's rows of every closed-loop table lie."""
    return out / "runs" / checkpoint.name / f"{scene}.json.gz"


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}.partial")
    with gzip.GzipFile(part, "wb", compresslevel=3, mtime=0) as file:
        file.write(json.dumps(content).encode())
    part.replace(path)


def stored_scores(out: Path, checkpoints: Iterable[Checkpoint]) -> list[dict[str, Any]]:
    """Rows of `closed_loop_scores` of every run that is there, by checkpoint and scene."""
    rows: list[dict[str, Any]] = []
    for checkpoint in checkpoints:
        for path in sorted((out / "runs" / checkpoint.name).glob("*.json.gz")):
            with gzip.open(path, "rb") as file:
                rows += json.loads(file.read())["closed_loop_scores"]
    return rows
