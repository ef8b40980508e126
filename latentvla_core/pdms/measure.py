"""All sub-scores of the plans of one scene: reference, human and K proposals are driven and
measured together.

Source: pdms.md §8 (sub-scores), §10 (human filter). Row 0 of every batch is the reference
(PDM-Closed).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from latentvla_core.pdms import aggregate
from latentvla_core.pdms.contacts.collisions import (
    TTC_LAST_STEP_V1,
    TTC_LAST_STEP_V2,
    no_at_fault_collisions,
    time_to_collision,
)
from latentvla_core.pdms.motion.comfort import comfort_v1, comfort_v2
from latentvla_core.pdms.motion.tracker import reference_from_tenths, reference_states, simulate
from latentvla_core.pdms.roads import progress, road
from latentvla_core.pdms.state import (
    NUM_STEPS,
    Event,
    Motion,
    Obstacles,
    RedLights,
    RoadPolygons,
    ego_motion,
)
from latentvla_core.pdms.world import World
from latentvla_core.types import Array

FILTERED = (
    "no_at_fault_collisions",
    "drivable_area_compliance",
    "driving_direction_compliance",
    "traffic_light_compliance",
    "time_to_collision_within_bound",
    "lane_keeping",
)

MAX_POSE = 1e4  # m, rad: beyond it a plan is broken, and arithmetic with it may overflow
NOT_FINITE = "poses contain NaN or infinity; a plan needs 8 finite poses"
FAR = f"a pose has a coordinate beyond {MAX_POSE:g}; poses are metres and radians in the ego frame"
Reaction = Callable[[Array], Obstacles]
"""Driven states (41, 11) of one plan → the traffic that reacts to them."""


@dataclass(slots=True)
class SceneScore:
    """Scores of the K plans of one scene, being filled."""

    valid: Array
    """(K,) bool."""
    reasons: list[str]
    """(K) why not valid, "" if valid."""
    states: Array
    """(K, 41, 11) driven states; NaN where not valid."""
    columns: dict[str, Array] = field(default_factory=dict)
    """Sub-scores and score, (K,); NaN where not valid."""
    details: dict[str, Array] = field(default_factory=dict)
    """Diagnostics, (K, …)."""
    human: dict[str, float] = field(default_factory=dict)
    """Sub-scores of the human driver, empty if there is none (v2.2)."""

    def lift_where_the_human_fails(self) -> None:
        """Human filter (§10): where the human's value is exactly 0, every plan gets 1."""
        for name, value in self.human.items():
            if value == 0.0:
                self.columns[name] = np.where(np.isnan(self.columns[name]), np.nan, 1.0)


def usable(world: World, plans: Array, needs_v1: bool) -> tuple[Array, list[str]]:
    """(K,) bool and K reasons: which plans (K, N, 3) can be scored in this world."""
    scene = "" if world.valid else world.reason or "scene cannot be scored"
    if not scene and needs_v1 and not world.has_v1:
        scene = "log ends less than 5 s after the scene; v1.1 looks 5 s ahead (v2.2: 4 s)"
    if scene:
        return np.zeros(len(plans), bool), [scene] * len(plans)
    finite: Array = np.asarray(np.isfinite(plans).all(axis=(1, 2)))
    near = finite & (np.abs(plans) < MAX_POSE).all(axis=(1, 2))
    reasons = [
        "" if ok else FAR if known else NOT_FINITE for ok, known in zip(near, finite, strict=True)
    ]
    return near, reasons


def score_scene_v1(world: World, plans: Array, interval_s: float = 0.5) -> SceneScore:
    """PDMS v1.1 of plans (K, N, 3)."""
    out = _empty(world, plans, needs_v1=True)
    keep = out.valid
    if not keep.any():
        return out
    states = drive(world, world.reference_v1, plans[keep], interval_s)
    motion = ego_motion(states)
    areas = road.ego_areas(
        states, road.index_roads(road_polygons(world), motion=motion), motion=motion
    )
    traffic, who = obstacles_v1(world)
    contact = no_at_fault_collisions(states, areas.risky, traffic, motion=motion)
    risky = areas.risky | areas.rear_in_intersection
    hit = time_to_collision(states, risky, traffic, last_step=TTC_LAST_STEP_V1, motion=motion)
    direction, oncoming = road.driving_direction_compliance(states, areas.oncoming, motion=motion)
    driven = progress.raw_progress(states, world.centerline)
    product = contact.value * road.drivable_area_compliance(areas)
    best = np.maximum(driven * product, driven[0] * product[0])
    calm = comfort_v1(states[1:])
    columns = {
        "no_at_fault_collisions": contact.value[1:],
        "drivable_area_compliance": road.drivable_area_compliance(areas)[1:],
        "driving_direction_compliance": direction[1:],
        "ego_progress": progress.ego_progress_v1(driven, product, best)[1:],
        "time_to_collision_within_bound": hit.value[1:],
        "comfort": calm.value,
    }
    columns["score"] = aggregate.pdms(columns)
    details = _details(contact, hit, who, driven, oncoming, 1)
    out.states[keep] = states[1:]
    return _spread(out, columns, details)


