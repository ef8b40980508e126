"""AlpaSim's contract, over real gRPC: the other end is the package's own loop on a straight road."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

door = pytest.importorskip(
    "latentvla_core.doors.alpasim", reason="needs pip install 'latentvla[alpasim]'"
)
from carla_driver_interface.geometry import Pose, Trajectory  # noqa: E402
from carla_driver_interface.server import serving  # noqa: E402
from carla_driver_interface.testing import FakeCamera, FakeLoop  # noqa: E402
from planner_factory import arc  # noqa: E402

from latentvla_core.closed_loop.drivers.baselines import floor  # noqa: E402
from latentvla_core.closed_loop.drivers.planners import load_folder  # noqa: E402
from latentvla_core.errors import DataError, SetupError  # noqa: E402
from latentvla_core.planner.hosts.transfuser import TransfuserConfig  # noqa: E402
from latentvla_core.planner.model import build_planner, save  # noqa: E402
from latentvla_core.types import Command  # noqa: E402

torch.set_num_threads(1)
RIG = (
    FakeCamera("camera_front_wide_120fov", 192, 108, 120.0),
    FakeCamera("camera_cross_left_120fov", 192, 108, 120.0, yaw_left_deg=60.0),
    FakeCamera("camera_cross_right_120fov", 192, 108, 120.0, yaw_left_deg=-60.0),
)


def driven(driver, steps: int, **settings):
    """What the loop saw, with the driver behind a server of AlpaSim's kind."""
    with (
        serving(door.EgoDriver(driver), port=0, host="127.0.0.1", mode="alpasim") as port,
        FakeLoop(f"127.0.0.1:{port}", RIG, **settings) as loop,
    ):
        return loop.run(steps)


def test_constant_velocity_drives_the_road_at_its_speed():
    result = driven(floor("constant_velocity"), 20, initial_speed_mps=7.0)
    assert result.steps == 20 and not result.terminated_by_policy
    assert np.allclose(result.speeds_mps, 7.0, atol=0.05)
    assert np.abs(result.lateral_offsets_m).max() < 0.01


def test_standing_still_stands():
    result = driven(floor("stand_still"), 5, initial_speed_mps=0.0)
    assert np.abs(result.ego.positions[:, :2]).max() < 1e-6


def test_a_planner_with_eyes_sees_the_rig_and_answers_every_call(tmp_path):
    save(build_planner("transfuser", TransfuserConfig.debug(), seed=1), tmp_path / "t")
    driver, saw = load_folder(tmp_path / "t"), []
    watched = SimpleNamespace(
        name="watched", cameras=driver.cameras, is_privileged=False, start=driver.start
    )

    def drive(seen):
        saw.append(seen)
        return driver.drive(seen)

    watched.drive = drive
    result = driven(watched, 4, initial_speed_mps=5.0)
    assert result.steps == 4 and len(saw) == 4
    assert set(saw[0].pictures) == {"CAM_F0", "CAM_L0", "CAM_R0"}
    assert saw[0].pictures["CAM_F0"].shape == (108, 192, 3)
    axes = {
        n: np.degrees(np.arctan2(c.rotation[1, 2], c.rotation[0, 2]))
        for n, c in saw[0].cameras.items()
    }
    assert axes == pytest.approx({"CAM_F0": 0.0, "CAM_L0": 60.0, "CAM_R0": -60.0}, abs=1e-6)
    assert saw[0].command == Command.FORWARD and saw[0].velocity_mps[0] == pytest.approx(5.0)
    assert saw[3].history_poses[-1] == pytest.approx([0, 0, 0], abs=1e-9)


def test_a_planner_that_refuses_gives_its_reason_to_the_simulator():
    import grpc

    blind = SimpleNamespace(
        name="blind", cameras=(), is_privileged=False, start=lambda seed: None,
        drive=lambda seen: np.full((8, 3), np.nan),
    )  # fmt: skip
    with pytest.raises(grpc.RpcError, match="NaN"):
        driven(blind, 1)


