"""From the logged route to lanes: route correction, starting lane, centre line (pdms.md §13.1,
§13.2).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
import shapely

from latentvla_core.errors import DataError
from latentvla_core.geometry import box_corners
from latentvla_core.pdms.roads.map_index import Lane, MapIndex
from latentvla_core.types import Array, Pose, Vehicle

NEAR_M = 1.0  # half side of the square in which current blocks are looked for
MAX_HEADING_ERROR_RAD = np.pi / 4
MAX_DISPLACEMENT_M = 3.0
DEPTH_BACKWARD = 15
DEPTH_FORWARD = 30
GOAL_BLOCKS = 3  # a search from an off-route start aims at the first three blocks of the route
LOOP_OVERLAP_M2 = 1.0
CENTERLINE_BLOCKS = 30


def logged_route(roadblock_ids: Sequence[str], index: MapIndex) -> tuple[str, ...]:
    """The logged route without duplicates (first kept). Raises DataError when it is empty or not of
    this map.
    """
    route = tuple(dict.fromkeys(roadblock_ids))
    if not route:
        raise DataError(
            "the route is empty; a scene without a route cannot be scored", field="roadblock_ids"
        )
    missing = [id_ for id_ in route if not index.is_block(id_)]
    if missing:
        text = f"route ids {missing[:5]} are not in map {index.road_map.location!r}; use the map the log was made with"
        raise DataError(text, field="roadblock_ids")
    return route


def correct_route(pose: Array, route: Sequence[str], index: MapIndex) -> tuple[str, ...]:
    """Block ids of the route joined to the ego's block, gaps filled, cut where it loops. pose (3,):
    rear axle, global.
    """
    blocks = _join_start(pose, list(route), index)
    blocks = _fill_gaps(blocks, index)
    return tuple(dict.fromkeys(_cut_loop(blocks, index)))


def _join_start(pose: Array, route: list[str], index: MapIndex) -> list[str]:
    """§13.1, 1: when the ego's block is not on the route, search backward from the route, then
    forward to it.
    """
    start, candidates = current_blocks(pose, route, index)
    if start in route:
        return route
    path = search_blocks(route[0], set(candidates), DEPTH_BACKWARD, index.blocks_before)
    if path:
        return path[::-1][:-1] + route
    path = search_blocks(start, set(route[:GOAL_BLOCKS]), DEPTH_FORWARD, index.blocks_after)
    if path:
        return path + route[route.index(path[-1]) + 1 :]
    return route


def _fill_gaps(blocks: list[str], index: MapIndex) -> list[str]:
    """§13.1, 2: insert the blocks between two that are not linked, where a search finds them."""
    out = blocks[:1]
    for here, after in zip(blocks[:-1], blocks[1:], strict=True):
        if here not in index.blocks_before(after):
            path = search_blocks(here, {after}, DEPTH_FORWARD, index.blocks_after)
            out += path[1:-1]  # empty for a path of two blocks or none
        out.append(after)
    return out


def _cut_loop(blocks: list[str], index: MapIndex) -> list[str]:
    """§13.1, 3: stop before the first roadblock connector that overlaps an earlier one."""
    seen: list = []
    for k, block in enumerate(blocks):
        polygon = index.connector_polygon(block)
        if polygon is None:
            continue
        if (
            seen
            and shapely.area(shapely.intersection(np.array(seen, object), polygon)).max()
            > LOOP_OVERLAP_M2
        ):
            return blocks[:k]
        seen.append(polygon)
    return blocks


def current_blocks(pose: Array, route: Collection[str], index: MapIndex) -> tuple[str, list[str]]:
    """The block the ego is taken to be in, and all candidates for it (§13.1, current block
    candidates).
    """
    near = _blocks_near(pose, index)
    fitting: dict[bool, list[tuple[float, str]]] = {True: [], False: []}  # on route?
    nearest: list[tuple[float, str]] = []
    for block in near:
        errors = [index.lane(lane).nearest_vertex(pose) for lane in index.lanes_of(block)]
        nearest.append((min((distance for distance, _ in errors), default=np.inf), block))
        good = [
            d for d, heading in errors if heading < MAX_HEADING_ERROR_RAD and d < MAX_DISPLACEMENT_M
        ]
        fitting[block in route] += [(distance, block) for distance in good]
    found = fitting[True] or fitting[False] or nearest
    if not found:
        raise DataError(
            f"map {index.road_map.location!r} has no roadblocks; the ego cannot be placed on a route"
        )
    return min(found, key=lambda item: item[0])[1], [block for _, block in found]


def _blocks_near(pose: Array, index: MapIndex) -> list[str]:
    x, y = pose[:2]
    box = np.array([x - NEAR_M, y - NEAR_M, x + NEAR_M, y + NEAR_M])
    layers = {
        "lane_groups": index.road_map.lane_groups.ids,
        "group_connectors": index.road_map.group_connectors.ids,
    }
    near = [ids[row] for layer, ids in layers.items() for row in index.rows_in(layer, box)]
    if near:
        return near
    rows = [(ids, index.nearest_row(layer, pose[:2])) for layer, ids in layers.items()]
    return [ids[row] for ids, row in rows if row is not None]


def search_blocks(
    start: str, goals: Collection[str], max_depth: int, neighbours: Callable[[str], Sequence[str]]
) -> list[str]:
    """Blocks from start to the first goal found breadth first, both included; empty when there is
    none.

    The devkit keeps no visited set, so its queue holds blocks many times over and its parents are
    those inserted last. Only the first and the last place of a block in a level matter for the
    result; this keeps just these two, which makes the exponential search linear per level.
    """
    first, last = (
        {start: 0},
        {start: 0},
    )  # block → rank of its first and last place in the level's queue
    parents: list[dict[str, str]] = [{}]
    for depth in range(1, max_depth + 1):
        goal = next(
            (block for block in sorted(first, key=first.__getitem__) if block in goals), None
        )
        if goal is not None:
            return _walk_back(goal, depth, parents)
        first, last, parent = _next_level(first, last, neighbours)
        if not first:
            break
        parents.append(parent)
    return []


def _next_level(
    first: dict[str, int], last: dict[str, int], neighbours: Callable[[str], Sequence[str]]
) -> tuple[dict[str, int], dict[str, int], dict[str, str]]:
    """Ranks of the level that expanding a level gives, and each block's parent: the one that
    inserts it last.
    """
    firsts: dict[str, int] = {}
    for block in sorted(first, key=first.__getitem__):
        for other in neighbours(block):
            firsts.setdefault(other, len(firsts))
    lasts: dict[str, int] = {}
    parent: dict[str, str] = {}
    rank = 0
    for block in sorted(last, key=last.__getitem__):
        for other in neighbours(block):
            rank += 1
            lasts[other], parent[other] = rank, block
    return firsts, lasts, parent


def _walk_back(goal: str, depth: int, parents: list[dict[str, str]]) -> list[str]:
    path = [goal]
    for level in range(depth - 1, 0, -1):
        path.append(parents[level][path[-1]])
    return path[::-1]


def starting_lane(
    pose: Array, route_lanes: Sequence[str], holding: Sequence[str], index: MapIndex
) -> Lane:
    """The route lane the centre line starts from (§13.2).

    Args:
        pose: (3,) rear axle, global.
        route_lanes: lanes of the corrected route, in order.
        holding: ids of the polygons of the drivable map that the rear axle touches, in the map's
        order.
    """
    on_route = set(route_lanes)
    held = [index.lane(id_) for id_ in holding if id_ in on_route]
    if held:
        return min(held, key=lambda lane: lane.nearest_vertex(pose)[1])
    return _nearest_lane(pose, route_lanes, index)


def _nearest_lane(pose: Array, route_lanes: Sequence[str], index: MapIndex) -> Lane:
    """First route lane that holds the ego's centre, else the one nearest to its box."""
    if not route_lanes:
        raise DataError(
            "the corrected route has no lanes; check lane_group_fid of the map",
            field="roadblock_ids",
        )
    center = center_pose(pose)
    polygons = np.array([index.lane(id_).polygon for id_ in route_lanes], object)
    inside = shapely.contains_xy(polygons, *center[:2])
    if inside.any():
        return index.lane(route_lanes[int(np.argmax(inside))])
    box = shapely.Polygon(box_corners(center, Vehicle.LENGTH_M, Vehicle.WIDTH_M))
    return index.lane(route_lanes[int(np.argmin(shapely.distance(polygons, box)))])


