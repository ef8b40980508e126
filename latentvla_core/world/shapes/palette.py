"""What the ground is painted with: surfaces, crosswalk bars, lane marks, kerbs and the shadows of
whatever stands still.
"""

from __future__ import annotations

import numpy as np
from shapely import MultiPoint

from latentvla_core.geometry import arc_length, box_corners, rotate
from latentvla_core.types import Array
from latentvla_core.world.sensors.paint import Paints
from latentvla_core.world.sensors.sky import Light
from latentvla_core.world.state import Prop, Scenery, Stripe, Surface

# Albedo 0-255, amplitude of the fine grain, amplitude of coarse patches.
Value = tuple[float, float, float, float, float]
GRASS: Value = (84.0, 104.0, 56.0, 0.55, 0.40)
MATERIALS: dict[str, Value] = {
    "asphalt": (98.0, 98.0, 101.0, 0.26, 0.16),
    "junction": (93.0, 93.0, 97.0, 0.26, 0.20),
    "carpark": (110.0, 108.0, 106.0, 0.24, 0.22),
    "walkway": (156.0, 151.0, 144.0, 0.14, 0.12),
    "grass": GRASS,
}
PAINT: dict[str, Value] = {
    "white": (226.0, 226.0, 222.0, 0.10, 0.10),
    "yellow": (222.0, 170.0, 48.0, 0.10, 0.10),
    "grey": (172.0, 170.0, 166.0, 0.12, 0.10),
}
GUTTER: Value = (70.0, 70.0, 72.0, 0.20, 0.15)
DASH_M, GAP_M = 3.0, 4.5
ZEBRA_BAR_M, ZEBRA_GAP_M = 0.5, 0.6
PIECE_VERTICES = (
    12  # long stripes are cut into pieces of this many points, so that a tile meets few of them
)
MAX_SHADOW_M = 45.0

Polygon = tuple[Array, Value, float, bool]  # outline, value, opacity, is shadow


def ground_paints(scenery: Scenery, light: Light) -> Paints:
    """All polygons of the ground, in painting order."""
    polygons: list[Polygon] = []
    for surface in scenery.surfaces:
        polygons += _surface(surface)
    for stripe in sorted(
        scenery.stripes, key=lambda s: s.style != "kerb"
    ):  # marks lie on top of kerbs
        polygons += _stripe(stripe)
    if light.sun_direction[2] > 0.03:
        for prop in scenery.props:
            polygons += [
                (outline, GRASS, 0.88, True) for outline in prop_shadows(prop, light.sun_direction)
            ]
    return _pack(polygons)


def _pack(polygons: list[Polygon]) -> Paints:
    outlines = [np.asarray(p[0], float) for p in polygons]
    bounds = [np.concatenate([o.min(axis=0), o.max(axis=0)]) for o in outlines]
    return Paints(
        vertices_m=np.concatenate([*outlines, np.zeros((0, 2))]),
        offsets=np.concatenate([[0], np.cumsum([len(o) for o in outlines])]).astype(np.int64),
        bounds_m=np.array(bounds).reshape(-1, 4),
        values=np.array([p[1] for p in polygons]).reshape(-1, 5),
        opacity=np.array([p[2] for p in polygons], float),
        is_shadow=np.array([p[3] for p in polygons], bool),
    )


def _surface(surface: Surface) -> list[Polygon]:
    outline = np.asarray(surface.outline_m, float)
    if surface.material == "crosswalk":
        return [(bar, PAINT["white"], 0.88, False) for bar in zebra_bars(outline)]
    return [(outline, MATERIALS[surface.material], 1.0, False)]


def zebra_bars(outline_m: Array) -> list[Array]:
    """(4, 2) bars of a crosswalk: repeated along its long side, which people walk along."""
    corners = np.asarray(MultiPoint(outline_m).minimum_rotated_rectangle.exterior.coords)[:4]  # type: ignore[union-attr]
    first, second = corners[1] - corners[0], corners[3] - corners[0]
    along, across = (
        (first, second) if np.linalg.norm(first) >= np.linalg.norm(second) else (second, first)
    )
    length = float(np.linalg.norm(along))
    unit = along / length
    count = max(int((length + ZEBRA_GAP_M) / (ZEBRA_BAR_M + ZEBRA_GAP_M)), 1)
    start = (length - count * (ZEBRA_BAR_M + ZEBRA_GAP_M) + ZEBRA_GAP_M) / 2
    bars = []
    for k in range(count):
        near = corners[0] + unit * (start + k * (ZEBRA_BAR_M + ZEBRA_GAP_M))
        far = near + unit * ZEBRA_BAR_M
        bars.append(np.stack([near, far, far + across, near + across]))
    return bars


