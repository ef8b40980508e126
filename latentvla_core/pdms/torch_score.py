"""PDMS v1.1 as batched torch operations, on CPU or GPU: the same numbers in float64, for use as a reward in training.

Legend: S scenes, K plans of each, B = S · K plans, T = 41 states, A objects, P polygons, M edges of a slab, N points.
The slow, per-scene parts (reference, polygons, obstacles) are prepared once by the NumPy path; see `measure.py` for what the
sub-scores mean. Padding never changes a score: padded objects are absent, padded polygons are nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from latentvla_core.geometry import arc_length
from latentvla_core.pdms import comfort, progress, road, tracker
from latentvla_core.pdms.collision_kernels import EGO_REACH, STOPPED
from latentvla_core.pdms.collisions import no_at_fault_collisions
from latentvla_core.pdms.measure import MAX_POSE, obstacles_v1, road_polygons
from latentvla_core.pdms.road_kernels import MAX_SLABS, SLAB_M
from latentvla_core.pdms.torch_geometry import area_flags, first_contacts, first_hits, line_progress, motion_of
from latentvla_core.pdms.torch_tracker import reference_states, simulate
from latentvla_core.pdms.world import World
from latentvla_core.types import PLAN_STEPS, Array

TTC_LOOK_S = 0.9
CHUNK = {"cpu": 64, "cuda": 4096}  # plans at once: what stays in the cache of a core, what fills a GPU


class TorchScorer:
    """Scores plans in a fixed set of worlds.

    >>> scorer = TorchScorer(worlds, device="cuda")
    >>> scorer(poses)["score"]                      # poses (S, K, 8, 3) → (S, K)
    """

    def __init__(
        self, worlds: Sequence[World], device: str | torch.device = "cpu", *, chunk: int | None = None
    ) -> None:
        self.device = torch.device(device)
        self.chunk = chunk or CHUNK.get(self.device.type, 1024)
        self.valid = self._put(np.array([w.valid and w.has_v1 for w in worlds]))  # (S,)
        self.ego = self._put(np.stack([w.ego_state for w in worlds]))
        self._prepare_times(worlds)
        self._prepare_objects(worlds)
        self._prepare_roads(worlds)
        self._prepare_line(worlds)
        self.standard = self._put(np.array([reference_standard(w) for w in worlds]))  # (S,)

    def __call__(self, poses: Tensor) -> dict[str, Tensor]:
        """Sub-scores and score (S, K) of plans (S, K, 8, 3); NaN where a plan or its scene cannot be scored."""
        scenes, count = poses.shape[:2]
        if poses.shape != (len(self.ego), count, PLAN_STEPS, 3):
            raise ValueError(f"poses have shape {tuple(poses.shape)}; needs ({len(self.ego)}, K, {PLAN_STEPS}, 3)")
        flat = poses.detach().to(self.device, torch.float64).reshape(-1, PLAN_STEPS, 3)
        scene = torch.arange(scenes, device=self.device).repeat_interleave(count)
        good = self.valid[scene] & (flat.abs() < MAX_POSE).all(-1).all(-1)
        parts = zip(flat.where(good[:, None, None], 0.0).split(self.chunk), scene.split(self.chunk), strict=True)
        scored = [self._score(part, index) for part, index in parts]
        blank = torch.tensor(torch.nan, dtype=torch.float64, device=self.device)
        return {
            name: torch.where(good, torch.cat([part[name] for part in scored]), blank).reshape(scenes, count)
            for name in (scored[0] if scored else ())
        }

    def _score(self, poses: Tensor, scene: Tensor) -> dict[str, Tensor]:
        """(B,) sub-scores of plans (B, 8, 3) in scenes (B,)."""
        reference = reference_states(poses, self.ego[scene], *(x[scene] for x in self.times))
        states = simulate(reference, self.ego[scene])
        motion = motion_of(states)
        lanes, off_road, oncoming, _, rear_crossing = area_flags(motion, scene, self.roads).unbind(-1)
        risky = lanes | off_road
        objects, agent = self._near_objects(motion, scene)
        collided = first_contacts(motion, risky, *objects)
        threatened = first_hits(motion, risky | rear_crossing, *objects[:2], last=40)
        cost = torch.where(collided, torch.where(agent, 0.0, 0.5).double(), 1.0)
        contact = cost.min(dim=1).values if cost.shape[1] else torch.ones_like(motion[:, 0, 0])
        area = (~off_road.any(1)).double()
        product = contact * area
        ends = motion[:, [0, -1], 2:4]
        along = line_progress(ends, *(x[scene] for x in self.line))
        masked = (along[:, 1] - along[:, 0]).clamp(min=0.0) * product
        best = torch.maximum(masked, self.standard[scene])
        short = (product > 0).double()
        gained = torch.where(best > progress.MIN_REFERENCE_M, masked / best.clamp(min=progress.MIN_REFERENCE_M), short)
        out = {
            "no_at_fault_collisions": contact,
            "drivable_area_compliance": area,
            "driving_direction_compliance": self._direction(motion, oncoming),
            "ego_progress": gained,
            "time_to_collision_within_bound": (~threatened.any(1)).double(),
            "comfort": self._comfort(states),
        }
        weighted = 5 * out["ego_progress"] + 5 * out["time_to_collision_within_bound"] + 2 * out["comfort"]
        return out | {"score": product * weighted / 12}

    def _near_objects(self, motion: Tensor, scene: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Boxes (B, 51, a, 6), presence (B, 51, a) and moving (B, a) of the objects a plan can meet; agents (B, a)."""
        boxes, present, moving, agent, ranges = self.objects
        far = motion[..., 2:4] + motion[..., 4:6] * (motion[..., 6:] * TTC_LOOK_S)
        reached = torch.cat([motion[..., 2:4], far], dim=1)
        low, high = reached.amin(1) - EGO_REACH, reached.amax(1) + EGO_REACH  # (B, 2)
        box = ranges[scene]
        near = (low[:, None] <= box[..., 2:]).all(-1) & (high[:, None] >= box[..., :2]).all(-1)  # (B, A)
        most = int(near.sum(1).max()) if near.numel() else 0
        which = near.int().topk(most, dim=1).indices if most else near.new_zeros((len(near), 0), dtype=torch.long)
        step = torch.arange(boxes.shape[1], device=self.device)[:, None]
        rows = (scene[:, None, None], step, which[:, None])
        mine = (boxes[rows], present[rows], moving[scene[:, None], which])
        return mine, agent[scene[:, None], which]

    def _direction(self, motion: Tensor, oncoming: Tensor) -> Tensor:
        """DDC (B,) from the metres driven off the route's lanes within a second."""
        step = torch.linalg.vector_norm(motion[:, 1:, 2:4] - motion[:, :-1, 2:4], dim=-1)
        total = torch.cumsum(torch.nn.functional.pad(step, (1, 0)) * oncoming, dim=1)
        window = total.clone()
        window[:, road.ONCOMING_WINDOW :] -= total[:, : -road.ONCOMING_WINDOW]
        most = window.max(dim=1).values
        return torch.where(
            most < road.ONCOMING_HALF_M, 1.0, torch.where(most < road.ONCOMING_ZERO_M, 0.5, 0.0)
        ).double()

    def _comfort(self, states: Tensor) -> Tensor:
        """C (B,) of v1.1."""
        n = states.shape[1]

        def smooth(series: Tensor, window: int, order: int, derivative: int) -> Tensor:
            matrix = torch.tensor(comfort.filter_matrix(n, window, order, derivative), device=self.device)
            return torch.round(series @ matrix.T, decimals=comfort.DECIMALS)

        turns = torch.round(torch.diff(states[..., 2], dim=1) / (2 * torch.pi)).cumsum(1)
        heading = states[..., 2] - 2 * torch.pi * torch.nn.functional.pad(turns, (1, 0))
        along, magnitude = states[..., 5], torch.hypot(states[..., 5], states[..., 6])
        w, yaw = comfort.SMOOTH_WINDOW, comfort.YAW_WINDOW
        series = [smooth(along, n, 2, 0), smooth(states[..., 6], n, 2, 0)]
        series += [smooth(smooth(x, w, 2, 0), n, 2, 1) for x in (magnitude, along)]
        signals = torch.stack([*series, smooth(heading, yaw, 3, 2), smooth(heading, yaw, 2, 1)], dim=1)
        low, high = (torch.tensor(x, device=self.device)[:, None] for x in (comfort.LOWER, comfort.UPPER))
        return ((signals > low) & (signals < high)).all(-1).all(-1).double()

    # ------------------------------------------------------------ preparation, once per scene

    def _put(self, array: Array) -> Tensor:
        return torch.tensor(array, device=self.device)

    def _prepare_times(self, worlds: Sequence[World]) -> None:
        """Where each of the 41 query times lies among the 9 knots: interval, offset and length, (S, 41) each."""
        rows = []
        for world in worlds:
            knots = tracker.plan_times_us(world.timestamp_us, PLAN_STEPS)
            query = np.clip(tracker.sample_times_us(world.timestamp_us), knots[0], knots[-1])
            high = np.clip(np.searchsorted(knots, query, side="left"), 1, PLAN_STEPS)
            rows.append((high, query - knots[high - 1], knots[high] - knots[high - 1]))
        high, offset, span = (np.stack(x) for x in zip(*rows, strict=True))
        self.times = (self._put(high), self._put(offset.astype(float)), self._put(span.astype(float)))

    def _prepare_objects(self, worlds: Sequence[World]) -> None:
        """Boxes (S, 51, A, 6), presence (S, 51, A), is a moving agent (S, A), is an agent (S, A), ranges (S, A, 4)."""
        traffic = [obstacles_v1(world)[0] for world in worlds]
        most = max((t.valid.shape[1] for t in traffic), default=0)
        boxes, present = np.zeros((len(worlds), 51, most, 6)), np.zeros((len(worlds), 51, most), bool)
        moving, agent = np.zeros((len(worlds), most), bool), np.zeros((len(worlds), most), bool)
        ranges = np.tile([np.inf, np.inf, -np.inf, -np.inf], (len(worlds), most, 1))
        for s, t in enumerate(traffic):
            n = t.valid.shape[1]
            boxes[s, :, :n], present[s, :, :n] = np.nan_to_num(t.boxes), t.valid
            moving[s, :n], agent[s, :n] = t.is_agent & (t.speed_mps > STOPPED), t.is_agent
            around = t.boxes[..., :2] - t.reach[..., None], t.boxes[..., :2] + t.reach[..., None]
            ranges[s, :n, :2] = np.where(t.valid[..., None], around[0], np.inf).min(0)
            ranges[s, :n, 2:] = np.where(t.valid[..., None], around[1], -np.inf).max(0)
        self.objects = tuple(self._put(x) for x in (boxes, present, moving, agent, ranges))

    def _prepare_roads(self, worlds: Sequence[World]) -> None:
        """Polygons of all scenes, padded: ranges (S, P, 4), kinds, first slab and slab count (S, P); and the slabs."""
        indices = [road.index_roads(road_polygons(world)) for world in worlds]
        most = max((len(index.ranges) for index in indices), default=0)
        ranges = np.tile([np.inf, np.inf, -np.inf, -np.inf], (len(worlds), most, 1))
        kinds, first = np.zeros((len(worlds), most), np.int64), np.zeros((len(worlds), most), np.int64)
        count, done = np.ones((len(worlds), most), np.int64), 0
        edges, lengths = [], []
        for s, index in enumerate(indices):
            n = len(index.ranges)
            offsets, own_edges, own_lengths = edges_by_slab(index)
            ranges[s, :n], kinds[s, :n] = index.ranges, index.kinds
            first[s, :n], count[s, :n] = offsets[:-1] + done, np.diff(offsets)
            done += offsets[-1]
            edges.append(own_edges)
            lengths.append(own_lengths)
        length = np.concatenate([*lengths, np.zeros(1, np.int64)])
        slabs = np.full((len(length), max(int(length.max()), 1), 4), np.inf)  # an edge at infinite height is never met
        slab = np.repeat(np.arange(len(length)), length)
        slabs[slab, np.arange(len(slab)) - np.repeat(np.cumsum(length) - length, length)] = np.concatenate(edges)
        self.roads = tuple(self._put(x) for x in (ranges, kinds, first, count, slabs, length))

    def _prepare_line(self, worlds: Sequence[World]) -> None:
        """Centre lines (S, C, 2) and arc lengths (S, C), padded with their last vertex."""
        most = max((len(world.centerline) for world in worlds), default=2)
        lines = [np.pad(w.centerline[:, :2], [(0, most - len(w.centerline)), (0, 0)], mode="edge") for w in worlds]
        self.line = (self._put(np.stack(lines)), self._put(np.stack([arc_length(line) for line in lines])))


