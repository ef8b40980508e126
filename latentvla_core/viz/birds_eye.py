"""One scene from above: road, road users, the reference, and several plans. Where a plan fails:
`failures.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from latentvla_core.geometry import box_corners, to_global
from latentvla_core.pdms.metrics import METRIC_LABELS, SUB_SCORES, metric_of, short
from latentvla_core.pdms.state import DRIVABLE
from latentvla_core.pdms.world import World
from latentvla_core.types import Array, ObjectClass, Vehicle
from latentvla_core.viz.canvas import INK, colour_of, sheet

REACH_M = 45.0
OBJECT_COLOURS = {
    ObjectClass.VEHICLE: "#5b7db1",
    ObjectClass.PEDESTRIAN: "#c2557a",
    ObjectClass.BICYCLE: "#7b9e3b",
}
STATIC = "#caa24a"
ROUTE, ROAD = "#d5e6d2", "#ececec"


def birds_eye(
    world: World, plans: Mapping[str, Array], scores: Mapping[str, Mapping[str, Any]] | None = None
) -> bytes:
    """PNG of one scene, the ego looking up; plans {name: (8, 3) ego frame}, scores {name:
    sub-scores}.
    """
    ego = np.asarray(world.ego_state)[:3]
    with sheet(5.2, 5.6) as page:
        axes = page.figure.add_subplot()
        draw_roads(axes, world, ego)
        draw_objects(axes, world, ego)
        center = to_picture(np.asarray(world.centerline)[:, :2], ego)
        axes.plot(*center.T, color="#b9b9b9", linewidth=1, linestyle=(0, (6, 4)))
        reference = to_picture(np.asarray(world.reference_v1)[:41, :2], ego)
        axes.plot(*reference.T, color=INK, linewidth=1.2, linestyle=":", label="PDM-Closed")
        for name, poses in plans.items():
            path = np.concatenate([np.zeros((1, 2)), np.asarray(poses)[:, :2]])
            axes.plot(
                -path[:, 1],
                path[:, 0],
                "-o",
                markersize=2.5,
                linewidth=2,
                color=colour_of(name),
                label=_label(name, scores),
            )
        _ego_box(axes)
        axes.set(
            xlim=(-REACH_M * 0.6, REACH_M * 0.6),
            ylim=(-REACH_M * 0.25, REACH_M),
            aspect="equal",
            xticks=[],
            yticks=[],
        )
        axes.legend(fontsize=7, loc="lower left", framealpha=0.9)
        axes.set_title(f"{world.log_name}  {world.scene_token}", fontsize=7)
    return page.png


def _label(name: str, scores: Mapping[str, Mapping[str, Any]] | None) -> str:
    row = (scores or {}).get(name)
    if not row:
        return name
    if not row.get("valid", True):
        return f"{name}: {row.get('reason')}"
    metric = metric_of(row["metric_version"])
    failed = [short(key) for key in SUB_SCORES[metric] if key != "ego_progress" and row[key] < 1]
    return f"{name}: {METRIC_LABELS[metric]} {row['score']:.2f}" + (
        f", fails {', '.join(failed)}" if failed else ""
    )


def to_picture(points: Array, ego: Array) -> Array:
    """(n, 2) world points → the picture: left is negative x, forward is y."""
    c, s = np.cos(ego[2]), np.sin(ego[2])
    moved = points - ego[:2]
    forward, left = moved @ np.array([c, s]), moved @ np.array([-s, c])
    return np.stack([-left, forward], axis=-1)


def draw_roads(axes: Any, world: World, ego: Array) -> None:
    """What DAC calls road around the ego (3,), grey; lanes of the route green; other lanes and
    connectors as lines.
    """
    offsets, rings = np.asarray(world.ring_offsets), np.asarray(world.polygon_ring_offsets)
    vertices, layers = (
        to_picture(np.asarray(world.ring_vertices), ego),
        np.asarray(world.polygon_layers),
    )
    for polygon in range(len(world.polygon_ids)):
        outer = rings[polygon]
        ring = vertices[offsets[outer] : offsets[outer + 1]]
        on_route = bool(np.asarray(world.polygon_on_route)[polygon])
        if on_route or layers[polygon] in DRIVABLE:
            axes.fill(
                *ring.T,
                color=ROUTE if on_route else ROAD,
                linewidth=0,
                zorder=0.5 if on_route else 0,
            )
    for polygon in range(len(world.polygon_ids)):
        outer = rings[polygon]
        axes.plot(
            *vertices[offsets[outer] : offsets[outer + 1]].T,
            color="#d0d0d0",
            linewidth=0.4,
            zorder=0.6,
        )


def draw_objects(axes: Any, world: World, ego: Array, alpha: float = 1.0) -> None:
    """Other road users now, with the way they go in the next four seconds."""
    corners, valid = np.asarray(world.object_corners), np.asarray(world.object_valid)
    for index, cls in enumerate(np.asarray(world.object_classes)):
        colour = OBJECT_COLOURS.get(ObjectClass(int(cls)), STATIC)
        if valid[0, index]:
            axes.fill(*to_picture(corners[0, index], ego).T, color=colour, zorder=2, alpha=alpha)
        seen = np.flatnonzero(valid[:41, index])
        if len(seen) > 1:
            axes.plot(
                *to_picture(corners[seen, index].mean(axis=1), ego).T,
                color=colour,
                linewidth=0.8,
                alpha=0.6,
                zorder=1,
            )


def _ego_box(axes: Any) -> None:
    center = to_global(np.zeros(3), np.array([Vehicle.REAR_AXLE_TO_CENTER_M, 0.0, 0.0]))
    corners = box_corners(center, Vehicle.LENGTH_M, Vehicle.WIDTH_M)
    axes.fill(-corners[:, 1], corners[:, 0], color="#d1495b", alpha=0.85, zorder=3)
