"""Plans → scores: many scenes × many proposals at once. The public face of the package.

Every proposal is scored as if it were alone with the scene's reference (PDM-Closed), so a score
does not depend on what else is in the batch. Source: pdms.md §8 to §11.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from latentvla_core.errors import DataError
from latentvla_core.pdms import aggregate
from latentvla_core.pdms.measure import Reaction, SceneScore, score_scene_v1, score_scene_v2
from latentvla_core.pdms.metrics import METRIC_VERSIONS, REACTIVE, SUB_SCORES, Metric
from latentvla_core.pdms.motion.comfort import MAX_FRAME_GAP_S, two_frame_comfort
from latentvla_core.pdms.table import ScoreTable
from latentvla_core.pdms.world import World
from latentvla_core.types import PLAN_STEPS, Array


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreConfig:
    """How plans are scored. The defaults are the devkit's."""

    metric: Metric = "pdms"
    """pdms: NAVSIM v1.1; epdms: NAVSIM v2.2, one stage, log replay."""
    interval_s: float = 0.5
    """Time between the poses of a plan, the first one that long after now."""
    human_filter: bool = True
    """epdms: a sub-score the human driver fails too (0) is not held against a plan; original scenes
    only.
    """

    def __post_init__(self) -> None:
        if self.metric not in METRIC_VERSIONS:
            raise ValueError(f"metric is {self.metric!r}; must be one of {sorted(METRIC_VERSIONS)}")
        if not self.interval_s > 0:
            raise ValueError(f"interval_s is {self.interval_s}; must be above 0 (NAVSIM: 0.5)")


def score_trajectories(
    worlds: Sequence[World],
    poses: Array | Sequence[Array],
    *,
    metric: Metric = "pdms",
    trajectory_ids: Sequence[Sequence[str]] | None = None,
    config: ScoreConfig | None = None,
    reactions: Sequence[Reaction] | None = None,
) -> ScoreTable:
    """Score plans of many scenes; one row per plan, scene by scene.

    Args:
        worlds: S scenes. Two-frame comfort (epdms) pairs the scenes of this list: a scene whose
        predecessor is not
            among them has none, as in the devkit.
        poses: (S, K, 8, 3), (S, 8, 3), or one array (K_s, 8, 3) per scene: rear-axle poses in the
        ego frame, 0.5 s
            apart, without now.
        trajectory_ids: K_s names per scene, default "0", "1", …; a plan's predecessor in two-frame
        comfort is the one
            with the same name.
        config: overrides `metric`.
        reactions: epdms: per scene, how its traffic reacts to a plan (`traffic.reaction`); None:
        log replay.
    Raises:
        DataError: poses do not have the shape above.
    """
    config = config or ScoreConfig(metric=metric)
    plans = _plans(worlds, poses)
    names = _names(worlds, plans, trajectory_ids)
    if config.metric == "pdms":
        if reactions is not None:
            raise DataError("pdms (v1.1) replays the log; reactive traffic belongs to epdms")
        scenes = [
            score_scene_v1(world, plan, config.interval_s)
            for world, plan in zip(worlds, plans, strict=True)
        ]
    else:
        reacting = reactions or [None] * len(worlds)
        scenes = [
            score_scene_v2(world, plan, config.interval_s, reaction)
            for world, plan, reaction in zip(worlds, plans, reacting, strict=True)
        ]
        _finish_v2(worlds, scenes, names, config.human_filter)
    version = METRIC_VERSIONS[config.metric] + (f"-{REACTIVE}" if reactions is not None else "")
    return ScoreTable.of(worlds, names, scenes, config.metric, version, SUB_SCORES[config.metric])


def _plans(worlds: Sequence[World], poses: Array | Sequence[Array]) -> list[Array]:
    """One float64 array (K_s, 8, 3) per scene, or a DataError that says what is wrong with the
    shapes.
    """
    if len(poses) != len(worlds):
        raise DataError(
            f"poses are for {len(poses)} scenes, there are {len(worlds)} worlds; give one entry per world"
        )
    single = isinstance(poses, np.ndarray) and poses.ndim == 3
    out = []
    for world, plan in zip(worlds, poses, strict=True):
        try:
            plan = np.asarray(plan, np.float64)[None] if single else np.asarray(plan, np.float64)
        except (TypeError, ValueError) as error:
            rule = f"needs a regular table of numbers (K, {PLAN_STEPS}, 3)"
            raise DataError(f"{error}; {rule}", frame=world.scene_token, field="poses") from error
        if plan.ndim != 3 or plan.shape[1:] != (PLAN_STEPS, 3):
            rule = f"needs (K, {PLAN_STEPS}, 3): {PLAN_STEPS} poses x_m, y_m, yaw_rad, 0.5 s apart, without now"
            raise DataError(
                f"poses have shape {plan.shape}; {rule}", frame=world.scene_token, field="poses"
            )
        out.append(plan)
    return out


def _names(
    worlds: Sequence[World], plans: list[Array], given: Sequence[Sequence[str]] | None
) -> list[tuple[str, ...]]:
    """One tuple of trajectory ids per scene."""
    if given is None:
        return [tuple(str(k) for k in range(len(plan))) for plan in plans]
    if [len(names) for names in given] != [len(plan) for plan in plans]:
        raise DataError("trajectory_ids do not match poses; give one id per plan, scene by scene")
    for world, names in zip(worlds, given, strict=True):
        if len(set(names)) != len(names):
            raise DataError(
                "trajectory ids repeat; they must be unique in a scene", frame=world.scene_token
            )
    return [tuple(names) for names in given]


def _finish_v2(
    worlds: Sequence[World],
    scenes: list[SceneScore],
    names: list[tuple[str, ...]],
    human_filter: bool,
) -> None:
    """Two-frame comfort, human filter and final score of every scene (§10, §11)."""
    place = {world.scene_token: i for i, world in enumerate(worlds)}
    for i, scene in enumerate(scenes):
        before = place.get(worlds[i].previous_token, -1) if worlds[i].previous_token else -1
        scene.columns["two_frame_extended_comfort"] = np.full(len(names[i]), np.nan)
        if before >= 0 and not worlds[i].is_synthetic and not worlds[before].is_synthetic:
            _pair(worlds[before], scenes[before], names[before], worlds[i], scene, names[i])
        if human_filter:
            scene.lift_where_the_human_fails()
        scene.columns["score"] = aggregate.epdms(scene.columns)


def _pair(
    earlier_world: World,
    earlier: SceneScore,
    earlier_names: tuple[str, ...],
    world: World,
    scene: SceneScore,
    names: tuple[str, ...],
) -> None:
    """Fill two-frame comfort of the plans that have a namesake in the scene before."""
    gap_s = (world.timestamp_us - earlier_world.timestamp_us) * 1e-6
    both = [
        (k, earlier_names.index(name)) for k, name in enumerate(names) if name in set(earlier_names)
    ]
    both = [(k, j) for k, j in both if scene.valid[k] and earlier.valid[j]]
    if not both or not 0.0 < gap_s < MAX_FRAME_GAP_S:
        return
    now, then = (np.array(index) for index in zip(*both, strict=True))
    value, rms = two_frame_comfort(earlier.states[then], scene.states[now], gap_s)
    scene.columns["two_frame_extended_comfort"][now] = value
    scene.details["two_frame_rms"][now] = rms
