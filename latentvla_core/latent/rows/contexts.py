"""Labelled transitions with what is known of their scenes: what the atlas of codes is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from latentvla_core.latent.atlas import Transitions, speed_bands
from latentvla_core.types import Array, ObjectClass

if TYPE_CHECKING:
    import pyarrow as pa

COMMANDS = {0: "navigation says left", 1: "navigation says straight on", 2: "navigation says right"}
AHEAD_M, LANE_HALF_WIDTH_M, WALKER_M = 25.0, 1.75, 15.0


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


def each_once(labels: pa.Table) -> pa.Table:
    """The rows of distinct transitions (log and time), those of the lowest step: contexts are known
    of step 0 only.
    """
    log, time_us, step = (labels.column(n).to_numpy() for n in ("log_name", "timestamp_us", "step"))
    _, number = np.unique(log.astype(str), return_inverse=True)
    order = np.lexsort((step, time_us, number))
    same = (np.diff(number[order]) == 0) & (np.diff(time_us[order]) == 0)
    return labels.take(np.sort(order[np.concatenate([[True], ~same])]))


def columns_of(table: pa.Table) -> dict[str, Array]:
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


def transitions_of(
    labels: Labelled, scenes: Mapping[str, dict[str, Any]], red: Mapping[str, bool], gap_s: float
) -> Transitions:
    """Columns as the atlas wants them. What a scene tells is of its current frame, so it counts for
    the first step only.
    """
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
