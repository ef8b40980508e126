"""The picture each asset shows in the UI: one scene of what it just made, or the codes it found."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import dagster as dg
import numpy as np

from latentvla_core.types import FRONT_CAMERA, SceneRecord
from latentvla_core.viz.report.worst import worst_plans
from pipelines.settings import TEST
from pipelines.steps.context import Outcome, StageContext
from pipelines.steps.lineage import Stage, place_of
from pipelines.steps.reading import sentences_of, world_from_row
from pipelines.versions import keep_pictures

SHOWN_WORST = 3
PAGE_PX = 860  # width of the dialog in which Dagster shows Markdown
SHOWN_PLANS = ("human", "constant_velocity", "ipad", "ipad_latent", "ipad_student")


def pictures_of(
    context: StageContext, stage: Stage, outcomes: Mapping[str, Outcome]
) -> dict[str, Any]:
    """Metadata entries with pictures, for stages that have one; of what was made last."""
    draw = stage.picture
    if draw is None:
        return {}
    made = [key for key, outcome in outcomes.items() if not outcome.skipped and outcome.rows]
    drawn = draw(context, made) if made else []
    found = [png for png in ([drawn] if isinstance(drawn, bytes) else drawn) if png]
    pictures = keep_pictures(context, stage, outcomes, found)
    return {
        f"picture{'' if k == 1 else f'_{k}'}": as_markdown(png) for k, png in enumerate(pictures, 1)
    }


def as_markdown(png: bytes) -> dg.MarkdownMetadataValue:
    """A PNG as the UI shows it, behind "Show Markdown": no wider than the UI's page."""
    png = fitted(png, PAGE_PX)
    return dg.MetadataValue.md(
        f"![picture](data:image/png;base64,{base64.b64encode(png).decode()})"
    )


def fitted(png: bytes, width_px: int) -> bytes:
    """The PNG at most that wide; its own bytes where it is."""
    import io

    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        if image.width <= width_px:
            return png
        small = image.resize((width_px, round(width_px * image.height / image.width)))
    buffer = io.BytesIO()
    small.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def scene_to_show(context: StageContext, keys: list[str]) -> SceneRecord | None:
    """The scene with pictures whose human drives farthest sideways: turns say more than straights."""
    seen = [
        r
        for r in context.records(**place_of(keys[-1]))
        if FRONT_CAMERA in r.camera_names and len(r.future_poses)
    ]
    return max(seen, key=lambda r: abs(float(r.future_poses[-1][1])), default=None)


def plans_of(
    context: StageContext, scene_token: str, names: tuple[str, ...] = SHOWN_PLANS
) -> dict[str, np.ndarray]:
    """Plans {name: (8, 3)} stored for one scene."""
    rows = context.lake.rows("trajectories", {"scene_token": scene_token, "valid": True})
    found = {row["trajectory_id"]: row["poses"] for row in rows}
    return {name: found[name] for name in names if name in found}


def scene_strip(context: StageContext, keys: list[str]) -> bytes:
    from latentvla_core.viz.cameras import camera_strip

    record = scene_to_show(context, keys)
    return camera_strip(record, {"human": record.future_poses[:8]}) if record else b""


def plans_strip(context: StageContext, keys: list[str]) -> bytes:
    from latentvla_core.viz.cameras import camera_strip

    record = scene_to_show(context, keys)
    return camera_strip(record, plans_of(context, record.scene_token)) if record else b""


def code_histogram(context: StageContext, keys: list[str]) -> bytes:
    from latentvla_core.viz.codes import codebook_histogram

    codes = list(sentences_of(context, sorted({place_of(key)["split"] for key in keys})).values())
    return (
        codebook_histogram(np.stack(codes), context.recipe.latent.num_transitions) if codes else b""
    )


def world_view(context: StageContext, keys: list[str]) -> bytes:
    rows = context.lake.rows("scene_worlds", {**place_of(keys[-1]), "valid": True})
    return draw_world(rows[len(rows) // 2], {}, {}) if rows else b""


def worst_of_shard(context: StageContext, keys: list[str]) -> list[bytes]:
    return worst_views(context, place_of(keys[-1]), 1)


def worst_of_split(context: StageContext, keys: list[str]) -> list[bytes]:
    """The held-out split's, or those of whatever split there is."""
    splits = context.lake.read("pdm_summary", columns=["split"])["split"].to_pylist()
    return worst_views(context, {"split": TEST if TEST in splits else splits[-1]}, SHOWN_WORST)


def worst_views(context: StageContext, place: Mapping[str, Any], count: int) -> list[bytes]:
    """From above, the plans that score least by the recipe's first metric, each failing differently."""
    metric = context.recipe.metrics[0]
    found = worst_plans(context.lake, place, metric, count, with_cameras=False, alone=True)
    return [each.above for each in found]


def draw_world(
    row: dict[str, Any], plans: Mapping[str, np.ndarray], scores: Mapping[str, Mapping[str, Any]]
) -> bytes:
    """Bird's-eye view of a row of `scene_worlds`."""
    from latentvla_core.viz.birds_eye import birds_eye

    return birds_eye(world_from_row(row), plans, scores)
