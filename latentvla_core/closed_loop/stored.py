"""Closed loop in three steps that can be stored between them: a set is frozen, somebody drives it,
the runs are scored. Each step keeps what it has done scene by scene, so a kill costs one scene.

`drive_set` does the same in one go, for `latentvla drive`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from latentvla_core.closed_loop.config import ClosedLoopConfig
from latentvla_core.closed_loop.driver import Driver
from latentvla_core.closed_loop.drivers.baselines import floor
from latentvla_core.closed_loop.drivers.planners import load_folder
from latentvla_core.closed_loop.episode import prepare_scene, run_episode
from latentvla_core.closed_loop.pool import in_order
from latentvla_core.closed_loop.scenes.prepared import open_prepared
from latentvla_core.closed_loop.scenes.sets import Search, Verdict, judge, spec_of
from latentvla_core.closed_loop.scenes.situations import situation
from latentvla_core.closed_loop.scenes.spec import SceneSpec
from latentvla_core.closed_loop.scores.score import score_run
from latentvla_core.closed_loop.steps import run_of

Row = Mapping[str, Any]
Stored = tuple[dict[str, Any], list[dict[str, Any]]]
"""A row of `closed_loop_runs` and its rows of `closed_loop_steps`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Who is at the wheel: a floor by its name, or a saved planner."""

    name: str
    folder: str = ""
    """Of the planner; empty for a floor."""
    features: str = ""
    """Folder of the student or VLM that a fused planner reads."""
    model_version: str = ""

    def driver(self) -> Driver:
        """Loaded once per process."""
        return _driver(self)

    def key(self, config: ClosedLoopConfig) -> str:
        """Names its runs: those of other weights or another configuration are no use."""
        text = json.dumps([self.name, self.model_version, asdict(config)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache(maxsize=4)
def _driver(seat: Seat) -> Driver:
    if not seat.folder:
        return floor(seat.name)
    features = Path(seat.features) if seat.features else None
    return load_folder(Path(seat.folder), seat.name, features)


# ---- the set -----------------------------------------------------------------------------------


def scene_rows(
    config: ClosedLoopConfig, workers: int, progress: Callable[[int, int], None] | None = None
) -> list[dict[str, Any]]:
    """Rows of `closed_loop_scenes`: every candidate that was judged, set by set."""
    return [row for seed in config.seeds for row in _set_rows(config, seed, workers, progress)]


def _set_rows(
    config: ClosedLoopConfig,
    seed: int,
    workers: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[dict[str, Any]]:
    search = Search(config.situations, config.per_situation, seed)
    work, number = partial(judge, seconds=config.seconds), 0
    wanted, found = len(config.situations) * config.per_situation, 0
    for verdict in in_order(work, search.specs(), workers):
        before = sum(search.tried.values())
        found += search.take(verdict)
        if sum(search.tried.values()) > before:
            yield _scene_row(verdict, seed, number)
            number += 1
        if progress:
            progress(found, wanted)


def _scene_row(verdict: Verdict, set_seed: int, number: int) -> dict[str, Any]:
    spec = verdict.spec
    return {
        "scene": spec.token,
        "situation": spec.situation,
        "location": spec.location,
        "set_seed": set_seed,
        "number": number,
        "spec": json.dumps(spec.to_row(), sort_keys=True),
        "is_scene": not verdict.reason,
        "reason": verdict.reason,
        "is_dangerous": situation(spec.situation).is_dangerous,
        "reference_impact_mps": verdict.reference_impact_mps,
    }


def driven_scenes(rows: Iterable[Row]) -> list[Row]:
    """The scenes among candidates, in the order in which they were tried."""
    chosen = [row for row in rows if row["is_scene"]]
    return sorted(chosen, key=lambda row: (row["set_seed"], row["number"]))


# ---- the drives --------------------------------------------------------------------------------


def drive_scenes(
    seat: Seat, scenes: Sequence[Row], config: ClosedLoopConfig, folder: Path, workers: int
) -> Iterator[list[Stored]]:
    """The runs of a driver, scene by scene; what lies in the folder already is not driven again."""
    folder.mkdir(parents=True, exist_ok=True)
    specs = [spec_of(json.loads(row["spec"])) for row in scenes]
    work = partial(_drive, seat=seat, config=config, folder=folder)
    for path in in_order(work, specs, workers):
        with gzip.open(path, "rb") as file:
            yield [(row, steps) for row, steps in json.loads(file.read())]


def _drive(spec: SceneSpec, seat: Seat, config: ClosedLoopConfig, folder: Path) -> Path:
    path = folder / f"{spec.token}.json.gz"
    if path.exists():
        return path
    scene, driver = prepare_scene(spec, config.seconds), seat.driver()
    runs = [
        run_episode(driver, scene, traffic=kind, picture_wh=config.picture_wh)  # type: ignore[arg-type]
        for kind in config.traffic
    ]
    content = [(run.row(), list(run.rows())) for run in runs]
    partial_path = path.with_suffix(".partial")
    with gzip.GzipFile(partial_path, "wb", compresslevel=3, mtime=0) as file:
        file.write(json.dumps(content).encode())
    partial_path.replace(path)
    return path


# ---- the scores --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judged:
    """What the runs of one scene are worth."""

    scores: list[dict[str, Any]]
    """Rows of `closed_loop_scores`."""
    infractions: list[dict[str, Any]]


def score_stored(scene: Row, runs: Sequence[Stored], seconds: float) -> Judged:
    """Scores of stored runs of one scene, which is a row of `closed_loop_scenes`."""
    prepared, ground, _ = open_prepared(spec_of(json.loads(scene["spec"])), seconds)
    scores, infractions = [], []
    for row, steps in runs:
        run = run_of(row, steps)
        impact = float(scene["reference_impact_mps"])
        scored = score_run(run, prepared, ground, reference_impact_mps=impact)
        scores += scored.rows
        infractions += [found.to_row(run.key) for found in scored.infractions]
    return Judged(scores, infractions)


def score_scenes(
    work: Iterable[tuple[Row, Sequence[Stored]]], seconds: float, workers: int
) -> Iterator[Judged]:
    """`score_stored` of many scenes, side by side."""
    return in_order(partial(_score, seconds=seconds), work, workers)


def _score(item: tuple[Row, Sequence[Stored]], seconds: float) -> Judged:
    return score_stored(*item, seconds)