def edges_by_slab(index: road.RoadIndex) -> tuple[Array, Array, Array]:
    """First slab of each polygon (P + 1,), edges sorted by slab (n, 4), edges per slab (slabs,)."""
    per_polygon = np.diff(index.edge_offsets)
    height = np.maximum(index.ranges[:, 3] - index.ranges[:, 1], 0.0)
    count = np.minimum((height / SLAB_M).astype(np.int64) + 1, MAX_SLABS)
    offsets = np.concatenate([[0], np.cumsum(count)])
    owner = np.repeat(np.arange(len(count)), per_polygon)
    per_m = np.divide(count, height, out=np.zeros(len(count)), where=height > 0)[owner]
    low, high = (
        np.clip(((y - index.ranges[owner, 1]) * per_m).astype(np.int64), 0, count[owner] - 1) + offsets[owner]
        for y in (index.edges[:, [1, 3]].min(1), index.edges[:, [1, 3]].max(1))
    )
    times = high - low + 1
    edge = np.repeat(np.arange(len(times)), times)
    slab = np.repeat(low, times) + np.arange(len(edge)) - np.repeat(np.cumsum(times) - times, times)
    order = np.argsort(slab, kind="stable")
    return offsets, index.edges[edge[order]], np.bincount(slab, minlength=offsets[-1])


def reference_standard(world: World) -> float:
    """Masked progress of the reference, metres: what every plan of the scene is measured against."""
    if not (world.valid and world.has_v1):
        return 0.0
    states = tracker.simulate(
        tracker.reference_from_tenths(world.reference_v1[None], world.timestamp_us), world.ego_state
    )
    areas = road.ego_areas(states, road.index_roads(road_polygons(world)))
    contact = no_at_fault_collisions(states, areas.risky, obstacles_v1(world)[0]).value
    return float((progress.raw_progress(states, world.centerline) * contact * road.drivable_area_compliance(areas))[0])
