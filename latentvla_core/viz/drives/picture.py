"""One moment of a run from above, and what the front camera saw."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from latentvla_core.closed_loop.drivers.eyes import renderer_of
from latentvla_core.closed_loop.scenes.sets import spec_of
from latentvla_core.closed_loop.scenes.town import open_town
from latentvla_core.closed_loop.steps import Run
from latentvla_core.geometry import box_corners, rotate
from latentvla_core.types import FRONT_CAMERA, Array, ObjectClass, Vehicle
from latentvla_core.viz.svg import svg
from latentvla_core.world.state import Snapshot

REACH_M, SIZE_PX = 45.0, 300
COLOURS = {ObjectClass.PEDESTRIAN: "#c2185b", ObjectClass.BICYCLE: "#7b4fb5"}
EGO, HUMAN, CAR, THING, ROAD = "#d9480f", "#2a9d4a", "#1f4e9c", "#8d6e3f", "#dfe4ea"


def from_above(run: Run, step: int, human: Run | None = None) -> str:
    """SVG, ahead is up: road, traffic, where the ego has been and goes, and the human's way."""
    ego = run.states[step, :3]
    parts = [_polygon(p, ego, ROAD) for p in _road_near(run, ego)]
    if human is not None:
        parts.append(_way(human.states[:, :2], ego, HUMAN, dashed=True))
    parts.append(_way(run.states[:, :2], ego, EGO))
    moment = run.moments[step]
    for actor in moment.actors:
        box = box_corners(
            actor.pose[None], np.array([actor.size_m[0]]), np.array([actor.size_m[1]])
        )
        parts.append(_polygon(box[0], ego, _colour(actor.cls), actor.token))
    center = ego[:2] + Vehicle.REAR_AXLE_TO_CENTER_M * np.array([np.cos(ego[2]), np.sin(ego[2])])
    own = box_corners(np.array([[*center, ego[2]]]), Vehicle.LENGTH_M, Vehicle.WIDTH_M)[0]
    parts.append(_polygon(own, ego, EGO, "ego"))
    label = f"{run.driver} after {step * 0.1:.1f} s from above"
    return svg(SIZE_PX, SIZE_PX, parts, label)


def _colour(cls: ObjectClass) -> str:
    return COLOURS.get(cls, CAR if cls == ObjectClass.VEHICLE else THING)


def _road_near(run: Run, ego: Array) -> list[Array]:
    import shapely

    spec = spec_of(dict(run.spec))
    town = open_town(spec.world_seed, spec.location, spec.layout)
    box = shapely.box(*(ego[:2] - 1.5 * REACH_M), *(ego[:2] + 1.5 * REACH_M))
    rows = np.sort(town.tree.query(box, predicate="intersects"))
    return [shapely.get_coordinates(shapely.get_exterior_ring(town.shapes[k])) for k in rows]


def _pixels(points: Array, ego: Array) -> Array:
    """(n, 2) town frame → picture, the ego a third from below, ahead up."""
    local = rotate(points - ego[:2], -ego[2])
    scale = SIZE_PX / (2 * REACH_M)
    return np.column_stack(
        [SIZE_PX / 2 - local[:, 1] * scale, SIZE_PX * 0.66 - local[:, 0] * scale]
    )


def _polygon(points: Array, ego: Array, colour: str, title: str = "") -> str:
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in _pixels(points, ego))
    tip = f"<title>{title}</title>" if title else ""
    return f"<polygon points='{text}' fill='{colour}'>{tip}</polygon>"


def _way(points: Array, ego: Array, colour: str, *, dashed: bool = False) -> str:
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in _pixels(points[::3], ego))
    dash = " stroke-dasharray='4 3'" if dashed else ""
    style = f"fill='none' stroke='{colour}' stroke-width='1.6'{dash}"
    return f"<polyline points='{text}' {style}/>"


def frames(run: Run, steps: Sequence[int], picture_wh: tuple[int, int] = (320, 180)) -> list[bytes]:
    """JPEGs of the front camera at steps of a run."""
    from PIL import Image

    renderer, out = renderer_of(spec_of(dict(run.spec)), picture_wh), []
    for step in steps:
        moment = run.moments[step]
        seen = Snapshot(step * 0.1, run.states[step, :3], moment.actors, dict(moment.lights))
        buffer = io.BytesIO()
        Image.fromarray(renderer.render(seen, FRONT_CAMERA)).save(buffer, "JPEG", quality=80)
        out.append(buffer.getvalue())
    return out
