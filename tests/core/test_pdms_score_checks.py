"""Values of the official devkit for four hand-made plans (pdms.md §19): profiles, driven states,
comfort series.
"""

import numpy as np
import pytest

from latentvla_core.pdms import backend
from latentvla_core.pdms.motion import comfort, tracker
from latentvla_core.pdms.state import State

TIME_US = 1_620_000_000_000_000
EGO = np.array([0.0, 0.0, 0.3, 8.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0])
EIGHTHS = np.arange(0.5, 4.1, 0.5)


def plan(name: str) -> np.ndarray:
    """(8, 3) A straight, B accelerating bend, C stop at -3 m/s2, D straight but drifting sideways."""
    t, zero = EIGHTHS, np.zeros(8)
    distance = 8 * t + 0.5 * t**2
    braking = np.minimum(t, 8 / 3)
    bend = [np.sin(0.02 * distance) / 0.02, (1 - np.cos(0.02 * distance)) / 0.02, 0.02 * distance]
    columns = {
        "A": [8 * t, zero, zero],
        "B": bend,
        "C": [8 * braking - 1.5 * braking**2, zero, zero],
    }
    columns["D"] = [8 * t, t, zero]
    return np.stack(columns[name], axis=-1).astype(np.float32)


def driven(name: str) -> np.ndarray:
    return tracker.simulate(tracker.reference_states(plan(name), EGO, TIME_US), EGO)


@pytest.fixture(params=["numba", "numpy"], autouse=True)
def both_backends(request):
    with backend.using(request.param):
        yield


def test_velocity_fit_matrix_is_the_devkits_with_its_bug():
    fit = tracker.velocity_fit()
    np.testing.assert_allclose(
        fit[0, :4], [6.180339887, 2.360679775, 0.901699437, 0.344418537], atol=1e-9
    )
    np.testing.assert_allclose(fit[0].sum(), 10.0, atol=1e-8)
    np.testing.assert_allclose(fit[1, :3], [-38.196601125, 23.60679775, 9.016994375], atol=1e-8)


PROFILES = {
    "A": ([8, 8, 8, 8], [0, 0, 0]),
    "B": (
        [8.246705766, 8.252767079, 9.104728223, 11.741694902],
        [0.019989103, 0.020096439, 0.020025408],
    ),
    "C": ([7.237704098, 7.225408198, 4.659063187, -0.000006362], [0, 0, 0]),
    "D": ([8, 8, 8, 8], [0, 0, 0]),
}


@pytest.mark.parametrize("name", PROFILES)
def test_profiles(name):
    reference = tracker.reference_states(plan(name), EGO, TIME_US)
    velocity = tracker.velocity_profile(reference)
    # global coordinates of the check values round to 1e-9 m, the times to 1 us
    np.testing.assert_allclose(velocity[[0, 1, 10, 39]], PROFILES[name][0], atol=2e-8)
    curvature = tracker.curvature_profile(reference, velocity)
    np.testing.assert_allclose(curvature[[0, 10, 39]], PROFILES[name][1], atol=1e-8)


STATES = {  # name, step: x, y, heading, v_x, a_x, steering, its rate, yaw rate, yaw acceleration
    ("A", 1): (0.764269191, 0.236416165, 0.3, 8.033333333, 0.333333333, 0, 0, 0, 0),
    ("A", 40): (30.674936433, 9.488869794, 0.3, 8.001239811, -0.001830141, 0, 0, 0, 0),
    ("B", 1): (
        *(0.764269191, 0.236416165, 0.3, 8.066809946, 0.668099462),
        *(0.010555469, 0.105554686, 0.027566242, 0.27566242),
    ),
    ("B", 10): (
        *(7.914450266, 2.746467795, 0.420436733, 8.911174092, 0.991576657),
        *(0.084744301, 0.049103515, 0.245058015, 0.168299577),
    ),
    ("B", 20): (
        *(15.904903953, 7.585399617, 0.697318091, 9.928778956, 0.986700146),
        *(0.084182457, -0.03239197, 0.271223387, -0.076889933),
    ),
    ("B", 40): (
        *(29.14406328, 24.509103582, 1.088119828, 11.503848917, 0.333221889),
        *(0.049400995, 0.017396641, 0.184125717, 0.070085566),
    ),
    ("C", 10): (6.763867685, 2.092309462, 0.3, 5.483510757, -3.190137503, 0, 0, 0, 0),
    ("C", 40): (12.423270691, 3.842967963, 0.3, 0.180867281, -0.264520794, 0, 0, 0, 0),
    ("D", 10): (
        *(7.689586228, 2.408147361, 0.317727069, 8.057496049, -0.050770214),
        *(0.020376541, 0.026629055, 0.053158506, 0.069194581),
    ),
    ("D", 40): (
        *(29.796221907, 11.824559148, 0.437704024, 8.001239811, -0.001830142),
        *(-0.008722983, -0.006364048, -0.022595161, -0.016480762),
    ),
}
CHECKED = [
    State.X,
    State.Y,
    State.YAW,
    State.VX,
    State.AX,
    State.STEER,
    State.STEER_RATE,
    State.YAW_RATE,
    State.YAW_ACCEL,
]


@pytest.mark.parametrize(("name", "step"), STATES)
def test_driven_states(name, step):
    state = driven(name)[step]
    np.testing.assert_allclose(state[CHECKED], STATES[name, step], atol=1e-8)
    assert state[State.VY] == state[State.AY] == 0


