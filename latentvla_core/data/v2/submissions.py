"""`submission.pkl` of NAVSIM v1.1 and v2.2 (navsim_format.md §9): written without the devkit,
loaded by it.

A submission names devkit classes, which are not installed here. So the writer emits the pickle
itself: the few opcodes it takes to say "an object of this class with this state". Arrays are named
as numpy < 2 does, which the devkit uses and numpy >= 2 still understands. Reading goes through the
allow-list.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from latentvla_core.data.files import read_bytes
from latentvla_core.data.unpickle import Inert, PickleKind, loads
from latentvla_core.errors import DataError, DataFaults, SetupError
from latentvla_core.types import FRAME_INTERVAL_S, PLAN_STEPS, Array

_INFO_KEYS = {
    "team_name": "team_name",
    "authors": "authors",
    "email": "email",
    "institution": "institution",
    "country_or_region": "country / region",  # with spaces and a slash
}
_STAGES = {"v1": ("predictions",), "v2": ("first_stage_predictions", "second_stage_predictions")}


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmissionInfo:
    """Who submits."""

    team_name: str = ""
    authors: str = ""
    """All authors in one text."""
    email: str = ""
    institution: str = ""
    country_or_region: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """One planned trajectory."""

    poses: Array
    """(N, 3) x, y, heading in the ego frame, without t = 0."""
    interval_s: float = FRAME_INTERVAL_S

    @property
    def horizon_s(self) -> float:
        return len(self.poses) * self.interval_s


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A whole submission; plans by scene token."""

    version: Literal["v1", "v2"]
    info: SubmissionInfo = field(default_factory=SubmissionInfo)
    first_stage: dict[str, Plan]
    """v1: all scenes. v2: original scenes."""
    second_stage: dict[str, Plan] = field(default_factory=dict)
    """v2: synthetic scenes, by initial token."""

    def poses(self) -> dict[str, Array]:
        """{token: (8, 3)} of both stages. Raises DataFaults for plans that are not 8 poses 0.5 s
        apart.
        """
        plans = self.first_stage | self.second_stage
        faults = [
            DataError(
                f"{len(p.poses)} poses every {p.interval_s:g} s; {PLAN_STEPS} every {FRAME_INTERVAL_S} s are scored here",
                frame=token,
            )
            for token, p in plans.items()
            if len(p.poses) != PLAN_STEPS or abs(p.interval_s - FRAME_INTERVAL_S) > 1e-6
        ]
        if faults:
            raise DataFaults(faults)
        return {token: plan.poses for token, plan in plans.items()}


def write_submission(path: str | Path, submission: Submission) -> None:
    """Writes a file the official devkit loads with `pickle.load`."""
    if submission.version == "v1" and submission.second_stage:
        raise SetupError(
            "a v1 submission has one stage; write version 'v2', or leave second_stage empty"
        )
    stages = (submission.first_stage, submission.second_stage)
    content: dict[str, Any] = {
        key: getattr(submission.info, name) for name, key in _INFO_KEYS.items()
    }
    content |= {
        key: [stage] for key, stage in zip(_STAGES[submission.version], stages, strict=False)
    }
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(pickle.PROTO + b"\x04" + _encode(content) + pickle.STOP)


def _encode(value: Any) -> bytes:
    """Pickle opcodes that leave `value` on the stack."""
    if isinstance(value, str):
        data = value.encode("utf-8")
        return pickle.BINUNICODE + struct.pack("<I", len(data)) + data
    if isinstance(value, bool):
        return pickle.NEWTRUE if value else pickle.NEWFALSE
    if isinstance(value, int):
        return pickle.BININT + struct.pack("<i", value)
    if isinstance(value, float):
        return pickle.BINFLOAT + struct.pack(">d", value)
    if isinstance(value, bytes):
        return pickle.BINBYTES + struct.pack("<I", len(value)) + value
    if value is None:
        return pickle.NONE
    if isinstance(value, tuple):
        return pickle.MARK + b"".join(map(_encode, value)) + pickle.TUPLE
    if isinstance(value, list):
        return pickle.EMPTY_LIST + pickle.MARK + b"".join(map(_encode, value)) + pickle.APPENDS
    if isinstance(value, dict):
        pairs = b"".join(_encode(k) + _encode(v) for k, v in value.items())
        return pickle.EMPTY_DICT + pickle.MARK + pairs + pickle.SETITEMS
    if isinstance(value, Plan):
        return _encode_plan(value)
    raise TypeError(f"a submission cannot hold a {type(value).__name__}")