def score_scene_v2(
    world: World, plans: Array, interval_s: float = 0.5, reaction: Reaction | None = None
) -> SceneScore:
    """Sub-scores of EPDMS v2.2 of plans (K, N, 3), before two-frame comfort and human filter.

    Args:
        reaction: how the traffic reacts to driven states (41, 11); None: log replay, the same for
        every plan.
    """
    out = _empty(world, plans, needs_v1=False)
    keep = out.valid
    out.details["two_frame_rms"] = np.full((len(plans), 4), np.nan)
    if not keep.any():
        out.columns = {
            name: np.full(len(plans), np.nan)
            for name in (*FILTERED, "ego_progress", "history_comfort")
        }
        return out
    with_human = world.human_valid and not world.is_synthetic
    driven_plans = (
        np.concatenate([world.human_poses[None], plans[keep]]) if with_human else plans[keep]
    )
    states = drive(world, world.reference_v2, driven_plans, interval_s)
    columns, details = (
        _replayed(world, states) if reaction is None else _reacted(world, states, reaction)
    )
    first = 1 if with_human else 0
    if with_human:
        out.human = {name: float(columns[name][0]) for name in FILTERED}
    columns = {name: value[first:] for name, value in columns.items()}
    columns["history_comfort"] = comfort_v2(states[first + 1 :], world.history_states).value
    out.states[keep] = states[first + 1 :]
    return _spread(out, columns, {name: value[first:] for name, value in details.items()})


def _replayed(world: World, states: Array) -> tuple[dict[str, Array], dict[str, Array]]:
    """Columns and details of plans (B - 1) in log replay; states (B, 41, 11), the reference first."""
    traffic, who = obstacles_v2(world)
    columns, raw = measure_v2(world, states, traffic)
    product = np.prod([columns[name] for name in aggregate.MULTIPLIERS_V2], axis=0)
    masked = raw.driven * product
    columns["ego_progress"] = progress.ego_progress_v2(raw.driven, np.maximum(masked, masked[0]))
    columns = {name: value[1:] for name, value in columns.items()}
    return columns, _details(raw.contact, raw.hit, who, raw.driven, raw.oncoming, 1)