def test_a_batch_drives_like_its_members():
    together = np.stack(
        [tracker.reference_states(plan(name), EGO, TIME_US) for name in "ABCD"]
    ).reshape(2, 2, 41, 3)
    states = tracker.simulate(together, EGO)
    for k, name in enumerate("ABCD"):
        np.testing.assert_allclose(states.reshape(4, 41, 11)[k], driven(name), atol=1e-12)


# name, version: lon. acceleration, jerk, lon. jerk, yaw acceleration, yaw rate (min, max),
# comfortable?
SERIES = {
    ("A", 1): (
        (-0.06478465, 0.21633087, -0.18055635, 0.08870026, -0.23390099, 0.16460184, 0, 0, 0, 0),
        1,
    ),
    ("A", 2): (
        (-0.05148989, 0.48692443, -0.91545634, 0.00485034, -1.05793393, 0.02907111, 0, 0, 0, 0),
        1,
    ),
    ("B", 1): (
        (
            *(0.33534578, 1.07744028, -0.65785208, 0.48321471, -0.65785208, 0.48321471),
            *(-0.1125184, 0.28208203, -0.0143787, 0.28828649),
        ),
        1,
    ),
    ("B", 2): (
        (
            *(0.49519649, 1.38854686, -0.60043355, 0.94366142, -0.34559134, 1.5564534),
            *(-0.1125184, 0.28208203, -0.0143787, 0.28828649),
        ),
        1,
    ),
    ("C", 1): (
        (-2.83887611, 0.73278235, -2.65557629, 1.4011034, -1.61779978, 2.79271401, 0, 0, 0, 0),
        1,
    ),
    ("C", 2): (
        (-3.28746762, 0.3653008, -1.6935784, 5.86544204, -7.11964373, 1.6935784, 0, 0, 0, 0),
        0,
    ),
    ("D", 2): (
        (
            *(-0.10351763, 0.47679109, -0.91545634, 0.00485034, -0.75884737, 0.11259297),
            *(-0.06536545, 0.07354247, -0.0227467, 0.078414),
        ),
        1,
    ),
}


@pytest.mark.parametrize(("name", "version"), SERIES)
def test_comfort_series(name, version):
    calm = comfort.comfort_v1(driven(name)) if version == 1 else comfort.comfort_v2(driven(name))
    expected, passed = SERIES[name, version]
    kept = [i for i, signal in enumerate(comfort.SIGNALS) if signal != "lat_acceleration"]
    found = np.stack([calm.lowest[kept], calm.highest[kept]], axis=-1).ravel()
    np.testing.assert_allclose(found, expected, atol=3e-8)
    assert calm.value == passed


def test_the_plain_stop_passes_v1_and_fails_v2_by_its_longitudinal_jerk():
    calm = comfort.comfort_v2(driven("C"))
    failed = (calm.lowest <= comfort.LOWER) | (calm.highest >= comfort.UPPER)
    assert [name for name, bad in zip(comfort.SIGNALS, failed, strict=True) if bad] == ["lon_jerk"]
    assert comfort.comfort_v1(driven("C")).value == 1.0


def test_even_window_is_shifted_by_half_a_sample():
    weights = np.array([-3, 3, 7, 9, 9, 7, 3, -3]) / 32
    matrix = comfort.filter_matrix(41, 8, 2, 0)
    np.testing.assert_allclose(matrix[10, 7:15], weights, atol=1e-12)
    line = np.arange(41.0)
    np.testing.assert_allclose((matrix @ line)[4:-4], line[4:-4] + 0.5, atol=1e-12)
    np.testing.assert_allclose((matrix @ line)[:4], line[:4], atol=1e-12)


def test_quadratic_is_its_own_smoothing_and_derivative():
    t = np.arange(41) * 0.1
    np.testing.assert_allclose(
        comfort.smooth(1 + t - 2 * t**2, 5, 2, 1), np.round(1 - 4 * t, 8), atol=1e-7
    )
    np.testing.assert_allclose(
        comfort.smooth(1 + t - 2 * t**2, 41, 2, 0), np.round(1 + t - 2 * t**2, 8), atol=1e-7
    )


def test_unwrapping_takes_full_turns_out():
    heading = np.linspace(3.0, 3.4, 41)
    np.testing.assert_allclose(
        comfort.unwrapped((heading + np.pi) % (2 * np.pi) - np.pi), heading, atol=1e-12
    )


def test_two_frames_that_drive_the_same_are_comfortable_and_a_sudden_stop_is_not():
    states = driven("A")
    later = np.concatenate([states[5:], np.repeat(states[-1:], 5, axis=0)])
    value, rms = comfort.two_frame_comfort(states, later, 0.5)
    assert value == 1.0
    np.testing.assert_allclose(rms, 0.0, atol=1e-12)
    assert comfort.two_frame_comfort(states, driven("C"), 0.5)[0] == 0.0


@pytest.mark.parametrize("gap_s", [0.0, -0.5, 0.55, 1.0])
def test_two_frame_comfort_needs_neighbours(gap_s):
    with pytest.raises(ValueError, match="apart"):
        comfort.two_frame_comfort(driven("A"), driven("A"), gap_s)


def test_a_short_plan_repeats_its_last_pose():
    reference = tracker.reference_states(plan("A")[:4], EGO, TIME_US)
    np.testing.assert_allclose(reference[21:], np.repeat(reference[20:21], 20, axis=0), atol=1e-4)
