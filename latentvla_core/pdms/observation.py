"""Other road users as the scorer sees them: 2 Hz key frames → boxes every 0.1 s, and red lights
(pdms.md §6).

Legend: K key frames (now and every 0.5 s), T steps of 0.1 s, A tracks, R red-light connectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely

from latentvla_core.errors import DataError
from latentvla_core.geometry import box_corners, rotate, wrap
from latentvla_core.pdms.roads.map_index import MapIndex
from latentvla_core.pdms.state import DT_S
from latentvla_core.types import FRAME_INTERVAL_S, Array, Box, Frame, ObjectClass, Pose

STEPS_PER_FRAME = 5


@dataclass(frozen=True, slots=True)
class Tracks:
    """Tracked objects over time, global frame, one column per track in order of first appearance."""

    tokens: tuple[str, ...]
    classes: Array
    """(A,) int8 `ObjectClass` at the first sighting."""
    speed_mps: Array
    """(A,) at the first sighting; 0 for static objects."""
    corners: Array
    """(T, A, 4, 2) box corners; NaN where absent."""
    valid: Array
    """(T, A) bool: present in v1.1."""
    valid_v2: Array
    """(T_v2, A) bool: present in v2.2."""


@dataclass(frozen=True, slots=True)
class Detections:
    """Objects of one frame, global frame."""

    tokens: tuple[str, ...]
    classes: Array
    """(N,) int8."""
    poses: Array
    """(N, 3) box centres."""
    sizes_m: Array
    """(N, 2) length, width."""
    velocities_mps: Array
    """(N, 2) global axes; 0 for static objects."""

    def moved(self, by_m: Array) -> Detections:
        """The same objects in coordinates shifted by (2,)."""
        return replace(self, poses=self.poses + [*by_m, 0.0])

    def take(self, rows: Array) -> Detections:
        """The objects of some rows, in that order."""
        tokens = tuple(self.tokens[k] for k in rows)
        return Detections(
            tokens,
            self.classes[rows],
            self.poses[rows],
            self.sizes_m[rows],
            self.velocities_mps[rows],
        )

    @property
    def corners(self) -> Array:
        """(N, 4, 2) box corners."""
        return box_corners(self.poses, self.sizes_m[:, 0], self.sizes_m[:, 1])


@dataclass(frozen=True, slots=True)
class KeyFrame:
    """What the scorer needs of one key frame: objects and lights, global."""

    detections: Detections
    lights: tuple[tuple[str, bool], ...]
    """(lane connector id, is red)."""


def key_frame(frame: Frame) -> KeyFrame:
    return KeyFrame(detections(frame), frame.traffic_lights)


def detections(frame: Frame) -> Detections:
    """Objects of a frame in global coordinates, as the devkit turns ego-frame boxes back
    (navsim_format.md §5.3).
    """
    objects = frame.objects
    if objects is None:
        text = "has no annotations; a scene can only be scored where every frame from now on has objects"
        raise DataError(text, frame=frame.token, field="anns")
    if not np.isfinite(objects.boxes).all():
        raise DataError(
            "boxes have values that are not finite", frame=frame.token, field="gt_boxes"
        )
    yaw = frame.ego_pose[Pose.YAW]
    xy = rotate(objects.boxes[:, :2], yaw) + frame.ego_pose[:2]
    poses = np.column_stack([xy, wrap(wrap(objects.boxes[:, Box.YAW] + yaw))])
    agent = (objects.classes <= ObjectClass.BICYCLE) | (objects.classes == ObjectClass.EGO)
    velocities = np.where(agent[:, None], rotate(objects.velocities_mps[:, :2], yaw), 0.0)
    sizes = objects.boxes[:, [Box.LENGTH, Box.WIDTH]]
    return Detections(objects.track_tokens, objects.classes, poses, sizes, velocities)


def tracks(frames: Sequence[Detections], num_v2: int) -> Tracks:
    """Boxes every 0.1 s between the first and the last key frame (now first), as v1.1 and as v2.2
    see them.

    A track is there from its first to its last sighting, linear in between and across gaps. One
    seen only once is a ghost: it stands in its place at every step (pdms.md §6.1). v2.2 looks at
    the first num_v2 key frames only: what it sees once, but v1.1 again later, is a ghost in v2.2
    alone and gets a column of its own.
    """
    first, seen, values = _sightings(frames)  # first: token → (frame, row)
    early = seen[:num_v2].sum(axis=0)
    ghosts = np.flatnonzero((early == 1) & (seen.sum(axis=0) > 1))
    column = np.concatenate([np.arange(len(first)), ghosts])
    seen, extra = seen[:, column], np.arange(len(column)) >= len(first)
    seen[num_v2:, extra] = False
    source = [list(first.values())[a] for a in column]
    classes = np.array([frames[k].classes[i] for k, i in source], np.int8)
    sizes = np.array([frames[k].sizes_m[i] for k, i in source]).reshape(-1, 2)
    velocity = np.array([frames[k].velocities_mps[i] for k, i in source]).reshape(-1, 2)
    poses, present = _resample(seen, values[:, column])
    corners = box_corners(poses, sizes[:, 0], sizes[:, 1])
    corners[~present] = np.nan
    steps = STEPS_PER_FRAME * (min(num_v2, len(frames)) - 1) + 1
    valid_v2 = present[:steps] & _until_last(seen[:num_v2], steps)
    valid_v2[:, ghosts] = False  # their other column is v2.2's
    return Tracks(
        tokens=tuple(np.array(list(first), object)[column]),
        classes=classes,
        speed_mps=np.hypot(velocity[:, 0], velocity[:, 1]),
        corners=corners,
        valid=present & ~extra,
        valid_v2=valid_v2,
    )


def _until_last(seen: Array, steps: int) -> Array:
    """(steps, A) bool: not after the last of sightings (K, A); a single one holds for ever, none
    never.
    """
    count = seen.sum(axis=0)
    last = STEPS_PER_FRAME * (len(seen) - 1 - np.argmax(seen[::-1], axis=0))
    return (np.arange(steps)[:, None] <= last) & (count > 1) | (count == 1)


def _sightings(frames: Sequence[Detections]) -> tuple[dict[str, tuple[int, int]], Array, Array]:
    """First sighting of each token, seen (K, A) bool, poses (K, A, 3) (NaN where unseen)."""
    first: dict[str, tuple[int, int]] = {}
    for k, frame in enumerate(frames):
        for i, token in enumerate(frame.tokens):
            first.setdefault(token, (k, i))
    column = {token: a for a, token in enumerate(first)}
    values = np.full((len(frames), len(first), 3), np.nan)
    for k, frame in enumerate(frames):
        values[k, [column[token] for token in frame.tokens]] = frame.poses
    return first, ~np.isnan(values[..., 0]), values


def _resample(seen: Array, values: Array) -> tuple[Array, Array]:
    """Poses (T, A, 3) and presence (T, A) at 0.1 s from seen (K, A), values (K, A, 3); T = 5 (K -
    1) + 1.
    """
    num_keys, num_tracks = seen.shape
    keys = np.arange(num_keys)[:, None]
    before = np.maximum.accumulate(np.where(seen, keys, -1), axis=0)  # (K, A) last sighting up to k
    after = np.minimum.accumulate(np.where(seen, keys, num_keys)[::-1], axis=0)[
        ::-1
    ]  # first sighting from k on
    start, end = after[0], before[-1]
    column = np.arange(num_tracks)
    filled = values[
        np.maximum(before, start), column
    ]  # unseen → previous pose, so that unwrapping crosses gaps
    filled[..., Pose.YAW] = np.unwrap(filled[..., Pose.YAW], axis=0)
    time_s = np.arange(STEPS_PER_FRAME * (num_keys - 1) + 1) * DT_S
    key_s = np.arange(num_keys) * FRAME_INTERVAL_S
    ceil = np.searchsorted(key_s, time_s, side="left")
    high = np.clip(
        after[ceil], start + 1, end
    )  # (T, A): left search among the track's own sightings
    high = after[high, column]
    low = before[np.maximum(high - 1, 0), column]
    low = np.maximum(low, start)
    span = np.where(high > low, key_s[high] - key_s[low], 1.0)
    slope = (filled[high, column] - filled[low, column]) / span[..., None]
    poses = slope * (time_s[:, None] - key_s[low])[..., None] + filled[low, column]
    ghost = start == end
    valid = (time_s[:, None] >= key_s[start]) & (time_s[:, None] <= key_s[end]) | ghost
    poses[:, ghost] = values[start, column][ghost]
    return poses, valid


def red_lights(
    frames: Sequence[KeyFrame], route_lanes: Sequence[str], index: MapIndex, steps: int
) -> tuple[tuple[str, ...], Array, Array]:
    """Red lane connectors of the route: ids (R), shapely polygons (R,), active (steps, R) bool
    (pdms.md §6.2).

    Each light keeps the state of key frame t // 5; frames after the last one keep its state.
    """
    lanes = set(route_lanes)
    red = [{id_ for id_, is_red in frame.lights if is_red and id_ in lanes} for frame in frames]
    ids = tuple(dict.fromkeys(id_ for frame in red for id_ in sorted(frame)))
    shapes = np.array([index.lane(id_).polygon for id_ in ids], object)
    by_frame = np.array([[id_ in frame for id_ in ids] for frame in red], bool).reshape(
        len(red), len(ids)
    )
    return ids, shapes, by_frame[np.minimum(np.arange(steps) // STEPS_PER_FRAME, len(red) - 1)]


def exterior_rings(shapes: Array, origin_m: Array) -> tuple[Array, Array]:
    """Outer rings of shapely polygons (R,): vertices (V, 2) minus origin (not closed), offsets (R +
    1,).
    """
    rings = [shapely.get_coordinates(shapely.get_exterior_ring(shape))[:-1] for shape in shapes]
    offsets = np.concatenate([[0], np.cumsum([len(ring) for ring in rings])]).astype(np.int64)
    xy = np.concatenate(rings) if rings else np.zeros((0, 2))
    return xy - origin_m, offsets
