"""`latentvla score`: trajectories on disk + a NAVSIM tree → scores on disk, log by log, on any number of processes.

Reading (`read_trajectories`), scoring one log (`score_log`) and writing (`score_tree`) are separate, so that other
front ends can use the parts.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track

from latentvla_core.data.filters import SceneFilter, iter_scenes, load_filter
from latentvla_core.data.layout import DataRoot
from latentvla_core.data.maps import MapStore
from latentvla_core.data.submissions import read_submission
from latentvla_core.errors import DataError, LatentVLAError, SetupError
from latentvla_core.pdms.metrics import METRIC_VERSIONS, SUB_SCORES
from latentvla_core.pdms.score import score_trajectories
from latentvla_core.pdms.summary import Summary, summarize
from latentvla_core.pdms.world import build
from latentvla_core.types import PLAN_STEPS, Array

COLUMNS = ("scene_token", "trajectory_id", "poses")
FUTURE_FRAMES = {"pdms": 10, "epdms": 8}  # what each metric looks at after the current frame
SHOWN_TRAJECTORIES = 20
Progress = Callable[[int, int], None]
"""Called with (logs done, logs)."""


@dataclass(frozen=True, slots=True)
class Plans:
    """Trajectories by scene: token → trajectory id → poses (8, 3), or the reason why they cannot be scored."""

    of_scene: dict[str, dict[str, Array | str]]

    def __len__(self) -> int:
        return sum(map(len, self.of_scene.values()))


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreReport:
    """What `score_tree` did; as text, the counts and means to show."""

    out: str
    total: Summary
    """Over all rows."""
    by_trajectory: dict[str, Summary]
    """Per trajectory id, if there are several but not too many."""
    faulty_frames: tuple[str, ...] = ()
    """Faults found in the logs; windows over them are no scenes."""
    counted: str = ""
    """What the expected number of scenes was taken from."""

    def __str__(self) -> str:
        lines = [f"{self.total.metric_version}: {self.total.counts()} ({self.counted})", *self._means()]
        if self.faulty_frames:
            lines.append(f"{len(self.faulty_frames)} faults in the logs, first: {self.faulty_frames[0]}")
        return "\n".join([*lines, f"wrote {self.total.rows} rows to {self.out}"])

    def _means(self) -> list[str]:
        width = max(map(len, self.total.means), default=0)
        if not self.by_trajectory:
            if not self.total.complete:
                return ["no mean: not every scene is scored"]
            return [f"  {name:<{width}}  {value:.6f}" for name, value in self.total.means.items()]
        lines = []
        for name, summary in self.by_trajectory.items():
            number = f"{summary.mean():.6f}" if summary.complete else f"no mean, {summary.counts()}"
            lines.append(f"  {name:<24}  {number}")
        return lines


@dataclass(slots=True)
class _Rows:
    """Score rows being collected."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)


def score_tree(
    root: str | Path,
    split: str,
    trajectories: str | Path,
    metric: str,
    out: str | Path,
    *,
    scene_filter: str | SceneFilter | None = None,
    workers: int = 1,
    progress: Progress | None = None,
) -> ScoreReport:
    """Score every trajectory of a file in a NAVSIM tree and write one row for each.

    Args:
        root: folder with navsim_logs/ and maps/ (or maps by $NUPLAN_MAPS_ROOT).
        trajectories: Parquet with `scene_token, trajectory_id, poses` (8 poses x_m, y_m, yaw_rad), or submission.pkl.
        metric: "pdms" (v1.1) or "epdms" (v2.2, one stage, log replay).
        scene_filter: devkit split name, YAML or filter: the scenes that are expected. None: those in the file.
        workers: processes; logs are shared out among them.
        progress: called after each log; None: a bar on the terminal, if there is one.
    """
    if metric not in METRIC_VERSIONS:
        raise SetupError(f"metric is {metric!r}; must be one of {sorted(METRIC_VERSIONS)}")
    check_writable(out)  # before hours of scoring, not after
    place, plans = DataRoot.find(root), read_trajectories(trajectories)
    chosen = load_filter(scene_filter) if isinstance(scene_filter, str) else scene_filter
    counted = "scenes of the filter" if chosen else "scenes named in the file; --filter counts against a whole split"
    chosen = chosen or SceneFilter(
        num_future_frames=FUTURE_FRAMES[metric], frame_interval=1, tokens=frozenset(plans.of_scene)
    )
    collected = _score_logs(place.logs(split), place.maps_root(), chosen, plans, metric, workers, progress)
    expected = collected.tokens if scene_filter else set(plans.of_scene)
    _add_unknown(collected, plans, metric, split)
    _write(collected.rows, out, metric)
    return _report(collected, expected, metric, str(out), counted)


