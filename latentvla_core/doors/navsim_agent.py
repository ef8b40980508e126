"""A NAVSIM agent (devkit v1.1 and v2.2) that asks a LatentVLA planner beside it for plans.

This file is copied out by `latentvla serve navsim` and needs nothing of LatentVLA: the devkit pins
Python 3.9, numpy 1.23 and torch 2.0, the planner lives in an environment of its own, and the two
speak over HTTP on this machine. `initialize` starts the planner's server; it ends with the agent.
"""

# pyright: reportMissingImports=false, reportArgumentType=false
import atexit
import base64
import inspect
import io
import json
import os
import subprocess
import urllib.error
import urllib.request

import numpy as np
from navsim.agents.abstract_agent import AbstractAgent
from navsim.common.dataclasses import SensorConfig, Trajectory
from nuplan.planning.simulation.trajectory.trajectory_sampling import TrajectorySampling

CAMERAS = ("cam_f0", "cam_l0", "cam_l1", "cam_l2", "cam_r0", "cam_r1", "cam_r2", "cam_b0")
SAMPLING = TrajectorySampling(time_horizon=4, interval_length=0.5)


class LatentVLAAgent(AbstractAgent):
    """Plans come from `command`, a server of `latentvla serve http`.

    Args:
        command: the server's command line; it has to print a line that begins with http://.
        sensor_blobs: folders of pictures (sensor_blobs/<split>), looked through in turn. With them
            the planner reads the very JPEGs, as in training; without (or with v1.1, which hands
            agents no paths) it gets decoded pictures, which are made JPEGs again.
        server_path: PYTHONPATH of the server; the devkit's own would hand it the devkit's packages.
        url: a server that runs already, in place of `command`.
    """

    requires_scene = False

    def __init__(
        self,
        command=(),
        cameras=(),
        sensor_blobs=(),
        server_path="",
        url="",
        planner="latentvla",
        trajectory_sampling=SAMPLING,
    ):
        if "trajectory_sampling" in inspect.signature(AbstractAgent.__init__).parameters:
            super().__init__(trajectory_sampling)  # v2
        else:
            super().__init__()  # v1
            self._trajectory_sampling = trajectory_sampling
        if trajectory_sampling.num_poses != 8 or trajectory_sampling.interval_length != 0.5:
            raise ValueError(
                "the planner answers 8 poses 0.5 s apart; use time_horizon 4, interval 0.5"
            )
        self._command, self._cameras = list(command), list(cameras)
        self._blobs, self._url, self._planner = list(sensor_blobs), url, planner
        self._server_path, self._server = server_path, None

    def name(self):
        return self._planner

    def get_sensor_config(self):
        """The planner's cameras at the current frame (3, the last of four)."""
        wanted = {name.lower() for name in self._cameras}
        return SensorConfig(
            lidar_pc=False, **{name: [3] if name in wanted else False for name in CAMERAS}
        )

    def initialize(self):
        if self._url:
            return
        # A server of the devkit's workers each: they are processes that pickled this agent.
        surroundings = {
            k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")
        }
        surroundings["PYTHONPATH"] = self._server_path
        self._server = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, text=True, env=surroundings
        )
        atexit.register(self._server.terminate)
        for line in self._server.stdout or ():
            if line.startswith("http://"):
                self._url = line.strip()
                return
        raise RuntimeError(
            "the planner's server ended before it served (its last words are above): "
            + " ".join(self._command)
        )

    def __getstate__(self):
        """Without the server: whoever gets a copy initializes it."""
        state = dict(self.__dict__)
        state["_server"] = None
        return state

    def compute_trajectory(self, agent_input):
        answer = ask(self._url + "/drive", message_of(agent_input, self._cameras, self._blobs))
        return Trajectory(np.array(answer["poses"], dtype=np.float32), self._trajectory_sampling)


def message_of(agent_input, cameras, blobs=()):
    """AgentInput → the moment as latentvla_core/doors/moments.py reads it."""
    now = agent_input.ego_statuses[-1]
    statuses = agent_input.ego_statuses
    message = {
        "velocity_mps": _list(now.ego_velocity),
        "acceleration_mps2": _list(now.ego_acceleration),
        "command": [int(x) for x in np.asarray(now.driving_command).reshape(-1)],
        "history_poses": [_list(s.ego_pose) for s in statuses],
        "history_velocities_mps": [_list(s.ego_velocity) for s in statuses],
        "history_accelerations_mps2": [_list(s.ego_acceleration) for s in statuses],
        "pictures": {},
        "cameras": {},
    }
    for name in cameras:
        camera = getattr(agent_input.cameras[-1], name.lower())
        if camera.image is None:
            continue
        message["pictures"][name] = base64.b64encode(_bytes(camera, blobs)).decode()
        message["cameras"][name] = {
            "intrinsics_px": _list(camera.intrinsics),
            # What the planner was trained on takes the log's lidar frame for the ego's, too.
            "rotation": _list(camera.sensor2lidar_rotation),
            "translation_m": _list(camera.sensor2lidar_translation),
        }
    return message


def _bytes(camera, blobs):
    path = getattr(camera, "camera_path", None)
    for folder in blobs if path else ():
        if os.path.isfile(os.path.join(folder, str(path))):
            with open(os.path.join(folder, str(path)), "rb") as file:
                return file.read()
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(camera.image, dtype=np.uint8))
    return out.getvalue()


def _list(values):
    return np.asarray(values, dtype=np.float64).tolist()


def ask(url, message):
    """POST JSON; the server's reason becomes the error."""
    data = json.dumps(message).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=600) as answer:
            return json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise RuntimeError("the planner refused the scene: " + error.read().decode()) from error
