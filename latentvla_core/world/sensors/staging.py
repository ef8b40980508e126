"""Which faces stand before a camera at one instant: props, traffic lights, road users, leaves."""

from __future__ import annotations

import numpy as np

from latentvla_core.geometry import box_corners
from latentvla_core.types import Array, ObjectClass
from latentvla_core.world.shapes.mesh import Mesh
from latentvla_core.world.shapes.people import PHASES, bicycle_mesh, pedestrian_mesh, thing_mesh
from latentvla_core.world.shapes.props import (
    prop_mesh,
    road_area,
    signal_head,
    signal_mast,
    tree_crowns,
)
from latentvla_core.world.shapes.vehicles import Lamps, vehicle_mesh
from latentvla_core.world.state import Actor, LightColour, Scenery, Signal, Snapshot

ACTOR_RANGE_M, PROP_RANGE_M, CROWN_RANGE_M = 180.0, 420.0, 260.0
BLINK_HZ = 1.5
STRIDE_M = 1.5  # both legs


class Stage:
    """Faces of a scenery, ready to be asked for by camera position."""

    def __init__(self, scenery: Scenery, *, night: bool) -> None:
        self.signals, self._night = scenery.signals, night
        road = road_area(scenery)
        solid = [prop_mesh(prop, i) for i, prop in enumerate(scenery.props)]
        solid += [signal_mast(signal, road) for signal in scenery.signals]
        self._mesh = Mesh.join(solid)
        self._starts = np.concatenate([[0], np.cumsum([len(m) for m in solid])]).astype(np.int64)
        self._centres, self._radii = _spheres(solid)
        self._crowns, _ = tree_crowns(scenery.props)
        self._heads: dict[tuple[int, LightColour | None], Mesh] = {}

    def faces(
        self, snapshot: Snapshot, camera_m: Array, forward: Array, half_angle_rad: float
    ) -> list[tuple[Mesh, Array]]:
        """World faces that a camera at `camera_m` (3,) looking along `forward` (3,) may see: meshes
        and which of their faces.
        """
        cone = (camera_m, forward, half_angle_rad)
        props = np.flatnonzero(_in_cone(self._centres, self._radii, *cone, PROP_RANGE_M))
        ranges = [np.arange(self._starts[i], self._starts[i + 1]) for i in props]
        heads = _near([s.pose for s in self.signals], 2.0, cone)
        moving = [self._head(i, self.signals[i], snapshot) for i in heads]
        seen = _near(
            [a.pose for a in snapshot.actors],
            max((a.size_m[0] for a in snapshot.actors), default=0.0),
            cone,
        )
        moving += [actor_mesh(snapshot.actors[i], snapshot.time_s, self._night) for i in seen]
        crowns = np.flatnonzero(
            _in_cone(self._crowns.centres_m, self._crowns.radii_m, *cone, CROWN_RANGE_M)
        )
        leaves = self._crowns.facing(camera_m, crowns)
        solid = Mesh.join(moving)
        static = np.concatenate([*ranges, np.zeros(0, np.int64)])
        return [
            (self._mesh, static),
            (solid, np.arange(len(solid))),
            (leaves, np.arange(len(leaves))),
        ]

    def actors_near(self, snapshot: Snapshot, eye: Array, range_m: float) -> list[Actor]:
        """Road users within range of a point on the ground."""
        return [
            a for a in snapshot.actors if np.hypot(a.pose[0] - eye[0], a.pose[1] - eye[1]) < range_m
        ]

    def _head(self, index: int, signal: Signal, snapshot: Snapshot) -> Mesh:
        colour = signal_colour(signal, snapshot)
        if (index, colour) not in self._heads:
            self._heads[index, colour] = signal_head(signal, colour)
        return self._heads[index, colour]


def signal_colour(signal: Signal, snapshot: Snapshot) -> LightColour | None:
    """What the head shows: the strictest colour of its connectors; None when none of them has a
    light now.
    """
    shown = [snapshot.lights[c] for c in signal.connector_ids if c in snapshot.lights]
    for colour in ("red", "yellow", "green"):
        if colour in shown:
            return colour
    return None


