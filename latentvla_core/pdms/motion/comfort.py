"""Comfort of the simulated states: v1.1, v2.2 with history, and between two frames. Source: pdms.md
§8.8, §11.

Every filter is a Savitzky–Golay smoother written once as an n × n matrix; scipy's conventions are
rebuilt here so that no release of it can change a score. n samples, 0.1 s apart; any leading
dimensions `...`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from latentvla_core.pdms.state import DT_S, State
from latentvla_core.types import Array, Vehicle

DECIMALS = 8  # every filtered series is rounded before further use
SIGNALS = (
    "lon_acceleration",
    "lat_acceleration",
    "jerk",
    "lon_jerk",
    "yaw_acceleration",
    "yaw_rate",
)
LOWER = np.array(
    [-4.05, -4.89, -8.37, -4.13, -1.93, -0.95]
)  # strict bounds, in the order of SIGNALS
UPPER = np.array([2.40, 4.89, 8.37, 4.13, 1.93, 0.95])
SMOOTH_WINDOW, YAW_WINDOW = 8, 5
JERK_WINDOW_V2 = 15
MAX_FRAME_GAP_S = 0.55
TWO_FRAME_BOUNDS = np.array(
    [0.7, 0.5, 0.1, 0.1]
)  # rms of acceleration, jerk, yaw rate, yaw acceleration


@dataclass(frozen=True, slots=True)
class Comfort:
    """Comfort of one batch of trajectories."""

    value: Array
    """(...,) 1 where all signals stay within bounds, else 0."""
    lowest: Array
    """(..., 6) minimum of each of SIGNALS."""
    highest: Array
    """(..., 6) maximum of each."""


@cache
def filter_matrix(n: int, window: int, order: int, derivative: int) -> Array:
    """(n, n) Savitzky–Golay filter, spacing 0.1 s: output = matrix @ series.

    Interior samples use a polynomial fit over the window around them. An even window reaches one
    sample further into the future and is evaluated half a sample off the output (scipy's
    convention). The first and last window // 2 samples come from one fit of the first and last
    window.
    """
    window, matrix = min(window, n), np.zeros((n, n))
    half = window // 2
    before = half if window % 2 else half - 1  # inputs left of an interior output
    center = (window - 1) / 2
    for i in range(half, n - half):
        matrix[i, i - before : i - before + window] = _fit_weights(
            window, order, derivative, center
        )
    for i in range(half):
        matrix[i, :window] = _fit_weights(window, order, derivative, i)
        matrix[n - 1 - i, n - window :] = _fit_weights(window, order, derivative, window - 1 - i)
    matrix.setflags(write=False)
    return matrix


@cache
def _fit_weights(window: int, order: int, derivative: int, at: float) -> Array:
    """(window,) weights giving the derivative at sample position `at` of the polynomial fit to the
    window.
    """
    powers = np.arange(order + 1)
    design = (np.arange(window) - at)[:, None] ** powers  # (window, order + 1)
    factorial = float(np.prod(np.arange(1, derivative + 1)))
    return np.linalg.pinv(design)[derivative] * factorial / DT_S**derivative


def smooth(series: Array, window: int, order: int, derivative: int) -> Array:
    """(..., n) filtered series (..., n), rounded."""
    return np.round(series @ filter_matrix(series.shape[-1], window, order, derivative).T, DECIMALS)


def unwrapped(heading_rad: Array) -> Array:
    """(..., n) headings without jumps: full turns of each step are taken out (the devkit's rule)."""
    turns = np.zeros_like(heading_rad)
    turns[..., 1:] = np.cumsum(np.round(np.diff(heading_rad, axis=-1) / (2 * np.pi)), axis=-1)
    return heading_rad - 2 * np.pi * turns


def comfort_v1(states: Array) -> Comfort:
    """Comfort of v1.1 of states (..., 41, 11). Its windows span the whole series, so it is lenient."""
    return _within_bounds(signals_v1(states))


def signals_v1(states: Array) -> Array:
    """(..., 6, 41) the series of SIGNALS that v1.1 compares with the bounds."""
    window = states.shape[-2]
    return _signals(states, states[..., State.AX], window, window)


def comfort_v2(states: Array, history: Array | None = None) -> Comfort:
    """History comfort of v2.2 of states (..., 41, 11), with past states (H, 11) put in front, rear
    axle.
    """
    return _within_bounds(signals_v2(states, history))


def signals_v2(states: Array, history: Array | None = None) -> Array:
    """(..., 6, H + 41) the series of SIGNALS that v2.2 compares with the bounds.

    Longitudinal acceleration is that of the box centre by the devkit's formula, which adds the
    centripetal and the tangential term along x (pdms.md §17, quirk 14).
    """
    if history is not None and len(history):
        past = np.broadcast_to(history, (*states.shape[:-2], *history.shape))
        states = np.concatenate([past, states], axis=-2)
    turning = states[..., State.YAW_RATE] ** 2 + states[..., State.YAW_ACCEL]
    along = states[..., State.AX] + Vehicle.REAR_AXLE_TO_CENTER_M * turning
    return _signals(states, along, SMOOTH_WINDOW, JERK_WINDOW_V2)


def _signals(states: Array, along: Array, accel_window: int, jerk_window: int) -> Array:
    """(..., 6, n) the series of SIGNALS; along (..., n) is the longitudinal acceleration."""
    magnitude = np.hypot(states[..., State.AX], states[..., State.AY])
    heading = unwrapped(states[..., State.YAW])
    series = (
        smooth(along, accel_window, 2, 0),
        smooth(states[..., State.AY], accel_window, 2, 0),
        smooth(smooth(magnitude, SMOOTH_WINDOW, 2, 0), jerk_window, 2, 1),
        smooth(smooth(along, SMOOTH_WINDOW, 2, 0), jerk_window, 2, 1),
        smooth(heading, YAW_WINDOW, 3, 2),
        smooth(heading, YAW_WINDOW, 2, 1),
    )
    return np.stack(series, axis=-2)


def _within_bounds(signals: Array) -> Comfort:
    lowest, highest = signals.min(axis=-1), signals.max(axis=-1)
    passed = ((lowest > LOWER) & (highest < UPPER)).all(axis=-1)
    return Comfort(np.where(passed, 1.0, 0.0), lowest, highest)


def two_frame_comfort(previous: Array, current: Array, gap_s: float) -> tuple[Array, Array]:
    """EC (...,) and the four rms differences (..., 4) of the plans of two successive frames.

    Args:
        previous: (..., 41, 11) simulated states of the earlier frame.
        current: (..., 41, 11) simulated states of the later frame.
        gap_s: time between the frames, 0 < gap < 0.55 s.
    """
    if not 0.0 < gap_s < MAX_FRAME_GAP_S:
        raise ValueError(
            f"frames are {gap_s:.3f} s apart; two-frame comfort needs 0 < gap < {MAX_FRAME_GAP_S} s"
        )
    shift = round(gap_s / DT_S)
    length = current.shape[-2] - shift
    difference = _motion_features(current[..., :length, :]) - _motion_features(
        previous[..., shift:, :]
    )
    rms = np.sqrt((difference**2).mean(axis=-1))
    return np.where((rms <= TWO_FRAME_BOUNDS).all(axis=-1), 1.0, 0.0), rms


def _motion_features(states: Array) -> Array:
    """(..., 4, n) acceleration, its jerk, yaw rate, yaw acceleration (order 2 here, 3 in comfort)."""
    magnitude = smooth(np.hypot(states[..., State.AX], states[..., State.AY]), SMOOTH_WINDOW, 2, 0)
    heading = unwrapped(states[..., State.YAW])
    series = (
        magnitude,
        smooth(magnitude, JERK_WINDOW_V2, 2, 1),
        smooth(heading, YAW_WINDOW, 2, 1),
        smooth(heading, YAW_WINDOW, 2, 2),
    )
    return np.stack(series, axis=-2)
