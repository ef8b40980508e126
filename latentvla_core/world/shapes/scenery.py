"""RoadNetwork → what stands still in the pictures: surfaces, paint, kerbs, buildings, trees,
signals.
"""

from __future__ import annotations

import numpy as np
import shapely

from latentvla_core.types import Array
from latentvla_core.world.state import Prop, Scenery, Signal, Stripe, Surface
from latentvla_core.world.streets.assemble import CENTRE_GAP_M
from latentvla_core.world.streets.network import (
    LANE_WIDTH_M,
    Junction,
    RoadNetwork,
    offset_path,
    resample,
)

WALL_COLOURS = (
    (168, 120, 96),
    (196, 184, 160),
    (140, 144, 150),
    (182, 150, 120),
    (120, 104, 98),
    (205, 202, 196),
)
LEAF_COLOURS = ((58, 96, 48), (74, 112, 52), (92, 110, 50), (48, 84, 54))
CORNER_WALKWAY_M = 2.85
YELLOW_M = (0.36, -0.36)
"""The two lines of the painted median."""


def make_scenery(
    network: RoadNetwork, props: tuple[Prop, ...], rng: np.random.Generator
) -> Scenery:
    """The town under the light of one day; `props` from `make_props`, the same for every day."""
    dusk = rng.random() < 0.12
    elevation = rng.uniform(-0.10, 0.02) if dusk else rng.uniform(0.12, 1.15)
    return Scenery(
        surfaces=_surfaces(network),
        stripes=_stripes(network),
        props=props,
        signals=tuple(
            s
            for j in network.junctions.values()
            if j.control == "signal"
            for s in _signals(network, j)
        ),
        sun_elevation_rad=float(elevation),
        sun_azimuth_rad=float(rng.uniform(-np.pi, np.pi)),
        haze_per_m=float(10 ** rng.uniform(-3.4, -2.3)),
    )


def _surfaces(network: RoadNetwork) -> tuple[Surface, ...]:
    groups = [b for b in network.blocks.values() if not b.is_connector]
    corners = [
        shapely.Polygon(j.outline_m).buffer(CORNER_WALKWAY_M) for j in network.junctions.values()
    ]
    return (
        *(Surface(np.array(c.exterior.coords)[:-1], "walkway") for c in corners),
        *(Surface(outline, "walkway") for _, outline, _ in network.walkways),
        *(Surface(b.outline_m, "asphalt") for b in groups),
        *(Surface(j.outline_m, "junction") for j in network.junctions.values()),
        *(Surface(c.outline_m, "carpark") for c in network.carparks),
        *(Surface(c.outline_m, "crosswalk") for c in network.crosswalks),
    )


def _stripes(network: RoadNetwork) -> tuple[Stripe, ...]:
    stripes: list[Stripe] = []
    for boundary in network.boundaries:
        if boundary.kind == "centre":
            stripes += [
                Stripe(offset_path(boundary.path_m, side), 0.12, "solid", "yellow")
                for side in YELLOW_M
            ]
        elif boundary.kind == "lane":
            stripes.append(Stripe(boundary.path_m, 0.14, "dashed"))
        else:
            stripes.append(Stripe(boundary.path_m, 0.3, "kerb", "grey"))
    for block in network.blocks.values():
        if block.parking_m:
            lane = network.lanes[block.lane_ids[-1]]
            stripes.append(
                Stripe(
                    offset_path(lane.path_m, -(lane.shoulder_m - block.parking_m + 1.7)),
                    0.1,
                    "solid",
                )
            )
    for junction in network.junctions.values():
        stripes += [Stripe(kerb, 0.3, "kerb", "grey") for kerb in junction.kerbs_m]
        if junction.control in ("signal", "stop", "crossing"):
            outlines = [outline for _, outline in junction.stop_lines.values()]
            stripes += [
                Stripe(np.array([(o[0] + o[1]) / 2, (o[2] + o[3]) / 2]), 0.45, "solid")
                for o in outlines
            ]
        if junction.control == "merge":
            stripes += _through_lines(network, junction)
    return tuple(stripes)


def _through_lines(network: RoadNetwork, junction: Junction) -> list[Stripe]:
    """The double yellow line goes on where lanes merge."""
    ends = [network.lanes[network.blocks[b].lane_ids[0]] for b in junction.group_of_block]
    left = [offset_path(lane.path_m, LANE_WIDTH_M / 2 + CENTRE_GAP_M)[-1] for lane in ends]
    line = resample(np.array(left), 2.0)
    return [Stripe(offset_path(line, side), 0.12, "solid", "yellow") for side in YELLOW_M]