def actor_mesh(actor: Actor, time_s: float, night: bool) -> Mesh:
    """One road user at one instant, in the world."""
    pose, size = np.asarray(actor.pose, float), tuple(float(s) for s in actor.size_m)
    rgb = tuple(float(c) for c in actor.rgb)
    look = token_number(actor.token)
    if actor.cls == ObjectClass.VEHICLE:
        burning = blinks(actor, time_s)
        lamps = Lamps(
            actor.brake_lights,
            burning and actor.indicator == "left",
            burning and actor.indicator == "right",
            night,
        )
        return vehicle_mesh(size, rgb, lamps).placed(pose)
    speed = float(np.hypot(*actor.velocity_mps))
    phase = int(speed * time_s / STRIDE_M * PHASES + look) % PHASES
    if actor.cls == ObjectClass.PEDESTRIAN:
        return pedestrian_mesh(size[2], rgb, look % 12, phase, speed > 0.2).placed(pose)
    if actor.cls == ObjectClass.BICYCLE:
        return bicycle_mesh(size, rgb, look % 12, phase).placed(pose)
    return thing_mesh(actor.cls, size, rgb).placed(pose)


def blinks(actor: Actor, time_s: float) -> bool:
    """Whether an indicator that is switched on burns at this instant; every car has its own beat."""
    return (time_s * BLINK_HZ + (token_number(actor.token) % 8) / 8) % 1.0 < 0.55


def token_number(token: str) -> int:
    """A small number from a token that, unlike `hash`, is the same in every process."""
    return sum((k + 1) * ord(c) for k, c in enumerate(token)) % 65521


def footprints(actors: list[Actor]) -> tuple[Array, Array]:
    """(N, 4, 2) counter-clockwise outlines on the ground and (N,) heights of what casts a shadow."""
    if not actors:
        return np.zeros((0, 4, 2)), np.zeros(0)
    poses = np.array([a.pose for a in actors], float)
    sizes = np.array([a.size_m for a in actors], float)
    shrink = np.array([0.94 if a.cls == ObjectClass.VEHICLE else 0.7 for a in actors])
    return box_corners(poses, sizes[:, 0] * shrink, sizes[:, 1] * shrink), 0.85 * sizes[:, 2]


def _near(poses: list[Array], size_m: float, cone: tuple[Array, Array, float]) -> Array:
    """Indices of things up to `size_m` long and 9 m tall at these poses that the cone may hold."""
    centres = np.array([(p[0], p[1], 2.5) for p in poses], float).reshape(-1, 3)
    return np.flatnonzero(
        _in_cone(centres, np.full(len(centres), size_m / 2 + 7.0), *cone, ACTOR_RANGE_M)
    )


def _in_cone(
    centres: Array, radii: Array, eye: Array, forward: Array, half_angle: float, range_m: float
) -> Array:
    """(N,) bool: spheres that touch the viewing cone, nearer than `range_m`."""
    offset = centres - eye
    distance = np.linalg.norm(offset, axis=1)
    along = offset @ forward
    aside = np.sqrt(np.maximum(distance**2 - along**2, 0.0))
    # Distance from the sphere's centre to the side of the cone.
    outside = aside * np.cos(half_angle) - along * np.sin(half_angle)
    return (outside < radii) & (distance - radii < range_m)


def _spheres(meshes: list[Mesh]) -> tuple[Array, Array]:
    """(N, 3) centres and (N,) radii of spheres around each mesh."""
    if not meshes:
        return np.zeros((0, 3)), np.zeros(0)
    low = np.array([m.corners_m.min(axis=(0, 1)) for m in meshes])
    high = np.array([m.corners_m.max(axis=(0, 1)) for m in meshes])
    return (low + high) / 2, np.linalg.norm(high - low, axis=1) / 2