def test_cameras_are_told_apart_by_where_they_look_and_a_stray_one_is_none():
    declared = {c.logical_id: c.available_camera() for c in RIG}
    assert door.cameras_of(declared) == {
        "CAM_F0": "camera_front_wide_120fov",
        "CAM_L0": "camera_cross_left_120fov",
        "CAM_R0": "camera_cross_right_120fov",
    }
    aside = FakeCamera("aside", yaw_left_deg=110.0).available_camera()
    assert door.cameras_of({"aside": aside}) == {}
    assert door.cameras_of({}) == {}


def test_an_f_theta_lens_becomes_the_pinhole_of_its_middle_and_no_lens_is_refused():
    camera = RIG[0].available_camera()
    pinhole = door.calibration_of(camera)
    assert pinhole["intrinsics_px"][0][0] == pytest.approx(RIG[0].focal_px)
    assert pinhole["translation_m"] == pytest.approx([2.5, 0.0, 1.5])
    wide = camera.intrinsics.ftheta_param
    wide.principal_point_x = 96.0
    wide.angle_to_pixeldist_poly.extend([0.0, 55.0, 0.3])
    assert door.calibration_of(camera)["intrinsics_px"][0] == [55.0, 0.0, 96.0]
    camera.intrinsics.ClearField("ftheta_param")
    with pytest.raises(DataError, match="nothing is said of the lens"):
        door.calibration_of(camera)


@pytest.mark.parametrize(
    ("bend", "command"), [(0.02, Command.LEFT), (0.0, Command.FORWARD), (-0.02, Command.RIGHT)]
)
def test_the_command_is_read_from_the_route(bend, command):
    route = np.column_stack([arc(10.0, bend)[:, :2], np.zeros(8)])
    behind = np.array([[-5.0, 0.0, 0.0]])
    assert door.command_of(np.concatenate([behind, route])) == command
    assert door.command_of(np.zeros((0, 3))) == Command.UNKNOWN


def test_the_plan_is_smooth_starts_as_the_car_moves_and_meets_every_pose():
    poses = arc(8.0, 0.03)
    plan = door.every_tenth(poses, np.array([8.0, 0.0]), now_us=1_000_000)
    assert plan.timestamps_us[0] == 1_000_000 and plan.timestamps_us[-1] == 5_000_000
    assert len(plan) == 41
    points = plan.positions
    assert np.allclose(points[5::5, :2], poses[:, :2], atol=1e-9)
    speeds = np.linalg.norm(np.diff(points, axis=0), axis=1) / 0.1
    assert np.abs(np.diff(speeds)).max() < 0.3 and speeds[0] == pytest.approx(8.0, abs=0.2)
    assert plan.poses[-1].yaw == pytest.approx(poses[-1, 2])


def test_history_is_relative_to_now_and_the_first_pose_stands_for_what_was_before():
    track = Trajectory.empty()
    for k in range(11):
        track.append(k * 100_000, Pose.from_xyz_yaw(1.0 * k, 0.0, 0.0, 0.0))
    state = SimpleNamespace(
        linear_velocity=SimpleNamespace(x=10.0, y=0.0),
        linear_acceleration=SimpleNamespace(x=0.5, y=0.0),
    )
    session = SimpleNamespace(ego_trajectory=track, dynamic_states=[state] * 11)
    found = door.history_of(session, 1_000_000)
    assert np.allclose(np.array(found["history_poses"])[:, 0], [-10, -10, -5, 0])
    assert found["history_velocities_mps"][-1] == [10.0, 0.0]
    empty = SimpleNamespace(ego_trajectory=Trajectory.empty(), dynamic_states=[])
    with pytest.raises(DataError, match="no ego motion"):
        door.history_of(empty, 0)


def test_a_driver_with_privileged_knowledge_is_refused_before_a_port_is_taken():
    with pytest.raises(SetupError, match="what no message holds"):
        door.EgoDriver(floor("pdm_closed"))