def _stripe(stripe: Stripe) -> list[Polygon]:
    path = np.asarray(stripe.path_m, float)
    if stripe.style == "dashed":
        return [
            (ribbon(p, stripe.width_m), PAINT[stripe.colour], 0.88, False) for p in dashes(path)
        ]
    pieces = [
        path[i : i + PIECE_VERTICES] for i in range(0, max(len(path) - 1, 1), PIECE_VERTICES - 1)
    ]
    if stripe.style == "solid":
        return [(ribbon(p, stripe.width_m), PAINT[stripe.colour], 0.88, False) for p in pieces]
    gutters = [(ribbon(p, stripe.width_m + 0.24), GUTTER, 0.55, False) for p in pieces]
    return gutters + [(ribbon(p, stripe.width_m), PAINT[stripe.colour], 1.0, False) for p in pieces]


def dashes(path_m: Array) -> list[Array]:
    """Sub-polylines of DASH_M every DASH_M + GAP_M, following the bends of the path."""
    along = arc_length(path_m)
    result = []
    for start in np.arange(GAP_M / 2, along[-1] - DASH_M / 2, DASH_M + GAP_M):
        stations = np.concatenate(
            [
                [start],
                along[(along > start) & (along < start + DASH_M)],
                [min(start + DASH_M, along[-1])],
            ]
        )
        result.append(np.stack([np.interp(stations, along, path_m[:, k]) for k in (0, 1)], axis=-1))
    return result


def ribbon(path_m: Array, width_m: float) -> Array:
    """(2 n, 2) outline of a polyline (n, 2) with mitred bends."""
    step = np.diff(path_m, axis=0)
    step = step / np.maximum(np.linalg.norm(step, axis=1, keepdims=True), 1e-9)
    tangent = np.concatenate([step[:1], step[:-1] + step[1:], step[-1:]])
    tangent = tangent / np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    incoming = np.concatenate([step[:1], step])
    mitre = 1.0 / np.maximum((tangent * incoming).sum(axis=1, keepdims=True), 0.5)
    offset = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) * mitre * (width_m / 2)
    return np.concatenate([path_m + offset, (path_m - offset)[::-1]])


def swept_shadow(base_m: Array, low_m: float, high_m: float, sun_direction: Array) -> Array:
    """(n, 2) convex shadow on the ground of an upright prism over base (k, 2) between two heights."""
    shift = -sun_direction[:2] / max(sun_direction[2], 1e-3)
    reach = MAX_SHADOW_M / max(float(np.linalg.norm(shift)), 1e-6)
    both = np.concatenate([base_m + shift * min(low_m, reach), base_m + shift * min(high_m, reach)])
    return np.asarray(MultiPoint(both).convex_hull.exterior.coords)[:-1]  # type: ignore[union-attr]


def prop_shadows(prop: Prop, sun_direction: Array) -> list[Array]:
    """Shadow outlines of one prop."""
    length, width, height = prop.size_m
    if prop.kind == "tree":
        crown = np.linspace(0, 2 * np.pi, 10, endpoint=False)
        radius = 0.46 * max(length, width)
        disc = prop.pose[:2] + radius * np.stack([np.cos(crown), np.sin(crown)], axis=1)
        trunk = box_corners(np.asarray(prop.pose, float), 0.3, 0.3)
        return [
            swept_shadow(disc, 0.4 * height, 0.85 * height, sun_direction),
            swept_shadow(trunk, 0, 0.4 * height, sun_direction),
        ]
    if prop.kind == "sign":
        pole = prop.pose[:2] + rotate(
            np.array([[0.04, 0.04], [-0.04, 0.04], [-0.04, -0.04], [0.04, -0.04]]), prop.pose[2]
        )
        return [swept_shadow(pole, 0, height, sun_direction)]
    return [
        swept_shadow(
            box_corners(np.asarray(prop.pose, float), length, width), 0, height, sun_direction
        )
    ]
