"""Compiled twin of `traffic_shapely`: reactive vehicles over the steps of one plan (pdms.md §14.2).

Legend: D simulated vehicles; number D is the ego. Shapes are drawn only where something comes near.
"""

from __future__ import annotations

import math

import numpy as np

from latentvla_core.pdms.backend import kernel
from latentvla_core.pdms.reactive.firm_kernels import is_firm
from latentvla_core.pdms.reactive.outline_kernels import (
    NO,
    SURE_M,
    UNSURE,
    YES,
    bounds,
    outline,
    relation,
)

DT_S, HEADWAY_S, MIN_GAP_M, RADIUS_M, EXPONENT = 0.1, 1.5, 1.0, 100.0, 4
COMFORT = 2 * math.sqrt(1.0 * 2.0)  # of accelerations 1 and -2 m/s²
FREE = -1  # nobody is ahead
TIE_M = 1e-9
ASK = (
    -2
)  # only shapely can tell who; below it, who is known (ASK - 1 - leader), but not how far exactly
UNDRAWN = -2  # vertices of an outline that nobody has asked for yet; -1: it cannot be drawn


@kernel
def drive_on(lanes, egos, cars, shapes, poses, step, car, answer):
    """Drive all vehicles from (step, car) on; returns (0, 0, -1), or step and car where shapely has
    to be asked, and ASK or less.

    Args:
        lanes: path (n, 3), arc length (n,), offsets (D + 1,), target speed (D,), size (D + 1, 2).
        egos: (41, 5) x, y, yaw, v_x, v_y.
        cars: progress (D,), speed (D,), alive (D,) bool, moved (D,) bool: has taken a step. Changed
        in place.
        shapes: boxes (D + 1, 4, 2), bounds (D + 1, 4), rings (D, M, 2), counts (D,); two lines (n,
        2) and a ring (m, 2)
            to draw in.
        poses: (41, D, 3) filled; NaN where a vehicle has left.
        answer: (leader, gap m) of vehicle `car` at `step`, found elsewhere; leader -2: none, look
        for it.
    """
    progress, speed, alive, _ = cars
    for k in range(step, poses.shape[0]):
        first = car if k == step else 0
        if first == 0 and (k > step or answer[0] < FREE):
            _enter(lanes, egos[k - 1], cars, shapes)
        for i in range(first, len(progress)):
            if not alive[i]:
                continue
            lead, gap = answer
            if k > step or i > car or lead < FREE:
                lead, gap = _leader(lanes, cars, shapes, i)
            if lead < FREE:
                return k, i, lead
            _advance(lanes, egos[k - 1], cars, i, int(lead), gap)
            _place(lanes, cars, shapes, i, poses[k, i])
    return 0, 0, FREE


@kernel
def _enter(lanes, ego, cars, shapes):
    """A new step: who is too far away leaves for good, and the ego stands where it is, its box
    around its rear axle.
    """
    progress, _, alive, _ = cars
    pose = np.empty(3)
    for i in range(len(progress)):
        if alive[i]:
            pose_at(lanes, i, progress[i], pose)
            alive[i] = math.hypot(pose[0] - ego[0], pose[1] - ego[1]) <= RADIUS_M
    boxes, limits = shapes[0], shapes[1]
    box_at(ego[:3], lanes[4][len(progress)], boxes[len(progress)])
    limits[len(progress)] = bounds(boxes[len(progress)])


@kernel
def pose_at(lanes, i, progress, out):
    """Pose (3,) on the path of vehicle i, as np.interp."""
    path, arc, offsets = lanes[0], lanes[1], lanes[2]
    low, last = offsets[i], offsets[i + 1] - 1
    if progress <= arc[low] or progress >= arc[last]:
        out[:] = path[low if progress <= arc[low] else last]
        return
    low += np.searchsorted(arc[low : last + 1], progress, side="right") - 1
    for c in range(3):
        slope = (path[low + 1, c] - path[low, c]) / (arc[low + 1] - arc[low])
        out[c] = slope * (progress - arc[low]) + path[low, c]


@kernel
def _place(lanes, cars, shapes, i, pose):
    """Where vehicle i stands now: its pose, its box, and the bounds of what it claims."""
    boxes, limits, _, counts, line = shapes[:5]
    size = lanes[4][i]
    pose_at(lanes, i, cars[0][i], pose)
    cars[3][i] = True
    counts[i] = UNDRAWN
    box_at(pose, size, boxes[i])
    n = _claim(lanes, cars, i, line)
    a, b = bounds(boxes[i]), bounds(line[:n])
    half = size[1] / 2 * (1 + 1e-9)
    limits[i, 0], limits[i, 1] = min(a[0], b[0] - half), min(a[1], b[1] - half)
    limits[i, 2], limits[i, 3] = max(a[2], b[2] + half), max(a[3], b[3] + half)


