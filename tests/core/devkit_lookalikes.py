"""Small look-alikes of the devkit's classes, importable under its module names: they pickle as the
real files do.
"""

from __future__ import annotations

import sys
from enum import Enum, IntEnum
from types import ModuleType
from typing import Any

import pytest


class Record:
    def __init__(self, **state: Any) -> None:
        self.__dict__.update(state)


ACTORS, MAPS, SIM = (
    "nuplan.common.actor_state",
    "nuplan.common.maps.maps_datatypes",
    "nuplan.planning.simulation",
)
KINDS = {
    "VEHICLE": 0,
    "PEDESTRIAN": 1,
    "BICYCLE": 2,
    "TRAFFIC_CONE": 3,
    "BARRIER": 4,
    "CZONE_SIGN": 5,
    "GENERIC_OBJECT": 6,
}
Kind = Enum("TrackedObjectType", KINDS, module=f"{ACTORS}.tracked_objects_types")
Status = IntEnum("TrafficLightStatusType", {"GREEN": 0, "RED": 2}, module=MAPS)
PLACES = {
    "Trajectory": "navsim.common.dataclasses",
    "TrajectorySampling": f"{SIM}.trajectory.trajectory_sampling",
    "Agent": f"{ACTORS}.agent",
    "StaticObject": f"{ACTORS}.static_object",
    "OrientedBox": f"{ACTORS}.oriented_box",
    "SceneObjectMetadata": f"{ACTORS}.scene_object",
    "StateSE2": f"{ACTORS}.state_representation",
    "StateVector2D": f"{ACTORS}.state_representation",
    "TimePoint": f"{ACTORS}.state_representation",
    "TrackedObjects": f"{ACTORS}.tracked_objects",
    "TrafficLightStatuses": MAPS,
    "TrafficLightStatusData": MAPS,
    "DetectionsTracks": f"{SIM}.observation.observation_type",
}


def lookalikes(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The classes by name, importable for the length of a test."""
    made: dict[str, Any] = {
        name: type(name, (Record,), {"__module__": module}) for name, module in PLACES.items()
    }
    made |= {"TrackedObjectType": Kind, "TrafficLightStatusType": Status}
    for name, thing in made.items():
        parts = thing.__module__.split(".")
        for depth in range(1, len(parts) + 1):
            path = ".".join(parts[:depth])
            if path not in sys.modules:
                monkeypatch.setitem(sys.modules, path, ModuleType(path))
        setattr(sys.modules[thing.__module__], name, thing)
    return made


def detections(devkit: dict[str, Any], objects: list[Any]) -> Any:
    """One step of `extended_detections_tracks`."""
    return devkit["DetectionsTracks"](
        tracked_objects=devkit["TrackedObjects"](tracked_objects=objects)
    )


def tracked(
    devkit: dict[str, Any],
    kind: Enum,
    token: str,
    pose: Any,
    size: Any,
    velocity: Any | None = None,
    time_us: int = 0,
) -> Any:
    """An `Agent` (with a velocity) or `StaticObject` in global coordinates; pose x, y, heading,
    size l, w, h.
    """
    center = devkit["StateSE2"](x=pose[0], y=pose[1], heading=pose[2])
    box = devkit["OrientedBox"](_center=center, _length=size[0], _width=size[1], _height=size[2])
    meta = devkit["SceneObjectMetadata"](
        timestamp_us=time_us, token=f"i{token}", track_id=None, track_token=token
    )
    state = {"_metadata": meta, "instance_token": None, "_tracked_object_type": kind, "_box": box}
    if velocity is None:
        return devkit["StaticObject"](**state, predictions=None)
    x, y = velocity
    moving = devkit["StateVector2D"](_x=x, _y=y, _array=velocity)
    return devkit["Agent"](
        **state,
        _velocity=moving,
        _predictions=None,
        _initial_time_stamp=devkit["TimePoint"](time_us=0),
    )
