"""Contacts and near misses: who touched whom, whose fault it was, how near it came (NC, TTC).

nuPlan's rules, with the step count of its code: an actor counts at its first contact and never
again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from latentvla_core.closed_loop.scores.drive import Drive, Value
from latentvla_core.pdms.roads.road import ego_areas, index_roads
from latentvla_core.pdms.state import HALF_LENGTH_M, HALF_WIDTH_M, Motion, State
from latentvla_core.types import Array, ObjectClass

STANDS_MPS = 0.05
BEHIND_RAD = np.radians(150.0)
AHEAD_RAD = np.radians(30.0)
TTC_LEAST_S, TTC_REACH_S, GRID_S = 0.95, 3.0, 0.1
STATIC_COST = 0.5


@dataclass(frozen=True, slots=True)
class Contact:
    """The first touch between the ego and one actor."""

    step: int
    actor: int
    at_fault: bool
    why: str
    """ego_stood | object_stood | from_behind | front | side_in_lane | side_between_lanes."""
    impact_mps: float
    """Relative speed."""


def boxes_touch(one: Array, two: Array) -> Array:
    """(N,) bool: boxes (N, 4, 2) and (N, 4, 2) overlap or touch; corners in order around."""
    apart = np.zeros(len(one), bool)
    for box in (one, two):
        for k in (0, 1):
            axis = box[:, k + 1] - box[:, k]
            a = np.einsum("nij,nj->ni", one, axis)
            b = np.einsum("nij,nj->ni", two, axis)
            apart |= (a.max(1) < b.min(1)) | (b.max(1) < a.min(1))
    return ~apart


def touching(drive: Drive) -> Array:
    """(T, A) bool: the ego's box and the actor's touch."""
    actors, hit = drive.actors, np.zeros(drive.actors.poses.shape[:2], bool)
    if not hit.size:
        return hit
    reach = np.hypot(HALF_LENGTH_M, HALF_WIDTH_M) + np.hypot(*(actors.sizes_m.T / 2))
    gap = np.linalg.norm(actors.poses[..., :2] - drive.center[:, None], axis=-1)
    steps, who = np.nonzero(gap <= reach)  # NaN is never near
    hit[steps, who] = boxes_touch(drive.points[steps, :4], actors.corners[steps, who])
    return hit


def careless(drive: Drive) -> Array:
    """(T,) bool: not wholly in one lane, or off the road: a side contact is the ego's fault."""
    index = index_roads(drive.ground.roads, motion=drive.motion)
    return ego_areas(drive.states[None], index, motion=drive.motion).risky[0]


def contacts(drive: Drive, risky: Array | None = None) -> list[Contact]:
    """First contacts in order of time. What touches the ego at the first step is left out: it was
    there before anybody drove.
    """
    hit = touching(drive)
    risky = careless(drive) if risky is None else risky
    found = []
    for actor in np.flatnonzero(hit.any(axis=0) & ~hit[0]):
        step = int(hit[:, actor].argmax())
        at_fault, why = _fault(drive, step, int(actor), bool(risky[step]))
        found.append(Contact(step, int(actor), at_fault, why, _impact(drive, step, int(actor))))
    return sorted(found, key=lambda c: (c.step, c.actor))


def _fault(drive: Drive, step: int, actor: int, risky: bool) -> tuple[bool, str]:
    """Whether a contact is the ego's fault, and the rule that says so."""
    if abs(drive.states[step, State.VX]) <= STANDS_MPS:
        return False, "ego_stood"
    if drive.actors.speed_mps[step, actor] <= STANDS_MPS:
        return True, "object_stood"
    if _bearing(drive, step, actor) > BEHIND_RAD:
        return False, "from_behind"
    if _front_touches(drive, step, actor):
        return True, "front"
    return (True, "side_between_lanes") if risky else (False, "side_in_lane")


def _bearing(drive: Drive, step: int, actor: int) -> float:
    """Angle between the heading and the way from the rear axle to the actor's centre, 0 … π."""
    motion = drive.motion[0, step]
    to = drive.actors.poses[step, actor, :2] - motion[: Motion.CENTER_X]
    ahead = float(to @ motion[Motion.COS : Motion.SPEED]) / max(float(np.hypot(*to)), 1e-9)
    return float(np.arccos(np.clip(ahead, -1.0, 1.0)))


