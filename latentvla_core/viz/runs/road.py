"""The road that a run drove on and the lights along it, in the frame of its first pose."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import shapely

from latentvla_core.geometry import rotate
from latentvla_core.types import Array
from latentvla_core.viz.site.files import centimetres
from latentvla_core.viz.site.roads import TOLERANCE_M

REACH_M = 60.0
"""What lies farther from the way of the ego is left out."""
SHOWN = ("red", "yellow")


def town_of(spec: str) -> Any:
    """The town of a run's `spec` (JSON of SceneSpec), made again; None where none was kept."""
    from latentvla_core.closed_loop.scenes.sets import spec_of
    from latentvla_core.closed_loop.scenes.town import open_town

    if not spec:
        return None
    scene = spec_of(json.loads(spec))
    return open_town(scene.world_seed, scene.location, scene.layout)


def road_of(town: Any, poses: Array) -> list[list[Any]]:
    """[kind, ring in cm] per polygon near the way of poses (N, 3); kind 0 lane edge, 1 road."""
    from latentvla_core.pdms.state import DRIVABLE

    near = _corridor(poses)
    rows = np.sort(town.tree.query(near, predicate="intersects"))
    found = []
    for row in rows:
        shape = shapely.simplify(town.shapes[row], TOLERANCE_M)
        ring = shapely.get_coordinates(shapely.get_exterior_ring(shape))
        kind = int(town.layers[row] in DRIVABLE)
        found.append([kind, centimetres(in_start_frame(poses[0], ring))])
    return sorted(found, key=lambda each: each[0])


def _corridor(poses: Array) -> shapely.Geometry:
    """Everything within reach of the way."""
    xy = poses[:, :2]
    line = shapely.LineString(xy) if len(xy) > 1 else shapely.Point(xy[0])
    return shapely.buffer(shapely.simplify(line, 1.0), REACH_M)


def in_start_frame(origin: Array, points: Array) -> Array:
    """(n, 2) town frame → the frame of a pose (3,)."""
    return rotate(np.asarray(points, float)[:, :2] - origin[:2], -origin[2])


def lights_of(town: Any, steps: Sequence[Mapping[str, Any]], poses: Array) -> list[dict[str, Any]]:
    """Connectors within reach that show red or yellow at some step: outline, and [first step, last
    step, colour] of each time.
    """
    spans: dict[str, list[list[Any]]] = {}
    for number, row in enumerate(steps):
        for id_, colour in zip(row["light_ids"], row["light_colours"], strict=True):
            told = spans.setdefault(id_, [])
            if told and told[-1][2] == colour and told[-1][1] == number - 1:
                told[-1][1] = number
            else:
                told.append([number, number, colour])
    near = _corridor(poses)
    found = []
    for id_, told in sorted(spans.items()):
        shown = [span for span in told if span[2] in SHOWN]
        lane = town.network.lanes.get(id_)
        if shown and lane is not None and shapely.Polygon(lane.outline_m).intersects(near):
            ring = centimetres(in_start_frame(poses[0], np.asarray(lane.outline_m)))
            found.append({"ring_cm": ring, "spans": shown})
    return found
