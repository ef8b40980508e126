"""Drives as rerun recordings: pictures, boxes, plans and codes on one timeline, with a blueprint.

Needs the optional package rerun-sdk (extra `rerun`); nothing else in the project does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.errors import DataError, SetupError
from latentvla_core.geometry import to_global, to_local
from latentvla_core.lake.store import Lake
from latentvla_core.types import FRONT_CAMERA, Array, Box, Pose, SceneRecord
from latentvla_core.viz.site.files import file_name
from latentvla_core.viz.site.options import ViewOptions
from latentvla_core.viz.site.pictures import scaled
from latentvla_core.viz.site.read import LogRows, chosen_scenes, read_log
from latentvla_core.viz.site.scene_page import signals
from latentvla_core.viz.site.sentences import MISSING, PER_STEP, predicted, sentence

PICTURES, ROAD, CODES, SIGNALS = "pictures", "road", "codes", "signals"
MARKS = {
    "label": ([31, 78, 156], "Square"),
    "teacher": ([200, 130, 20], "Diamond"),
    "student": ([179, 38, 30], "Circle"),
}
LIFT_M = 0.3  # plans are drawn this high, so that they are seen above the ground


def write_recordings(lake: Lake, options: ViewOptions) -> list[Path]:
    """Write `<log>.rrd` for every chosen log; returns the files.

    Raises SetupError where rerun-sdk is not installed, with the command that installs it.
    """
    try:
        import rerun as rr  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise SetupError(
            "--rrd needs rerun-sdk, which is not installed; run: pip install 'latentvla[rerun]'"
        ) from error
    chosen = chosen_scenes(lake, options)
    options.out.mkdir(parents=True, exist_ok=True)
    return [
        _write(rr, read_log(lake, place, chosen[place]), options)
        for place in sorted(chosen, key=lambda p: (p[0], p[2]))
    ]


def _write(rr: Any, log: LogRows, options: ViewOptions) -> Path:
    path = options.out / f"{file_name(log.name)}.rrd"
    recording = rr.RecordingStream("latentvla", recording_id=log.name)
    recording.save(str(path), default_blueprint=_blueprint())
    recording.log("/", rr.ViewCoordinates.RIGHT_HAND_Z_UP, static=True)
    _log_styles(rr, recording)
    origin = np.array(log.frames[0]["ego_pose"])
    scenes = {record.scene_token: record for record in log.records}
    told = signals(log.frames)
    for k, frame in enumerate(log.frames):
        recording.set_time("drive", duration=float(told["time_s"][k] - told["time_s"][0]))
        for name in ("speed_mps", "acceleration_mps2", "yaw_rate_radps"):
            recording.log(f"{SIGNALS}/{name}", rr.Scalars(told[name][k]))
        _log_picture(rr, recording, frame, options)
        ego = to_local(origin, np.array(frame["ego_pose"]))
        _log_ego(rr, recording, ego)
        if record := scenes.get(frame["token"]):
            _log_boxes(rr, recording, record, ego)
            _log_plans(rr, recording, log, record, ego)
            _log_codes(rr, recording, log, record.scene_token)
    recording.disconnect()
    return path


def _blueprint() -> Any:
    import rerun.blueprint as rrb  # pyright: ignore[reportMissingImports]

    return rrb.Blueprint(
        rrb.Horizontal(
            rrb.Vertical(
                rrb.Spatial2DView(origin=PICTURES, name="front camera"),
                rrb.TimeSeriesView(origin=CODES, name="codes"),
                rrb.TimeSeriesView(origin=SIGNALS, name="speed, acceleration, yaw rate"),
            ),
            rrb.Spatial3DView(origin=ROAD, name="plans and road users"),
        ),
        collapse_panels=True,
    )


def _log_picture(rr: Any, recording: Any, frame: dict[str, Any], options: ViewOptions) -> None:
    names = list(frame["camera_names"])
    if not options.width_px or FRONT_CAMERA not in names:
        return
    try:
        path = frame["camera_paths"][names.index(FRONT_CAMERA)]
        data = scaled(frame["sensor_root"], path, options.width_px)
    except DataError as error:
        recording.log(f"{PICTURES}/missing", rr.TextLog(str(error), level="WARN"))
        return
    image = rr.EncodedImage(contents=data, media_type="image/jpeg")
    recording.log(f"{PICTURES}/{FRONT_CAMERA}", image)


def _log_ego(rr: Any, recording: Any, ego: Array) -> None:
    from latentvla_core.types import Vehicle

    shift = np.array([Vehicle.REAR_AXLE_TO_CENTER_M, 0.0, 0.0])
    center = to_global(ego, shift)
    half = np.array([Vehicle.LENGTH_M, Vehicle.WIDTH_M, Vehicle.HEIGHT_M]) / 2
    _log_box(rr, recording, f"{ROAD}/ego", center[None], half[None], [[209, 73, 91]])


def _log_boxes(rr: Any, recording: Any, record: SceneRecord, ego: Array) -> None:
    boxes = np.asarray(record.object_boxes, float).reshape(-1, 7)
    poses = to_global(ego, boxes[:, [Box.X, Box.Y, Box.YAW]])
    sizes = boxes[:, [Box.LENGTH, Box.WIDTH, Box.HEIGHT]] / 2
    colours = [[91, 125, 177]] * len(boxes)
    _log_box(rr, recording, f"{ROAD}/others", poses, sizes, colours)


def _log_box(
    rr: Any, recording: Any, name: str, poses: Array, half: Array, colours: list[list[int]]
) -> None:
    """(n, 3) poses on the ground and (n, 3) half sizes."""
    centers = np.column_stack([poses[:, :2], half[:, 2]])
    turns = [
        rr.Quaternion(xyzw=[0.0, 0.0, np.sin(yaw / 2), np.cos(yaw / 2)])
        for yaw in poses[:, Pose.YAW]
    ]
    boxes = rr.Boxes3D(centers=centers, half_sizes=half, quaternions=turns, colors=colours)
    recording.log(name, boxes)


def _log_plans(rr: Any, recording: Any, log: LogRows, record: SceneRecord, ego: Array) -> None:
    plans = {
        row["trajectory_id"]: np.asarray(row["poses"], float)
        for row in log.plans.get(record.scene_token, [])
        if row["valid"]
    }
    plans.setdefault("human", np.asarray(record.future_poses, float))
    for name, poses in plans.items():
        path = to_global(ego, np.concatenate([np.zeros((1, 3)), poses]))
        points = np.column_stack([path[:, :2], np.full(len(path), LIFT_M)])
        colour = _colour(name)
        line = rr.LineStrips3D([points], colors=[colour], radii=[0.12], labels=[name])
        recording.log(f"{ROAD}/plans/{name}", line)


def _colour(name: str) -> list[int]:
    from latentvla_core.viz.canvas import colour_of

    text = colour_of(name)
    return [int(text[i : i + 2], 16) for i in (1, 3, 5)]


def _log_styles(rr: Any, recording: Any) -> None:
    """Codes are points: the line between two of them would mean nothing."""
    for who, (colour, marker) in MARKS.items():
        for position in range(1, PER_STEP + 1):
            style = rr.SeriesPoints(
                colors=[colour], markers=[marker], marker_sizes=[4.0], names=[f"{who} {position}"]
            )
            recording.log(f"{CODES}/{who}/{position}", style, static=True)


def _log_codes(rr: Any, recording: Any, log: LogRows, token: str) -> None:
    """The four codes of the second that begins now, by who says them."""
    said = {
        "label": sentence(log.labels.get(token, [])),
        "teacher": predicted(log.teacher.get(token)),
        "student": predicted(log.student.get(token)),
    }
    for who, codes in said.items():
        for position, code in enumerate(codes[:PER_STEP]):
            if code != MISSING:
                recording.log(f"{CODES}/{who}/{position + 1}", rr.Scalars(float(code)))
