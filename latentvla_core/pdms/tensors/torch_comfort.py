"""Comfort in torch: C of v1.1, HC and EC of v2.2. See `comfort.py`, whose constant filters are
used.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from latentvla_core.pdms.motion import comfort
from latentvla_core.pdms.state import State
from latentvla_core.pdms.tensors.torch_geometry import constant
from latentvla_core.pdms.tensors.torch_worlds import Past, filter_of
from latentvla_core.types import Array, Vehicle

Shape = tuple[int, int, int]  # window, order, derivative
SMOOTH: Shape = (comfort.SMOOTH_WINDOW, 2, 0)
JERK: Shape = (comfort.JERK_WINDOW_V2, 2, 1)
YAW_RATE: Shape = (comfort.YAW_WINDOW, 2, 1)
YAW_ACCEL: Shape = (comfort.YAW_WINDOW, 3, 2)


def comfort_v1(states: Tensor) -> Tensor:
    """C (B,) of states (B, 41, 11)."""
    n, along, aside = states.shape[1], states[..., State.AX], states[..., State.AY]
    series = torch.stack([along, aside, torch.hypot(along, aside), states[..., State.YAW]], dim=1)
    return _passes(_signals(series, (n, 2, 0), (n, 2, 1), _plain))


def comfort_v2(states: Tensor, scene: Tensor, past: Past) -> Tensor:
    """HC (B,) of states (B, 41, 11) with each scene's past in front."""
    aside, turning = (
        states[..., State.AY],
        states[..., State.YAW_RATE] ** 2 + states[..., State.YAW_ACCEL],
    )
    along = states[..., State.AX] + Vehicle.REAR_AXLE_TO_CENTER_M * turning
    magnitude = torch.hypot(states[..., State.AX], aside)
    own = torch.stack([along, aside, magnitude, states[..., State.YAW]], dim=1)
    series = torch.cat([past.series[scene], own], dim=2)
    length = past.length[scene][:, None]

    def smooth(x: Tensor, shape: Shape) -> Tensor:
        return _with_past(x, shape, length, past)

    return _passes(_signals(series, SMOOTH, JERK, smooth))


def _signals(
    series: Tensor, accel: Shape, jerk: Shape, smooth: Callable[[Tensor, Shape], Tensor]
) -> Tensor:
    """(B, 6, n) `comfort.SIGNALS` from longitudinal and lateral acceleration, magnitude and heading
    (B, 4, n).
    """
    along, aside, magnitude, yaw = series.unbind(1)
    heading = _unwrapped(yaw)
    signals = [
        smooth(along, accel),
        smooth(aside, accel),
        smooth(smooth(magnitude, SMOOTH), jerk),
        smooth(smooth(along, SMOOTH), jerk),
        smooth(heading, YAW_ACCEL),
        smooth(heading, YAW_RATE),
    ]
    return torch.stack(signals, dim=1)


def _passes(signals: Tensor) -> Tensor:
    """(B,) 1 where signals (B, 6, n) stay within bounds."""
    low, high = (bound[:, None] for bound in constant(_bounds, signals.device))
    return ((signals > low) & (signals < high)).flatten(1).all(1).to(signals)


def _unwrapped(heading: Tensor) -> Tensor:
    """(..., n) without jumps, by the devkit's rule."""
    turns = torch.round(torch.diff(heading, dim=-1) / (2 * torch.pi)).cumsum(-1)
    return heading - 2 * torch.pi * torch.nn.functional.pad(turns, (1, 0))


def _bounds() -> Array:
    return np.stack([comfort.LOWER, comfort.UPPER])


def _two_frame_bounds() -> Array:
    return comfort.TWO_FRAME_BOUNDS


def _filtered(series: Tensor, matrix: Tensor) -> Tensor:
    return torch.round(series @ matrix.T, decimals=comfort.DECIMALS)


def _plain(series: Tensor, shape: Shape) -> Tensor:
    """(..., n) filtered series, rounded."""
    return _filtered(
        series, constant(comfort.filter_matrix, series.device, series.shape[-1], *shape)
    )


def _with_past(series: Tensor, shape: Shape, length: Tensor, past: Past) -> Tensor:
    """(B, n) filtered series of which the first samples are padding: past length (B, 1) differs by
    scene.
    """
    most = past.series.shape[-1]
    steps = series.shape[-1] - most
    out = torch.zeros_like(series)
    for known in past.lengths:  # one or two: the past is 14 or 15 samples long
        made = _filtered(series, constant(filter_of, series.device, known, most, steps, shape))
        out = made if len(past.lengths) == 1 else torch.where(length == known, made, out)
    return out


def two_frame(previous: Tensor, current: Tensor, gap_s: Tensor, shifts: tuple[int, ...]) -> Tensor:
    """EC (B,) of states (B, 41, 11) of two frames gap_s (B,) apart; NaN where 0 < gap < 0.55 s does
    not hold.

    shifts: the gaps in steps that occur.
    """
    out = torch.full_like(gap_s, torch.nan)
    paired = (gap_s > 0) & (gap_s < comfort.MAX_FRAME_GAP_S)
    step = torch.round(gap_s / comfort.DT_S)
    bounds = constant(_two_frame_bounds, gap_s.device)
    for shift in shifts:
        length = current.shape[1] - shift
        difference = _features(current[:, :length]) - _features(previous[:, shift:])
        agree = (torch.sqrt((difference**2).mean(-1)) <= bounds).all(-1).to(out)
        out = torch.where(paired & (step == shift), agree, out)
    return out


def _features(states: Tensor) -> Tensor:
    """(B, 4, n) acceleration, its jerk, yaw rate, yaw acceleration (order 2 here, 3 in comfort)."""
    magnitude = _plain(torch.hypot(states[..., State.AX], states[..., State.AY]), SMOOTH)
    heading = _unwrapped(states[..., State.YAW])
    series = [
        magnitude,
        _plain(magnitude, JERK),
        _plain(heading, YAW_RATE),
        _plain(heading, (YAW_RATE[0], 2, 2)),
    ]
    return torch.stack(series, dim=1)
