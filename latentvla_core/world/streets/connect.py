"""Which lanes a junction joins, and along which curves."""

from __future__ import annotations

import numpy as np

from latentvla_core.geometry import wrap
from latentvla_core.types import Array
from latentvla_core.world.streets.network import LanePath, Turn, resample

STRAIGHT_RAD = np.radians(38.0)

Pairs = list[tuple[int, int]]


def movements(
    direction: Array, outward: list[Array], own: int, counts: tuple[int, list[int]]
) -> list[tuple[int, Pairs]]:
    """For one arriving arm: [(leaving arm, [(lane in, lane out), ...]), ...], lanes counted from
    the left.

    Args:
        direction: (2,) the arm's direction away from the junction.
        outward: the directions of all arms. own: index of the arriving arm. No U-turns.
        counts: lanes arriving on the arm, lanes leaving on every arm.
    """
    lanes_in, lanes_out = counts
    heading = np.arctan2(-direction[1], -direction[0])
    angles = {
        k: float(wrap(np.arctan2(o[1], o[0]) - heading)) for k, o in enumerate(outward) if k != own
    }
    if len(angles) == 1:
        angles = dict.fromkeys(angles, 0.0)
    turns: dict[Turn, list[int]] = {"left": [], "straight": [], "right": []}
    for k, angle in angles.items():
        turns["straight" if abs(angle) < STRAIGHT_RAD else "left" if angle > 0 else "right"].append(
            k
        )
    pairs = [(k, _straight(lanes_in, lanes_out[k])) for k in turns["straight"]]
    through = bool(turns["straight"])
    pairs += [
        (k, _aside(lanes_in, lanes_out[k], "left", through or bool(turns["right"])))
        for k in turns["left"]
    ]
    pairs += [
        (k, _aside(lanes_in, lanes_out[k], "right", through or bool(turns["left"])))
        for k in turns["right"]
    ]
    return pairs


def _straight(lanes_in: int, lanes_out: int) -> Pairs:
    """Lane to lane; the rest merges into, or branches from, the rightmost lane."""
    return [(min(k, lanes_in - 1), min(k, lanes_out - 1)) for k in range(max(lanes_in, lanes_out))]


def _aside(lanes_in: int, lanes_out: int, side: Turn, shared: bool) -> Pairs:
    """A turn from the lane on its side; from all lanes when there is no other way on."""
    if shared:
        return [(0, 0)] if side == "left" else [(lanes_in - 1, lanes_out - 1)]
    return _straight(lanes_in, lanes_out)


def turn_curve(source: LanePath, target: LanePath, *, straight: bool) -> tuple[Array, Turn]:
    """(n, 2) cubic Bézier from the end of one lane to the start of another, close to a circular
    arc, and its kind.
    """
    p0, p3 = source.path_m[-1], target.path_m[0]
    yaw0, yaw3 = source.yaw_rad[-1], target.yaw_rad[0]
    angle = float(wrap(yaw3 - yaw0))
    chord = float(np.linalg.norm(p3 - p0))
    half = max(abs(angle), 1e-3) / 2
    reach = (
        4 / 3 * np.tan(half / 2) * chord / (2 * np.sin(half))
    )  # exact handle length of a circular arc
    p1 = p0 + reach * np.array([np.cos(yaw0), np.sin(yaw0)])
    p2 = p3 - reach * np.array([np.cos(yaw3), np.sin(yaw3)])
    t = np.linspace(0, 1, 60)[:, None]
    curve = (1 - t) ** 3 * p0 + 3 * t * (1 - t) ** 2 * p1 + 3 * t**2 * (1 - t) * p2 + t**3 * p3
    kind: Turn = (
        "straight" if straight or abs(angle) < STRAIGHT_RAD else "left" if angle > 0 else "right"
    )
    return resample(curve, 1.0), kind
