"""The NAVSIM agent, with stand-ins for the devkit's classes in both versions. `benchmarks/doors.py`
runs it in the devkit itself.
"""

from __future__ import annotations

import importlib.util
import sys
import threading
from dataclasses import dataclass, fields, make_dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from planner_factory import make_records

from latentvla_core.closed_loop.drivers.planners import load_folder
from latentvla_core.doors import moments
from latentvla_core.doors.http_driver import DriverServer
from latentvla_core.doors.navsim_files import command_line
from latentvla_core.planner.hosts.transfuser import TransfuserConfig
from latentvla_core.planner.model import build_planner, save
from latentvla_core.planner.plan import plan
from latentvla_core.types import CAMERA_NAMES

torch.set_num_threads(1)
SENSORS = [name.lower() for name in CAMERA_NAMES]


@dataclass
class Sampling:
    time_horizon: float = 4
    interval_length: float = 0.5

    @property
    def num_poses(self) -> int:
        return round(self.time_horizon / self.interval_length)


@dataclass
class Trajectory:
    poses: np.ndarray
    sampling: Sampling


class AgentV1:
    def __init__(self, requires_scene: bool = False):
        self.requires_scene = requires_scene


class AgentV2:
    def __init__(self, trajectory_sampling, requires_scene: bool = False):
        self.requires_scene = requires_scene
        self._trajectory_sampling = trajectory_sampling


@pytest.fixture(params=[AgentV1, AgentV2], ids=["v1.1", "v2.2"])
def agent_class(request, monkeypatch):
    """The agent's class as the devkit would import it: from a copied file, without our package."""
    config = make_dataclass("SensorConfig", [*SENSORS, "lidar_pc"])
    sampling = "nuplan.planning.simulation.trajectory.trajectory_sampling"
    stands = {
        "navsim.agents.abstract_agent": {"AbstractAgent": request.param},
        "navsim.common.dataclasses": {"SensorConfig": config, "Trajectory": Trajectory},
        sampling: {"TrajectorySampling": Sampling},
    }
    for name, content in stands.items():
        for k in range(1, name.count(".") + 1):
            parent = ".".join(name.split(".")[:k])
            monkeypatch.setitem(sys.modules, parent, ModuleType(parent))
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    source = Path(moments.__file__).with_name("navsim_agent.py")
    spec = importlib.util.spec_from_file_location("latentvla_agent", source)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LatentVLAAgent


def agent_input(record, *, paths: bool):
    """The devkit's AgentInput of a scene; v1.1 has no paths."""
    from PIL import Image

    blank = SimpleNamespace(image=None)
    seen = dict.fromkeys(SENSORS, blank)
    for k, name in enumerate(record.camera_names):
        path = record.camera_paths[k]
        seen[name.lower()] = SimpleNamespace(
            image=np.array(Image.open(Path(record.sensor_root) / path)),
            intrinsics=record.camera_intrinsics_px[k],
            sensor2lidar_rotation=record.camera_rotations[k],
            sensor2lidar_translation=record.camera_translations_m[k],
            **({"camera_path": path} if paths else {}),
        )
    statuses = [
        SimpleNamespace(
            ego_pose=record.history_poses[k].astype(np.float32),
            ego_velocity=record.history_velocities_mps[k].astype(np.float32),
            ego_acceleration=record.history_accelerations_mps2[k].astype(np.float32),
            driving_command=np.eye(4, dtype=int)[record.command],
        )
        for k in range(4)
    ]
    return SimpleNamespace(ego_statuses=statuses, cameras=[None] * 3 + [SimpleNamespace(**seen)])


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(records, plans at home, the planner's server)"""
    folder = tmp_path_factory.mktemp("planner") / "transfuser"
    save(build_planner("transfuser", TransfuserConfig.debug(), seed=2), folder)
    records = make_records(tmp_path_factory.mktemp("scenes"), 3)
    driver = load_folder(folder)
    server = DriverServer(driver)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield records, plan(driver.planner, records), server
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_agent_plans_in_the_devkit_what_the_planner_plans_at_home(agent_class, served):
    records, home, server = served
    cameras = ["CAM_F0", "CAM_L0", "CAM_R0"]
    agent = agent_class(cameras=cameras, url=server.url, sensor_blobs=[records[0].sensor_root])
    agent.initialize()
    for record, expected in zip(records, home, strict=True):
        exact = agent.compute_trajectory(agent_input(record, paths=True))
        assert exact.poses.dtype == np.float32 and exact.sampling.num_poses == 8
        assert np.allclose(exact.poses, expected, atol=1e-4)
        near = agent.compute_trajectory(agent_input(record, paths=False))
        assert np.allclose(near.poses, expected, atol=0.5)


def test_the_agent_asks_for_its_cameras_now_and_nothing_else(agent_class):
    agent = agent_class(cameras=["CAM_F0", "CAM_R0"], planner="mine", url="http://nowhere")
    config = agent.get_sensor_config()
    wanted = {f.name for f in fields(config) if getattr(config, f.name)}
    assert wanted == {"cam_f0", "cam_r0"} and config.cam_f0 == [3]
    assert agent.name() == "mine" and not agent.requires_scene


def test_a_scene_that_is_refused_says_why(agent_class, served):
    records, _, server = served
    agent = agent_class(cameras=["CAM_F0"], url=server.url)
    with pytest.raises(RuntimeError, match="CAM_L0 is missing"):
        agent.compute_trajectory(agent_input(records[0], paths=False))


def test_another_sampling_is_refused(agent_class):
    with pytest.raises(ValueError, match="8 poses"):
        agent_class(trajectory_sampling=Sampling(5.0, 0.5))


def devkits_packages(folder: Path) -> Path:
    """A NumPy of another environment, which the server must not meet."""
    (folder / "numpy.py").write_text("raise ImportError('the devkit has its own NumPy')")
    return folder


def test_the_agent_starts_its_server_and_takes_it_along_when_it_ends(
    agent_class, monkeypatch, tmp_path
):
    monkeypatch.setenv("PYTHONPATH", str(devkits_packages(tmp_path)))
    root = str(Path(__file__).resolve().parents[2])
    agent = agent_class(command=command_line("constant_velocity", ""), server_path=root)
    agent.initialize()
    try:
        state = agent.__getstate__()
        assert state["_server"] is None and state["_url"].startswith("http://127.0.0.1:")
        record = SimpleNamespace(
            camera_names=(), command=1, history_poses=np.zeros((4, 3)),
            history_velocities_mps=np.tile([3.0, 4.0], (4, 1)),
            history_accelerations_mps2=np.zeros((4, 2)),
        )  # fmt: skip
        poses = agent.compute_trajectory(agent_input(record, paths=False)).poses
        assert np.allclose(poses[:, 0], 2.5 * np.arange(1, 9))
    finally:
        agent._server.terminate()
        agent._server.wait()
        agent._server.stdout.close()


def test_a_server_that_cannot_start_is_not_waited_for(agent_class):
    agent = agent_class(command=[sys.executable, "-c", "print('no')"])
    with pytest.raises(RuntimeError, match="ended before it served"):
        agent.initialize()
    agent._server.wait()
    agent._server.stdout.close()
