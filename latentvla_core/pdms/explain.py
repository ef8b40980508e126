"""Why a plan lost points: what was violated, when, where, and with whom; for pictures and captions.

The numbers are those of `score_trajectories`; this file looks again at one plan and finds the
place. World coordinates.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import shapely

from latentvla_core.errors import DataError
from latentvla_core.pdms.contacts.collision_kernels import OFFSETS
from latentvla_core.pdms.measure import Reaction, drive, obstacles_v2, red_lights, road_polygons
from latentvla_core.pdms.metrics import SUB_SCORES, Metric
from latentvla_core.pdms.motion import comfort
from latentvla_core.pdms.reactive.traffic import ReactiveTraffic, as_reacted, roll_out
from latentvla_core.pdms.roads import progress, road
from latentvla_core.pdms.score import ScoreConfig, score_trajectories
from latentvla_core.pdms.state import DRIVABLE, DT_S, Motion, ego_motion, ego_points, ego_speed
from latentvla_core.pdms.table import ScoreTable
from latentvla_core.pdms.world import World
from latentvla_core.types import Array, ObjectClass

CORNERS = ("front-left", "rear-left", "rear-right", "front-right")
_UNITS = ("m/s²", "m/s²", "m/s³", "m/s³", "rad/s²", "rad/s")
_SIGNALS = (
    "longitudinal acceleration",
    "lateral acceleration",
    "jerk",
    "longitudinal jerk",
    "yaw acceleration",
    "yaw rate",
)
_TWO_FRAME = ("acceleration", "jerk", "yaw rate", "yaw acceleration")


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """One sub-score below 1, and where the plan lost it."""

    sub_score: str
    """Devkit name."""
    value: float
    """Before the human filter."""
    text: str
    """What happened, in words: "hits vehicle a3f2 at 2.3 s"."""
    step: int = -1
    """Step of 0.1 s of the first violation; -1: no single moment."""
    place: Array = field(default_factory=lambda: np.full(2, np.nan))
    """(2,) where to look; NaN: no single place."""
    egos: Array = field(default_factory=lambda: np.zeros((0, 4, 2)))
    """(n, 4, 2) ego boxes to show."""
    shape: Array = field(default_factory=lambda: np.zeros((0, 2)))
    """(n, 2) outline of what was hit or run over."""
    stretch: Array = field(default_factory=lambda: np.zeros((0, 2)))
    """(n, 2) the part of the driven path that is at fault."""
    forgiven: bool = False
    """v2: the human driver fails here too, so the score counts 1."""

    @property
    def time_s(self) -> float:
        return self.step * DT_S


@dataclass(frozen=True, slots=True)
class Explanation:
    """A scored plan and its failures, worst first as the table names them."""

    metric: str
    metric_version: str
    score: float
    states: Array
    """(41, 11) as driven."""
    failures: tuple[Failure, ...]
    world: World
    """The scene with everybody where they were: as logged, or as they reacted to the plan."""


def explain(
    world: World,
    poses: Array,
    metric: Metric = "pdms",
    *,
    before: tuple[World, Array] | None = None,
    traffic: ReactiveTraffic | None = None,
) -> Explanation:
    """Score one plan (8, 3) and say why it is not 1.

    Args:
        before: epdms: scene and plan (8, 3) 0.5 s earlier, for two-frame comfort.
        traffic: epdms: the scene's reactive traffic (`traffic.reactive_traffic`); None: log replay.
    Raises:
        DataError: the plan cannot be scored in this world.
    """
    pairs = [pair for pair in (before, (world, poses)) if pair is not None]
    worlds, plans = [w for w, _ in pairs], [np.asarray(p, np.float64)[None] for _, p in pairs]
    counted = score_trajectories(
        worlds, plans, metric=metric, reactions=_reactions(worlds, traffic)
    )
    if not counted.valid[-1]:
        raise DataError(f"cannot be scored: {counted.reason[-1]}", frame=world.scene_token)
    reference = world.reference_v1 if metric == "pdms" else world.reference_v2
    states = drive(world, reference, plans[-1], 0.5)[1]
    seen = as_reacted(world, traffic, states) if traffic else world
    raw = score_trajectories(
        [*worlds[:-1], seen], plans, config=ScoreConfig(metric=metric, human_filter=False)
    )
    look = _Look(seen, raw, states)
    failures = []
    for name in SUB_SCORES[metric]:
        value = float(raw[name][-1])
        if value < 1.0:
            found = getattr(look, name)()
            failures.append(replace(found, value=value, forgiven=float(counted[name][-1]) > value))
    return Explanation(
        metric, counted.metric_version, float(counted["score"][-1]), states, tuple(failures), seen
    )


def _reactions(worlds: list[World], traffic: ReactiveTraffic | None) -> list[Reaction] | None:
    """How each scene's traffic reacts; of the one before, of which only the ego's motion counts, it
    need not.
    """
    if traffic is None:
        return None
    return [*((lambda _, w=w: obstacles_v2(w)[0]) for w in worlds[:-1]), partial(roll_out, traffic)]


class _Look:
    """Finds the place of each failed sub-score of the last row of a table; one method per devkit
    name.
    """

    def __init__(self, world: World, table: ScoreTable, states: Array) -> None:
        self.world, self.table, self.states = world, table, states
        self.motion = ego_motion(states)
        self.boxes = ego_points(states)[:, :4]
        self.center = self.motion[:, Motion.CENTER_X : Motion.COS]
        roads = road.index_roads(road_polygons(world), motion=self.motion[None])
        self.areas = road.ego_areas(states[None], roads)

    def _detail(self, name: str) -> Any:
        return self.table.details[name][-1]

    def _name(self, who: int) -> str:
        kind = ObjectClass(int(self.world.object_classes[who])).name.lower().replace("_", " ")
        speed = self.world.object_speed_mps[who]
        return f"{kind} {self.world.object_tokens[who][:6]} ({speed:.1f} m/s at first sight)"

    def no_at_fault_collisions(self) -> Failure:
        step, who = int(self._detail("collision_step")), int(self._detail("collision_object"))
        shape = self.world.object_corners[step, who]
        shared = shapely.intersection(shapely.Polygon(self.boxes[step]), shapely.Polygon(shape))
        place = np.array(shared.centroid.coords[0]) if not shared.is_empty else shape.mean(axis=0)
        text = f"hits {self._name(who)} at {step * DT_S:.1f} s, at its own fault"
        return _failure(
            "no_at_fault_collisions", text, step, place, egos=self.boxes[[step]], shape=shape
        )

    def time_to_collision_within_bound(self) -> Failure:
        step, who = int(self._detail("ttc_step")), int(self._detail("ttc_object"))
        speed = float(ego_speed(self.states[step]))
        ahead = self.motion[step, Motion.COS : Motion.SPEED] * speed * DT_S
        for offset in OFFSETS:
            moved = self.boxes[step] + offset * ahead
            shape = self.world.object_corners[step + offset, who]
            if not np.isnan(shape).any() and shapely.Polygon(moved).intersects(
                shapely.Polygon(shape)
            ):
                break
        later = (
            "touches it now"
            if offset == 0
            else f"at {speed:.1f} m/s it meets it {offset * DT_S:.1f} s later"
        )
        text = f"less than 1 s to {self._name(who)} at {step * DT_S:.1f} s: {later}"
        egos = np.stack([self.boxes[step], moved])
        return _failure(
            "time_to_collision_within_bound", text, step, shape.mean(axis=0), egos=egos, shape=shape
        )

    def drivable_area_compliance(self) -> Failure:
        step = int(self.areas.non_drivable[0].argmax())
        rings = self.world.polygon_ring_offsets
        held = np.zeros(4, bool)
        for p in np.flatnonzero(np.isin(self.world.polygon_layers, DRIVABLE)):
            shell, *holes = (self._ring(r) for r in range(rings[p], rings[p + 1]))
            held |= shapely.contains_xy(shapely.Polygon(shell, holes), self.boxes[step])
        out = np.flatnonzero(~held)
        corners = " and ".join(CORNERS[k] for k in out) or "a"
        text = f"{corners} corner leaves the drivable area at {step * DT_S:.1f} s"
        place = self.boxes[step, out[0] if len(out) else 0]
        return _failure("drivable_area_compliance", text, step, place, egos=self.boxes[[step]])

    def _ring(self, ring: int) -> Array:
        first, last = self.world.ring_offsets[ring : ring + 2]
        return self.world.ring_vertices[first:last]

    def driving_direction_compliance(self) -> Failure:
        counted = self.areas.oncoming[0]
        if self.table.metric == "epdms":
            counted = counted & ~self.areas.center_in_intersection[0]
        metres = road.oncoming_metres(self.motion[None], counted[None])[0]
        over = np.flatnonzero(metres >= road.ONCOMING_HALF_M)
        first, last = int(over[0]), int(metres.argmax())
        text = f"{metres[last]:.1f} m within 1 s in no lane of the route, from {first * DT_S:.1f} s"
        stretch = self.center[max(0, first - road.ONCOMING_WINDOW + 1) : int(over[-1]) + 1]
        return _failure(
            "driving_direction_compliance", text, first, self.center[first], stretch=stretch
        )

    def traffic_light_compliance(self) -> Failure:
        lights = red_lights(self.world)
        boxes = np.asarray(shapely.polygons(self.boxes))
        hits = []
        for r in range(len(lights.offsets) - 1):
            shape = lights.vertices[lights.offsets[r] : lights.offsets[r + 1]]
            touched = np.flatnonzero(
                shapely.intersects(boxes, shapely.Polygon(shape)) & lights.active[: len(boxes), r]
            )
            hits += [(int(touched[0]), r, shape)] if len(touched) else []
        step, r, shape = min(hits, key=lambda hit: hit[0])
        text = f"in lane connector {self.world.light_ids[r]} while its light is red, at {step * DT_S:.1f} s"
        return _failure(
            "traffic_light_compliance",
            text,
            step,
            self.center[step],
            egos=self.boxes[[step]],
            shape=shape,
        )

    def lane_keeping(self) -> Failure:
        gap = progress.distances(self.center, self.world.centerline)
        crossing = self.areas.center_in_intersection
        counts = road.lane_counts((gap > road.LANE_DISTANCE_M)[None], crossing)[0]
        step = int((counts >= road.LANE_STEPS).argmax())
        first = int(np.flatnonzero(counts[: step + 1] == 1)[-1])
        stretch = self.center[first : step + 1]
        text = f"up to {gap[first : step + 1].max():.1f} m beside the centre line for 2 s, until {step * DT_S:.1f} s"
        return _failure("lane_keeping", text, step, self.center[step], stretch=stretch)

    def comfort(self) -> Failure:
        return self._uncomfortable("comfort", comfort.signals_v1(self.states), 0)

    def history_comfort(self) -> Failure:
        past = self.world.history_states
        return self._uncomfortable(
            "history_comfort", comfort.signals_v2(self.states, past), len(past)
        )

    def _uncomfortable(self, name: str, signals: Array, num_past: int) -> Failure:
        """The signal (6, n) that leaves its bounds farthest, in parts of the bound."""
        excess = np.maximum(signals / comfort.UPPER[:, None], signals / comfort.LOWER[:, None])
        worst, index = np.unravel_index(int(excess.argmax()), excess.shape)
        value, step = signals[worst, index], int(index) - num_past
        bound = comfort.UPPER[worst] if value > 0 else comfort.LOWER[worst]
        when = f"at {step * DT_S:.1f} s" if step >= 0 else "before now, in the logged past"
        text = f"{_SIGNALS[worst]} {value:.2f} {_UNITS[worst]} {when}, beyond {bound:g}"
        place = self.center[step] if step >= 0 else np.full(2, np.nan)
        return _failure(name, text, max(step, -1), place)

    def two_frame_extended_comfort(self) -> Failure:
        rms = self._detail("two_frame_rms")
        parts = [
            f"{name} {value:.2f} > {bound:g}"
            for name, value, bound in zip(_TWO_FRAME, rms, comfort.TWO_FRAME_BOUNDS, strict=True)
            if value > bound
        ]
        text = f"moves unlike the plan 0.5 s before (rms difference: {', '.join(parts)})"
        return _failure("two_frame_extended_comfort", text, -1, np.full(2, np.nan))

    def ego_progress(self) -> Failure:
        own, other = float(self._detail("progress_m")), float(self._detail("reference_progress_m"))
        text = f"{own:.1f} m along the route; PDM-Closed makes {other:.1f} m"
        product = (
            self.table["no_at_fault_collisions"][-1] * self.table["drivable_area_compliance"][-1]
        )
        if self.table.metric == "pdms" and product < 1.0:
            text += f"; this counts times NC · DAC = {product:g}"
        return _failure("ego_progress", text, -1, np.full(2, np.nan))


def _failure(name: str, text: str, step: int, place: Array, **shapes: Any) -> Failure:
    return Failure(sub_score=name, value=np.nan, text=text, step=step, place=place, **shapes)


def moments(failures: tuple[Failure, ...]) -> Iterator[tuple[int, Failure]]:
    """(number from 1, failure) of those with a place, in order of time: what a picture marks."""
    placed = [failure for failure in failures if np.isfinite(failure.place).all()]
    return enumerate(sorted(placed, key=lambda failure: failure.step), 1)