def _encode_plan(plan: Plan) -> bytes:
    sampling = {
        "num_poses": len(plan.poses),
        "time_horizon": plan.horizon_s,
        "interval_length": plan.interval_s,
    }
    sampling_class = _name(
        "nuplan.planning.simulation.trajectory.trajectory_sampling", "TrajectorySampling"
    )
    inner = sampling_class + pickle.EMPTY_TUPLE + pickle.NEWOBJ + _encode(sampling) + pickle.BUILD
    state = _encode("poses") + _encode_array(plan.poses) + _encode("trajectory_sampling") + inner
    outer = _name("navsim.common.dataclasses", "Trajectory") + pickle.EMPTY_TUPLE + pickle.NEWOBJ
    return outer + pickle.EMPTY_DICT + pickle.MARK + state + pickle.SETITEMS + pickle.BUILD


def _name(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _encode_array(array: Array) -> bytes:
    """As numpy writes arrays in protocols up to 4; float32 stays float32, all else becomes float64."""
    array = np.ascontiguousarray(array, None if array.dtype == np.float32 else np.float64)
    empty = _name("numpy", "ndarray") + _encode((0,)) + _encode(b"b") + pickle.TUPLE3
    blank = _name("numpy.core.multiarray", "_reconstruct") + empty + pickle.REDUCE
    dtype = _name("numpy", "dtype") + _encode((f"f{array.itemsize}", False, True)) + pickle.REDUCE
    dtype += _encode((3, "<", None, None, None, -1, -1, 0)) + pickle.BUILD
    data = array.astype(array.dtype.newbyteorder("<")).tobytes()
    state = (
        pickle.MARK
        + _encode(1)
        + _encode(array.shape)
        + dtype
        + _encode(False)
        + _encode(data)
        + pickle.TUPLE
    )
    return blank + state + pickle.BUILD


def read_submission(path: str | Path) -> Submission:
    """A submission of either version. Raises DataError, or DataFaults with every bad trajectory."""
    file = str(path)
    raw = loads(read_bytes(path, remedy="check the path"), PickleKind.SUBMISSION, file=file)
    if not isinstance(raw, dict):
        raise DataError(f"holds a {type(raw).__name__}; a submission is a dict", file=file)
    version = next((v for v, keys in _STAGES.items() if keys[0] in raw), None)
    if version is None:
        names = " or ".join(keys[0] for keys in _STAGES.values())
        raise DataError(
            f"has neither {names} (it has {_few(raw)}); a NAVSIM submission is a dict with"
            " predictions: [{token: Trajectory}]. Plans as token -> array go into a Parquet file"
            " with the columns scene_token, trajectory_id, poses (8 x 3), which `latentvla"
            " submission` turns into a submission",
            file=file,
        )
    faults: list[DataError] = []
    stages = [_stage(raw.get(key), key, file, faults) for key in _STAGES[version]]
    if faults:
        raise DataFaults(faults)
    info = SubmissionInfo(**{name: _text(raw.get(key, "")) for name, key in _INFO_KEYS.items()})
    second = stages[1] if version == "v2" else {}
    return Submission(version=version, info=info, first_stage=stages[0], second_stage=second)  # type: ignore[arg-type]


def _few(keys: Any) -> str:
    """The first three of many names."""
    told = ", ".join(repr(key)[:40] for key in list(keys)[:3])
    return f"{len(keys):,} keys: {told}{', …' if len(keys) > 3 else ''}" if len(keys) else "none"


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _stage(raw: Any, key: str, file: str, faults: list[DataError]) -> dict[str, Plan]:
    if not (isinstance(raw, list) and len(raw) == 1 and isinstance(raw[0], Mapping)):
        count = f"{len(raw)} entries" if isinstance(raw, list) else f"a {type(raw).__name__}"
        faults.append(
            DataError(
                f"holds {count}; a list with one dict {{token: Trajectory}} is expected",
                file=file,
                field=key,
            )
        )
        return {}
    plans: dict[str, Plan] = {}
    for token, entry in raw[0].items():
        try:
            plans[str(token)] = _plan(entry)
        except (KeyError, TypeError, ValueError) as error:
            message = f"not a usable trajectory ({error}); poses (N, 3) with a sampling of N poses are expected"
            faults.append(DataError(message, file=file, frame=str(token), field=key))
    return plans


def _plan(entry: Any) -> Plan:
    if not isinstance(entry, Inert):
        raise TypeError(f"a {type(entry).__name__}")
    poses = np.array(entry.get("poses"), dtype=np.float64)
    sampling = entry.get("trajectory_sampling")
    if poses.ndim != 2 or poses.shape[1] != 3 or not len(poses) or not np.isfinite(poses).all():
        raise ValueError(f"poses of shape {poses.shape}, finite: {bool(np.isfinite(poses).all())}")
    interval_s = float(sampling.get("interval_length"))
    if int(sampling.get("num_poses")) != len(poses) or not interval_s > 0:
        raise ValueError(
            f"{len(poses)} poses, but a sampling of {sampling.get('num_poses')} every {interval_s} s"
        )
    return Plan(poses, interval_s)