def _front_touches(drive: Drive, step: int, actor: int) -> bool:
    """The front bumper as a box without length."""
    left, right = drive.points[step, 0], drive.points[step, 3]
    ahead = drive.motion[0, step, Motion.COS : Motion.SPEED] * 1e-6
    bumper = np.array([[left, left - ahead, right - ahead, right]])
    return bool(boxes_touch(bumper, drive.actors.corners[step, actor][None])[0])


def _impact(drive: Drive, step: int, actor: int) -> float:
    """Relative speed a step before the contact: the contact itself is not in the tracker."""
    before = max(step - 1, 0)
    ego = drive.states[before, State.VX] * drive.motion[0, before, Motion.COS : Motion.SPEED]
    yaw = drive.actors.poses[step, actor, 2]
    other = drive.actors.speed_mps[step, actor] * np.array([np.cos(yaw), np.sin(yaw)])
    return float(np.hypot(*(ego - other)))


def no_at_fault_collisions(drive: Drive, found: list[Contact], last: int) -> Value:
    """NC over steps 0 … last: 0 after one vehicle or person or two things, ½ after one thing."""
    faults = [c.actor for c in found if c.at_fault and c.step <= last]
    static = drive.actors.is_static
    if any(not static[a] for a in faults):
        return Value(0.0)
    return Value(max(0.0, 1.0 - STATIC_COST * len(faults)))


def times_to_collision(drive: Drive, found: list[Contact], risky: Array) -> Array:
    """(T,) seconds until the ego would touch something if all kept their speed; inf = never within
    3 s.

    Looked at: what is ahead within 30°, and, where the ego is between lanes, all that is not
    behind. An ego that stands meets nobody; who has been touched no longer counts.
    """
    actors, out = drive.actors, np.full(len(drive.states), np.inf)
    steps, who = np.nonzero(_relevant(drive, found, risky))
    if not len(steps):
        return out
    heading = drive.motion[0, steps, Motion.COS : Motion.SPEED]
    ego_v = drive.states[steps, State.VX, None] * heading
    yaw = actors.poses[steps, who, 2]
    other_v = actors.speed_mps[steps, who, None] * np.stack([np.cos(yaw), np.sin(yaw)], axis=1)
    ego_box, box = drive.points[steps, :4], actors.corners[steps, who]
    undecided = np.ones(len(steps), bool)
    for ahead_s in np.arange(0.0, TTC_REACH_S + GRID_S / 2, GRID_S):
        rows = np.flatnonzero(undecided)
        moved = ego_box[rows] + ego_v[rows, None] * ahead_s
        other = box[rows] + other_v[rows, None] * ahead_s
        hit = rows[boxes_touch(moved, other)]
        np.minimum.at(out, steps[hit], ahead_s)
        undecided[hit] = False
    return out


def _relevant(drive: Drive, found: list[Contact], risky: Array) -> Array:
    """(T, A) bool: pairs whose time to collision counts."""
    actors, motion = drive.actors, drive.motion[0]
    to = actors.poses[..., :2] - motion[:, None, : Motion.CENTER_X]
    distance = np.maximum(np.hypot(to[..., 0], to[..., 1]), 1e-9)
    ahead = np.einsum("tai,ti->ta", to, motion[:, Motion.COS : Motion.SPEED]) / distance
    counts = (ahead > np.cos(AHEAD_RAD)) | (risky[:, None] & (ahead > np.cos(BEHIND_RAD)))
    speed = np.abs(drive.states[:, State.VX])
    reach = (speed[:, None] + actors.speed_mps) * TTC_REACH_S + 12.0
    counts &= (distance < reach) & actors.present & (speed > STANDS_MPS)[:, None]
    for contact in found:
        counts[contact.step :, contact.actor] = False
    return counts


def time_to_collision(ttc_s: Array, last: int) -> Value:
    """TTC over steps 0 … last: 1 if it never falls below 0.95 s."""
    return Value(float(ttc_s[: last + 1].min(initial=np.inf) >= TTC_LEAST_S))


def kind_of(drive: Drive, actor: int) -> str:
    """collision_person | collision_vehicle | collision_static, as CARLA names its infractions."""
    cls = ObjectClass(int(drive.actors.classes[actor]))
    if cls == ObjectClass.PEDESTRIAN:
        return "collision_person"
    return "collision_static" if drive.actors.is_static[actor] else "collision_vehicle"
