"""The plans that score least, as pictures with their cause."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentvla_core.errors import DataError, LatentVLAError
from latentvla_core.lake.store import Lake
from latentvla_core.pdms.explain import Explanation, explain, moments
from latentvla_core.pdms.metrics import METRIC_VERSIONS, SUB_SCORES, metric_of, short
from latentvla_core.pdms.world import World
from latentvla_core.viz.report.facts import BASELINES
from latentvla_core.viz.site.files import file_name

JPEG_QUALITY = 82
Rows = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Worst:
    """One plan that failed."""

    planner: str
    scene_token: str
    log_name: str
    metric: str
    score: float
    causes: tuple[str, ...]
    above: bytes
    """PNG from above, failures marked."""
    seen: bytes
    """JPEG of the cameras with the plan on the road; empty without pictures."""
    tells_itself: bool = False
    """Whether `above` has its title and the causes in words."""

    @property
    def address(self) -> str:
        """Where the browser shows the moment."""
        scene = file_name(self.scene_token)
        return f"index.html#/scene/{scene}?plan={self.planner}&metric={self.metric}&at=lost"


def worst_plans(
    lake: Lake,
    place: Mapping[str, Any],
    metric: str,
    count: int,
    *,
    with_cameras: bool = True,
    alone: bool = False,
    with_middle: bool = False,
) -> list[Worst]:
    """Plans of trained planners that score least, each failing differently; of the baselines where
    there are no others.

    Args:
        alone: the view from above has its causes in words, for where nothing is written beside it.
        with_middle: one more at the end, the plan of the middle score.
    """
    version = METRIC_VERSIONS[metric]
    rows = lake.rows("pdm_scores", {**place, "valid": True, "metric_version": version})
    lost = [row for row in rows if row["score"] < 1.0]
    planned = [row for row in lost if row["trajectory_id"] not in BASELINES] or lost
    picked = least(planned, SUB_SCORES[metric], count)
    if with_middle and rows:
        order = sorted(rows, key=lambda r: (r["score"], r["scene_token"], r["trajectory_id"]))
        middle = order[len(order) // 2]
        picked += [middle] if middle not in picked else []
    shown = (_shown(lake, row, with_cameras, alone) for row in picked)
    return [each for each in shown if each is not None]


def least(rows: Rows, names: Sequence[str], count: int) -> Rows:
    """Rows with the least score, none with the failures or the scene of one before it, as far as
    there are such.
    """
    order = sorted(
        rows,
        key=lambda r: (
            r["score"],
            -sum(r[n] < 1 for n in names),
            r["scene_token"],
            r["trajectory_id"],
        ),
    )
    picked: Rows = []
    seen: set[Any] = set()
    for row in order:
        failed = frozenset(name for name in names if row[name] < 1)
        if failed not in seen and row["scene_token"] not in seen and len(picked) < count:
            picked.append(row)
            seen |= {failed, row["scene_token"]}
    return picked


def _shown(lake: Lake, row: Mapping[str, Any], with_cameras: bool, alone: bool) -> Worst | None:
    from latentvla_core.viz.failures import failure_view

    metric, planner = metric_of(row["metric_version"]), row["trajectory_id"]
    now = _found(lake, row, row["scene_token"])
    if now is None:
        return None
    token = now[0].previous_token if metric == "epdms" else ""
    try:
        why: Explanation = explain(
            *now,
            metric,  # type: ignore[arg-type]
            before=_found(lake, row, token) if token else None,
        )
    except LatentVLAError:
        return None  # the browser and the tables say so; a picture cannot
    return Worst(
        planner,
        row["scene_token"],
        row["log_name"],
        row["metric_version"],
        float(row["score"]),
        tuple(causes(why)),
        failure_view(now[0], planner, now[1], why, alone=alone),
        _seen(lake, row, planner, now[1]) if with_cameras else b"",
        alone,
    )


def causes(why: Explanation) -> list[str]:
    """One line per lost sub-score, numbered as in the picture where it has a place."""
    numbers = {id(failure): number for number, failure in moments(why.failures)}
    order = sorted(why.failures, key=lambda f: numbers.get(id(f), len(numbers) + 1))
    return [
        (f"{numbers[id(f)]} · " if id(f) in numbers else "")
        + f"{short(f.sub_score)} = {f.value:.3g}: {f.text}"
        + (" (forgiven: the human driver fails here too)" if f.forgiven else "")
        for f in order
    ]


def _found(lake: Lake, row: Mapping[str, Any], token: str) -> tuple[World, np.ndarray] | None:
    """World and plan of the row's planner in a scene of its split."""
    where = {"split": row["split"], "scene_token": token, "valid": True}
    worlds = lake.rows("scene_worlds", where)
    plans = lake.rows("trajectories", where | {"trajectory_id": row["trajectory_id"]})
    return (World.from_row(worlds[0]), plans[0]["poses"]) if worlds and plans else None


def _seen(lake: Lake, row: Mapping[str, Any], planner: str, poses: np.ndarray) -> bytes:
    from PIL import Image

    from latentvla_core.data.records import record_from_row
    from latentvla_core.types import FRONT_CAMERA
    from latentvla_core.viz.cameras import camera_strip

    where = {"split": row["split"], "scene_token": row["scene_token"]}
    records = [record_from_row(r) for r in lake.rows("scenes", where)]
    if not records or FRONT_CAMERA not in records[0].camera_names:
        return b""
    try:
        strip = camera_strip(records[0], {"human": records[0].future_poses[:8], planner: poses})
    except DataError:
        return b""  # a picture that cannot be read is told where the scene is shown
    buffer = io.BytesIO()
    Image.open(io.BytesIO(strip)).convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
