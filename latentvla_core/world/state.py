"""What the world looks like at one instant, and what never changes. The seam between simulation and
rendering.

Simulation (`network`, `traffic`, `ego`, `simulate`) produces a `Scenery` once and a `Snapshot` per
time step; cameras and lidar (`render`, `lidar`) only read them. World frame: the map's global frame
minus an origin, metres, x east, y north.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from latentvla_core.types import Array, ObjectClass

Material = Literal["asphalt", "junction", "carpark", "walkway", "crosswalk", "grass"]
LightColour = Literal["red", "yellow", "green"]


@dataclass(frozen=True, slots=True)
class Surface:
    """A flat area of the ground; later surfaces lie on top of earlier ones."""

    outline_m: Array
    """(n, 2) polygon, not closed."""
    material: Material


@dataclass(frozen=True, slots=True)
class Stripe:
    """Paint on the road, or a kerb edge."""

    path_m: Array
    """(n, 2) polyline."""
    width_m: float
    style: Literal["solid", "dashed", "kerb"]
    colour: Literal["white", "yellow", "grey"] = "white"


@dataclass(frozen=True, slots=True)
class Prop:
    """A static upright box: building, tree, pole."""

    kind: Literal["building", "tree", "pole", "sign"]
    pose: Array
    """(3,) centre x, y, yaw."""
    size_m: tuple[float, float, float]
    """Length, width, height; it stands on z = 0."""
    rgb: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Signal:
    """A traffic light head, facing drivers who approach along `pose` (it looks back against the
    yaw).
    """

    pose: Array
    """(3,) position of the head on the ground plane and the driving direction it controls."""
    height_m: float
    connector_ids: tuple[str, ...]
    """Lane connectors that must stop when it is red."""


@dataclass(frozen=True, slots=True)
class Scenery:
    """Everything that does not move, and the light of the day."""

    surfaces: tuple[Surface, ...]
    stripes: tuple[Stripe, ...]
    props: tuple[Prop, ...]
    signals: tuple[Signal, ...]
    sun_elevation_rad: float
    """Low sun: warm, long contrast; below 0: dusk with head lights."""
    sun_azimuth_rad: float
    haze_per_m: float
    """Extinction: colours fade to the sky as exp(-haze · distance)."""


@dataclass(frozen=True, slots=True)
class Actor:
    """One road user or movable object."""

    token: str
    cls: ObjectClass
    pose: Array
    """(3,) centre."""
    size_m: tuple[float, float, float]
    velocity_mps: Array
    """(2,) world frame."""
    brake_lights: bool
    indicator: Literal["off", "left", "right"]
    rgb: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The moving world at one instant."""

    time_s: float
    ego_pose: Array
    """(3,) rear axle."""
    actors: tuple[Actor, ...]
    """Without the ego."""
    lights: dict[str, LightColour]
    """Colour per lane connector id; connectors without a light are absent."""
