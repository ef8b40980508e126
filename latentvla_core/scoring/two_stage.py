"""`latentvla score --two-stage`: both stages of v2.2 from a tree (navhard layout), in reactive
traffic, aggregated.

Stage one is original scenes of the logs, stage two the synthetic scenes that continue them 4 s
later (navsim_format.md §2.1, §10; pdms.md §12.3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from latentvla_core.data.filters import SplitSpec, iter_scenes, load_split
from latentvla_core.data.layout import DataRoot
from latentvla_core.data.v2.synthetic_scenes import read_synthetic_scene
from latentvla_core.errors import DataError, DataFaults, SetupError
from latentvla_core.pdms.metrics import METRIC_VERSIONS, REACTIVE, SUB_SCORES
from latentvla_core.pdms.reactive.traffic import reaction
from latentvla_core.pdms.two_stage import (
    StageGroup,
    StageScene,
    TwoStageScore,
    stage_scene,
    two_stage_score,
)
from latentvla_core.pdms.world import World, build
from latentvla_core.scoring.plans import Plans, check_writable, read_trajectories
from latentvla_core.scoring.pool import Progress, shared_out
from latentvla_core.scoring.rows import blank_row, schema, write_rows
from latentvla_core.scoring.tree import Rules, maps_of, warm
from latentvla_core.types import Scene

VERSION = f"{METRIC_VERSIONS['epdms']}-{REACTIVE}"
CHUNK = 32  # synthetic scenes per job
Scored = dict[str, dict[str, StageScene | str]]
"""Token → trajectory id → scored scene, or the reason why not."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoStageReport:
    """What `score_two_stage` did; as text, the counts and means to show."""

    out: str
    rows: int
    expected: tuple[int, int]
    """Scenes the mapping asks for in each stage."""
    results: dict[str, TwoStageScore | str]
    """Trajectory id → means, or why there are none."""
    faults: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"{VERSION}, two stages: {self.expected[0]} + {self.expected[1]} scenes in the mapping"
        ]
        for name, result in self.results.items():
            if isinstance(result, str):
                lines.append(f"  {name}: no score, {result}")
                continue
            parts = {
                "combined": result.combined,
                "stage one": result.stage_one,
                "stage two": result.stage_two,
            }
            lines.append(f"  {name}")
            for column in (*SUB_SCORES["epdms"], "score"):
                values = "  ".join(f"{part} {means[column]:.6f}" for part, means in parts.items())
                lines.append(f"    {column:<32} {values}")
        if self.faults:
            lines.append(f"{len(self.faults)} faults in logs and scenes, first: {self.faults[0]}")
        return "\n".join([*lines, f"wrote {self.rows} rows to {self.out}"])


def score_two_stage(
    root: str | Path,
    split: str,
    trajectories: str | Path,
    out: str | Path,
    *,
    scene_filter: str | Path,
    workers: int = 1,
    progress: Progress | None = None,
) -> TwoStageReport:
    """Score a v2 submission (or table) on both stages of a two-stage split and write one row per
    scene and plan.

    Args:
        root: folder with navsim_logs/, maps/ and NAME/synthetic_scene_pickles/.
        split: folder below navsim_logs/ of the first stage.
        scene_filter: two-stage split of the devkit (name or YAML) with its `reactive_all_mapping`;
        NAME is its name.
    Raises:
        SetupError: the split has no mapping, or the tree no synthetic scenes for it.
    """
    check_writable(out)
    place, plans, spec = (
        DataRoot.find(root),
        read_trajectories(trajectories),
        load_split(scene_filter),
    )
    groups = [StageGroup(pair.now, pair.previous, pair.synthetic) for pair in spec.two_stage]
    if not groups:
        raise SetupError(
            f"split {spec.name!r} has no reactive_all_mapping; without --two-stage it is scored in one stage"
        )
    first = frozenset(token for group in groups for token in (group.now, group.previous))
    second = frozenset(token for group in groups for pair in group.followers for token in pair)
    wanted = replace(spec.filter, tokens=first)
    rules = Rules(
        maps_root=place.maps_root(),
        scene_filter=wanted,
        plans=plans,
        metric="epdms",
        traffic=REACTIVE,
    )
    pickles = _pickles(place, spec)
    jobs: list[tuple[Any, ...]] = [("logs", [log]) for log in place.logs(split)]
    jobs += [("pickles", pickles[i : i + CHUNK]) for i in range(0, len(pickles), CHUNK)]
    scored: Scored = {}
    faults: list[str] = []
    work, first_scene = (
        partial(score_stage, second=second, rules=rules),
        partial(warm, place.logs(split), rules),
    )
    for part, found in shared_out(work, jobs, workers, progress, warm=first_scene):
        scored |= part
        faults += found
    results = {name: _aggregate(name, scored, groups, plans) for name in _names(plans)}
    rows = [
        row
        for name in results
        for row in _rows(name, results[name], scored, plans, (first, second))
    ]
    columns = schema("epdms", {"stage": pa.int8(), "weight": pa.float64()})
    write_rows(pa.Table.from_pylist(rows, columns), out)
    return TwoStageReport(
        out=str(out),
        rows=len(rows),
        expected=(len(first), len(second)),
        results=results,
        faults=tuple(faults),
    )


