"""Vehicles as faces: body, cabin with windows, wheels, lamps. Local frame: x forward, origin in the
middle of the box, z = 0 road.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np

from latentvla_core.types import Array
from latentvla_core.world.shapes.mesh import Builder, Mesh, Shader

Rgb = tuple[float, float, float]
RUBBER, HUB, DARK, GLASS = (
    (26.0, 26.0, 28.0),
    (140.0, 142.0, 146.0),
    (22.0, 22.0, 24.0),
    (36.0, 42.0, 48.0),
)
BRAKE_ON, TAIL_ON, TAIL_OFF = (255.0, 28.0, 18.0), (150.0, 12.0, 10.0), (116.0, 14.0, 16.0)
BLINK_ON, HEAD_ON, HEAD_OFF = (255.0, 158.0, 14.0), (255.0, 248.0, 224.0), (206.0, 212.0, 216.0)
PLATE = (214.0, 212.0, 196.0)
LIFT_M = 0.012  # how far details stand off the panel they lie on


@dataclass(frozen=True, slots=True)
class Lamps:
    """Which lamps burn."""

    brake: bool = False
    left: bool = False
    """The left indicator, at this instant of its blinking."""
    right: bool = False
    night: bool = False
    """Head and tail lamps are on."""


@lru_cache(maxsize=4096)
def vehicle_mesh(size_m: tuple[float, float, float], rgb: Rgb, lamps: Lamps) -> Mesh:
    """A vehicle that fills the box (length, width, height); the size decides between car, van,
    truck and bus.
    """
    length, width, height = size_m
    body = _Body(length, width, height, rgb, lamps)
    if length > 6.5:
        (body.bus if height > 2.75 and length > 9.0 else body.truck)()
    elif height > 1.95:
        body.van()
    else:
        body.car(rear_share=0.37 if height < 1.52 else 0.475)
    return body.builder.mesh()


class _Body:
    """Draws one vehicle into a builder; points of side views are shares of length and height."""

    def __init__(self, length: float, width: float, height: float, rgb: Rgb, lamps: Lamps) -> None:
        self.length, self.half, self.height = length, width / 2 * 0.97, height
        self.rgb, self.lamps, self.builder = rgb, lamps, Builder()
        self.lower: Rgb = (rgb[0] * 0.55, rgb[1] * 0.55, rgb[2] * 0.55)

    def car(self, rear_share: float) -> None:
        """Sedan, or hatchback/SUV when the roof reaches the rear (`rear_share` close to 0.5)."""
        front_y = [
            (0.49, 0.16),
            (0.5, 0.40),
            (0.468, 0.53),
            (0.22, 0.61),
            (-rear_share, 0.63),
            (-0.485, 0.60),
            (-0.5, 0.40),
            (-0.49, 0.16),
        ]
        panels = self._shell(front_y)
        self._front(panels[1], panels[0])
        self._rear(panels[5], panels[6])
        roof_rear = -rear_share + (0.13 if rear_share < 0.45 else 0.07)
        self._cabin((0.25, -rear_share - 0.01, 0.60), (0.05, roof_rear, 1.0))
        self._wheels((-0.30, 0.30), min(0.345, 0.235 * self.height))

    def van(self) -> None:
        """Delivery van: a tall shell with a short nose."""
        panels = self._shell(
            [
                (0.49, 0.13),
                (0.5, 0.36),
                (0.40, 0.50),
                (0.29, 0.94),
                (0.24, 1.0),
                (-0.49, 1.0),
                (-0.5, 0.9),
                (-0.5, 0.13),
            ]
        )
        self._front(panels[0], panels[0], lamp_t=(0.55, 0.95))
        self._patch(panels[2], (0.05, 0.95), (0.08, 0.95), GLASS, Shader.GLASS)
        rear = self._quad((-0.5, 0.9), (-0.5, 0.13))
        self._patch(rear, (0.08, 0.47), (0.06, 0.34), GLASS, Shader.GLASS)
        self._patch(rear, (0.53, 0.92), (0.06, 0.34), GLASS, Shader.GLASS)
        self._rear_lamps(rear, (0.50, 0.74))
        self._plate(rear, (0.78, 0.86))
        for side in (-1, 1):
            self._side_glass(side, [(0.20, 0.55), (0.36, 0.55), (0.27, 0.90), (0.20, 0.90)])
            self._side_glass(side, [(0.02, 0.55), (0.17, 0.55), (0.17, 0.90), (0.02, 0.90)])
        self._wheels((-0.31, 0.31), 0.36)

    def truck(self) -> None:
        """Cab and cargo box on a dark frame."""
        cab = 2.1 / self.length
        self._block((-0.5, 0.5), (0.14, 0.26), DARK, 0.9)
        self._block((0.5 - cab, 0.5), (0.13, 0.78), self.rgb, 0.95)
        cargo: Rgb = (206.0, 206.0, 202.0) if sum(self.rgb) < 620 else (150.0, 160.0, 172.0)
        self._block((-0.5, 0.485 - cab), (0.26, 1.0), cargo, 1.0)
        front = self._quad((0.5, 0.13), (0.5, 0.78), 0.95)
        self._patch(front, (0.07, 0.93), (0.50, 0.94), GLASS, Shader.GLASS)
        self._head_lamps(front, (0.10, 0.24))
        rear = self._quad((-0.5, 1.0), (-0.5, 0.26))
        self._patch(rear, (0.49, 0.51), (0.02, 0.98), (110.0, 110.0, 108.0))
        lamps = self._quad((-0.5, 0.26), (-0.5, 0.14), 0.96)
        self._patch(lamps, (0.0, 1.0), (0.0, 1.0), DARK)
        self._rear_lamps(lamps, (0.1, 0.95), lift=2)
        self._plate(lamps, (0.2, 0.8), lift=2)
        for side in (-1, 1):
            self._side_glass(
                side,
                [
                    (0.5 - 0.75 * cab, 0.50),
                    (0.5 - 0.15 * cab, 0.50),
                    (0.5 - 0.2 * cab, 0.73),
                    (0.5 - 0.75 * cab, 0.73),
                ],
                0.95,
            )
        self._wheels((-0.36, -0.24, 0.5 - cab * 0.55), 0.48)

    def bus(self) -> None:
        """City bus: window band, big windscreen, destination display."""
        self._block((-0.5, 0.5), (0.10, 1.0), self.rgb, 1.0)
        front = self._quad((0.5, 0.10), (0.5, 1.0))
        self._patch(front, (0.05, 0.95), (0.36, 0.82), GLASS, Shader.GLASS)
        self._patch(front, (0.15, 0.85), (0.85, 0.95), (236.0, 150.0, 30.0), Shader.LAMP)
        self._head_lamps(front, (0.10, 0.20))
        rear = self._quad((-0.5, 1.0), (-0.5, 0.10))
        self._patch(rear, (0.1, 0.9), (0.08, 0.42), GLASS, Shader.GLASS)
        self._rear_lamps(rear, (0.58, 0.82))
        self._plate(rear, (0.86, 0.93))
        windows = max(int(self.length / 1.6), 3)
        for side in (-1, 1):
            for k in range(windows):
                x0 = -0.47 + 0.94 * k / windows
                x1 = x0 + 0.94 / windows - 0.012
                self._side_glass(side, [(x0, 0.46), (x1, 0.46), (x1, 0.86), (x0, 0.86)])
        self._wheels((-0.27, 0.28), 0.48)

    def _point(self, share: tuple[float, float], y: float) -> tuple[float, float, float]:
        return share[0] * self.length, y, share[1] * self.height

    def _quad(
        self, start: tuple[float, float], end: tuple[float, float], narrow: float = 1.0
    ) -> Array:
        """(4, 3) panel across the vehicle between two side-view points that follow the outline
        counter-clockwise.
        """
        w = self.half * narrow
        return np.array(
            [
                self._point(start, -w),
                self._point(start, w),
                self._point(end, w),
                self._point(end, -w),
            ]
        )

    def _shell(self, outline: list[tuple[float, float]]) -> list[Array]:
        """Body from a convex side view, counter-clockwise seen from the right; returns the panels
        between its points.
        """
        panels = [self._quad(p, q) for p, q in pairwise(outline)]
        for panel in panels:
            low = panel[:, 2].max() < 0.42 * self.height
            self.builder.face(panel, self.lower if low else self.rgb)
        self.builder.face([self._point(p, -self.half) for p in outline], self.rgb)
        self.builder.face([self._point(p, self.half) for p in reversed(outline)], self.rgb)
        return panels

    def _block(
        self, x: tuple[float, float], z: tuple[float, float], rgb: Rgb, narrow: float
    ) -> None:
        w = self.half * narrow
        self.builder.box(
            (x[0] * self.length, -w, z[0] * self.height),
            (x[1] * self.length, w, z[1] * self.height),
            rgb,
        )

    def _patch(
        self,
        quad: Array,
        s: tuple[float, float],
        t: tuple[float, float],
        rgb: Rgb,
        shader: Shader = Shader.FLAT,
        lift: int = 1,
    ) -> None:
        """Detail on a panel: s runs along its first edge, t from there to the opposite edge."""
        normal = np.cross(quad[1] - quad[0], quad[2] - quad[1])
        normal = normal / np.linalg.norm(normal) * LIFT_M * lift
        corners = [
            (1 - b) * ((1 - a) * quad[0] + a * quad[1])
            + b * ((1 - a) * quad[3] + a * quad[2])
            + normal
            for a, b in ((s[0], t[0]), (s[1], t[0]), (s[1], t[1]), (s[0], t[1]))
        ]
        self.builder.face(corners, rgb, shader)

    def _side_glass(
        self, side: int, outline: list[tuple[float, float]], narrow: float = 1.0
    ) -> None:
        y = side * (self.half * narrow + LIFT_M)
        points = [self._point(p, y) for p in outline]
        self.builder.face(points if side < 0 else points[::-1], GLASS, Shader.GLASS)

    def _cabin(self, foot: tuple[float, float, float], top: tuple[float, float, float]) -> None:
        """Greenhouse between (front x, rear x, z) at the belt and at the roof."""
        w0, w1 = self.half * 0.97, self.half * 0.78
        low = [
            self._point((x, foot[2]), y)
            for x, y in ((foot[0], -w0), (foot[0], w0), (foot[1], w0), (foot[1], -w0))
        ]
        high = [
            self._point((x, top[2]), y)
            for x, y in ((top[0], -w1), (top[0], w1), (top[1], w1), (top[1], -w1))
        ]
        for k in range(4):
            j = (k + 1) % 4
            wall = np.array([low[k], low[j], high[j], high[k]])
            self.builder.face(wall, self.rgb)
            if k % 2:
                self._patch(wall, (0.04, 0.49), (0.10, 0.86), GLASS, Shader.GLASS)
                self._patch(wall, (0.53, 0.94), (0.10, 0.86), GLASS, Shader.GLASS)
            else:
                self._patch(wall, (0.05, 0.95), (0.06, 0.93), GLASS, Shader.GLASS)
            if k == 2:
                on = self.lamps.brake
                self._patch(
                    wall,
                    (0.38, 0.62),
                    (0.84, 0.93),
                    BRAKE_ON if on else TAIL_OFF,
                    Shader.LAMP if on else Shader.FLAT,
                    2,
                )
        self.builder.face(high, self.rgb)

    def _front(
        self, lamp_panel: Array, bumper: Array, lamp_t: tuple[float, float] = (0.15, 0.9)
    ) -> None:
        self._patch(bumper, (0.25, 0.75), (0.15, 0.85), DARK)
        self._patch(bumper, (0.40, 0.60), (0.35, 0.65), PLATE, lift=2)
        self._head_lamps(lamp_panel, lamp_t)

    def _head_lamps(self, panel: Array, t: tuple[float, float]) -> None:
        head = (HEAD_ON, Shader.LAMP) if self.lamps.night else (HEAD_OFF, Shader.FLAT)
        for s, blinks in (((0.02, 0.22), self.lamps.right), ((0.78, 0.98), self.lamps.left)):
            self._patch(panel, s, t, *head)
            if blinks:
                outer = (s[0] - 0.02, s[0] + 0.10) if s[0] < 0.5 else (s[1] - 0.10, s[1] + 0.02)
                self._patch(panel, outer, t, BLINK_ON, Shader.LAMP, 2)

    def _rear(self, lamp_panel: Array, bumper: Array) -> None:
        self._rear_lamps(lamp_panel, (0.10, 0.85))
        self._plate(bumper, (0.15, 0.6))

    def _plate(self, panel: Array, t: tuple[float, float], lift: int = 1) -> None:
        self._patch(panel, (0.38, 0.62), t, PLATE, lift=lift)

    def _rear_lamps(self, panel: Array, t: tuple[float, float], lift: int = 1) -> None:
        """The panel's first edge is its upper one and runs from right to left."""
        red = (
            (BRAKE_ON, Shader.LAMP)
            if self.lamps.brake
            else (TAIL_ON, Shader.LAMP)
            if self.lamps.night
            else (TAIL_OFF, Shader.FLAT)
        )
        for s, blinks in (((0.01, 0.23), self.lamps.right), ((0.77, 0.99), self.lamps.left)):
            self._patch(panel, s, t, *red, lift)
            if blinks:
                outer = (s[0], s[0] + 0.13) if s[0] < 0.5 else (s[1] - 0.13, s[1])
                self._patch(panel, outer, t, BLINK_ON, Shader.LAMP, lift + 1)

    def _wheels(self, axles: tuple[float, ...], radius: float) -> None:
        for x in axles:
            centre = x * self.length
            for side in (-1, 1):
                inner, outer = sorted((side * (self.half - 0.24), side * (self.half - 0.02)))
                self.builder.box(
                    (centre - 0.62 * radius, inner, 0.0),
                    (centre + 0.62 * radius, outer, 1.6 * radius),
                    RUBBER,
                )
                for scale, rgb, lift in (
                    (1.20, DARK, 0.4),
                    (1.0, RUBBER, 0.8),
                    (0.58, HUB, 1.2),
                    (0.2, RUBBER, 1.6),
                ):
                    y = side * (self.half + lift * LIFT_M)
                    self.builder.disc(
                        (centre, y, radius * (1.12 if scale > 1 else 1.0)),
                        (0.0, side, 0.0),
                        radius * scale,
                        rgb,
                    )
