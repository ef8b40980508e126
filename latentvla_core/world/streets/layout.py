"""Where a town's roads and junctions lie: a jittered grid, bends at its corners, crossings and
merges on long roads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from latentvla_core.geometry import arc_length
from latentvla_core.types import Array
from latentvla_core.world.streets.network import Control, resample


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutConfig:
    """Size and variety of a town."""

    columns: int = 3
    rows: int = 3
    spacing_m: tuple[float, float] = (135.0, 185.0)
    """Range of block sizes."""
    jitter_m: float = 12.0
    bend_radius_m: tuple[float, float] = (28.0, 50.0)
    crossing_share: float = 0.35
    """Share of long one-lane roads that get a crossing in the middle."""
    two_lane_share: float = 0.45
    """Share of roads with two lanes per direction, of which half lose one on the way (a merge)."""
    parking_share: float = 0.35

    def __post_init__(self) -> None:
        if min(self.columns, self.rows) < 2 or self.columns + self.rows < 5:
            raise ValueError(
                f"a town of {self.columns} x {self.rows} points has no junction; needs at least 3 x 2"
            )


@dataclass(slots=True)
class Node:
    """Where roads end."""

    control: Control
    position_m: Array


@dataclass(slots=True)
class Road:
    """A stretch between two nodes. `path_m` runs from node a to node b along the line between the
    directions.
    """

    a: int
    b: int
    path_m: Array
    lanes_ab: int = 1
    lanes_ba: int = 1
    main: bool = False
    parking: tuple[float, float] = (0.0, 0.0)
    """Width of the parking strip for a → b and b → a."""


@dataclass(slots=True)
class Layout:
    """Nodes and roads of one town."""

    nodes: list[Node] = field(default_factory=list)
    roads: list[Road] = field(default_factory=list)


def make_layout(rng: np.random.Generator, config: LayoutConfig) -> Layout:
    """A town in which every road ends at a junction of three or more arms, or goes on in a crossing
    or a merge.
    """
    points, edges = _grid(rng, config)
    layout = Layout()
    degree = {k: sum(k in e for e in edges) for k in range(len(points))}
    kept = [k for k in range(len(points)) if degree[k] > 2]
    number = {k: i for i, k in enumerate(kept)}
    for k in kept:
        layout.nodes.append(Node(_control(rng, len(layout.nodes)), points[k]))
    for chain in _chains(edges, set(kept)):
        path = _rounded(points[chain], float(rng.uniform(*config.bend_radius_m)))
        _add_road(layout, rng, config, number[chain[0]], number[chain[-1]], path)
    return layout


def _grid(rng: np.random.Generator, config: LayoutConfig) -> tuple[Array, set[tuple[int, int]]]:
    nx, ny = config.columns, config.rows
    xs = np.concatenate([[0.0], np.cumsum(rng.uniform(*config.spacing_m, nx - 1))])
    ys = np.concatenate([[0.0], np.cumsum(rng.uniform(*config.spacing_m, ny - 1))])
    grid = np.stack(np.meshgrid(xs - xs.mean(), ys - ys.mean(), indexing="ij"), axis=-1).reshape(
        -1, 2
    )
    points = grid + rng.uniform(-config.jitter_m, config.jitter_m, grid.shape)
    across = {(i * ny + j, (i + 1) * ny + j) for i in range(nx - 1) for j in range(ny)}
    along = {(i * ny + j, i * ny + j + 1) for i in range(nx) for j in range(ny - 1)}
    edges = across | along
    _drop_an_inner_edge(rng, edges, len(points))
    return points, edges


def _drop_an_inner_edge(rng: np.random.Generator, edges: set[tuple[int, int]], count: int) -> None:
    """Makes one junction of four arms a junction of three, when both ends keep three arms."""
    degree = [sum(k in e for e in edges) for k in range(count)]
    removable = sorted(e for e in edges if degree[e[0]] + degree[e[1]] >= 7)
    if removable and rng.random() < 0.5:
        edges.discard(removable[int(rng.integers(len(removable)))])


def _chains(edges: set[tuple[int, int]], kept: set[int]) -> list[list[int]]:
    """Paths of the graph from one kept node to the next, through nodes that are only bends."""
    links: dict[int, list[int]] = {}
    for a, b in sorted(edges):
        links.setdefault(a, []).append(b)
        links.setdefault(b, []).append(a)
    chains = []
    for start in sorted(kept):
        for step in links[start]:
            chain = [start, step]
            while chain[-1] not in kept:
                chain.append(next(k for k in links[chain[-1]] if k != chain[-2]))
            if chain[0] < chain[-1] or (chain[0] == chain[-1] and chain[1] < chain[-2]):
                chains.append(chain)
    return chains


def _rounded(points_m: Array, radius_m: float) -> Array:
    """Polyline with bends drawn as quadratic Bézier curves, whose curvature grows and falls
    smoothly.
    """
    pieces = [points_m[:1]]
    for before, corner, after in zip(points_m[:-2], points_m[1:-1], points_m[2:], strict=True):
        to_before, to_after = before - corner, after - corner
        reach = min(
            radius_m * 1.6, 0.48 * np.linalg.norm(to_before), 0.48 * np.linalg.norm(to_after)
        )
        p0 = corner + to_before / np.linalg.norm(to_before) * reach
        p2 = corner + to_after / np.linalg.norm(to_after) * reach
        t = np.linspace(0, 1, 40)[:, None]
        pieces.append((1 - t) ** 2 * p0 + 2 * t * (1 - t) * corner + t**2 * p2)
    return np.concatenate([*pieces, points_m[-1:]])


def _control(rng: np.random.Generator, index: int) -> Control:
    if index % 2 == 0:
        return "signal"
    return "priority" if rng.random() < 0.6 else "stop"


def _wavy(rng: np.random.Generator, path_m: Array) -> Array:
    """Adds a gentle sideways wave that vanishes, with its slope, at both ends."""
    path = resample(path_m, 2.0)
    s = arc_length(path)
    wave = np.sin(np.pi * s / s[-1]) ** 2 * np.sin(2 * np.pi * s / s[-1] * rng.choice([0.5, 1.0]))
    tangent = np.gradient(path, axis=0)
    tangent = tangent / np.linalg.norm(tangent, axis=1, keepdims=True)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    return path + normal * (wave * rng.uniform(-0.06, 0.06) * s[-1])[:, None]


def _add_road(
    layout: Layout, rng: np.random.Generator, config: LayoutConfig, a: int, b: int, path_m: Array
) -> None:
    """Adds the road, or two roads with a crossing or a merge between them."""
    straight = len(path_m) == 2
    path = resample(_wavy(rng, path_m) if straight and rng.random() < 0.6 else path_m, 2.0)
    wide = rng.random() < config.two_lane_share
    parking = (
        2.4 if rng.random() < config.parking_share else 0.0,
        2.4 if rng.random() < config.parking_share else 0.0,
    )
    middle, long_enough = len(path) // 2, arc_length(path)[-1] > 110.0
    if wide and long_enough and rng.random() < 0.5:
        node = _middle_node(layout, "merge", path[middle])
        layout.roads.append(Road(a, node, path[: middle + 1], 2, 1, main=True))
        layout.roads.append(Road(node, b, path[middle:], 1, 1, main=True))
    elif not wide and long_enough and rng.random() < config.crossing_share:
        node = _middle_node(layout, "crossing", path[middle])
        layout.roads.append(Road(a, node, path[: middle + 1], parking=parking))
        layout.roads.append(Road(node, b, path[middle:]))
    else:
        lanes = 2 if wide else 1
        layout.roads.append(
            Road(a, b, path, lanes, lanes, main=wide, parking=(0.0, 0.0) if wide else parking)
        )


def _middle_node(layout: Layout, control: Control, position_m: Array) -> int:
    layout.nodes.append(Node(control, position_m))
    return len(layout.nodes) - 1
