"""latent codes: the atlas, what each of the ego codes goes with, as rows and as a page to read."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from latentvla_core.errors import DataError, SetupError
from latentvla_core.types import Array, ObjectClass
from pipelines.steps import declare
from pipelines.steps.context import Output, StageContext
from pipelines.steps.lineage import UNPARTITIONED, place_of

if TYPE_CHECKING:
    import pyarrow as pa

    from latentvla_core.latent.atlas import Transitions
    from latentvla_core.viz.atlas_page import Example

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
COMMANDS = {0: "navigation says left", 1: "navigation says straight on", 2: "navigation says right"}
AHEAD_M, LANE_HALF_WIDTH_M, WALKER_M = 25.0, 1.75, 15.0
THUMBNAIL_WH = (176, 99)
EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Labelled:
    """Rows of `latent_actions` of one model that the atlas is made of, as columns."""

    columns: dict[str, Array]
    partitions: tuple[str, ...]
    """Those that hold labels, of the ones that were read."""
    read: int
    """How many partitions were read, those without labels too."""
    of: int
    """How many partitions there are; when more than were read, there were enough labels before."""

    def __len__(self) -> int:
        return len(self.columns["step"])


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
        "page": path,
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
        _columns(each_once(pa.concat_tables(parts.values()))), filled, len(parts), len(wanted)
    )


def each_once(labels: pa.Table) -> pa.Table:
    """The rows of distinct transitions (log and time), those of the lowest step: contexts are known
    of step 0 only.
    """
    log, time_us, step = (labels.column(n).to_numpy() for n in ("log_name", "timestamp_us", "step"))
    _, number = np.unique(log.astype(str), return_inverse=True)
    order = np.lexsort((step, time_us, number))
    same = (np.diff(number[order]) == 0) & (np.diff(time_us[order]) == 0)
    return labels.take(np.sort(order[np.concatenate([[True], ~same])]))


def _columns(table: pa.Table) -> dict[str, Array]:
    """Scalars as (n,), lists of equal length as (n, N)."""
    import pyarrow as pa

    def one(name: str) -> Array:
        column = table.column(name).combine_chunks()
        if pa.types.is_list(column.type):
            return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(
                table.num_rows, -1
            )
        return np.asarray(column.to_numpy(zero_copy_only=False))

    return {name: one(name) for name in table.column_names}


def sentence_of(labels: Labelled) -> str:
    """What the atlas looked at."""
    splits, counts = np.unique(labels.columns["split"].astype(str), return_counts=True)
    told = ", ".join(f"{split} {count:,}" for split, count in zip(splits, counts, strict=True))
    logs = len(np.unique(labels.columns["log_name"].astype(str)))
    part = (
        "" if labels.read == labels.of else f" (the first {labels.read} of {labels.of} partitions)"
    )
    return f"{len(labels):,} labelled transitions of {logs} logs{part}: {told}."


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


def transitions_of(
    labels: Labelled, scenes: Mapping[str, dict[str, Any]], red: Mapping[str, bool], gap_s: float
) -> Transitions:
    """Columns as the atlas wants them. What a scene tells is of its current frame, so it counts for
    the first step only.
    """
    from latentvla_core.latent.atlas import Transitions, speed_bands

    c = labels.columns
    tokens, now = c["scene_token"], c["step"] == 0
    described = {token: scene_contexts(row) for token, row in scenes.items()}
    maps = {row["map_location"] for row in scenes.values()} - {""}
    for token, row in scenes.items():
        described[token] |= {f"map {name}": float(row["map_location"] == name) for name in maps}
    names = sorted({name for row in described.values() for name in row})
    contexts = {
        name: np.array(
            [described[t].get(name, math.nan) if t in described else math.nan for t in tokens]
        )
        for name in names
    }
    contexts["red light on the route"] = np.array(
        [float(red[t]) if t in red else math.nan for t in tokens]
    )
    contexts = {
        name: np.where(now, values, np.nan) for name, values in contexts.items()
    } | speed_bands(c["speed_mps"])
    return Transitions(
        c["ego_codes"].astype(np.int64),
        c["delta_speed_mps"],
        c["delta_heading_rad"],
        c["speed_mps"],
        contexts,
        gap_s,
    )


def scene_contexts(row: Mapping[str, Any]) -> dict[str, float]:
    """Conditions of one scene, 1 or 0; those that its log cannot tell are left out."""
    known = row["command"] in COMMANDS
    found = (
        {text: float(row["command"] == number) for number, text in COMMANDS.items()}
        if known
        else {}
    )
    if row["has_objects"]:
        boxes, classes = row["object_boxes"], row["object_classes"]
        x, y = boxes[:, 0], boxes[:, 1]
        in_lane = (x > 0) & (x < AHEAD_M) & (np.abs(y) < LANE_HALF_WIDTH_M)
        found[f"vehicle ahead within {AHEAD_M:g} m"] = float(
            (in_lane & (classes == ObjectClass.VEHICLE)).any()
        )
        near = np.hypot(x, y) < WALKER_M
        found[f"pedestrian within {WALKER_M:g} m"] = float(
            (near & (classes == ObjectClass.PEDESTRIAN)).any()
        )
    return found


def examples_of(
    labels: Labelled,
    scenes: Mapping[str, dict[str, Any]],
    data: Transitions,
    code: int,
    gap_frames: int,
) -> list[Example]:
    """Clear cases with their pictures; fewer where pictures cannot be read."""
    from latentvla_core.latent.atlas import examples

    c = labels.columns
    rows = examples(data, code, c["log_name"], c["ego_confidence"], count=EXAMPLES)
    described = [
        (row, scenes[c["scene_token"][row]]) for row in rows if c["scene_token"][row] in scenes
    ]
    shown = [_example(c, row, scene, gap_frames) for row, scene in described]
    return [example for example in shown if example is not None]


def _example(
    columns: Mapping[str, Array], row: int, scene: Mapping[str, Any], gap_frames: int
) -> Example | None:
    """The two pictures that the model saw: `gap_frames` apart, however long that took."""
    from latentvla_core.viz.atlas_page import Example

    first = len(scene["history_poses"]) - 1 + int(columns["step"][row]) * gap_frames
    try:
        pictures = [
            thumbnail(scene["sensor_root"], scene["front_paths"][i])
            for i in (first, first + gap_frames)
        ]
    except (DataError, OSError, IndexError):
        return None
    numbers = [
        float(columns[name][row]) for name in ("speed_mps", "delta_speed_mps", "delta_heading_rad")
    ]
    return Example(pictures[0], pictures[1], str(columns["log_name"][row]), *numbers)


def thumbnail(root: str, path: str) -> bytes:
    """A small JPEG of a picture."""
    from PIL import Image

    from latentvla_core.data.cameras import load_image

    buffer = io.BytesIO()
    Image.fromarray(load_image(root, path, THUMBNAIL_WH)).save(buffer, "jpeg", quality=72)
    return buffer.getvalue()
