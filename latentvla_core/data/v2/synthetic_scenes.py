"""Synthetic scenes of NAVSIM v2 (navsim_format.md §10) → `Scene`s, with the future that only they
carry.

Their future is not in frames but in lists of nuPlan objects, one entry per 0.5 s after the last
frame. The allow-list turns those into inert records; this file turns the records into arrays. N
objects of one step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np

from latentvla_core.data.fields import Fields, near_miss
from latentvla_core.data.files import read_bytes
from latentvla_core.data.filters import SceneFilter
from latentvla_core.data.navsim import camera_of, objects_of, traffic_lights
from latentvla_core.data.unpickle import Inert, PickleKind, loads
from latentvla_core.errors import DataError, DataFaults
from latentvla_core.pdms.observation import Detections, KeyFrame
from latentvla_core.types import CAMERA_NAMES, MAP_LOCATIONS, Array, Camera, Command, Frame, Scene

SYNTHETIC_TOKEN_LENGTH = 17
"""The devkit tells synthetic scenes from original ones (16) by the length of their token."""


class LightStatus(IntEnum):
    """nuPlan's traffic light states."""

    GREEN = 0
    YELLOW = 1
    RED = 2
    UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class Tracks:
    """Objects of one future step, in the **global** frame."""

    centers: Array
    """(N, 3) x, y, heading of the box centres."""
    sizes_m: Array
    """(N, 3) length, width, height."""
    velocities_mps: Array
    """(N, 2) global axes; 0 for static objects."""
    classes: Array
    """(N,) int8 `ObjectClass`."""
    track_tokens: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SyntheticScene:
    """One synthetic scene: its frames, and what happens after them."""

    scene: Scene
    """Frames up to now; its token (the *initial token*) joins mapping, caches and submissions."""
    scene_token: str
    """Names the file; joins nothing."""
    original_token: str
    """Original frame at the same time stamp (`corresponding_original_scene`)."""
    original_initial_token: str
    """First-stage scene, 4 s earlier (`corresponding_original_initial_token`)."""
    future_tracks: tuple[Tracks, ...] | None
    """One entry per 0.5 s after now; None when the file has none."""
    future_lights: tuple[tuple[tuple[str, LightStatus], ...], ...] | None
    """(lane connector id, status) per step."""

    @property
    def token(self) -> str:
        return self.scene.token

    def key_frames(self) -> tuple[KeyFrame, ...]:
        """What the scorer needs of the steps after now: `extended` of `pdms.world.build`; empty
        without a future.
        """
        lights = self.future_lights or ()
        return tuple(
            KeyFrame(
                Detections(
                    t.track_tokens, t.classes, t.centers, t.sizes_m[:, :2], t.velocities_mps
                ),
                tuple(
                    (id_, status == LightStatus.RED)
                    for id_, status in (lights[k] if k < len(lights) else ())
                ),
            )
            for k, t in enumerate(self.future_tracks or ())
        )


def read_synthetic_scene(path: str | Path, split: str = "") -> SyntheticScene:
    """One scene pickle. Raises DataError when it cannot be read, DataFaults with all its faults
    otherwise.
    """
    file = str(path)
    raw = loads(
        read_bytes(path, remedy="download the synthetic scenes again"),
        PickleKind.SYNTHETIC_SCENE,
        file=file,
    )
    if not isinstance(raw, dict):
        raise DataError(f"holds a {type(raw).__name__}; a synthetic scene is a dict", file=file)
    faults: list[DataError] = []
    f = Fields(raw, file=file, frame="", faults=faults)
    meta = f.inner(f.mapping("scene_metadata"), "scene_metadata")
    log_name, location = meta.text("log_name"), _location(meta)
    frames = tuple(
        _frame(entry, i, f, log_name, location, meta) for i, entry in enumerate(f.items("frames"))
    )
    history = meta.integer("num_history_frames")
    if not faults and not 1 <= history <= len(frames):
        meta.fault(
            "num_history_frames",
            f"{history} of {len(frames)} frames; the current frame must be among them",
        )
    scene = Scene(frames, history, split)
    made = SyntheticScene(
        scene=scene,
        scene_token=meta.text("scene_token"),
        original_token=meta.text("corresponding_original_scene", empty=True),
        original_initial_token=meta.text("corresponding_original_initial_token", empty=True),
        future_tracks=_steps(raw, "extended_detections_tracks", _tracks, f),
        future_lights=_steps(raw, "extended_traffic_light_data", _lights, f),
    )
    if not faults and meta.text("initial_token") != made.token:
        meta.fault(
            "initial_token",
            f"{meta.text('initial_token')!r}, but the current frame is {made.token!r}",
        )
    if faults:
        raise DataFaults(faults)
    return made


def select(
    scenes: Iterable[SyntheticScene], filter: SceneFilter, first_stage: Iterable[Scene] = ()
) -> list[SyntheticScene]:
    """The synthetic scenes of a filter (navsim_format.md §3): listed ones, or those that continue a
    first-stage scene.

    The latter are recognised by the last frame of the first-stage window, which is 4 s later only
    if the filter has 8 future frames.
    """
    ends = {scene.frames[-1].token for scene in first_stage}
    return [scene for scene in scenes if _wanted(scene, filter, ends)]