def center_pose(rear_axle: Array) -> Array:
    """(..., 3) poses of the box centre of rear-axle poses (..., 3)."""
    yaw = rear_axle[..., Pose.YAW]
    ahead = Vehicle.REAR_AXLE_TO_CENTER_M * np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)
    return np.concatenate([rear_axle[..., :2] + ahead, yaw[..., None]], axis=-1)


def centerline(
    start: Lane, blocks: Sequence[str], route_lanes: Collection[str], index: MapIndex
) -> Array:
    """(C, 3) centre line: baselines of the cheapest lanes from start to the end of the route,
    global (§13.2).
    """
    first = blocks.index(start.block_id) if start.block_id in blocks else 0
    window = blocks[first : first + CENTERLINE_BLOCKS]
    lanes = cheapest_lanes(start.id, set(index.lanes_of(window[-1])), set(route_lanes), index)
    return np.concatenate([index.lane(lane).path for lane in lanes])


def cheapest_lanes(
    start: str, goals: Collection[str], allowed: Collection[str], index: MapIndex
) -> list[str]:
    """Lanes from start to a goal lane, the least total length first; without one, the deepest
    reached (§13.2).
    """
    cost, depth = {start: 1.0}, {start: 1}  # of waiting lanes, in order of insertion
    parent: dict[str, str | None] = {start: None}
    done: dict[str, tuple[int, float]] = {}
    while cost:
        lane = min(cost, key=cost.__getitem__)  # ties: the earliest
        spent, level = cost.pop(lane), depth.pop(lane)
        if lane in goals:
            return _lanes_to(lane, parent)
        done[lane] = (-level, spent)
        for after in index.lanes_after(lane):
            if after not in allowed or after in done:
                continue
            total = spent + index.lane(after).length_m
            if after not in cost or total < cost[after]:
                cost[after], depth[after], parent[after] = total, level + 1, lane
    return _lanes_to(min(done, key=done.__getitem__), parent)


def _lanes_to(lane: str | None, parent: dict[str, str | None]) -> list[str]:
    path = []
    while lane is not None:
        path.append(lane)
        lane = parent[lane]
    return path[::-1]
