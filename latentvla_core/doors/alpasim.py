"""A driver behind AlpaSim's `egodriver.EgodriverService` (gRPC). The package `carla-driver-interface`
holds the protocol, sessions and frames; here its observations become a moment and plans go back.

AlpaSim names no command and its cameras are its own: the command is read from the route as the
training data's is (2 m aside, 20 m ahead), and cameras are told apart by where they look.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from carla_driver_interface.driver import BaseDriver, DriveContext, DriveResult, SessionState
from carla_driver_interface.geometry import Pose, Trajectory

from latentvla_core.closed_loop.driver import HISTORY_FRAMES, PLAN_PERIOD_S, Driver
from latentvla_core.doors.seat import Seat
from latentvla_core.errors import DataError
from latentvla_core.types import Array, Command

LOOKS_DEG = {"CAM_F0": 0.0, "CAM_L0": 55.0, "CAM_R0": -55.0, "CAM_B0": 180.0}
"""Camera → where it looks, degrees to the left of ahead; NAVSIM's rig."""
FARTHEST_DEG = 40.0
"""A camera that looks further away than this stands for none of them."""
AHEAD_M, ASIDE_M = 20.0, 2.0
STEP_S = 0.1


class EgoDriver(BaseDriver):
    """Serves one `Driver`; every session starts it anew, so sessions come one after the other."""

    def __init__(self, driver: Driver) -> None:
        self.name = driver.name
        self.seat = Seat(driver)

    def on_session_start(self, session: SessionState) -> None:
        self.seat.start(int(session.seed))

    def drive(self, ctx: DriveContext) -> DriveResult:
        """The plan in the rig frame of now, every 0.1 s. Raises DataError with the reason."""
        session = ctx.session
        with session.lock:
            message = message_of(session, ctx.time_now_us, self.seat.driver.cameras)
        poses = self.seat.drive(message)
        velocity = np.asarray(message["velocity_mps"])
        return DriveResult(trajectory_in_rig=every_tenth(poses, velocity, ctx.time_now_us))


def message_of(session: SessionState, now_us: int, cameras: tuple[str, ...]) -> dict[str, Any]:
    """A session → the moment as `moments.moment_of` reads it."""
    rig = cameras_of(session.cameras)
    pictures, calibrations = {}, {}
    for name in cameras:
        logical = rig.get(name)
        frame = session.latest_frame(logical) if logical else None
        if logical is None or frame is None:
            continue  # the seat says which one is missing
        pictures[name] = base64.b64encode(frame.image_bytes).decode()  # type: ignore[union-attr]
        calibrations[name] = calibration_of(session.cameras[logical])
    history = history_of(session, now_us)
    return {
        "token": session.uuid,
        "timestamp_us": int(now_us),
        "pictures": pictures,
        "cameras": calibrations,
        "velocity_mps": history["history_velocities_mps"][-1],
        "acceleration_mps2": history["history_accelerations_mps2"][-1],
        "command": command_of(session.route_waypoints_in_rig).name.lower(),
        **history,
    }


def cameras_of(declared: Mapping[str, Any]) -> dict[str, str]:
    """NAVSIM's camera → the logical id of the declared one that looks most nearly there."""
    looks = {}
    for logical, camera in declared.items():
        axis = Pose.from_proto(camera.rig_to_camera).rotation_matrix[:, 2]
        looks[logical] = float(np.degrees(np.arctan2(axis[1], axis[0])))
    found: dict[str, str] = {}
    for name, wanted in LOOKS_DEG.items():
        free = {k: abs((v - wanted + 180) % 360 - 180) for k, v in looks.items()}
        best = min(free, key=free.__getitem__, default=None)
        if best is not None and free[best] <= FARTHEST_DEG and best not in found.values():
            found[name] = best
    return found


