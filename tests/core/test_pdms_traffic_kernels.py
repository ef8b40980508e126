"""Compiled reactive traffic against its twin in shapely: the same outlines, distances, positions
and scores.
"""

from __future__ import annotations

import numpy as np
import pdms_golden as golden
import pytest
import shapely
from pdms_golden import GOLDEN, needs_golden
from pdms_little_worlds import CAR

from latentvla_core.data.filters import SceneFilter, iter_scenes
from latentvla_core.data.map_files.maps import load_map
from latentvla_core.geometry import arc_length
from latentvla_core.pdms import backend
from latentvla_core.pdms.measure import drive
from latentvla_core.pdms.reactive.outline_kernels import (
    NO,
    QUAD_SEGMENTS,
    UNSURE,
    YES,
    outline,
    relation,
)
from latentvla_core.pdms.reactive.traffic import Driver, ReactiveTraffic, reactive_traffic, roll_out
from latentvla_core.pdms.state import NUM_STEPS, Obstacles, State

numba = pytest.importorskip("numba")
NOBODY = Obstacles.of(
    np.zeros((41, 0, 4, 2)), np.zeros((41, 0), bool), np.zeros(0, np.int8), np.zeros(0)
)


def bent_line(rng: np.random.Generator, bend: float, step_m: tuple[float, float]) -> np.ndarray:
    """(n, 2) a line whose pieces turn by about `bend` rad each."""
    count = int(rng.integers(2, 30))
    course = np.cumsum(rng.normal(0.0, bend, count - 1)) + rng.uniform(-3, 3)
    steps = np.stack([np.cos(course), np.sin(course)], axis=-1) * rng.uniform(
        *step_m, (count - 1, 1)
    )
    return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)]) + rng.uniform(-100, 100, 2)


def around(line: np.ndarray, half_width: float) -> shapely.Polygon:
    return shapely.buffer(
        shapely.LineString(line), half_width, quad_segs=QUAD_SEGMENTS, cap_style="flat"
    )


@pytest.mark.parametrize("bend", [0.0, 1e-6, 1e-3, 0.05, 0.2])
def test_outlines_are_those_of_shapely(bend):
    rng, ring, simple = np.random.default_rng(0), np.zeros((5000, 2)), 0
    for _ in range(60):
        line, half_width = bent_line(rng, bend, (1.0, 4.0)), rng.uniform(0.4, 1.3)
        ours = shapely.Polygon(ring[: outline(line, half_width, ring)])
        if ours.is_valid:  # those that cross themselves are tried below
            simple += 1
            assert shapely.hausdorff_distance(ours, around(line, half_width)) < 1e-9
    assert simple > 40


@pytest.mark.parametrize("bend", [0.0, 1e-3, 0.2, 1.0])
def test_meetings_and_distances_are_those_of_shapely(bend):
    """Also of lines whose bends are tighter than their width."""
    rng, ring, met = np.random.default_rng(1), np.zeros((5000, 2)), set()
    for _ in range(300):
        line, half_width = bent_line(rng, bend, (0.1, 2.0)), rng.uniform(0.4, 1.3)
        there = line[rng.integers(len(line))] + rng.normal(0, 2, 2)
        box = there + np.array([[0.3, 0.2], [-0.3, 0.2], [-0.3, -0.2], [0.3, -0.2]])
        how, gap = relation(ring[: outline(line, half_width, ring)], box, np.inf)
        truth = shapely.distance(around(line, half_width), shapely.Polygon(box))
        met.add(how)
        assert how in (YES, NO)
        assert (how == YES) == (truth == 0.0)
        assert gap == pytest.approx(truth, abs=1e-9)
    assert met == {YES, NO}


def test_what_nearly_touches_is_left_to_shapely():
    box = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    assert relation(box, box + [1.0 + 1e-5, 0.0], np.inf)[0] == UNSURE
    assert relation(box, box + [1.0 - 1e-5, 0.0], np.inf)[0] == UNSURE
    assert relation(box, box + [1.0 + 1e-3, 0.0], np.inf) == (NO, pytest.approx(1e-3))
    assert relation(box, box + [1.0 - 1e-3, 0.0], np.inf)[0] == YES
    assert relation(box, 0.5 * box, np.inf)[0] == YES  # a corner is shared, another lies within


