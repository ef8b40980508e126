"""`latentvla score`: trajectories on disk + a NAVSIM tree → scores on disk, log by log, on any
number of processes.

Scoring one group of logs (`score_logs`) and everything around it (`score_tree`) are separate, so
that other front ends can use the parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from latentvla_core.data.filters import SceneFilter, iter_scenes, load_filter
from latentvla_core.data.layout import DataRoot
from latentvla_core.data.map_files.maps import MapStore
from latentvla_core.errors import DataError, SetupError
from latentvla_core.pdms.metrics import METRIC_VERSIONS, REACTIVE, SUB_SCORES, metric_of
from latentvla_core.pdms.reactive.traffic import reaction
from latentvla_core.pdms.score import score_trajectories
from latentvla_core.pdms.summary import Summary, summarize
from latentvla_core.pdms.world import build
from latentvla_core.scoring.plans import Plans, check_writable, read_trajectories
from latentvla_core.scoring.pool import Progress, shared_out
from latentvla_core.scoring.rows import as_rows, blank_rows, in_order, schema, write_rows
from latentvla_core.types import PLAN_STEPS, Scene

FUTURE_FRAMES = {"pdms": 10, "epdms": 8}  # what each metric looks at after the current frame
TRAFFIC = ("replay", REACTIVE)
SHOWN_TRAJECTORIES = 20


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
        lines = [
            f"{self.total.metric_version}: {self.total.counts()} ({self.counted})",
            *self._means(),
        ]
        if self.faulty_frames:
            lines.append(
                f"{len(self.faulty_frames)} faults in the logs, first: {self.faulty_frames[0]}"
            )
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


@dataclass(frozen=True, slots=True)
class LogScores:
    """What was found in some log files."""

    rows: pa.Table
    """Columns of `rows.schema`."""
    tokens: frozenset[str]
    """All scenes, with a plan or without."""
    faults: tuple[str, ...]

    @staticmethod
    def of(parts: Iterable[LogScores], metric: str) -> LogScores:
        """All parts together."""
        rows, tokens, faults = [schema(metric).empty_table()], set[str](), list[str]()
        for part in parts:
            rows.append(part.rows)
            tokens |= part.tokens
            faults += part.faults
        return LogScores(pa.concat_tables(rows), frozenset(tokens), tuple(faults))


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
        trajectories: Parquet with `scene_token, trajectory_id, poses` (8 poses x_m, y_m, yaw_rad),
        or submission.pkl.
        metric: "pdms" (v1.1) or "epdms" (v2.2, one stage).
        scene_filter: devkit split name, YAML or filter: the scenes that are expected. None: those
        in the file.
        traffic: "replay" (both metrics' default) or "reactive" (epdms: vehicles follow their lane
        and brake).
        workers: processes; logs are shared out among them.
        progress: called after each log; None: a bar on the terminal, if there is one.
    Raises:
        SetupError: an argument, a folder or a file is not what it should be. DataError: the file
        cannot be used.
    """
    check_choice(metric, traffic)
    check_writable(out)  # before hours of scoring, not after
    place, plans = DataRoot.find(root), read_trajectories(trajectories)
    chosen = load_filter(scene_filter) if isinstance(scene_filter, str) else scene_filter
    counted = (
        "scenes of the filter"
        if chosen
        else "scenes named in the file; --filter counts against a whole split"
    )
    chosen = chosen or SceneFilter(
        num_future_frames=FUTURE_FRAMES[metric], frame_interval=1, tokens=frozenset(plans.of_scene)
    )
    rules = Rules(
        maps_root=place.maps_root(),
        scene_filter=chosen,
        plans=plans,
        metric=metric,
        traffic=traffic,
    )
    found = LogScores.of(_score_logs(place.logs(split), rules, workers, progress), metric)
    expected = set(found.tokens if scene_filter else plans.of_scene)
    rows = in_order([found.rows, _unknown(found, rules, split)])
    write_rows(rows, out)
    return _report(rows, found.faults, expected, rules.version, str(out), counted)


def check_choice(metric: str, traffic: str) -> None:
    """Raises SetupError for a metric or traffic that does not exist, or that do not go together."""
    if metric not in METRIC_VERSIONS:
        raise SetupError(f"metric is {metric!r}; must be one of {sorted(METRIC_VERSIONS)}")
    if traffic not in TRAFFIC:
        raise SetupError(f"traffic is {traffic!r}; must be one of {', '.join(TRAFFIC)}")
    if traffic == REACTIVE and metric != "epdms":
        raise SetupError("pdms (v1.1) replays the log; reactive traffic belongs to --metric epdms")


