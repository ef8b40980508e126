"""A hand-made crossing with everything a camera should be able to show: for benchmarks, tests and
pictures in the docs.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from latentvla_core.geometry import rotate
from latentvla_core.types import Array, ObjectClass
from latentvla_core.world.noise import hash01
from latentvla_core.world.state import (
    Actor,
    LightColour,
    Prop,
    Scenery,
    Signal,
    Snapshot,
    Stripe,
    Surface,
)

Colour = Literal["white", "yellow", "grey"]
Style = Literal["solid", "dashed", "kerb"]
LANE_M, REACH_M = 3.5, 220.0
HALF_ROAD_M = 2 * LANE_M


def crossing(
    sun_elevation_deg: float = 40.0, sun_azimuth_deg: float = 215.0, haze_per_m: float = 0.0025
) -> Scenery:
    """Two four-lane roads meet at the origin: lights, crosswalks, pavements, houses, trees."""
    surfaces = [
        Surface(_rect(-REACH_M, REACH_M, -HALF_ROAD_M - 3.2, HALF_ROAD_M + 3.2, turn), "walkway")
        for turn in (0, 1)
    ]
    surfaces += [
        Surface(_rect(-REACH_M, REACH_M, -HALF_ROAD_M, HALF_ROAD_M, turn), "asphalt")
        for turn in (0, 1)
    ]
    surfaces.append(
        Surface(_rect(-HALF_ROAD_M, HALF_ROAD_M, -HALF_ROAD_M, HALF_ROAD_M, 0), "junction")
    )
    stripes: list[Stripe] = []
    signals: list[Signal] = []
    for turn in range(4):
        surfaces.append(Surface(_rect(-12.0, -8.5, -HALF_ROAD_M, HALF_ROAD_M, turn), "crosswalk"))
        stripes += _arm_stripes(turn)
        spot = _turned(np.array([[HALF_ROAD_M + 6.0, -LANE_M]]), turn)[0]
        signals.append(
            Signal(np.array([spot[0], spot[1], turn * np.pi / 2]), 5.4, (f"connector_{turn}",))
        )
    return Scenery(
        surfaces=tuple(surfaces),
        stripes=tuple(stripes),
        props=tuple(_town()),
        signals=tuple(signals),
        sun_elevation_rad=np.radians(sun_elevation_deg),
        sun_azimuth_rad=np.radians(sun_azimuth_deg),
        haze_per_m=haze_per_m,
    )


def moment(
    ego_x_m: float = -32.0,
    *,
    light: LightColour = "red",
    brake: bool = True,
    time_s: float = 0.0,
    lead_gap_m: float = 11.0,
) -> Snapshot:
    """The ego drives east in the right lane behind a car; others wait, turn, walk and ride."""
    actors = (*_drivers(ego_x_m, lead_gap_m, brake), *_on_foot(ego_x_m))
    other: LightColour = "green" if light == "red" else "red"
    lights: dict[str, LightColour] = {
        f"connector_{turn}": light if turn % 2 == 0 else other for turn in range(4)
    }
    return Snapshot(
        time_s=time_s,
        ego_pose=np.array([ego_x_m, -1.5 * LANE_M, 0.0]),
        actors=actors,
        lights=lights,
    )


def _drivers(ego_x_m: float, lead_gap_m: float, brake: bool) -> tuple[Actor, ...]:
    east, north = 0.0, np.pi / 2
    return (
        _vehicle(
            "lead",
            (ego_x_m + lead_gap_m + 4.0, -1.5 * LANE_M, east),
            (4.6, 1.85, 1.48),
            (168, 30, 34),
            brake,
            "off",
        ),
        _vehicle(
            "suv",
            (ego_x_m + 17.0, -0.5 * LANE_M, east),
            (4.8, 1.95, 1.72),
            (232, 232, 234),
            brake,
            "left",
        ),
        _vehicle(
            "bus", (26.0, 1.5 * LANE_M, np.pi), (11.8, 2.55, 3.1), (196, 148, 42), False, "off"
        ),
        _vehicle(
            "truck", (12.0, 0.5 * LANE_M, np.pi), (8.4, 2.5, 3.4), (58, 92, 150), False, "right"
        ),
        _vehicle(
            "oncoming",
            (ego_x_m + 11.0, 0.5 * LANE_M, np.pi),
            (4.4, 1.8, 1.45),
            (44, 74, 120),
            False,
            "off",
        ),
        _vehicle(
            "van", (1.5 * LANE_M, -22.0, north), (5.4, 2.0, 2.35), (210, 212, 208), True, "off"
        ),
        _vehicle(
            "parked",
            (ego_x_m - 9.0, -0.5 * LANE_M, east),
            (4.2, 1.8, 1.5),
            (52, 54, 58),
            False,
            "off",
        ),
    )


def _on_foot(ego_x_m: float) -> tuple[Actor, ...]:
    """People, and things that stand about."""
    east, north = 0.0, np.pi / 2
    return (
        _actor(
            "walker",
            ObjectClass.PEDESTRIAN,
            (-10.0, -2.5, north),
            (0.5, 0.6, 1.75),
            (1.3, north),
            (182, 60, 52),
        ),
        _actor(
            "child",
            ObjectClass.PEDESTRIAN,
            (-10.6, -4.0, north),
            (0.4, 0.5, 1.25),
            (1.2, north),
            (64, 120, 180),
        ),
        _actor(
            "shopper",
            ObjectClass.PEDESTRIAN,
            (ego_x_m + 9.0, -8.4, east),
            (0.5, 0.6, 1.68),
            (0.0, 0.0),
            (90, 110, 70),
        ),
        _actor(
            "cyclist",
            ObjectClass.BICYCLE,
            (ego_x_m + 13.5, -6.5, east),
            (1.8, 0.6, 1.75),
            (4.0, east),
            (40, 150, 90),
        ),
        _actor(
            "cone",
            ObjectClass.TRAFFIC_CONE,
            (ego_x_m + 10.0, 4.0, 0.0),
            (0.4, 0.4, 0.75),
            (0.0, 0.0),
            (240, 96, 24),
        ),
        _actor(
            "barrier",
            ObjectClass.BARRIER,
            (ego_x_m + 14.0, 8.5, 0.0),
            (2.2, 0.45, 0.9),
            (0.0, 0.0),
            (230, 230, 230),
        ),
    )


def _vehicle(token: str, pose: tuple, size: tuple, rgb: tuple, brake: bool, indicator) -> Actor:
    yaw = pose[2]
    velocity = 6.0 * np.array([np.cos(yaw), np.sin(yaw)])
    return Actor(token, ObjectClass.VEHICLE, np.array(pose), size, velocity, brake, indicator, rgb)


def _actor(
    token: str, cls: ObjectClass, pose: tuple, size: tuple, speed_heading: tuple, rgb: tuple
) -> Actor:
    speed, heading = speed_heading
    velocity = speed * np.array([np.cos(heading), np.sin(heading)])
    return Actor(token, cls, np.array(pose), size, velocity, False, "off", rgb)


def _turned(points: Array, turn: int) -> Array:
    return rotate(points, turn * np.pi / 2)


def _rect(x0: float, x1: float, y0: float, y1: float, turn: int) -> Array:
    return _turned(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]), turn)


def _arm_stripes(turn: int) -> list[Stripe]:
    """Marks and kerbs of one arm, drawn for the western arm and turned."""
    end = -13.5

    def line(
        y: float,
        start: float,
        stop: float,
        width: float,
        style: Style,
        colour: Colour = "white",
    ) -> Stripe:
        xs = np.linspace(start, stop, 40)
        return Stripe(_turned(np.stack([xs, np.full(40, y)], axis=1), turn), width, style, colour)

    stop_line = Stripe(
        _turned(np.array([[end, -HALF_ROAD_M + 0.2], [end, -0.2]]), turn), 0.4, "solid"
    )
    kerbs = [
        line(side * (HALF_ROAD_M + 0.1), -REACH_M, -HALF_ROAD_M, 0.2, "kerb", "grey")
        for side in (-1, 1)
    ]
    return [
        line(0.12, -REACH_M, end, 0.12, "solid", "yellow"),
        line(-0.12, -REACH_M, end, 0.12, "solid", "yellow"),
        line(-LANE_M, end - 18.0, end, 0.14, "solid"),
        line(-LANE_M, -REACH_M, end - 18.0, 0.14, "dashed"),
        line(LANE_M, -REACH_M, end, 0.14, "dashed"),
        line(-HALF_ROAD_M + 0.35, -REACH_M, end, 0.12, "solid"),
        line(HALF_ROAD_M - 0.35, -REACH_M, end, 0.12, "solid"),
        stop_line,
        *kerbs,
    ]


def _town() -> list[Prop]:
    """Houses set back from both roads, trees along the pavement, lamp posts."""
    colours = ((176, 160, 140), (150, 96, 78), (188, 184, 176), (120, 128, 140), (204, 190, 160))
    greens = ((70, 98, 48), (84, 110, 52), (58, 86, 50))
    props = []

    def draw(k: int, n: int) -> float:
        return float(hash01(np.int64(k), np.int64(n), 77))

    for turn in range(4):
        for side in (-1, 1):
            x = -24.0
            for k in range(8):
                key = turn * 100 + (side + 1) * 20 + k
                length, depth, height = (
                    14 + 12 * draw(key, 0),
                    12 + 8 * draw(key, 1),
                    6 + 16 * draw(key, 2) ** 2 * 1.6,
                )
                x -= length / 2
                spot = _turned(np.array([[x, side * (HALF_ROAD_M + 9 + depth / 2)]]), turn)[0]
                props.append(
                    Prop(
                        "building",
                        np.array([*spot, turn * np.pi / 2]),
                        (length, depth, height),
                        colours[key % 5],
                    )
                )
                x -= length / 2 + 2 + 9 * draw(key, 3)
            for k in range(16):
                key = turn * 100 + (side + 1) * 20 + k + 1000
                x = -19.0 - 11.0 * k + 3 * draw(key, 0)
                size = 3.6 + 2.2 * draw(key, 1)
                spot = _turned(np.array([[x, side * (HALF_ROAD_M + 4.4)]]), turn)[0]
                props.append(
                    Prop(
                        "tree",
                        np.array([*spot, 0.0]),
                        (size, size, 5.0 + 3.0 * draw(key, 2)),
                        greens[key % 3],
                    )
                )
            for k in range(6):
                spot = _turned(np.array([[-22.0 - 32.0 * k, side * (HALF_ROAD_M + 0.8)]]), turn)[0]
                heading = turn * np.pi / 2 - side * np.pi / 2
                props.append(
                    Prop("pole", np.array([*spot, heading]), (0.18, 0.18, 7.5), (120, 122, 124))
                )
        spot = _turned(np.array([[-40.0, -HALF_ROAD_M - 0.9]]), turn)[0]
        props.append(
            Prop("sign", np.array([*spot, turn * np.pi / 2]), (0.1, 0.7, 2.6), (200, 30, 36))
        )
    return props
