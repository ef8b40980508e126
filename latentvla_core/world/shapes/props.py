"""Things that stand still: buildings, trees, poles, signs, and the masts and heads of traffic
lights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from latentvla_core.types import Array
from latentvla_core.world.noise import hash01
from latentvla_core.world.shapes.mesh import MAX_CORNERS, Builder, Mesh, Shader
from latentvla_core.world.shapes.vehicles import DARK, Rgb
from latentvla_core.world.state import LightColour, Prop, Scenery, Signal

TRUNK: Rgb = (86.0, 70.0, 54.0)
STEEL: Rgb = (96.0, 100.0, 104.0)
LAMP_ON: dict[str, Rgb] = {
    "red": (255.0, 36.0, 26.0),
    "yellow": (255.0, 190.0, 30.0),
    "green": (40.0, 236.0, 130.0),
}
LAMP_OFF: dict[str, Rgb] = {
    "red": (62.0, 16.0, 14.0),
    "yellow": (62.0, 48.0, 14.0),
    "green": (12.0, 50.0, 30.0),
}
LAMP_ORDER: tuple[LightColour, ...] = ("red", "yellow", "green")  # from the top
BUNCHES = 9  # of leaves per tree
LAMP_RADIUS_M, HEAD_SIZE_M = (
    0.17,
    (0.26, 0.46, 1.32),
)  # a little larger than life: pictures are small


@dataclass(frozen=True, slots=True)
class Crowns:
    """Bunches of leaves; drawn as discs that face the camera."""

    centres_m: Array
    """(B, 3)"""
    radii_m: Array
    """(B,)"""
    rgb: Array
    """(B, 3)"""
    seeds: Array
    """(B,) int64"""

    def facing(self, camera_m: Array, keep: Array) -> Mesh:
        """The bunches `keep` (indices) as octagons turned towards the camera."""
        centre, n = self.centres_m[keep], len(keep)
        toward = camera_m - centre
        toward = toward / np.maximum(np.linalg.norm(toward, axis=1, keepdims=True), 1e-9)
        right = np.stack([-toward[:, 1], toward[:, 0], np.zeros(n)], axis=1)
        right = right / np.maximum(np.linalg.norm(right, axis=1, keepdims=True), 1e-9)
        up = np.cross(toward, right)
        # The first edge must run level to the right, so that the shader's axes are upright.
        angle = np.arange(MAX_CORNERS) * (np.pi / 4) - 5 * np.pi / 8
        ring = (
            np.cos(angle)[:, None] * right[:, None] + np.sin(angle)[:, None] * up[:, None]
        )  # (B, K, 3)
        corners = centre[:, None] + self.radii_m[keep][:, None, None] * ring
        shader = np.full(n, int(Shader.FOLIAGE), np.int64)
        return Mesh(
            corners,
            toward,
            np.full(n, MAX_CORNERS, np.int64),
            self.rgb[keep],
            shader,
            self.seeds[keep],
        )


def prop_mesh(prop: Prop, seed: int) -> Mesh:
    """The solid part of a prop, placed in the world (a tree's crown is separate)."""
    builder = Builder()
    if prop.kind == "building":
        _building(builder, prop, seed)
    elif prop.kind == "tree":
        height, thick = prop.size_m[2], 0.05 + 0.03 * prop.size_m[2]
        builder.tapered(
            (-thick / 2, -thick / 2, 0.0), (thick / 2, thick / 2, 0.62 * height), (0.7, 0.7), TRUNK
        )
        for angle in (0.4, 2.5, 4.4):
            tip = (
                0.22 * prop.size_m[0] * np.cos(angle),
                0.22 * prop.size_m[0] * np.sin(angle),
                0.66 * height,
            )
            builder.bar((0.0, 0.0, 0.36 * height), tip, thick * 0.45, TRUNK)
    elif prop.kind == "pole":
        _lamp_post(builder, prop)
    else:
        _sign(builder, prop)
    return builder.mesh().placed(np.asarray(prop.pose, float))


def _building(b: Builder, prop: Prop, seed: int) -> None:
    """Walls with windows, a plinth, a roof edge; big ones get a smaller block on top."""
    length, width, height = prop.size_m
    x, y = length / 2, width / 2
    rgb = tuple(float(c) for c in prop.rgb)
    dark = (rgb[0] * 0.5, rgb[1] * 0.5, rgb[2] * 0.52)
    b.tapered((-x - 0.06, -y - 0.06, 0.0), (x + 0.06, y + 0.06, 0.7), (1.0, 1.0), dark)
    b.tapered(
        (-x, -y, 0.7),
        (x, y, height),
        (1.0, 1.0),
        rgb,
        shader=Shader.FACADE,
        seed=4 * seed,
        roof_rgb=dark,
    )
    b.tapered(
        (-x - 0.25, -y - 0.25, height - 0.1),
        (x + 0.25, y + 0.25, height + 0.45),
        (1.0, 1.0),
        dark,
        bottom=True,
    )
    if height > 14.0:
        b.tapered(
            (-0.5 * x, -0.5 * y, height + 0.45),
            (0.3 * x, 0.4 * y, height + 3.2),
            (1.0, 1.0),
            (150.0, 150.0, 150.0),
        )


def _lamp_post(b: Builder, prop: Prop) -> None:
    """Street lamp with an arm along the prop's heading; short poles are bollards."""
    height = prop.size_m[2]
    thick = max(min(prop.size_m[0], prop.size_m[1], 0.22), 0.08)
    rgb = tuple(float(c) for c in prop.rgb)
    b.tapered((-thick / 2, -thick / 2, 0.0), (thick / 2, thick / 2, height), (0.7, 0.7), rgb)
    if height > 4.0:
        b.bar((0.0, 0.0, height - 0.1), (1.6, 0.0, height + 0.15), 0.09, rgb)
        b.box((1.1, -0.14, height + 0.06), (1.9, 0.14, height + 0.2), STEEL, bottom=True)


def _sign(b: Builder, prop: Prop) -> None:
    """Round or square plate that looks back against the prop's heading, on a post."""
    height, width = prop.size_m[2], max(prop.size_m[1], 0.5)
    rgb = tuple(float(c) for c in prop.rgb)
    b.bar((0.0, 0.0, 0.0), (0.0, 0.0, height), 0.07, STEEL)
    middle = height - width / 2
    b.disc((-0.06, 0.0, middle), (-1.0, 0.0, 0.0), width / 2, rgb)
    b.disc((-0.07, 0.0, middle), (-1.0, 0.0, 0.0), width * 0.36, (236.0, 236.0, 232.0))
    b.disc((-0.04, 0.0, middle), (1.0, 0.0, 0.0), width / 2, STEEL)


def tree_crowns(props: tuple[Prop, ...]) -> tuple[Crowns, Array]:
    """Bunches of all trees and (B,) the index of the prop they belong to."""
    centres, radii, rgb, seeds, owners = [], [], [], [], []
    for i, prop in enumerate(props):
        if prop.kind != "tree":
            continue
        spread, height = max(prop.size_m[0], prop.size_m[1]) / 2, prop.size_m[2]
        for k in range(BUNCHES):
            u, v, w = (float(hash01(np.int64(i), np.int64(k), s)) for s in (31, 32, 33))
            turn, level = 2 * np.pi * (k * 0.382 + 0.1 * u), (k + 0.5) / BUNCHES
            out = (
                spread
                * 0.62
                * np.sqrt(np.sin(np.pi * min(0.12 + 0.88 * level, 1.0)))
                * (0.6 + 0.5 * v)
            )
            centres.append(
                (
                    prop.pose[0] + out * np.cos(turn),
                    prop.pose[1] + out * np.sin(turn),
                    height * (0.42 + 0.46 * level),
                )
            )
            radii.append(spread * (0.48 + 0.26 * w) * (1.0 - 0.25 * level))
            rgb.append(np.asarray(prop.rgb, float) * (0.78 + 0.44 * u) * (0.85 + 0.25 * level))
            seeds.append(16 * i + k)
            owners.append(i)
    crowns = Crowns(
        np.array(centres, float).reshape(-1, 3),
        np.array(radii, float),
        np.array(rgb, float).reshape(-1, 3),
        np.array(seeds, np.int64),
    )
    return crowns, np.array(owners, np.int64)


def signal_mast(signal: Signal, road: shapely.Geometry) -> Mesh:
    """Post and arm of a traffic light: the post stands at the first point right of the head that is
    not road.
    """
    b = Builder()
    reach = _step_off_road(signal, road)
    b.tapered(
        (-0.09, -reach - 0.09, 0.0),
        (0.09, -reach + 0.09, signal.height_m + 0.35),
        (0.8, 0.8),
        STEEL,
    )
    if reach > 0.1:
        b.bar(
            (0.12, -reach, signal.height_m + 0.15), (0.12, 0.0, signal.height_m + 0.15), 0.11, STEEL
        )
    return b.mesh().placed(np.asarray(signal.pose, float))


def _step_off_road(signal: Signal, road: shapely.Geometry) -> float:
    x, y, yaw = signal.pose
    steps = np.arange(0.0, 14.0, 0.5)
    points = shapely.points(x + steps * np.sin(yaw), y - steps * np.cos(yaw))
    free = ~shapely.covers(road, points)
    return float(steps[np.argmax(free)] + 0.4 * (steps[np.argmax(free)] > 0)) if free.any() else 0.0


def signal_head(signal: Signal, colour: LightColour | None) -> Mesh:
    """Housing with three lamps that looks back against the driving direction; None = switched off."""
    b = Builder()
    depth, width, tall = HEAD_SIZE_M
    low = signal.height_m - tall / 2
    b.box((-depth / 2, -width / 2, low), (depth / 2, width / 2, low + tall), DARK, bottom=True)
    plate = (40.0, 40.0, 42.0)
    b.box(
        (0.0, -width * 0.75, low - 0.14),
        (0.03, width * 0.75, low + tall + 0.14),
        plate,
        bottom=True,
    )
    for k, name in enumerate(LAMP_ORDER):
        z = low + tall * (1 - (k + 0.5) / 3)
        on = name == colour
        rgb, shader = (LAMP_ON[name], Shader.LAMP) if on else (LAMP_OFF[name], Shader.FLAT)
        b.disc(
            (-depth / 2 - 0.01, 0.0, z),
            (-1.0, 0.0, 0.0),
            LAMP_RADIUS_M * (1.15 if on else 1.0),
            rgb,
            shader,
        )
        b.box(
            (-depth / 2 - 0.2, -LAMP_RADIUS_M, z + LAMP_RADIUS_M + 0.01),
            (-depth / 2, LAMP_RADIUS_M, z + LAMP_RADIUS_M + 0.03),
            DARK,
            bottom=True,
        )
    return b.mesh().placed(np.asarray(signal.pose, float))


def road_area(scenery: Scenery) -> shapely.Geometry:
    """Union of everything vehicles drive on."""
    driven = [
        s.outline_m
        for s in scenery.surfaces
        if s.material in ("asphalt", "junction", "carpark", "crosswalk")
    ]
    return shapely.union_all([shapely.make_valid(shapely.Polygon(outline)) for outline in driven])
