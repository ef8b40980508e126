"""Trained planners at the wheel: what they see on the road is what they saw in training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from latentvla_core.closed_loop.driver import Observation
from latentvla_core.closed_loop.drivers.planners import (
    cameras_of,
    driver_of,
    load_folder,
    record_of,
)
from latentvla_core.data.cameras import PANORAMA_CAMERAS
from latentvla_core.errors import SetupError
from latentvla_core.planner.baselines import EgoStatusConfig, EgoStatusMlp
from latentvla_core.planner.hosts.ipad_config import IpadConfig
from latentvla_core.planner.hosts.registry import MODULES as HOSTS
from latentvla_core.planner.hosts.registry import host_of
from latentvla_core.planner.hosts.transfuser import TransfuserConfig
from latentvla_core.planner.model import build_planner, save
from latentvla_core.types import Command
from latentvla_core.world.sensors.calibration import camera_rig


def observation(shade: int = 90, names=("CAM_F0", "CAM_L0", "CAM_R0")) -> Observation:
    rig = camera_rig((96, 54))
    return Observation(
        token="here",
        time_s=0.0,
        timestamp_us=1_700_000_000_000_000,
        pictures={n: np.full((54, 96, 3), shade, np.uint8) for n in names},
        cameras={n: rig[n] for n in names},
        velocity_mps=np.array([6.0, 0.0]),
        acceleration_mps2=np.zeros(2),
        history_poses=np.column_stack([np.arange(-9.0, 1.0, 3.0), np.zeros(4), np.zeros(4)]),
        history_velocities_mps=np.tile([6.0, 0.0], (4, 1)),
        history_accelerations_mps2=np.zeros((4, 2)),
        command=Command.FORWARD,
    )


@pytest.fixture(scope="module")
def transfuser(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("planner") / "transfuser"
    save(build_planner("transfuser", TransfuserConfig.debug()), folder)
    return folder


@pytest.mark.slow
def test_a_saved_planner_drives_by_what_it_sees(transfuser: Path):
    driver = driver_of(str(transfuser))
    driver.start(0)
    dark, light = (driver.drive(observation(shade)) for shade in (20, 230))
    assert dark.shape == (8, 3) and np.isfinite(dark).all()
    assert driver.name == "transfuser" and len(driver.cameras) == 3
    assert not np.allclose(dark, light)
    assert np.array_equal(dark, driver.drive(observation(20)))


def test_a_planner_that_gets_no_pictures_refuses_and_does_not_plan_from_black(transfuser: Path):
    driver = driver_of(str(transfuser))
    with pytest.raises(Exception, match="no picture"):
        driver.drive(observation(names=()))


def test_the_blind_baseline_asks_for_no_pictures(tmp_path: Path):
    save(EgoStatusMlp(EgoStatusConfig.debug()), tmp_path / "mlp")
    driver = load_folder(tmp_path / "mlp")
    assert driver.cameras == ()
    assert driver.drive(observation(names=())).shape == (8, 3)


def test_a_fused_planner_without_its_student_is_refused_with_the_remedy(tmp_path: Path):
    save(
        build_planner("transfuser", TransfuserConfig.debug(), fused=True, feature_dim=8),
        tmp_path / "fused",
    )
    with pytest.raises(SetupError, match="--features"):
        driver_of(str(tmp_path / "fused"))


@pytest.mark.slow
def test_an_ipad_searches_at_the_wheel_and_who_has_no_scorer_is_told_so(
    tmp_path: Path, transfuser: Path
):
    save(build_planner("ipad", IpadConfig.debug(), seed=1), tmp_path / "ipad")
    driver = driver_of(f"search:{tmp_path / 'ipad'}")
    driver.start(0)
    plan = driver.drive(observation())
    assert plan.shape == (8, 3) and np.isfinite(plan).all()
    assert driver.name.startswith("search:") and len(driver.cameras) == 3
    for name in (f"search:{transfuser}", "search:constant_velocity"):
        with pytest.raises(SetupError, match="iPad"):
            driver_of(name)


def test_an_unknown_name_says_what_there_is():
    with pytest.raises(SetupError, match="constant_velocity"):
        driver_of("no_such_planner")


def test_a_record_says_nothing_of_future_objects_or_map(tmp_path: Path):
    record = record_of(observation(), {"CAM_F0": "CAM_F0.jpg"}, tmp_path)
    assert record.num_future == 0 and not record.has_objects and record.map_location == ""
    assert record.camera_names == ("CAM_F0",) and record.front_paths[3] == "CAM_F0.jpg"
    assert record.command == Command.FORWARD and record.num_history == 4


@pytest.mark.slow
def test_a_planner_fused_with_its_teacher_drives(tmp_path: Path):
    from latentvla_core.vlm.config import VlmConfig
    from latentvla_core.vlm.model import Vlm
    from latentvla_core.vlm.network import build

    network, processor = build(VlmConfig.debug())
    vlm = Vlm(VlmConfig.debug(), network.eval(), processor, np.ones((12, 16)))
    config = TransfuserConfig.debug()
    fused = build_planner("transfuser", config, fused=True, feature_dim=vlm.width)
    save(fused, tmp_path / "fused")
    vlm.save(tmp_path / "teacher")
    driver = load_folder(tmp_path / "fused", features=tmp_path / "teacher")
    assert np.isfinite(driver.drive(observation())).all()


@pytest.mark.parametrize("host", HOSTS)
def test_the_cameras_a_host_is_shown_are_those_it_was_built_for(host: str):
    planner = build_planner(host, host_of(host).config.debug())
    wanted = getattr(planner.config, "cameras", PANORAMA_CAMERAS)
    assert set(cameras_of(planner)) == set(wanted)


def test_a_rear_camera_of_a_configuration_is_rendered_too_and_a_blind_planner_has_none():
    four = replace(IpadConfig.debug(), cameras=("CAM_B0", "CAM_F0", "CAM_L0", "CAM_R0"))
    assert "CAM_B0" in cameras_of(build_planner("ipad", four))
    assert cameras_of(EgoStatusMlp(EgoStatusConfig.debug())) == ()
