"""latent codes: the atlas, what each of the ego codes goes with, as rows and as a page to read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from latentvla_core.errors import SetupError
from latentvla_core.latent.rows.contexts import (
    Labelled,
    columns_of,
    each_once,
    sentence_of,
    transitions_of,
)
from pipelines.steps import declare
from pipelines.steps.context import Output, StageContext
from pipelines.steps.lineage import UNPARTITIONED, place_of
from pipelines.steps.reading import shown_at

if TYPE_CHECKING:
    import pyarrow as pa


MODEL = "latent_action_model"
MOST_TRANSITIONS = 500_000  # plenty for sixteen codes; shards are read until there are so many
LABELS = (
    "split",
    "scene_token",
    "log_name",
    "timestamp_us",
    "step",
    "ego_codes",
    "ego_confidence",
    "speed_mps",
    "delta_speed_mps",
    "delta_heading_rad",
)
SCENES = (
    "scene_token",
    "map_location",
    "command",
    "sensor_root",
    "front_paths",
    "history_poses",
    "object_boxes",
    "object_classes",
    "has_objects",
)


@declare.table(
    deps=("scenes", "scene_worlds", MODEL, "latent_actions"),
    group="latent_actions",
    code_version="6",
    kinds=("deltalake",),
)
def latent_codes(context: StageContext) -> Output:
    """The code atlas: share, motion that follows, typical contexts, neighbours and a derived name
    for each ego code, with examples.
    """
    from latentvla_core.latent.atlas import (
        HEADING_EDGES_RAD,
        SPEED_EDGES_MPS,
        atlas,
        spread,
        told_by_position,
    )
    from latentvla_core.latent.model import load
    from latentvla_core.viz.atlas_examples import examples_of
    from latentvla_core.viz.atlas_page import Atlas, atlas_page
    from latentvla_core.viz.html import write_page

    version = context.ledger.made_by(MODEL, UNPARTITIONED)
    model = context.model(MODEL, load)
    labels = labelled(context, version)
    scenes = scenes_of(context, labels)
    data = transitions_of(labels, scenes, red_lights(context, labels), model.config.gap_s)
    entries = atlas(data, model.ego.quantizer.codebook.detach().cpu().numpy())
    everything = (
        spread(data.delta_speed_mps, SPEED_EDGES_MPS),
        spread(data.delta_heading_rad, HEADING_EDGES_RAD),
    )
    gap_frames = model.config.gap_frames
    shown = {
        entry.code: examples_of(labels, scenes, data, entry.code, gap_frames) for entry in entries
    }
    page = Atlas(
        version,
        sentence_of(labels),
        entries,
        everything,
        told_by_position(data),
        shown,
        model.config.gap_s,
    )
    path = write_page(context.page("latent_codes", version), atlas_page(page))
    metadata = {
        "page": shown_at(context, MODEL, path),
        "transitions": len(labels),
        **{f"code_{e.code:02d}": f"{e.share:.1%} {e.name}" for e in entries},
    }
    return Output(
        [{**e.row(), "model_version": version} for e in entries],
        groups=(version,),
        metadata=metadata,
    )


def labelled(context: StageContext, version: str) -> Labelled:
    """Valid labels of the model, shard by shard over all splits, until there are enough; a
    transition that several scenes show is taken once, where it is the first of its scene if it is
    that of any.
    """
    import pyarrow as pa

    wanted = sorted(context.settings.partitions, key=lambda p: (place_of(p)["shard"], p))
    parts: dict[str, pa.Table] = {}
    for partition in wanted:
        where = {**place_of(partition), "model_version": version, "valid": True}
        parts[partition] = context.lake.read("latent_actions", where, LABELS)
        if sum(part.num_rows for part in parts.values()) >= MOST_TRANSITIONS:
            break
    filled = tuple(partition for partition, part in parts.items() if part.num_rows)
    if not filled:
        raise SetupError(
            f"latent_actions holds no valid label of model {version}; materialise latent_actions first"
        )
    return Labelled(
        columns_of(each_once(pa.concat_tables(parts.values()))), filled, len(parts), len(wanted)
    )


def scenes_of(context: StageContext, labels: Labelled) -> dict[str, dict[str, Any]]:
    """Rows of `scenes` by token, of the partitions that were read."""
    found = {}
    for partition in labels.partitions:
        rows = context.lake.rows("scenes", place_of(partition), SCENES)
        found |= {row["scene_token"]: row for row in rows}
    return found


def red_lights(context: StageContext, labels: Labelled) -> dict[str, bool]:
    """Scene token → is a lane connector of the route red now; only scenes that have a world (a map)
    are in it.
    """
    found = {}
    for partition in labels.partitions:
        where = {**place_of(partition), "valid": True}
        for row in context.lake.rows(
            "scene_worlds", where, ["scene_token", "light_ids", "light_active"]
        ):
            found[row["scene_token"]] = (
                bool(row["light_active"][0].any()) if len(row["light_ids"]) else False
            )
    return found