@kernel
def box_at(pose, size, out):
    """Corners (4, 2): front-left, rear-left, rear-right, front-right."""
    cos, sin = math.cos(pose[2]), math.sin(pose[2])
    for c in range(4):
        ahead = size[0] / 2 if c in (0, 3) else -size[0] / 2
        left = size[1] / 2 if c < 2 else -size[1] / 2
        out[c, 0], out[c, 1] = (
            cos * ahead - sin * left + pose[0],
            sin * ahead + cos * left + pose[1],
        )


@kernel
def _claim(lanes, cars, i, line):
    """Write the piece of path that vehicle i claims: half a length behind to half a length and 1.5
    s ahead.
    """
    path, arc, offsets = lanes[0], lanes[1], lanes[2]
    low, end = offsets[i], offsets[i + 1]
    half, along = lanes[4][i, 0] / 2, cars[0][i]
    start = min(max(along - half, arc[low]), arc[end - 1])
    stop = min(max(along + half + HEADWAY_S * cars[1][i], arc[low]), arc[end - 1])
    if start >= arc[end - 1] or stop <= arc[low]:
        first = end - 2 if start >= arc[end - 1] else low
        line[:2] = path[first : first + 2, :2]
        return 2
    return _stretch(lanes, i, start, stop, line)


@kernel
def _stretch(lanes, i, start, stop, line):
    """Write the path of vehicle i between two arc lengths; returns the number of vertices."""
    path, arc, offsets = lanes[0], lanes[1], lanes[2]
    pose = np.empty(3)
    pose_at(lanes, i, start, pose)
    line[0] = pose[:2]
    count = 1
    first = offsets[i] + np.searchsorted(arc[offsets[i] : offsets[i + 1]], start, side="right")
    for v in range(first, offsets[i + 1]):
        if arc[v] >= stop:
            break
        line[count] = path[v, :2]
        count += 1
    pose_at(lanes, i, stop, pose)
    line[count] = pose[:2]
    return count + 1


@kernel
def _way(lanes, cars, i, line):
    """Write the path that vehicle i still has to drive."""
    path, arc, offsets = lanes[0], lanes[1], lanes[2]
    last = offsets[i + 1] - 1
    if cars[0][i] >= arc[last]:
        line[:2] = path[last - 1 : last + 1, :2]
        return 2
    return _stretch(lanes, i, cars[0][i], arc[last], line)


@kernel
def _leader(lanes, cars, shapes, i):
    """(leader, gap m) of vehicle i; leader FREE: nobody, ASK or less: only shapely can tell."""
    alive, limits, line, ring = cars[2], shapes[1], shapes[5], shapes[6]
    half = lanes[4][i, 1] / 2
    n = _way(lanes, cars, i, line)
    x0, y0, x1, y1 = bounds(line[:n])
    drawn = UNDRAWN
    best, second, lead = np.inf, np.inf, FREE
    for j in range(len(alive) + 1):
        if (
            j == i
            or (j < len(alive) and not alive[j])
            or not _near((x0, y0, x1, y1), limits[j], half)
        ):
            continue
        if not _passes(line[:n], limits[j], half):
            continue
        if drawn == UNDRAWN:
            drawn = outline(line[:n], half, ring)
        met = _meets(lanes, cars, shapes, j, drawn)
        if met == NO:
            continue
        gap = _gap(lanes, cars, shapes, i, j) if met == YES else -1.0
        if met == UNSURE or gap < 0:
            return ASK, 0.0
        if gap < best:
            best, second, lead = gap, best, j
        else:
            second = min(second, gap)
    if lead == FREE or best == 0.0:
        return lead, best
    if second - best < TIE_M:
        return ASK, 0.0
    return (lead, best) if _holds(lanes, cars, shapes, i, lead, best) else (ASK - 1 - lead, best)


