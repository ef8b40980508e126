"""The picture each asset shows in the UI: one scene of what it just made, or the codes it found."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg
import numpy as np

from latentvla_core.types import SceneRecord
from pipelines.engine import Engine, Outcome
from pipelines.lineage import Stage

SHOWN_PLANS = ("human", "constant_velocity", "ipad", "ipad_latent", "ipad_student")


def pictures_of(engine: Engine, stage: Stage, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """Metadata entry with a picture, for stages that have one and runs that made something."""
    draw = PICTURES.get(stage.name)
    made = [key for key, outcome in outcomes.items() if not outcome.skipped and outcome.rows]
    if draw is None or not made:
        return {}
    png = draw(engine, made)
    return {"picture": as_markdown(png)} if png else {}


def as_markdown(png: bytes) -> dg.MarkdownMetadataValue:
    """A PNG as the UI shows it: behind "Show Markdown"."""
    return dg.MetadataValue.md(f"![picture](data:image/png;base64,{base64.b64encode(png).decode()})")


def _place(key: str) -> dict[str, Any]:
    split, _, shard = key.rpartition("-")
    return {"split": split, "shard": int(shard)}


def scene_to_show(engine: Engine, keys: list[str]) -> SceneRecord | None:
    """The scene with pictures whose human drives farthest sideways: turns say more than straights."""
    split, shard = _place(keys[-1]).values()
    seen = [r for r in engine.records(split, shard) if "CAM_F0" in r.camera_names and len(r.future_poses)]
    return max(seen, key=lambda r: abs(float(r.future_poses[-1][1])), default=None)


def plans_of(engine: Engine, scene_token: str, names: tuple[str, ...] = SHOWN_PLANS) -> dict[str, np.ndarray]:
    """Plans {name: (8, 3)} stored for one scene."""
    rows = engine.lake.rows("trajectories", {"scene_token": scene_token, "valid": True})
    found = {row["trajectory_id"]: row["poses"] for row in rows}
    return {name: found[name] for name in names if name in found}


def _scene(engine: Engine, keys: list[str]) -> bytes:
    from latentvla_core.viz.cameras import camera_strip

    record = scene_to_show(engine, keys)
    return camera_strip(record, {"human": record.future_poses[:8]}) if record else b""


def _plans(engine: Engine, keys: list[str]) -> bytes:
    from latentvla_core.viz.cameras import camera_strip

    record = scene_to_show(engine, keys)
    return camera_strip(record, plans_of(engine, record.scene_token)) if record else b""


def _codes(engine: Engine, keys: list[str]) -> bytes:
    from latentvla_core.viz.codes import codebook_histogram

    rows = [r for key in keys for r in engine.lake.rows("latent_actions", {**_place(key), "valid": True})]
    return codebook_histogram(np.stack([r["ego_codes"] for r in rows])) if rows else b""


def _worlds(engine: Engine, keys: list[str]) -> bytes:
    rows = engine.lake.rows("scene_worlds", {**_place(keys[-1]), "valid": True})
    return draw_world(rows[len(rows) // 2], {}, {}) if rows else b""


def _worst(engine: Engine, keys: list[str]) -> bytes:
    """The scene of the shard in which the planners together do worst."""
    place = _place(keys[-1])
    scores = engine.lake.rows("pdm_scores", {**place, "valid": True})
    if not scores:
        return b""
    totals: dict[str, list[float]] = {}
    for row in scores:
        if row["trajectory_id"] in SHOWN_PLANS:
            totals.setdefault(row["scene_token"], []).append(row["score"])
    worst = min(totals, key=lambda token: (np.mean(totals[token]), token))
    world = engine.lake.rows("scene_worlds", {**place, "scene_token": worst})[0]
    return draw_world(world, plans_of(engine, worst), scores_of(scores, worst))


def scores_of(rows: list[dict[str, Any]], scene_token: str) -> dict[str, dict[str, Any]]:
    """Score rows of one scene by planner."""
    return {row["trajectory_id"]: row for row in rows if row["scene_token"] == scene_token}


def draw_world(row: dict[str, Any], plans: Mapping[str, np.ndarray], scores: Mapping[str, Mapping[str, Any]]) -> bytes:
    """Bird's-eye view of a row of `scene_worlds`."""
    from latentvla_core.viz.birds_eye import birds_eye
    from pipelines.assets.scores import world_from_row

    return birds_eye(world_from_row(row), plans, scores)


PICTURES: dict[str, Callable[[Engine, list[str]], bytes]] = {
    "scenes": _scene,
    "scene_worlds": _worlds,
    "latent_actions": _codes,
    "trajectories": _plans,
    "pdm_scores": _worst,
}
