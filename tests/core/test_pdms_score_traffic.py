"""Reactive traffic of v2.2: little worlds by hand, and a real scene."""

import numpy as np
import pdms_golden as golden
import pytest
from pdms_golden import GOLDEN, needs_golden
from pdms_little_worlds import CAR, straight_plan, straight_road

from latentvla_core.data.filters import SceneFilter, iter_scenes
from latentvla_core.data.map_files.maps import load_map
from latentvla_core.errors import DataError
from latentvla_core.pdms.reactive.traffic import Driver, ReactiveTraffic, reaction, roll_out
from latentvla_core.pdms.score import score_trajectories
from latentvla_core.pdms.state import Obstacles, State

NOBODY = Obstacles.of(
    np.zeros((41, 0, 4, 2)), np.zeros((41, 0), bool), np.zeros(0, np.int8), np.zeros(0)
)
FAR_AWAY = np.zeros((41, 11)) + 80.0 * np.eye(11)[1]  # an ego beside the road


def lane(length_m=60.0):
    path = np.stack(
        [np.arange(0, length_m, 2.0), np.zeros(int(length_m / 2)), np.zeros(int(length_m / 2))],
        axis=-1,
    )
    return path, path[:, 0].copy()


def traffic(*cars, parked=()):
    """Cars (x, speed) on a straight lane along x, and parked ones (x, y)."""
    path, arc = lane()
    drivers = tuple(
        Driver(row, path, arc, x, np.array([x, 0.0, 0.0]), 10.0) for row, (x, _) in enumerate(cars)
    )
    poses = np.array([(x, 0.0, 0.0) for x, _ in cars] + [(x, y, 0.0) for x, y in parked]).reshape(
        -1, 3
    )
    speeds = np.array([speed for _, speed in cars] + [0.0] * len(parked))
    returns = np.array([False] * len(cars) + [True] * len(parked))
    names = tuple(f"car {i}" for i in range(len(poses)))
    return ReactiveTraffic(
        names, poses, np.tile(CAR, (len(poses), 1)), speeds, drivers, returns, NOBODY
    )


def positions(obstacles, car=0):
    return obstacles.boxes[:, car, 0]


def test_a_car_alone_drives_on_and_stops_at_the_end_of_its_lane():
    """IDM from 8 m/s: one hand-made step, and no step beyond the end."""
    x = positions(roll_out(traffic((10.0, 8.0)), FAR_AWAY))
    assert x[0] == 10.0
    assert x[1] == pytest.approx(10.8)
    path_end, rear = 58.0, CAR[0] / 2
    wanted = 1.0 + 1.5 * 8.0 + 8.0 * 8.0 / (2 * np.sqrt(2.0))
    accel = np.clip(1 - (8.0 / 10.0) ** 4 - (wanted / (path_end - 10.0 - rear)) ** 2, -2.0, 1.0)
    assert x[2] == pytest.approx(10.8 + 0.1 * (8.0 + 0.1 * accel))
    assert (np.diff(x) >= 0).all()
    assert x.max() <= path_end


def test_a_car_brakes_for_the_ego_and_not_for_nothing():
    standing = np.zeros((41, 11))
    standing[:, State.X] = 30.0
    free, blocked = (positions(roll_out(traffic((5.0, 8.0)), ego)) for ego in (FAR_AWAY, standing))
    assert blocked[-1] < free[-1] - 5.0
    assert (
        blocked[-1] + CAR[0] / 2 < 30.0 - 5.176 / 2
    )  # the ego's box has its centre on the rear axle here


def test_a_car_of_unknown_speed_starts_with_the_egos():
    ego = FAR_AWAY.copy()
    ego[:, State.VX] = 6.0
    x = positions(roll_out(traffic((10.0, np.nan)), ego))
    assert x[1] - x[0] == pytest.approx(0.6)


def test_a_follower_keeps_behind_its_leader():
    both = roll_out(traffic((16.0, 5.0), (2.0, 6.0)), FAR_AWAY)
    gap = positions(both, 0) - positions(both, 1) - CAR[0]
    assert (gap > 0).all()


def test_parked_cars_return_where_nobody_stands():
    both = roll_out(traffic((4.0, 8.0), parked=[(40.0, 6.0), (12.0, 0.0)]), FAR_AWAY)
    assert both.valid[:, 1].all()
    assert both.valid[0, 2]
    overlapped = np.abs(positions(both, 0) - 12.0) < CAR[0]
    np.testing.assert_array_equal(both.valid[1:, 2], ~overlapped[1:])


def test_a_car_out_of_range_leaves_for_good():
    away = FAR_AWAY.copy()
    away[5:10, State.X] = 500.0
    valid = roll_out(traffic((10.0, 8.0)), away).valid[:, 0]
    np.testing.assert_array_equal(valid, np.arange(41) <= 5)


def test_v1_has_no_reactive_traffic():
    with pytest.raises(DataError, match="replays the log"):
        score_trajectories(
            [straight_road()], straight_plan(8.0)[None], reactions=[lambda states: NOBODY]
        )


def test_an_empty_reaction_is_an_empty_road():
    poses = np.stack([straight_plan(8.0), straight_plan(3.0)])[None]
    replayed = score_trajectories([straight_road()], poses, metric="epdms")
    reacted = score_trajectories(
        [straight_road()], poses, metric="epdms", reactions=[lambda states: NOBODY]
    )
    np.testing.assert_array_equal(replayed["score"], reacted["score"])


@needs_golden
def test_a_real_scene_reacts():
    """Nothing moves by jumps, everyone detected now is there now, and the scores are scores."""
    token = golden.table("scenes")["scene_token"][
        golden.table("scenes")["log_name"] == "av2-adcf7d18-p0"
    ][4]
    chosen = SceneFilter(frame_interval=1, tokens=frozenset([token]))
    (scene,) = iter_scenes([GOLDEN / "data/navsim_logs/golden/av2-adcf7d18-p0.pkl"], chosen)
    world = next(w for w in golden.worlds() if w.scene_token == token)
    react = reaction(scene, load_map(GOLDEN / "data/maps", scene.current.map_location), world)
    poses = golden.plans()[token][1][:4]
    table = score_trajectories([world], [poses], metric="epdms", reactions=[react])
    assert table.valid.all()
    assert ((table["score"] >= 0) & (table["score"] <= 1)).all()
    states = np.tile(world.ego_state, (41, 1))
    obstacles = react(states)
    assert obstacles.valid[0].sum() == len(scene.current.objects)
    moved = np.linalg.norm(np.diff(obstacles.boxes[1:, :, :2], axis=0), axis=-1)
    assert np.nanmax(moved[obstacles.valid[1:-1] & obstacles.valid[2:]]) < 4.0