def crossing(seed: int) -> tuple[ReactiveTraffic, np.ndarray]:
    """Cars on lanes that cross, follow each other and bend, parked ones beside them, and an ego
    that drives through.
    """
    rng = np.random.default_rng(seed)
    drivers, poses = [], []
    for _ in range(6):
        bend = rng.choice([0.0, 1e-6, 0.02, 0.1])
        course = np.cumsum(np.full(30, bend * rng.choice([-1, 1]))) + rng.uniform(-3, 3)
        steps = np.stack([np.cos(course), np.sin(course)], axis=-1) * rng.uniform(1.0, 3.0, (30, 1))
        xy = np.cumsum(steps, axis=0) - steps.sum(0) / 2
        path = np.column_stack([xy, np.append(course[1:], course[-1])])
        arc = arc_length(xy)
        for start in rng.choice(np.linspace(0, 0.8 * arc[-1], 5), 2, replace=False):
            here = np.array([np.interp(start, arc, path[:, k]) for k in range(3)])
            drivers.append(
                Driver(len(poses), path, arc, float(start), here, float(rng.uniform(5, 14)))
            )
            poses.append(here)
    parked = np.column_stack([rng.uniform(-25, 25, (5, 2)), rng.uniform(-3, 3, 5)])
    poses = np.concatenate([poses, parked])
    sizes = np.where(
        rng.random((len(poses), 1)) < 0.5,
        CAR,
        rng.uniform([3.0, 1.5], [12.0, 2.6], (len(poses), 2)),
    )
    speeds = np.where(rng.random(len(poses)) < 0.2, np.nan, rng.uniform(0, 12, len(poses)))
    returns = np.arange(len(poses)) >= len(drivers)
    names = tuple(map(str, range(len(poses))))
    ego = np.zeros((NUM_STEPS + 1, 11))
    ego[:, State.X], ego[:, State.VX] = np.linspace(-20, 20, NUM_STEPS + 1), 10.0
    return ReactiveTraffic(names, poses, sizes, speeds, tuple(drivers), returns, NOBODY), ego


def both(traffic: ReactiveTraffic, states: np.ndarray) -> tuple[Obstacles, Obstacles]:
    with backend.using("numba"):
        compiled = roll_out(traffic, states)
    with backend.using("numpy"):
        return compiled, roll_out(traffic, states)


@pytest.mark.parametrize("seed", range(12))
def test_compiled_traffic_drives_as_its_twin(seed):
    compiled, twin = both(*crossing(seed))
    np.testing.assert_array_equal(compiled.valid, twin.valid)
    np.testing.assert_allclose(
        compiled.boxes[twin.valid], twin.boxes[twin.valid], rtol=0, atol=1e-9
    )


def test_the_cars_of_these_worlds_do_meet():
    """Else the test above would say little: with nobody around each of them drives elsewhere."""
    traffic, ego = crossing(3)
    together = roll_out(traffic, ego).boxes[-1, :, :2]
    changed = 0
    for driver in traffic.drivers:
        alone = ReactiveTraffic(
            ("it",),
            driver.start_pose[None],
            traffic.sizes_m[[driver.row]],
            traffic.speed_mps[[driver.row]],
            (
                Driver(
                    0,
                    driver.path,
                    driver.progress_m,
                    driver.start_m,
                    driver.start_pose,
                    driver.target_mps,
                ),
            ),
            np.zeros(1, bool),
            NOBODY,
        )
        away = ego + 60.0 * np.eye(11)[State.Y]
        changed += bool(
            np.abs(roll_out(alone, away).boxes[-1, 0, :2] - together[driver.row]).max() > 0.1
        )
    assert changed > 4


@pytest.mark.slow
@needs_golden
def test_real_traffic_drives_as_its_twin():
    rows = golden.table("scenes")
    tokens = frozenset(rows["scene_token"][[4, 120]])
    for log in sorted(set(rows["log_name"][[4, 120]])):
        road_map = None
        for scene in iter_scenes(
            [GOLDEN / f"data/navsim_logs/golden/{log}.pkl"],
            SceneFilter(frame_interval=1, tokens=tokens),
        ):
            road_map = road_map or load_map(GOLDEN / "data/maps", scene.current.map_location)
            world = next(w for w in golden.worlds() if w.scene_token == scene.token)
            traffic = reactive_traffic(scene, road_map, world)
            states = drive(world, world.reference_v2, golden.plans()[scene.token][1][:1], 0.5)
            for driven in states[1:]:
                compiled, twin = both(traffic, driven)
                np.testing.assert_array_equal(compiled.valid, twin.valid)
                np.testing.assert_allclose(
                    compiled.boxes[twin.valid], twin.boxes[twin.valid], rtol=0, atol=1e-9
                )
