"""Episodes: the same world for every driver until they differ, the same bytes for the same seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from latentvla_core.closed_loop.driver import Observation
from latentvla_core.closed_loop.drivers.baselines import floor
from latentvla_core.closed_loop.episode import Scene, prepare_scene, run_episode
from latentvla_core.closed_loop.scenes.spec import SceneSpec, Streams
from latentvla_core.closed_loop.steps import run_of
from latentvla_core.pdms.state import State
from latentvla_core.types import Array


@pytest.fixture(scope="module")
def scene() -> Scene:
    spec = SceneSpec(situation="lead_brakes", world_seed=900_001, location="us-ma-boston", seed=1)
    return prepare_scene(spec, seconds=6.0)


@dataclass
class Scripted:
    """Constant velocity until a time, then something else."""

    until_s: float
    after: str
    name: str = "scripted"
    cameras: tuple[str, ...] = ()
    is_privileged: bool = False

    def start(self, seed: int) -> None: ...

    def drive(self, seen: Observation) -> Array:
        if seen.time_s >= self.until_s and self.after == "raise":
            raise ValueError("no plan today")
        if seen.time_s >= self.until_s and self.after == "nan":
            return np.full((8, 3), np.nan)
        name = self.after if seen.time_s >= self.until_s else "constant_velocity"
        return floor(name).drive(seen)


def others(run, step: int) -> dict[str, tuple[float, ...]]:
    return {a.token: tuple(a.pose) for a in run.moments[step].actors}


def test_two_drivers_meet_the_same_world_until_they_differ(scene: Scene):
    one = run_episode(floor("constant_velocity"), scene)
    two = run_episode(Scripted(3.0, "stand_still"), scene)
    for step in range(31):
        assert others(one, step) == others(two, step), step
    assert not np.array_equal(one.states[40], two.states[40])


def test_who_differs_leaves_the_luck_of_others_alone(scene: Scene):
    """A far car that never meets the ego drives the same way past an ego that stands and one that
    goes on: with one stream for all, everybody's luck would have moved.
    """
    one, two = (run_episode(floor(n), scene) for n in ("constant_velocity", "stand_still"))
    ego = one.states[0, :2]
    far = [a.token for a in one.moments[0].actors if np.hypot(*(a.pose[:2] - ego)) > 45.0]
    shared = [t for t in far if t in others(one, 45) and t in others(two, 45)]
    assert shared
    same = [np.allclose(others(one, 45)[t], others(two, 45)[t]) for t in shared]
    assert np.mean(same) > 0.5


def test_the_same_seed_gives_the_same_run_to_the_last_bit(scene: Scene):
    one, two = (run_episode(floor("blind"), scene) for _ in range(2))
    assert one.states.tobytes() == two.states.tobytes()
    assert list(one.rows()) == list(two.rows())


def test_an_actor_draws_from_its_own_stream():
    one, two = Streams(5), Streams(5)
    one("v1").random(100)
    assert one("v2").random() == two("v2").random()
    assert Streams(6)("v2").random() != Streams(5)("v2").random()


def test_a_run_comes_back_from_its_rows(scene: Scene):
    run = run_episode(floor("constant_velocity"), scene)
    back = run_of(run.row(), list(run.rows())[::-1])
    assert back.states.tobytes() == run.states.tobytes()
    assert back.plans.keys() == run.plans.keys()
    assert others(back, 20) == others(run, 20)


@pytest.mark.parametrize("after", ["raise", "nan"])
def test_a_driver_that_fails_makes_a_run_that_says_so(scene: Scene, after: str):
    run = run_episode(Scripted(2.0, after), scene)
    assert (run.ended, run.valid, run.steps) == ("crashed", False, 20)
    assert "today" in run.reason or "finite" in run.reason


def test_the_one_who_stands_still_runs_out_of_time_and_stops_within_comfort(scene: Scene):
    run = run_episode(floor("stand_still"), scene)
    assert run.ended == "time" and run.steps == 90
    assert abs(run.states[-1, State.VX]) < 0.1


def test_traffic_waits_behind_an_ego_that_stands_and_a_log_does_not(scene: Scene):
    reactive = run_episode(floor("stand_still"), scene)
    logged = run_episode(floor("stand_still"), scene, traffic="log")
    assert others(logged, 30) == others_of_human(scene, 30)
    assert others(reactive, 80) != others(logged, 80)


def others_of_human(scene: Scene, step: int) -> dict[str, tuple[float, ...]]:
    return others(scene.human, step)


def test_pdm_closed_follows_the_route_and_the_lead(scene: Scene):
    run = run_episode(floor("pdm_closed"), scene)
    away = np.linalg.norm(run.states[60, :2] - scene.human.states[60, :2])
    assert run.valid, run.reason
    assert away < 25.0


def test_a_driver_gets_only_what_it_asked_for(scene: Scene):
    seen: list[Observation] = []

    class Peeping(Scripted):
        def drive(self, now: Observation) -> Array:
            seen.append(now)
            return super().drive(now)

    run_episode(Peeping(99.0, "stand_still"), scene)
    first = seen[0]
    assert first.pictures == {} and first.privileged is None
    assert first.history_poses.shape == (4, 3) and (first.history_poses[-1] == 0).all()
    assert (np.diff(first.history_poses[:, 0]) >= 0).all()


def test_pictures_come_from_the_cameras_that_were_asked_for(scene: Scene):
    seen: list[Observation] = []

    @dataclass
    class Looking(Scripted):
        cameras: tuple[str, ...] = ("CAM_F0",)

        def drive(self, now: Observation) -> Array:
            seen.append(now)
            if len(seen) > 2:
                raise StopIteration
            return super().drive(now)

    run_episode(Looking(99.0, "stand_still"), scene, picture_wh=(64, 36))
    assert [tuple(s.pictures) for s in seen] == [("CAM_F0",)] * 3
    assert seen[0].pictures["CAM_F0"].shape == (36, 64, 3)
    assert (seen[0].pictures["CAM_F0"] != seen[2].pictures["CAM_F0"]).any()
    assert set(seen[0].cameras) == {"CAM_F0"}