def _reacted(
    world: World, states: Array, reaction: Reaction
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The same in traffic that reacts to each plan: the reference is measured again in the world of
    every plan (§14).
    """
    parts = []
    for driven in states[1:]:
        pair = np.stack([states[0], driven])
        columns, raw = measure_v2(world, pair, reaction(driven))
        product = np.prod([columns[name] for name in aggregate.MULTIPLIERS_V2], axis=0)
        best = (raw.driven * product).max()
        columns["ego_progress"] = progress.ego_progress_v2(raw.driven, np.full(2, best))
        nobody = np.full(len(raw.contact.value), -1)
        contact, hit = (Event(e.value, e.step, nobody) for e in (raw.contact, raw.hit))
        details = _details(contact, hit, np.zeros(0, np.int64), raw.driven, raw.oncoming, 1)
        parts.append(({name: value[1:] for name, value in columns.items()}, details))
    columns, details = (
        {name: np.concatenate([p[i][name] for p in parts]) for name in parts[0][i]} for i in (0, 1)
    )
    return columns, details


@dataclass(frozen=True, slots=True)
class Raw:
    """What the sub-scores of a batch were made from."""

    contact: Event
    hit: Event
    driven: Array
    """(B,) metres along the centre line."""
    oncoming: Array
    """(B,) metres."""


def measure_v2(world: World, states: Array, traffic: Obstacles) -> tuple[dict[str, Array], Raw]:
    """v2.2 sub-scores of states (B, 41, 11) that need no comparison between them."""
    motion = ego_motion(states)
    areas = road.ego_areas(
        states, road.index_roads(road_polygons(world), motion=motion), motion=motion
    )
    contact = no_at_fault_collisions(states, areas.risky, traffic, motion=motion)
    risky, crossing = areas.risky | areas.rear_in_intersection, areas.center_in_intersection
    hit = time_to_collision(states, risky, traffic, last_step=TTC_LAST_STEP_V2, motion=motion)
    direction, oncoming = road.driving_direction_compliance(
        states, areas.oncoming, crossing, motion=motion
    )
    center = motion[..., Motion.CENTER_X : Motion.COS]
    off_center = progress.distances(center, world.centerline) > road.LANE_DISTANCE_M
    columns = {
        "no_at_fault_collisions": contact.value,
        "drivable_area_compliance": road.drivable_area_compliance(areas),
        "driving_direction_compliance": direction,
        "traffic_light_compliance": road.traffic_light_compliance(states, red_lights(world)),
        "time_to_collision_within_bound": hit.value,
        "lane_keeping": road.lane_keeping(off_center, crossing),
    }
    return columns, Raw(contact, hit, progress.raw_progress(states, world.centerline), oncoming)


def road_polygons(world: World) -> RoadPolygons:
    """The world's drivable map."""
    return RoadPolygons(
        world.polygon_layers,
        world.polygon_on_route,
        world.ring_vertices,
        world.ring_offsets,
        world.polygon_ring_offsets,
    )


def red_lights(world: World) -> RedLights:
    """The world's red lights."""
    return RedLights(world.light_vertices, world.light_offsets, world.light_active)


def obstacles_v1(world: World) -> tuple[Obstacles, Array]:
    """What v1.1 sees over 5 s, and the position (A',) of each object in the world's columns."""
    who = np.flatnonzero(world.object_valid.any(axis=0))
    return _obstacles(world, world.object_valid, who), who


def obstacles_v2(world: World) -> tuple[Obstacles, Array]:
    """Log replay of v2.2 (§14.1): what overlaps the ego at t = 0 is taken out."""
    who = np.flatnonzero(world.object_valid_v2.any(axis=0) & ~world.object_overlaps_ego)
    return _obstacles(world, world.object_valid_v2, who), who


def _obstacles(world: World, valid: Array, who: Array) -> Obstacles:
    if len(who) == valid.shape[1]:  # nearly always: spare the copy
        return Obstacles.of(
            world.object_corners[: len(valid)], valid, world.object_classes, world.object_speed_mps
        )
    corners = world.object_corners[: len(valid), who]
    return Obstacles.of(
        corners, valid[:, who], world.object_classes[who], world.object_speed_mps[who]
    )


def drive(world: World, reference: Array, plans: Array, interval_s: float) -> Array:
    """(1 + K, 41, 11) driven states of the reference trajectory (51, 3) and of plans (K, N, 3)."""
    first = reference_from_tenths(reference[None], world.timestamp_us)
    rest = reference_states(plans, world.ego_state, world.timestamp_us, interval_s)
    return simulate(np.concatenate([first, rest]), world.ego_state)


def _empty(world: World, plans: Array, needs_v1: bool) -> SceneScore:
    valid, reasons = usable(world, plans, needs_v1)
    return SceneScore(valid, reasons, np.full((len(plans), NUM_STEPS + 1, 11), np.nan))


def _details(
    contact: Event, hit: Event, who: Array, driven: Array, oncoming: Array, first: int
) -> dict[str, Array]:
    """Diagnostics of rows `first` and after; object positions refer to the world's columns."""
    return {
        "progress_m": driven[first:],
        "reference_progress_m": np.full(len(driven) - first, driven[0]),
        "oncoming_m": oncoming[first:],
        "collision_step": contact.step[first:],
        "collision_object": _positions(contact.object_index[first:], who),
        "ttc_step": hit.step[first:],
        "ttc_object": _positions(hit.object_index[first:], who),
    }


def _positions(index: Array, who: Array) -> Array:
    """(K,) index into `who`, -1 = none → position in the world's columns, -1 = none."""
    return np.where(index < 0, -1, who[index] if len(who) else -1)


def _spread(out: SceneScore, columns: dict[str, Array], details: dict[str, Array]) -> SceneScore:
    """Put the columns of the valid plans at their places among all K; NaN (or -1) elsewhere."""
    for source, target in ((columns, out.columns), (details, out.details)):
        if out.valid.all():
            target |= source
            continue
        for name, value in source.items():
            blank = -1 if value.dtype.kind == "i" else np.nan
            target[name] = np.full((len(out.valid), *value.shape[1:]), blank, value.dtype)
            target[name][out.valid] = value
    return out