def read_trajectories(path: str | Path) -> Plans:
    """Plans of a Parquet file or a submission.pkl. Rows whose poses are not (8, 3) keep the reason instead.

    Raises:
        SetupError: no such file. DataError: not Parquet, no rows, a column is missing, or a key occurs twice.
    """
    path = Path(path)
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "does not exist"
        raise SetupError(f"{path} {fault}; give a Parquet file with {', '.join(COLUMNS)}, or a submission.pkl")
    if path.suffix == ".pkl":
        poses = read_submission(path).poses()
        return Plans({token: {"submission": np.asarray(plan, np.float64)} for token, plan in poses.items()})
    table = _read_columns(path)
    of_scene: dict[str, dict[str, Array | str]] = {}
    for token, name, poses in zip(*(table[name].to_pylist() for name in COLUMNS), strict=True):
        if not isinstance(token, str) or not isinstance(name, str):
            message = f"a row has scene_token {token!r} and trajectory_id {name!r}; both are its key and must be text"
            raise DataError(message, file=str(path))
        plans = of_scene.setdefault(token, {})
        if name in plans:
            raise DataError(f"trajectory {name!r} occurs twice; keys must be unique", file=str(path), frame=token)
        plans[name] = _poses(poses)
    return Plans(of_scene)


def _read_columns(path: Path) -> pa.Table:
    """COLUMNS of a Parquet file. Raises DataError when it is none, lacks one of them, or has no rows."""
    rule = f"write a Parquet file with the columns {', '.join(COLUMNS)}"
    try:
        names = pq.read_schema(path).names
        absent = [name for name in COLUMNS if name not in names]
        table = pq.read_table(path, columns=list(COLUMNS)) if not absent else None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot be read as Parquet ({error}); {rule}", file=str(path)) from error
    if table is None:
        raise DataError(f"lacks {', '.join(absent)}; has {', '.join(names)}", file=str(path))
    if not table.num_rows:
        raise DataError(f"has no rows, so there is nothing to score; {rule}", file=str(path))
    return table


def check_writable(out: str | Path) -> None:
    """Raises SetupError when a file cannot be written at `out`; makes the folder it lies in."""
    out = Path(out)
    if out.is_dir():
        raise SetupError(f"--out {out} is a folder; give the name of a file to write, e.g. {out / 'scores.parquet'}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = out.with_name(f".{out.name}.{os.getpid()}")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise SetupError(
            f"--out {out} cannot be written ({error.strerror or error}); give a file in a folder of yours"
        ) from error


def _poses(value: Any) -> Array | str:
    """(8, 3) float64, or what is wrong with it."""
    rule = f"a plan needs {PLAN_STEPS} poses of x_m, y_m, yaw_rad"
    if value is None:
        return f"no poses; {rule}"
    try:
        poses = np.array(value, np.float64)
    except (TypeError, ValueError):
        return f"poses are not a regular table of numbers; {rule}"
    return poses if poses.shape == (PLAN_STEPS, 3) else f"poses have shape {poses.shape}; {rule}"


def _score_logs(
    logs: list[str],
    maps_root: str,
    scene_filter: SceneFilter,
    plans: Plans,
    metric: str,
    workers: int,
    progress: Progress | None,
) -> _Rows:
    """Rows of all logs. A limit on the number of scenes concerns all logs together, so then they are not shared out."""
    groups = [logs] if scene_filter.max_scenes is not None else [[log] for log in logs]
    collected, parts = _Rows(), _map(groups, maps_root, scene_filter, plans, metric, workers)
    if progress is None and sys.stderr.isatty():
        parts = track(parts, "scoring logs", len(groups), console=Console(stderr=True), transient=True)
    for done, (rows, tokens, faults) in enumerate(parts, 1):
        collected.rows += rows
        collected.tokens |= tokens
        collected.faults += faults
        if progress:
            progress(done, len(groups))
    return collected


def _map(
    groups: list[list[str]], maps_root: str, scene_filter: SceneFilter, plans: Plans, metric: str, workers: int
) -> Iterable[tuple[list[dict[str, Any]], set[str], list[str]]]:
    if workers <= 1 or len(groups) <= 1:
        yield from (score_logs(group, maps_root, scene_filter, plans, metric) for group in groups)
        return
    context = multiprocessing.get_context("spawn")  # the caller may have threads, which fork would break
    with ProcessPoolExecutor(min(workers, len(groups)), context) as pool:
        jobs = [pool.submit(score_logs, group, maps_root, scene_filter, plans, metric) for group in groups]
        try:
            yield from (job.result() for job in jobs)
        except BrokenProcessPool as error:
            text = f"one of {workers} worker processes was killed, probably for want of memory; use fewer --workers"
            raise LatentVLAError(text) from error