def _score_logs(
    logs: list[str], rules: Rules, workers: int, progress: Progress | None
) -> Iterator[LogScores]:
    """Scores of all logs. A limit on the number of scenes concerns all logs together, so then they
    are not shared out.
    """
    groups = [logs] if rules.scene_filter.max_scenes is not None else [[log] for log in logs]
    work = partial(score_logs, rules=rules)
    return shared_out(
        work, [(group,) for group in groups], workers, progress, warm=partial(warm, logs, rules)
    )


def warm(logs: list[str], rules: Rules) -> None:
    """Score one scene of the first log that has one, for its side effects: kernels and a map are
    loaded.
    """
    scenes = (
        scene
        for scene in iter_scenes(logs, rules.scene_filter, faults=[])
        if scene.token in rules.plans.of_scene
    )
    for scene in islice(scenes, 1):
        _score_scenes([scene], rules)


@lru_cache(maxsize=4)
def maps_of(root: str) -> MapStore:
    """The maps of a folder, read once per process."""
    return MapStore(root)


def score_logs(logs: list[str], rules: Rules) -> LogScores:
    """Scores of some log files. Scenes without a plan are not built."""
    faults: list[DataError] = []
    scenes, tokens = [], set()
    for scene in iter_scenes(logs, rules.scene_filter, faults=faults):
        tokens.add(scene.token)
        if scene.token in rules.plans.of_scene:
            scenes.append(scene)
    return LogScores(_score_scenes(scenes, rules), frozenset(tokens), tuple(map(str, faults)))


def _score_scenes(scenes: list[Scene], rules: Rules) -> pa.Table:
    """Rows of all plans of some scenes."""
    worlds, reactions = [], []
    for scene in scenes:
        road_map = maps_of(rules.maps_root).get(scene.current.map_location)
        worlds.append(build(scene, road_map))
        if rules.traffic == REACTIVE:
            reactions.append(reaction(scene, road_map, worlds[-1]) if worlds[-1].valid else None)
    plans = {scene.token: rules.plans.of_scene[scene.token] for scene in scenes}
    good = [
        {k: p for k, p in of_scene.items() if not isinstance(p, str)} for of_scene in plans.values()
    ]
    poses = [np.array(list(p.values())).reshape(-1, PLAN_STEPS, 3) for p in good]
    table = score_trajectories(
        worlds,
        poses,
        metric=rules.metric,  # type: ignore[arg-type]
        trajectory_ids=[tuple(p) for p in good],  # type: ignore[arg-type]
        reactions=reactions if rules.traffic == REACTIVE else None,  # type: ignore[arg-type]
    )
    bad = {
        token: {k: p for k, p in of_scene.items() if isinstance(p, str)}
        for token, of_scene in plans.items()
    }
    return pa.concat_tables(
        [as_rows(table).replace_schema_metadata(), blank_rows(bad, rules.version)]
    )


def _unknown(found: LogScores, rules: Rules, split: str) -> pa.Table:
    """One row for every trajectory whose scene does not exist, so that no row of the file is lost."""
    plans, needed = rules.plans, rules.scene_filter.num_future_frames
    text = f"split {split!r} has no such scene (a frame with a route, {needed} frames after it and 3 before)"
    if found.faults:
        text += f"; its logs have {len(found.faults)} faults"
    absent = plans.of_scene.keys() - found.tokens
    return blank_rows(
        {token: dict.fromkeys(plans.of_scene[token], text) for token in absent}, rules.version
    )


def _report(
    rows: pa.Table,
    faults: tuple[str, ...],
    expected: set[str],
    version: str,
    out: str,
    counted: str,
) -> ScoreReport:
    """Summaries of the rows, over all and by trajectory id."""
    ids = rows["trajectory_id"].to_numpy()
    names = sorted(rows["trajectory_id"].unique().to_pylist())
    split_up = names if 1 < len(names) <= SHOWN_TRAJECTORIES * 2 else []
    parts = {
        name: _summary(rows.filter(pa.array(ids == name)), expected, version) for name in split_up
    }
    total = _summary(rows, expected, version)
    return ScoreReport(
        out=out, total=total, by_trajectory=parts, faulty_frames=faults, counted=counted
    )


def _summary(rows: pa.Table, expected: set[str], version: str) -> Summary:
    columns = {name: rows[name].to_numpy() for name in rows.column_names}
    metric = metric_of(version)
    return summarize(
        {name: columns[name] for name in (*SUB_SCORES[metric], "score")},
        columns["scene_token"],
        columns["valid"],
        columns["reason"],
        expected=expected,
        metric=metric,
        metric_version=version,
    )
