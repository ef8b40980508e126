"""`latentvla score`: trajectories on disk + a NAVSIM tree → scores on disk, log by log, on any number of processes.

Scoring one group of logs (`score_logs`) and everything around it (`score_tree`) are separate, so that other front ends
can use the parts.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import lru_cache, partial
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
from latentvla_core.errors import DataError, LatentVLAError, SetupError
from latentvla_core.pdms.metrics import METRIC_VERSIONS, REACTIVE, SUB_SCORES, metric_of
from latentvla_core.pdms.score import score_trajectories
from latentvla_core.pdms.summary import Summary, summarize
from latentvla_core.pdms.traffic import reaction
from latentvla_core.pdms.world import build
from latentvla_core.scoring.plans import Plans, check_writable, read_trajectories
from latentvla_core.types import PLAN_STEPS, Array

FUTURE_FRAMES = {"pdms": 10, "epdms": 8}  # what each metric looks at after the current frame
TRAFFIC = ("replay", REACTIVE)
SHOWN_TRAJECTORIES = 20
Progress = Callable[[int, int], None]
"""Called with (logs done, logs)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How the plans of a tree are scored; what every process needs to know."""

    maps_root: str
    scene_filter: SceneFilter
    plans: Plans
    metric: str
    traffic: str = "replay"
    """replay, or reactive (v2.2): vehicles brake for the plan."""

    @property
    def version(self) -> str:
        return METRIC_VERSIONS[self.metric] + (f"-{REACTIVE}" if self.traffic == REACTIVE else "")


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
    traffic: str = "replay",
    workers: int = 1,
    progress: Progress | None = None,
) -> ScoreReport:
    """Score every trajectory of a file in a NAVSIM tree and write one row for each.

    Args:
        root: folder with navsim_logs/ and maps/ (or maps by $NUPLAN_MAPS_ROOT).
        trajectories: Parquet with `scene_token, trajectory_id, poses` (8 poses x_m, y_m, yaw_rad), or submission.pkl.
        metric: "pdms" (v1.1) or "epdms" (v2.2, one stage).
        scene_filter: devkit split name, YAML or filter: the scenes that are expected. None: those in the file.
        traffic: "replay" (both metrics' default) or "reactive" (epdms: vehicles follow their lane and brake).
        workers: processes; logs are shared out among them.
        progress: called after each log; None: a bar on the terminal, if there is one.
    Raises:
        SetupError: an argument, a folder or a file is not what it should be. DataError: the file cannot be used.
    """
    check_choice(metric, traffic)
    check_writable(out)  # before hours of scoring, not after
    place, plans = DataRoot.find(root), read_trajectories(trajectories)
    chosen = load_filter(scene_filter) if isinstance(scene_filter, str) else scene_filter
    counted = "scenes of the filter" if chosen else "scenes named in the file; --filter counts against a whole split"
    chosen = chosen or SceneFilter(
        num_future_frames=FUTURE_FRAMES[metric], frame_interval=1, tokens=frozenset(plans.of_scene)
    )
    rules = Rules(maps_root=place.maps_root(), scene_filter=chosen, plans=plans, metric=metric, traffic=traffic)
    collected = _score_logs(place.logs(split), rules, workers, progress)
    expected = collected.tokens if scene_filter else set(plans.of_scene)
    _add_unknown(collected, rules, split)
    write_rows(collected.rows, out, metric)
    return _report(collected, expected, rules.version, str(out), counted)


def check_choice(metric: str, traffic: str) -> None:
    """Raises SetupError for a metric or traffic that does not exist, or that do not go together."""
    if metric not in METRIC_VERSIONS:
        raise SetupError(f"metric is {metric!r}; must be one of {sorted(METRIC_VERSIONS)}")
    if traffic not in TRAFFIC:
        raise SetupError(f"traffic is {traffic!r}; must be one of {', '.join(TRAFFIC)}")
    if traffic == REACTIVE and metric != "epdms":
        raise SetupError("pdms (v1.1) replays the log; reactive traffic belongs to --metric epdms")


def _score_logs(logs: list[str], rules: Rules, workers: int, progress: Progress | None) -> _Rows:
    """Rows of all logs. A limit on the number of scenes concerns all logs together, so then they are not shared out."""
    groups = [logs] if rules.scene_filter.max_scenes is not None else [[log] for log in logs]
    collected = _Rows()
    work = partial(score_logs, rules=rules)
    for rows, tokens, faults in shared_out(work, [(group,) for group in groups], workers, progress):
        collected.rows += rows
        collected.tokens |= tokens
        collected.faults += faults
    return collected


def shared_out(
    work: Callable[..., Any], jobs: list[tuple[Any, ...]], workers: int, progress: Progress | None
) -> Iterator[Any]:
    """`work(*job)` of every job in order, on that many processes, with a bar on the terminal if nobody else shows one.

    What all jobs share belongs into `work` (functools.partial): it is sent once to each process, a job to one of them.
    """
    parts = _results(work, jobs, workers)
    if progress is None and sys.stderr.isatty():
        parts = track(parts, "scoring logs", len(jobs), console=Console(stderr=True), transient=True)
    for done, part in enumerate(parts, 1):
        yield part
        if progress:
            progress(done, len(jobs))


def _results(work: Callable[..., Any], jobs: list[tuple[Any, ...]], workers: int) -> Iterable[Any]:
    if workers <= 1 or len(jobs) <= 1:
        yield from (work(*job) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")  # the caller may have threads, which fork would break
    with ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=_learn, initargs=(work,)) as pool:
        waiting = [pool.submit(_do, *job) for job in jobs]
        try:
            yield from (job.result() for job in waiting)
        except BrokenProcessPool as error:
            text = f"one of {workers} worker processes was killed, probably for want of memory; use fewer --workers"
            raise LatentVLAError(text) from error


_learnt: list[Callable[..., Any]] = []  # in a worker process: what it does with each job


def _learn(work: Callable[..., Any]) -> None:
    _learnt[:] = [work]


def _do(*job: Any) -> Any:
    return _learnt[0](*job)


@lru_cache(maxsize=4)
def maps_of(root: str) -> MapStore:
    """The maps of a folder, read once per process."""
    return MapStore(root)


def score_logs(logs: list[str], rules: Rules) -> tuple[list[dict[str, Any]], set[str], list[str]]:
    """Score rows, tokens of all scenes, and faults of some log files. Scenes without a plan are not built."""
    faults: list[DataError] = []
    worlds, reactions, tokens = [], [], set()
    for scene in iter_scenes(logs, rules.scene_filter, faults=faults):
        tokens.add(scene.token)
        if scene.token in rules.plans.of_scene:
            road_map = maps_of(rules.maps_root).get(scene.current.map_location)
            worlds.append(build(scene, road_map))
            if rules.traffic == REACTIVE:
                reactions.append(reaction(scene, road_map, worlds[-1]) if worlds[-1].valid else None)
    good = [{k: p for k, p in rules.plans.of_scene[w.scene_token].items() if not isinstance(p, str)} for w in worlds]
    poses = [np.array(list(p.values())).reshape(-1, PLAN_STEPS, 3) for p in good]
    table = score_trajectories(
        worlds, poses, metric=rules.metric, trajectory_ids=[tuple(p) for p in good],  # type: ignore[arg-type]
        reactions=reactions if rules.traffic == REACTIVE else None,  # type: ignore[arg-type]
    )  # fmt: skip
    rows = table.rows()
    for world in worlds:
        bad = {k: p for k, p in rules.plans.of_scene[world.scene_token].items() if isinstance(p, str)}
        rows += [blank_row(world.scene_token, name, reason, rules.version) for name, reason in bad.items()]
    return rows, tokens, [str(fault) for fault in faults]


def blank_row(token: str, name: str, reason: str, version: str) -> dict[str, Any]:
    """A row without scores."""
    scores = dict.fromkeys((*SUB_SCORES[metric_of(version)], "score"), float("nan"))
    keys = {"scene_token": token, "trajectory_id": name}
    return keys | scores | {"valid": False, "reason": reason, "metric_version": version}


def _add_unknown(collected: _Rows, rules: Rules, split: str) -> None:
    """One row for every trajectory whose scene does not exist, so that no row of the file is lost."""
    plans, needed = rules.plans, rules.scene_filter.num_future_frames
    text = f"split {split!r} has no such scene (a frame with a route, {needed} frames after it and 3 before)"
    if collected.faults:
        text += f"; its logs have {len(collected.faults)} faults"
    for token in plans.of_scene.keys() - collected.tokens:
        collected.rows += [blank_row(token, name, text, rules.version) for name in plans.of_scene[token]]
    collected.rows.sort(key=lambda row: (row["scene_token"], row["trajectory_id"]))


def write_rows(
    rows: list[dict[str, Any]], out: str | Path, metric: str, extra: Mapping[str, pa.DataType] | None = None
) -> None:
    """Parquet with one column per key; written beside and moved, so that no half file is left. extra: more columns."""
    names = {"scene_token": pa.string(), "trajectory_id": pa.string()}
    names |= dict.fromkeys((*SUB_SCORES[metric], "score"), pa.float64())
    names |= {"valid": pa.bool_(), "reason": pa.string(), "metric_version": pa.string()} | dict(extra or {})
    schema = pa.schema([pa.field(name, kind) for name, kind in names.items()])
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    pq.write_table(pa.Table.from_pylist(rows, schema), beside, compression="zstd")
    beside.replace(out)


def _report(collected: _Rows, expected: set[str], version: str, out: str, counted: str) -> ScoreReport:
    """Summaries of the rows, over all and by trajectory id."""
    names = sorted({row["trajectory_id"] for row in collected.rows})
    total = _summary(collected.rows, expected, version)
    split_up = names if 1 < len(names) <= SHOWN_TRAJECTORIES * 2 else []
    parts = {
        name: _summary([row for row in collected.rows if row["trajectory_id"] == name], expected, version)
        for name in split_up
    }
    return ScoreReport(
        out=out, total=total, by_trajectory=parts, faulty_frames=tuple(collected.faults), counted=counted
    )


def _summary(rows: list[dict[str, Any]], expected: set[str], version: str) -> Summary:
    def column(name: str, kind: type) -> Array:
        return np.array([row[name] for row in rows], kind)

    metric = metric_of(version)
    scores = {name: column(name, float) for name in (*SUB_SCORES[metric], "score")}
    return summarize(
        scores,
        column("scene_token", object),
        column("valid", bool),
        column("reason", object),
        expected=expected,
        metric=metric,
        metric_version=version,
    )