def _pickles(place: DataRoot, spec: SplitSpec) -> list[str]:
    found = place.synthetic_scenes(spec.name)
    if not found:
        folder = f"{place.root}/{spec.name}/synthetic_scene_pickles"
        raise SetupError(
            f"{folder} has no synthetic scenes; download them there (the split file's name is the folder's)"
        )
    return found


def score_stage(
    kind: str, paths: list[str], second: frozenset[str], rules: Rules
) -> tuple[Scored, list[str]]:
    """The plans of some log files ("logs", stage one) or synthetic scene files ("pickles", stage
    two).
    """
    faults: list[DataError] = []
    scored: Scored = {}
    if kind == "logs":
        for scene in iter_scenes(paths, rules.scene_filter, faults=faults):
            scored[scene.token] = _score_scene(scene, (), rules)
        return scored, [str(fault) for fault in faults]
    for path in paths:
        try:
            synthetic = read_synthetic_scene(path)
        except DataFaults as error:
            faults += error.faults
        except DataError as error:
            faults.append(error)
        else:
            if synthetic.token in second:
                scored[synthetic.token] = _score_scene(
                    synthetic.scene, synthetic.key_frames(), rules
                )
    return scored, [str(fault) for fault in faults]


def _score_scene(
    scene: Scene, extended: tuple[Any, ...], rules: Rules
) -> dict[str, StageScene | str]:
    plans = rules.plans.of_scene.get(scene.token, {})
    if not plans:
        return {}
    road_map = maps_of(rules.maps_root).get(scene.current.map_location)
    world: World = build(scene, road_map, extended=extended)
    if not world.valid:
        return dict.fromkeys(plans, world.reason)
    react = reaction(scene, road_map, world)
    out: dict[str, StageScene | str] = {}
    for name, poses in plans.items():
        try:
            out[name] = poses if isinstance(poses, str) else stage_scene(world, poses, react)
        except DataError as error:
            out[name] = error.reason
    return out


def _names(plans: Plans) -> list[str]:
    return sorted({name for of_scene in plans.of_scene.values() for name in of_scene})


def _aggregate(
    name: str, scored: Scored, groups: list[StageGroup], plans: Plans
) -> TwoStageScore | str:
    """The two-stage score of one trajectory id, or why there is none."""
    found = {token: of_scene[name] for token, of_scene in scored.items() if name in of_scene}
    failed = {token: reason for token, reason in found.items() if isinstance(reason, str)}
    if failed:
        token, reason = next(iter(sorted(failed.items())))
        return f"{len(failed)} scenes cannot be scored, first {token}: {reason}"
    whole = {token: scene for token, scene in found.items() if not isinstance(scene, str)}
    try:
        return two_stage_score(whole, groups)
    except DataError as error:
        return error.reason


def _rows(
    name: str,
    result: TwoStageScore | str,
    scored: Scored,
    plans: Plans,
    stages: tuple[frozenset[str], frozenset[str]],
) -> list[dict[str, Any]]:
    """One row for every plan of one trajectory id, scored or with the reason why not."""
    rows = []
    for token in sorted(token for token, of_scene in plans.of_scene.items() if name in of_scene):
        scene = scored.get(token, {}).get(
            name, "neither the logs nor the synthetic scenes have such a scene"
        )
        reason = scene if isinstance(scene, str) else result if isinstance(result, str) else ""
        row = blank_row(token, name, reason, VERSION)
        if not isinstance(scene, str):
            row |= _known(scene.columns)
        if not isinstance(result, str) and token in result.scenes:
            row |= {**result.scenes[token], "valid": True}
        weight = (
            result.weights.get(token, float("nan")) if not isinstance(result, str) else float("nan")
        )
        stage = next((k for k, tokens in enumerate(stages, 1) if token in tokens), 0)
        rows.append(row | {"stage": stage, "weight": weight})
    return rows


def _known(columns: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in columns.items() if name in SUB_SCORES["epdms"]}