def _signals(network: RoadNetwork, junction: Junction) -> list[Signal]:
    """One head per arriving block, over its lane on the far side of the junction."""
    found = []
    for block_id in junction.stop_lines:
        lane = network.lanes[network.blocks[block_id].lane_ids[-1]]
        own = [
            c
            for c in junction.connector_ids
            if network.lanes[network.lanes[c].from_lane].block_id == block_id
        ]
        u = np.array([np.cos(lane.yaw_rad[-1]), np.sin(lane.yaw_rad[-1])])
        straight = [network.lanes[c].path_m[-1] for c in own if network.lanes[c].turn == "straight"]
        across = float((junction.center_m - lane.path_m[-1]) @ u)
        spot = straight[-1] if straight else lane.path_m[-1] + u * (across + 9.0)
        found.append(Signal(np.array([*spot, lane.yaw_rad[-1]]), 5.3, tuple(own)))
    return found


def make_props(network: RoadNetwork, rng: np.random.Generator) -> tuple[Prop, ...]:
    """Buildings behind the walkways and trees along them, clear of everything paved."""
    paved = [shapely.Polygon(s.outline_m).buffer(0) for s in _surfaces(network)]
    blocked = shapely.unary_union(paved).buffer(0.6)
    shapely.prepare(blocked)
    buildings: list[tuple[Prop, shapely.Polygon]] = []
    trees: list[Prop] = []
    for _, _, middle in network.walkways:
        line = resample(middle, 1.0)
        _line_with_buildings(line, blocked, buildings, rng)
    for _, _, middle in network.walkways:
        _line_with_trees(resample(middle, 1.0), blocked, buildings, trees, rng)
    signs = [
        _sign(network, j, b)
        for j in network.junctions.values()
        if j.control == "stop"
        for b in j.stop_lines
    ]
    return (*(prop for prop, _ in buildings), *trees, *signs)


def _line_with_buildings(
    line: Array,
    blocked: shapely.Geometry,
    buildings: list[tuple[Prop, shapely.Polygon]],
    rng: np.random.Generator,
) -> None:
    at = 6
    while at < len(line) - 6:
        length, depth = rng.uniform(10, 22), rng.uniform(9, 15)
        tall = rng.uniform(14, 38) if rng.random() < 0.25 else rng.uniform(4.5, 12)
        rgb = WALL_COLOURS[int(rng.integers(len(WALL_COLOURS)))]
        setback = rng.uniform(2.5, 6.0) + depth / 2
        for side in (1, -1):
            pose = _beside(line, at, side * setback)
            shape = _footprint(pose, length, depth)
            if not shapely.intersects(blocked, shape) and not any(
                shape.intersects(other) for _, other in buildings
            ):
                buildings.append(
                    (Prop("building", pose, (float(length), float(depth), float(tall)), rgb), shape)
                )
        at += int(length) + int(rng.integers(2, 9))


def _line_with_trees(
    line: Array,
    blocked: shapely.Geometry,
    buildings: list[tuple[Prop, shapely.Polygon]],
    trees: list[Prop],
    rng: np.random.Generator,
) -> None:
    for at in range(5, len(line) - 5, 11):
        if rng.random() > 0.5:
            continue
        wide, tall = rng.uniform(2.4, 4.0), rng.uniform(4.5, 8.0)
        rgb = LEAF_COLOURS[int(rng.integers(len(LEAF_COLOURS)))]
        for side in (1, -1):
            pose = _beside(line, at, side * 2.6)
            spot = shapely.Point(pose[:2]).buffer(0.5)
            if not shapely.intersects(blocked, spot) and not any(
                spot.intersects(shape) for _, shape in buildings
            ):
                trees.append(Prop("tree", pose, (float(wide), float(wide), float(tall)), rgb))


def _beside(line: Array, index: int, offset_m: float) -> Array:
    u = line[index + 1] - line[index - 1]
    yaw = np.arctan2(u[1], u[0])
    x, y = line[index] + offset_m * np.array([-np.sin(yaw), np.cos(yaw)])
    return np.array([x, y, yaw])


def _footprint(pose: Array, length: float, depth: float) -> shapely.Polygon:
    u, n = (
        np.array([np.cos(pose[2]), np.sin(pose[2])]),
        np.array([-np.sin(pose[2]), np.cos(pose[2])]),
    )
    corners = [
        pose[:2] + a * u * length / 2 + b * n * depth / 2
        for a, b in ((1, 1), (-1, 1), (-1, -1), (1, -1))
    ]
    return shapely.Polygon(corners)


def _sign(network: RoadNetwork, junction: Junction, block_id: str) -> Prop:
    """A stop sign at the right of the stop line."""
    lane = network.lanes[network.blocks[block_id].lane_ids[-1]]
    edge = offset_path(lane.path_m, -(1.8 + lane.shoulder_m + 0.7))[-1]
    return Prop("sign", np.array([*edge, lane.yaw_rad[-1]]), (0.1, 0.75, 2.4), (190, 20, 30))