def calibration_of(camera: Any) -> dict[str, Any]:
    """Pinhole calibration; of an f-theta or fisheye camera the pinhole that agrees with it in the
    middle. Raises DataError where nothing is said of the lens.
    """
    spec, pose = camera.intrinsics, Pose.from_proto(camera.rig_to_camera)
    lens = spec.WhichOneof("camera_param")
    if lens in ("opencv_pinhole_param", "opencv_fisheye_param"):
        param = getattr(spec, lens)
        fx, fy = param.focal_length_x, param.focal_length_y
    elif lens == "ftheta_param" and len(spec.ftheta_param.angle_to_pixeldist_poly) > 1:
        param = spec.ftheta_param
        fx = fy = param.angle_to_pixeldist_poly[1]
    else:
        raise DataError(
            f"nothing is said of the lens of {camera.logical_id}; declare its intrinsics",
            field="available_cameras",
        )
    middle = (param.principal_point_x, param.principal_point_y)
    return {
        "intrinsics_px": [[fx, 0.0, middle[0]], [0.0, fy, middle[1]], [0.0, 0.0, 1.0]],
        "rotation": pose.rotation_matrix.tolist(),
        "translation_m": pose.position.tolist(),
    }


def history_of(session: SessionState, now_us: int) -> dict[str, Any]:
    """Poses at -1.5 … 0 s relative to now, with velocities and accelerations of those times; before
    the first known pose the first one stands.
    """
    track, states = session.ego_trajectory, session.dynamic_states
    if not track or not states:
        raise DataError("no ego motion was submitted before the call", field="dynamic_states")
    times = now_us + np.arange(1 - HISTORY_FRAMES, 1) * round(PLAN_PERIOD_S * 1e6)
    here = track.interpolate(int(now_us))
    assert here is not None
    back = here.inverse()
    poses = []
    for time_us in times:
        there = back @ (track.interpolate(int(time_us)) or here)
        poses.append([float(there.position[0]), float(there.position[1]), there.yaw])
    stamps = np.asarray(track.timestamps_us)
    rows = [states[min(int(np.searchsorted(stamps, t)), len(states) - 1)] for t in times]
    return {
        "history_poses": poses,
        "history_velocities_mps": [[s.linear_velocity.x, s.linear_velocity.y] for s in rows],
        "history_accelerations_mps2": [
            [s.linear_acceleration.x, s.linear_acceleration.y] for s in rows
        ],
    }


def command_of(waypoints: Array) -> Command:
    """Left or right where the route (N, 3), in the rig frame, lies aside 20 m along it; without a
    route the command is unknown.
    """
    if len(waypoints) < 2:
        return Command.UNKNOWN
    ahead = waypoints[waypoints[:, 0] > 0.0, :2]
    path = np.concatenate([np.zeros((1, 2)), ahead]) if len(ahead) else waypoints[:, :2]
    along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
    aside = float(np.interp(AHEAD_M, along, path[:, 1]))
    if abs(aside) < ASIDE_M:
        return Command.FORWARD
    return Command.LEFT if aside > 0 else Command.RIGHT


def every_tenth(poses: Array, velocity_mps: Array, now_us: int) -> Trajectory:
    """(8, 3) poses → a trajectory from now on, every 0.1 s: a spline that starts with the velocity
    of now, since straight pieces of 0.5 s would have the car's speed jump at each pose.
    """
    from scipy.interpolate import CubicSpline

    knots_s = np.arange(len(poses) + 1) * PLAN_PERIOD_S
    points = np.concatenate([np.zeros((1, 3)), poses])
    ends: Any = ((1, np.asarray(velocity_mps, float)), (2, np.zeros(2)))
    bends = CubicSpline(knots_s, points[:, :2], bc_type=ends)
    times_s = np.arange(round(knots_s[-1] / STEP_S) + 1) * STEP_S
    yaw = np.interp(times_s, knots_s, np.unwrap(points[:, 2]))
    plan = Trajectory.empty()
    for time_s, (x, y), turn in zip(times_s, bends(times_s), yaw, strict=True):
        plan.append(now_us + round(time_s * 1e6), Pose.from_xyz_yaw(float(x), float(y), 0.0, turn))
    return plan


def serve(driver: Driver, host: str, port: int) -> None:
    """Until the process is ended."""
    from carla_driver_interface.server import run_server

    run_server(EgoDriver(driver), port=port, host=host, mode="alpasim")