@lru_cache(maxsize=4)
def _maps(root: str) -> MapStore:
    return MapStore(root)


def score_logs(
    logs: list[str], maps_root: str, scene_filter: SceneFilter, plans: Plans, metric: str
) -> tuple[list[dict[str, Any]], set[str], list[str]]:
    """Score rows, tokens of all scenes, and faults of some log files. Scenes without a plan are not built."""
    faults: list[DataError] = []
    worlds, tokens = [], set()
    for scene in iter_scenes(logs, scene_filter, faults=faults):
        tokens.add(scene.token)
        if scene.token in plans.of_scene:
            worlds.append(build(scene, _maps(maps_root).get(scene.current.map_location)))
    good = [{k: p for k, p in plans.of_scene[w.scene_token].items() if not isinstance(p, str)} for w in worlds]
    poses = [np.array(list(p.values())).reshape(-1, PLAN_STEPS, 3) for p in good]
    table = score_trajectories(worlds, poses, metric=metric, trajectory_ids=[tuple(p) for p in good])  # type: ignore[arg-type]
    rows = table.rows()
    for world in worlds:
        bad = {k: p for k, p in plans.of_scene[world.scene_token].items() if isinstance(p, str)}
        rows += [_blank(world.scene_token, name, reason, metric) for name, reason in bad.items()]
    return rows, tokens, [str(fault) for fault in faults]


def _blank(token: str, name: str, reason: str, metric: str) -> dict[str, Any]:
    """A row without scores."""
    scores = dict.fromkeys((*SUB_SCORES[metric], "score"), float("nan"))
    keys = {"scene_token": token, "trajectory_id": name}
    return keys | scores | {"valid": False, "reason": reason, "metric_version": METRIC_VERSIONS[metric]}


def _add_unknown(collected: _Rows, plans: Plans, metric: str, split: str) -> None:
    """One row for every trajectory whose scene does not exist, so that no row of the file is lost."""
    text = f"split {split!r} has no such scene"
    if collected.faults:
        text += f" (its logs have {len(collected.faults)} faults)"
    for token in plans.of_scene.keys() - collected.tokens:
        collected.rows += [_blank(token, name, text, metric) for name in plans.of_scene[token]]
    collected.rows.sort(key=lambda row: (row["scene_token"], row["trajectory_id"]))


def _write(rows: list[dict[str, Any]], out: str | Path, metric: str) -> None:
    """Parquet with one column per key; written beside and moved, so that no half file is left."""
    names = {"scene_token": pa.string(), "trajectory_id": pa.string()}
    names |= dict.fromkeys((*SUB_SCORES[metric], "score"), pa.float64())
    names |= {"valid": pa.bool_(), "reason": pa.string(), "metric_version": pa.string()}
    schema = pa.schema([pa.field(name, kind) for name, kind in names.items()])
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    pq.write_table(pa.Table.from_pylist(rows, schema), beside, compression="zstd")
    beside.replace(out)


def _report(collected: _Rows, expected: set[str], metric: str, out: str, counted: str) -> ScoreReport:
    """Summaries of the rows, over all and by trajectory id."""
    names = sorted({row["trajectory_id"] for row in collected.rows})
    total = _summary(collected.rows, expected, metric)
    split_up = names if 1 < len(names) <= SHOWN_TRAJECTORIES * 2 else []
    parts = {
        name: _summary([row for row in collected.rows if row["trajectory_id"] == name], expected, metric)
        for name in split_up
    }
    return ScoreReport(
        out=out, total=total, by_trajectory=parts, faulty_frames=tuple(collected.faults), counted=counted
    )


def _summary(rows: list[Mapping[str, Any]] | list[dict[str, Any]], expected: set[str], metric: str) -> Summary:
    def column(name: str, kind: type) -> Array:
        return np.array([row[name] for row in rows], kind)

    scores = {name: column(name, float) for name in (*SUB_SCORES[metric], "score")}
    return summarize(
        scores,
        column("scene_token", object),
        column("valid", bool),
        column("reason", object),
        expected=expected,
        metric=metric,
        metric_version=METRIC_VERSIONS[metric],
    )
