"""NC and TTC in torch: the first contact of every (plan, object) pair that can meet at all. See
`collisions.py`.

Legend: B plans, T = 41 states, N = 51 time steps of an object, F = 4 looks ahead of TTC, n pairs, m
contacts that are possible.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from latentvla_core.pdms.contacts.collision_kernels import (
    AHEAD,
    BEHIND,
    OFFSETS,
    STEP_S,
    STOPPED,
    TTC_STOPPED,
)
from latentvla_core.pdms.contacts.collisions import STATIC_COLLISION
from latentvla_core.pdms.state import HALF_LENGTH_M
from latentvla_core.pdms.tensors.torch_geometry import constant, pairs_in_range, touching
from latentvla_core.pdms.tensors.torch_worlds import Objects
from latentvla_core.types import Array

NEVER = 1 << 20
STRIDE = OFFSETS[1]  # steps from one look ahead to the next


def collisions(
    motion: Tensor, risky: Tensor, crossing: Tensor, scene: Tensor, objects: Objects, last: int
) -> Tensor:
    """(2, B) NC and TTC of motion (B, T, 7) in scenes (B,).

    risky: (B, T) bool: side contacts are the ego's fault; crossing: (B, T) bool: rear axle in an
    intersection.
    last: the last step at which TTC looks, 40 in v1.1 and 31 in v2.2.
    """
    places = _places(motion, last)
    flat = places.flatten(2)
    known = flat.isfinite()
    low, high = (
        flat.where(known, torch.inf).amin(2).t(),
        flat.where(known, -torch.inf).amax(2).t(),
    )
    plan, which = pairs_in_range(low, high, objects.ranges[scene])
    obj = objects.first[scene[plan]] + which
    pair, look, x, y = _possible(places, plan, obj, objects)
    step, ahead = look // len(OFFSETS), look % len(OFFSETS)
    row, frame = plan.take(pair) * motion.shape[1] + step, step + STRIDE * ahead
    flat_motion = motion.flatten(0, 1)
    own = flat_motion.index_select(0, row)
    sides = objects.sides.flatten(0, 1).index_select(
        0, obj.take(pair) * objects.sides.shape[1] + frame
    )
    hit = touching(x, y, own[:, 4:6], sides, HALF_LENGTH_M)
    now = _first(torch.where(hit & (ahead == 0), step, NEVER), pair, len(plan))
    soon = _first(
        torch.where(hit & (step <= last) & (own[:, 6] >= TTC_STOPPED), look, NEVER), pair, len(plan)
    )
    fault = _at_fault(motion, risky, plan, obj, now, objects)
    threat = _violates(motion, risky | crossing, plan, obj, soon, objects)
    cost = torch.where(objects.is_agent[obj], 0.0, STATIC_COLLISION).to(motion)
    cost = torch.stack([torch.where(fault, cost, 1.0), torch.where(threat, 0.0, 1.0).to(motion)])
    return torch.ones(2, len(motion)).to(motion).scatter_reduce(1, plan.expand(2, -1), cost, "amin")


def _seconds() -> Array:
    return np.array([STEP_S * f for f in OFFSETS])


def _places(motion: Tensor, last: int) -> Tensor:
    """(2, B, T, F) ego centres, moved on at its speed; NaN where TTC does not look ahead."""
    _, _, x, y, cos, sin, speed = motion.permute(2, 0, 1)[..., None].contiguous()
    far = speed * constant(_seconds, motion.device)  # (B, T, F)
    out = torch.stack([x + cos * far, y + sin * far])
    out[:, :, last + 1 :, 1:] = torch.nan
    out[..., 1:] = out[..., 1:].masked_fill(speed < TTC_STOPPED, torch.nan)
    return out


def _possible(
    places: Tensor, plan: Tensor, obj: Tensor, objects: Objects
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pair (m,), look t · F + f (m,) and the way (x, y) (m,) from ego to object where they are near
    enough to touch.
    """
    steps = places.shape[2]
    ways = []
    for k in range(2):
        center = objects.center[k].index_select(0, obj)  # (n, N)
        seen = torch.stack([center[:, f : f + steps] for f in OFFSETS], dim=2)  # (n, T, F)
        ways.append((seen - places[k].index_select(0, plan)).flatten())
    x, y = ways
    far = objects.reach.take(obj).repeat_interleave(steps * len(OFFSETS), output_size=len(x))
    found = (x * x + y * y <= far * far).nonzero()[:, 0]
    looks = steps * len(OFFSETS)
    return found // looks, found % looks, x.take(found), y.take(found)


def _first(when: Tensor, pair: Tensor, count: int) -> Tensor:
    """(n,) least of when (m,) for each pair, NEVER where there is none."""
    return torch.full((count,), NEVER, device=when.device).scatter_reduce(0, pair, when, "amin")


def _rows(motion: Tensor, flags: Tensor, plan: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """Motion (n, 7) and flag (n,) of plans at steps (n,)."""
    row = plan * motion.shape[1] + step
    return motion.flatten(0, 1)[row], flags.flatten()[row]


def _at_fault(
    motion: Tensor, risky: Tensor, plan: Tensor, obj: Tensor, step: Tensor, objects: Objects
) -> Tensor:
    """(n,) bool: is the first contact, at a step (n,), the ego's fault? (pdms.md §8.1, in its
    order)
    """
    found, step = step < NEVER, torch.where(step < NEVER, step, 0)
    own, side = _rows(motion, risky, plan, step)
    center, sides = objects.center[:, obj, step].t(), objects.sides[obj, step]
    way = center - (own[:, 2:4] + HALF_LENGTH_M * own[:, 4:6])
    front = touching(way[:, 0], way[:, 1], own[:, 4:6], sides, 0.0)
    fault = ~objects.moving[obj] | (~(_bearing(own, center) > BEHIND) & (front | side))
    return found & fault & (own[:, 6] > STOPPED)


def _violates(
    motion: Tensor, risky: Tensor, plan: Tensor, obj: Tensor, look: Tensor, objects: Objects
) -> Tensor:
    """(n,) bool: is the first projected hit (n,) a violation? (§8.7)"""
    found, look = look < NEVER, torch.where(look < NEVER, look, 0)
    step = look // len(OFFSETS)
    own, side = _rows(motion, risky, plan, step)
    angle = _bearing(own, objects.center[:, obj, step + STRIDE * (look % len(OFFSETS))].t())
    return found & ((angle < AHEAD) | (side & ~(angle > BEHIND)))


def _bearing(own: Tensor, center: Tensor) -> Tensor:
    """(n,) angle from the heading to a box centre (n, 2), seen from the rear axle; NaN at distance
    zero.
    """
    x, y = (center - own[:, :2]).unbind(-1)
    along = (x * own[:, 4] + y * own[:, 5]) / torch.sqrt(x * x + y * y)
    return torch.arccos(along.clamp(-1.0, 1.0))