def _wanted(scene: SyntheticScene, filter: SceneFilter, ends: set[str]) -> bool:
    if filter.log_names is not None and scene.scene.log_name not in filter.log_names:
        return False
    if filter.synthetic_scene_tokens is not None:
        return scene.token in filter.synthetic_scene_tokens
    return scene.original_token in ends


def _location(meta: Fields) -> str:
    name = meta.text("map_name")
    if name and name not in MAP_LOCATIONS:
        meta.fault(
            "map_name",
            f"{name!r} is not one of {', '.join(MAP_LOCATIONS)}{near_miss(name, MAP_LOCATIONS)}",
        )
    return name


def _frame(
    raw: Any, index: int, scene: Fields, log_name: str, location: str, meta: Fields
) -> Frame:
    """A frame dict: like those of logs, with the ego as a global pose and lower-case cameras."""
    f = Fields(
        raw if isinstance(raw, Mapping) else {},
        file=scene.file,
        frame=f"#{index}",
        faults=scene.faults,
    )
    ego = f.inner(f.mapping("ego_status"), "ego_status")
    pose = ego.array("ego_pose", (3,))
    command = ego.array("driving_command", (4,))
    if not ego_is_global(f.mapping("ego_status")):
        ego.fault("in_global_frame", "is not true; poses of scene frames are global")
    has_notes = (
        f.mapping("annotations")
        if isinstance(raw, Mapping) and raw.get("annotations") is not None
        else None
    )
    return Frame(
        token=f.text("token"),
        timestamp_us=f.integer("timestamp"),
        frame_idx=index,
        log_name=log_name,
        scene_token=meta.text("scene_token"),
        map_location=location,
        ego_pose=pose,
        ego_translation_m=np.array([pose[0], pose[1], 0.0]),
        ego_rotation_wxyz=np.array([np.cos(pose[2] / 2), 0.0, 0.0, np.sin(pose[2] / 2)]),
        ego_velocity_mps=ego.array("ego_velocity", (2,)),
        ego_acceleration_mps2=ego.array("ego_acceleration", (2,)),
        command=Command(int(command.argmax())) if command.any() else Command.UNKNOWN,
        roadblock_ids=f.texts("roadblock_ids"),
        traffic_lights=traffic_lights(f),
        objects=objects_of(f.inner(has_notes, "annotations"), "")
        if has_notes is not None
        else None,
        cameras=_cameras(f),
        lidar_path=f.text("lidar_path", empty=True),
    )


def ego_is_global(ego_status: Mapping[str, Any]) -> bool:
    return bool(ego_status.get("in_global_frame", True))


def _cameras(f: Fields) -> dict[str, Camera]:
    """Cameras with an entry, by the upper-case names that logs use."""
    entries = f.mapping("camera_dict")
    found = {name: entries.get(name.lower()) for name in CAMERA_NAMES}
    return {
        name: camera_of(f.inner(entry, f"camera_dict.{name.lower()}"), {})
        for name, entry in found.items()
        if entry
    }


def _steps(raw: Mapping[str, Any], key: str, read: Any, f: Fields) -> Any:
    """The entries of an extended list through `read`; None when the file has none."""
    entries = raw.get(key)
    if entries is None:
        return None
    try:
        return tuple(read(entry) for entry in entries)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        f.fault(
            key,
            f"not understood ({type(error).__name__}: {error}); nuPlan objects of devkit v1.2 are expected",
        )
        return None


def _lights(entry: Inert) -> tuple[tuple[str, LightStatus], ...]:
    states: Sequence[Inert] = entry.get("traffic_lights")
    return tuple((str(s.get("lane_connector_id")), LightStatus(s.get("status"))) for s in states)


def _tracks(entry: Inert) -> Tracks:
    objects: Sequence[Inert] = entry.get("tracked_objects").get("tracked_objects")
    boxes = [o.get("box") for o in objects]
    centers = [_numbers(box.get("center"), "x", "y", "heading") for box in boxes]
    return Tracks(
        centers=np.reshape(centers, (-1, 3)).astype(np.float64),
        sizes_m=np.reshape(
            [_numbers(box, "length", "width", "height") for box in boxes], (-1, 3)
        ).astype(np.float64),
        velocities_mps=np.reshape([_velocity(o) for o in objects], (-1, 2)).astype(np.float64),
        classes=np.array([int(o.get("tracked_object_type")) for o in objects], np.int8),
        track_tokens=tuple(str(o.get("metadata").get("track_token")) for o in objects),
    )


def _numbers(record: Inert, *names: str) -> list[float]:
    return [float(record.get(name)) for name in names]


def _velocity(record: Inert) -> list[float]:
    """(vx, vy); static objects have none."""
    try:
        return _numbers(record.get("velocity"), "x", "y")
    except KeyError:
        return [0.0, 0.0]