@kernel
def _holds(lanes, cars, shapes, i, lead, gap):
    """Does the gap to the leader stay when what both claim is simplified?"""
    boxes, rings = shapes[0], shapes[2]
    own = _draw(lanes, cars, shapes, i)
    other = _draw(lanes, cars, shapes, lead) if lead < len(cars[0]) else 0
    for a in range(2):
        for b in range(2):
            mine, beside = (rings[i, :own], boxes[i]) if a else (boxes[i], rings[i, :own])
            theirs, their_beside = (
                (rings[lead % len(rings), :other], boxes[lead])
                if b
                else (boxes[lead], rings[lead % len(rings), :other])
            )
            if len(mine) and len(theirs) and not is_firm(mine, beside, theirs, their_beside, gap):
                return False
    return True


@kernel
def _near(box, other, half):
    """Do two rectangles touch, the first grown by half a width?"""
    grown = half * (1 + 1e-9) + SURE_M
    if box[0] - grown > other[2] or box[2] + grown < other[0]:
        return False
    return not (box[1] - grown > other[3] or box[3] + grown < other[1])


@kernel
def _passes(line, other, half):
    """Does some piece of a line come as near to a rectangle as half a width?"""
    for v in range(line.shape[0] - 1):
        box = (
            min(line[v, 0], line[v + 1, 0]), min(line[v, 1], line[v + 1, 1]),
            max(line[v, 0], line[v + 1, 0]), max(line[v, 1], line[v + 1, 1]),
        )  # fmt: skip
        if _near(box, other, half):
            return True
    return False


@kernel
def _draw(lanes, cars, shapes, j):
    """Number of vertices of the outline of what vehicle j claims, drawn at most once a step; 0
    before its first.
    """
    rings, counts, line = shapes[2], shapes[3], shapes[4]
    if not cars[3][j]:
        return 0
    if counts[j] == UNDRAWN:
        n = _claim(lanes, cars, j, line)
        counts[j] = outline(line[:n], lanes[4][j, 1] / 2, rings[j])
    return counts[j]


@kernel
def _meets(lanes, cars, shapes, j, drawn):
    """Does what j claims (the ego: its box) meet the outline drawn in the scratch ring?"""
    boxes, rings, ring = shapes[0], shapes[2], shapes[6]
    if drawn < 0:
        return UNSURE
    met, _ = relation(ring[:drawn], boxes[j], 2 * SURE_M)
    if met == YES or j == len(cars[0]):
        return met
    count = _draw(lanes, cars, shapes, j)
    if count == 0:
        return met
    if count < 0:
        return UNSURE
    more, _ = relation(ring[:drawn], rings[j, :count], 2 * SURE_M)
    return YES if more == YES else max(met, more)


@kernel
def _gap(lanes, cars, shapes, i, j):
    """Distance, metres, of what two vehicles claim; -1: only shapely can tell."""
    boxes, rings = shapes[0], shapes[2]
    own = _draw(lanes, cars, shapes, i)
    other = _draw(lanes, cars, shapes, j) if j < len(cars[0]) else 0
    if own < 0 or other < 0:
        return -1.0
    unsure, least = False, np.inf
    for a in range(2):
        for b in range(2):
            if (a and not own) or (b and not other):
                continue
            one = rings[i, :own] if a else boxes[i]
            two = rings[j, :other] if b else boxes[j]
            met, gap = relation(one, two, least)
            if met == YES:
                return 0.0
            unsure, least = unsure or met == UNSURE, min(least, gap)
    return -1.0 if unsure else least


@kernel
def _advance(lanes, ego, cars, i, lead, gap):
    """One step of the intelligent-driver model."""
    progress, speed = cars[0], cars[1]
    v, lead_mps, rear = speed[i], 0.0, 0.0
    if lead == FREE:
        gap, rear = lanes[1][lanes[2][i + 1] - 1] - progress[i], lanes[4][i, 0] / 2
    else:
        pose, other = np.empty(3), np.empty(3)
        pose_at(lanes, i, progress[i], pose)
        if lead == len(progress):
            yaw, lead_mps = ego[2], math.hypot(ego[3], ego[4])
        else:
            pose_at(lanes, lead, progress[lead], other)
            yaw, lead_mps = other[2], speed[lead]
        lead_mps *= math.cos(yaw - pose[2])
    wanted = MIN_GAP_M + HEADWAY_S * v + v * (v - lead_mps) / COMFORT
    free = max(gap - rear, MIN_GAP_M)
    accel = 1.0 * (1 - (v / lanes[3][i]) ** EXPONENT - (wanted / free) ** 2)
    progress[i] += DT_S * v
    speed[i] = max(0.0, v + DT_S * min(max(accel, -2.0), 1.0))
